"""The published tokenizers' ids: OpenAI's CLIP, transformers' CLIP with each model's pad, T5."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxgen.data.tokenize import T5, Clip

PADS = {"sd15_tokenizer": "end", "sd21_tokenizer": "!", "sdxl_tokenizer_2": "!", "flux_schnell_tokenizer": "end"}


def weights(folder: Path, name: str) -> str:
    """A folder of the tokenizers beside the golden cases; the test is skipped where it is not there."""
    place = folder.parents[1] / "weights/tokenizers" / name
    if not place.is_dir():
        pytest.skip(f"{place} is not there")
    return str(place)


@pytest.mark.golden("clip_bpe")
def test_openai_clip(folder):
    cases = json.loads((folder / "cases.json").read_text())
    texts, ids = [c["text"] for c in cases], np.array([c["ids"] for c in cases])
    clip = Clip(path=str(folder), clean="openai", pad="zero")
    assert (clip.encode(texts) == ids).all() and clip.values == 49_408
    differ = (Clip(path=str(folder), pad="zero").encode(texts) != ids).any(1)
    assert differ.sum() == len(cases) - 49  # what repairing the text first is for


@pytest.mark.golden("clip_hf_ids")
def test_clip_with_the_pads_of_each_model(folder):
    cases = json.loads((folder / "cases.json").read_text())
    texts, place = [c["text"] for c in cases], weights(folder, "clip")
    for name, ids in np.load(folder / "io.npz").items():
        clip = Clip(path=place, pad=PADS[name])
        assert (clip.encode(texts) == ids).all(), name
    marks = {pad: Clip(path=place, pad=pad).encode(["uhd!!"])[0, 2:5].tolist() for pad in ("end", "!")}
    assert marks == {"end": [4414, 748, 49407], "!": [4414, 0, 0]}
    openai = Clip(path=place, clean="openai").encode(texts)
    wanted = [c.get("ids_openai", c["ids"]) for c in cases]
    assert all(row[: len(ids)].tolist() == ids[:77] for row, ids in zip(openai, wanted, strict=True) if len(ids) <= 77)


@pytest.mark.golden("t5_tokenizer")
def test_t5(folder):
    cases = json.loads((folder / "cases.json").read_text())
    arrays, texts = np.load(folder / "io.npz"), [c["text"] for c in cases]
    for length in (77, 256):
        assert (T5(path=weights(folder, "t5"), length=length).encode(texts) == arrays[f"ids_{length}"]).all()
    t5 = T5(path=weights(folder, "t5"), length=8)
    assert t5.encode(["naïve"])[0].tolist()[:5] == [3, 29, 9, 2, 162] and 1 in t5.encode(["a </s> b"])[0][:-4]

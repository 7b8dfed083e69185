"""Captions of folders: in a file of several forms, above the folder, beside every picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen.data.scenes import SHAPES
from jaxgen.data.sources import Digits, Folder, Ring, Shapes, Templated, Tokenized
from jaxgen.data.sources.tokenized import NUMBERS
from jaxgen.data.tokenize import Bytes
from jaxgen.errors import UserError

DATA = Path(__file__).parents[2] / "../shared/data"
NAMES = [f"{i}.png" for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "set" / "pictures"
    place.mkdir(parents=True)
    for i, name in enumerate(NAMES):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(place / name)
    return place


def seen(folder, **options):
    """The captions of the pictures by their grey."""
    source = Folder(path=str(folder), eval_fraction=0, **options).open("train")
    assert source.spec["caption"].kind == "text"
    return {int(source[i]["image"].mean()) // 60: texts for i, texts in enumerate(source.captions)}


WANTED = {0: ("grey 0",), 1: ("grey 1", "a square"), 2: ("grey 2",), 3: ("grey 3",)}
CAPTIONS = [list(texts) for texts in WANTED.values()]
COCO = {
    "images": [{"id": 7 + i, "file_name": name} for i, name in enumerate(NAMES)],
    "annotations": [{"image_id": 7 + i, "caption": text} for i, texts in enumerate(CAPTIONS) for text in texts],
}
FORMS = {
    "captions.jsonl": "\n".join(json.dumps({"file": n, "captions": t}) for n, t in zip(NAMES, CAPTIONS, strict=True)),
    "metadata.jsonl": "\n".join(json.dumps({"file_name": n, "text": t}) for n, t in zip(NAMES, CAPTIONS, strict=True)),
    "captions.json": json.dumps(dict(zip(NAMES, CAPTIONS, strict=True))),
    "mine.json": json.dumps(COCO),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_captions(folder, form):
    (folder / form).write_text(FORMS[form])
    assert seen(folder, **({"captions": str(folder / form)} if form == "mine.json" else {})) == WANTED


def test_a_file_that_is_named_may_lie_elsewhere_as_cocos(folder):
    place = folder.parent / "annotations" / "captions_val2017.json"
    place.parent.mkdir()
    place.write_text(FORMS["mine.json"])
    assert seen(folder, captions=str(place)) == WANTED


def test_a_file_of_other_facts_is_no_fault(folder):
    rows = [{"file_name": name, "label": 1} for name in NAMES]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "caption" not in Folder(path=str(folder)).open("train").spec


def test_texts_beside_the_pictures_and_one_that_is_missing(folder):
    assert "caption" not in Folder(path=str(folder)).open("train").spec
    for name, texts in zip(NAMES[:3], CAPTIONS, strict=False):
        (folder / name).with_suffix(".txt").write_text("\n".join(texts) + "\n\n")
    assert seen(folder) == {**WANTED, 3: ()}
    source = Folder(path=str(folder), eval_fraction=0).open("train")
    with pytest.raises(UserError, match=r"1 of 4 examples of folder have no caption, the first is number 3"):
        _ = Tokenized(source, Bytes(), "folder").spec
    (folder / NAMES[3]).with_suffix(".txt").write_text("grey 3")
    told = Tokenized(Folder(path=str(folder), eval_fraction=0).open("train"), (Bytes(vocab=259, length=16),)).spec[
        "caption"
    ]
    assert told.kind == "captions" and told.shape == (2, 16)


def test_a_file_above_the_folder_says_what_is_held_out(folder):
    rows = [{"id": i, "small": f"pictures/{n}", "caption": f"no {i}", "split": "test" if i == 2 else "train"}
            for i, n in enumerate(NAMES)]  # fmt: skip
    (folder.parent / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parts = {part: Folder(path=str(folder)).open(part).captions for part in ("train", "eval")}
    assert parts == {"train": (("no 0",), ("no 1",), ("no 3",)), "eval": (("no 2",),)}
    assert "held out: 1 of 4 pictures (as the file of captions says)" in Folder(path=str(folder)).open("train").notes


def test_what_is_wrong_with_a_file_of_captions_is_said(folder):
    for text, what in (("{", "not valid JSON"), ('{"file": "0.png", "words": "a"}', "has none of captions, caption")):
        (folder / "captions.jsonl").write_text(text)
        with pytest.raises(UserError, match=what):
            Folder(path=str(folder)).open("train")
    (folder / "captions.jsonl").unlink()
    with pytest.raises(UserError, match=r"config\.data\.captions=nothing\.json does not exist; name"):
        Folder(path=str(folder), captions="nothing.json").open("train")
    boxes = {**COCO, "annotations": [{"image_id": 7, "bbox": [0, 0, 1, 1]}]}
    for said, what in (
        (boxes, "no caption of its images"),
        ({"x.png": "a"}, r"names 1 pictures \(x.png, ...\), and none of"),
    ):
        (folder / "mine.json").write_text(json.dumps(said))
        with pytest.raises(UserError, match=what):
            Folder(path=str(folder), captions=str(folder / "mine.json")).open("train")


def test_captions_are_made_of_labels():
    digits = Digits().open("train")
    told = Templated(digits, ("a {label}", "the number {label}"), "digits")
    assert told.captions[5] == tuple(f"{a} {NUMBERS[digits.labels[5]]}" for a in ("a", "the number"))
    assert told[5]["caption"] == told.captions[5][0] and told.spec["caption"].kind == "text"
    tokens = Tokenized(told, (Bytes(vocab=259, length=32),), "digits")
    assert (
        tokens.spec["caption"].shape == (2, 32)
        and len(tokens.distinct("caption")) == 20
        and tokens.notes == digits.notes
    )
    short = Tokenized(told, (Bytes(vocab=259, length=12),), "digits")  # ten bytes: "the number ..." never fits
    assert short.notes[-1] == "captions: 10 of 20 that differ are cut after 12 tokens (config.data.tokenizer.length)"
    shapes = Templated(Shapes(num=4, size=8).open("train"), ("one {label}",), "shapes")
    assert all(text.split()[1] in SHAPES for (text,) in shapes.captions)
    for templates, source, wrong in (
        (("a {name}",), digits, "may hold {label}"),
        (("a",), Ring().open("train"), "has none"),
    ):
        with pytest.raises(UserError, match=wrong):
            Templated(source, templates, "it")


@pytest.mark.skipif(not (DATA / "emoji").is_dir(), reason="the captioned sets are not beside the repository")
def test_real_sets():
    emoji = Folder(path=str(DATA / "emoji/noto72"), size=64, channels=3)
    train, held = emoji.open("train"), emoji.open("eval")
    assert (len(train), len(held)) == (2_914, 375)
    assert train.captions[train.names.index("0023-20e3.png")] == ("keycap: #",)
    coco = Folder(path=str(DATA / "coco_cc/val2017"), size=32, channels=3, eval_fraction=0).open("train")
    assert len(coco) == 20 and {len(texts) for texts in coco.captions} <= {5, 6}

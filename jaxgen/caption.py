"""A run directory and pictures -> captions: lines of JSON, and the pictures above them."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core import parallel
from jaxgen.core.given import expand
from jaxgen.core.method import Describes
from jaxgen.data import decode
from jaxgen.data.files import find, readable
from jaxgen.data.pipeline import share
from jaxgen.errors import UserError
from jaxgen.evaluation.captions import Said, looked, say
from jaxgen.images import save_captioned
from jaxgen.runs.trained import Trained
from jaxgen.runs.writers import write_text

SHOWN = 64  # pictures of a sheet
MAPPED = 8  # of which attention is drawn


def caption(
    workdir: str | Path,
    input: str | Path = "",
    num: int = 64,
    out: str | Path = "",
    weights: str = "ema",
    step: int = -1,
    changes: Mapping[str, Any] | None = None,
) -> list[str]:
    """Captions of the pictures of `input`, a file or a folder, else of `num` held-out ones; printed, a line each.

    OUT.jsonl: {"file", "captions"} of each, as a folder of pictures with captions has them. OUT.png: the first 64 above their
    captions. OUT_attention.png: of the first 8 a row, the picture and where it looks for each token, above what that says. OUT is
    by default samples/STEP_caption... in the run's directory. `changes` to the run's config hold for this call: `method.beam`, say.
    """
    trained = Trained.open(workdir, step, changes)
    exp, (choice,) = trained.exp, trained.choose([weights])
    if not isinstance(exp.method, Describes):
        raise UserError(f"--mode=caption: {workdir} is a run of method {exp.config.method.name}, which says nothing of pictures; "
                        "name a run of method captioner")  # fmt: skip
    names, pictures = _held_out(trained, num) if not str(input) else _read(Path(expand(input)), exp.data.shape)
    w = choice.weights()
    with exp.explaining({choice.name: w, "raw": trained.state.view()}):
        exp.refuse_broken(w)
        said = list(say(exp, w, pictures))
    texts = [one.text for one in said]
    if parallel.is_lead():
        for name, text in zip(names, texts, strict=True):
            print(name, " ".join(text.split()), sep="\t")
        parts = ["caption", *([Path(input).stem] if str(input) else [f"num{num}"])] + [choice.name] * (weights != "ema")
        target = Path(expand(out)) if str(out) else trained.run.path / "samples" / trained.stem(*parts)
        target = target.with_suffix("") if target.suffix in (".png", ".jsonl") else target
        lines = [json.dumps({"file": name, "captions": [text]}) for name, text in zip(names, texts, strict=True)]
        write_text(target.with_name(f"{target.name}.jsonl"), "\n".join(lines) + "\n")
        _draw(target, pictures, said)
    return texts


def _draw(target: Path, pictures: list[np.ndarray], said: list[Said]) -> None:
    """The sheets."""
    save_captioned(
        target.with_name(f"{target.name}.png"), np.stack(pictures[:SHOWN]), [one.text for one in said[:SHOWN]]
    )
    maps = [looked(x, one) for x, one in zip(pictures[:MAPPED], said, strict=False)]
    columns = 1 + max(len(one.pieces) for one in said[: len(maps)])
    texts = [["", *one.pieces, *[""] * columns][:columns] for one in said[: len(maps)]]
    cells = np.concatenate([one[:columns] for one in maps])
    save_captioned(target.with_name(f"{target.name}_attention.png"), cells, [*chain.from_iterable(texts)], columns)


def _held_out(trained: Trained, num: int) -> tuple[list[str], list[np.ndarray]]:
    """Names and pictures of a share of the held-out set."""
    if num < 1:
        raise UserError(f"--num={num} must be at least 1")
    source = trained.exp.open_source("eval")
    rows = [int(i) for i in share(source, num)]
    return [f"held-out {i}" for i in rows], [source[i][trained.exp.data.target] for i in rows]


def _read(path: Path, shape: tuple[int, ...]) -> tuple[list[str], list[np.ndarray]]:
    """Names and pictures of a file or a folder, brought to the run's size: the shorter side fits, the centre is kept."""
    if not path.exists():
        raise UserError(f"--input={path} is not there; name a picture, or a folder of pictures")
    if path.is_file():
        root, names = path.parent, [path.name]
    else:
        root, names = path, find(str(path)).names
    found = []
    for name in names:
        try:
            found.append(decode.photo(str(root / name), shape[2], shape[0], "cover"))
        except decode.Unreadable as error:
            raise UserError(
                f"--input: image '{readable(str(root / name))}' cannot be read: {error}; take it away"
            ) from error
    return [readable(name) for name in names], found

"""Captions of picture files: from one file for a folder, or a text file beside every picture."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.data import decode
from jaxgen.errors import UserError, line

META = "metadata.jsonl"  # of data sets of any kind: its rows may say other things of a picture
FILES = ("captions.jsonl", META, "captions.json")  # in the folder, or the one above it
TEXTS = ("captions", "caption", "texts", "text")  # keys of a row, the first that is there
BESIDE = (".txt", ".caption")


class Told(NamedTuple):
    """What is said of a picture."""

    texts: tuple[str, ...]
    split: str = ""  # where the file says which part it is of


def captions_of(root: str, names: Sequence[str], file: str = "") -> dict[str, Told]:
    """Name -> what is said of it, of those pictures below `root` of which something is; {} where nothing is.

    file: JSON lines, each a row with the file's name under some key and `caption` or `captions` (`text`); or JSON: such rows, names
    with captions, or COCO's images and annotations. Its names begin where it lies, or in `root`. "": one of FILES, in `root` or
    above it, or a text beside each picture. Errors: no such file, no captions in it, or of other pictures alone.
    """
    places = [Path(root, name) for name in FILES] + [Path(root).absolute().parent / name for name in FILES]
    found = Path(file) if file else next((place for place in places if place.is_file()), None)
    if found:
        if not found.is_file():
            raise UserError(
                f"config.data.captions={file} does not exist; name a .jsonl or .json file, or set config.data.captions=''"
            )
        rows = _rows(found)
        places = [root, found.parent] if file else [found.parent]  # the file's own counts first
        told = {os.path.abspath(os.path.join(p, name)): what for p in places for name, what in rows.items()}
        of_these = {name: what for name in names if (what := told.get(os.path.abspath(os.path.join(root, name))))}
        if file and not of_these:
            raise UserError(
                f"config.data.captions={file} names {len(rows)} pictures ({next(iter(rows), 'none')}, ...), and none of '{root}'; "
                "name the file of these, or set config.data.captions=''"
            )
        return of_these
    return {name: what for name, file in _beside(root, names) if (what := _lines(file)).texts}


def _beside(root: str, names: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Pictures and the text files beside them; folders are listed, so that pictures without one cost nothing."""
    files = cache(lambda folder: frozenset(os.listdir(folder)))
    for name in names:
        folder, stem = os.path.split(os.path.splitext(os.path.join(root, name))[0])
        if text := next((stem + end for end in BESIDE if stem + end in files(folder)), ""):
            yield name, Path(folder, text)


def _lines(file: Path) -> Told:
    """A caption a line."""
    return Told(tuple(filter(None, map(str.strip, file.read_text(errors="replace").splitlines()))))


def _rows(file: Path) -> dict[str, Told]:
    """Names, as the file has them, and what it says of them."""
    try:
        text = file.read_text()
        rows = (
            [json.loads(row) for row in text.splitlines() if row.strip()]
            if file.suffix == ".jsonl"
            else json.loads(text)
        )
    except ValueError as error:
        raise UserError(
            f"'{file}' is not valid JSON ({line(error)}); write a row a line into a .jsonl, or one value into a .json"
        ) from None
    if isinstance(rows, Mapping) and {"images", "annotations"} <= rows.keys():  # COCO's own files
        names = {image["id"]: image["file_name"] for image in rows["images"]}
        found: dict[str, list[str]] = {}
        for row in rows["annotations"]:
            if "caption" not in row or row["image_id"] not in names:
                raise UserError(
                    f"'{file}' has an annotation that is no caption of its images: {str(row)[:80]}; name a captions_....json"
                )
            found.setdefault(names[row["image_id"]], []).append(row["caption"])
        return {name: Told(tuple(texts)) for name, texts in found.items()}
    if isinstance(rows, Mapping):
        return {name: Told(_texts(value)) for name, value in rows.items()}
    told = {}
    for row in rows:
        key = next((key for key in TEXTS if row.get(key)), "")
        if not key and file.name == META:
            continue
        if not key:
            raise UserError(f"a row of '{file}' has none of {', '.join(TEXTS)}: {str(row)[:80]}; call the caption so")
        pictures = [v for v in row.values() if isinstance(v, str) and v.lower().endswith(decode.SUFFIXES)]
        told |= {name: Told(_texts(row[key]), str(row.get("split", ""))) for name in pictures}
    return told


def _texts(value: Any) -> tuple[str, ...]:
    """One caption or several."""
    return tuple(text.strip() for text in ([value] if isinstance(value, str) else value) if text.strip())

"""A file or a tree of pictures through a run: a plan, a bar, a line for what fails, and a record of every file."""

import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxgen.apply import files
from jaxgen.apply.files import Head
from jaxgen.apply.pictures import Way, preview, refuse_mask, refuse_num
from jaxgen.core.given import expand
from jaxgen.data import decode
from jaxgen.data.decode import Unreadable
from jaxgen.data.files import find, readable
from jaxgen.errors import UserError
from jaxgen.images import save_png
from jaxgen.runs.directory import RunDir
from jaxgen.runs.writers import duration, say

MUCH = 0.6  # of a picture that is made anew: a mask that was meant the other way round, perhaps
TRIED = 8  # programs that must run before it pays to run one twice, to say how long all take


@dataclass
class Item:
    """A file that is to be made."""

    name: str  # relative to IN
    source: Path
    targets: list[Path]
    form: str  # of the targets
    head: Head
    mask: str = ""  # a file; "alpha"; or none
    notes: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """What there is to do."""

    items: list[Item] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # name -> why
    folder: Path = Path()  # of apply.jsonl


def plan(
    source: str | Path,
    target: str | Path,
    known: str = "",
    num: int = 1,
    form: str = "same",
    suffix: str = "",
    overwrite: bool = False,
) -> Plan:
    """Which file becomes which; only headers are read. A UserError where IN and OUT do not go together."""
    source, target = Path(expand(source)), Path(expand(target))
    files.refuse_format(form)
    refuse_num(num)
    if not source.exists():
        raise UserError(f"IN={readable(str(source))} is not there; name a picture, or a folder of pictures")
    if source.is_file():
        root, names = source.parent, [source.name]
        alone = target.suffix.lower() in decode.SUFFIXES and not target.is_dir()
        folder = target.parent if alone else target
    else:
        root, alone, folder = source, False, target
        if target.is_file():
            raise UserError(f"OUT={readable(str(target))} is a file and IN a folder; name a folder")
        _refuse_nested(source, target)
        found = find(str(source))
        names = found.names
        for note in found.notes():
            say(note)
    if alone and form == "same" and target.suffix.lower().lstrip(".") in files.ENDS:
        form = target.suffix.lower().lstrip(".")
    masks = _masks(known, names)
    made, taken = Plan(folder=folder), set()
    for name in names:
        try:
            head = files.head(str(root / name))
        except Unreadable as error:
            made.failed[name] = f"cannot be read: {error}"
            continue
        to, written, why = head.written(name, form)
        if alone:
            files.refuse_end(target, written, Path(to).suffix)
        stem, end = str(Path(to).with_suffix("")), Path(to).suffix
        if f"{stem}{suffix}{end}".lower() in taken:  # of two that differ in their end alone, the second keeps it
            stem = f"{stem}{Path(name).suffix}"
        taken.add(f"{stem}{suffix}{end}".lower())
        outs = [f"{stem}{suffix}{f'_{i}' if num > 1 else ''}{end}" for i in range(num)]
        targets = [folder / out for out in outs]
        if alone:
            targets = [
                target.with_name(f"{target.stem}{f'_{i}' if num > 1 else ''}{target.suffix}") for i in range(num)
            ]
        if any(out.resolve() == (root / name).resolve() for out in targets):
            raise UserError(
                f"OUT={readable(str(target))} would overwrite IN; name another file or folder, or add --suffix=_made"
            )
        if not overwrite and all(out.exists() for out in targets):
            made.skipped.append(name)
            continue
        notes = [*head.notes, *([why] if why else [])]
        item = Item(name, root / name, targets, written, head, "", notes)
        if known:
            try:
                item.mask = _mask_of(masks, name, head)
            except UserError as error:
                made.failed[name] = str(error)
                continue
            if written in files.LOSSY:
                item.notes.append(f"{written} keeps no pixel bit for bit; --format=png does")
        made.items.append(item)
    return made


def run(
    source: str | Path,
    target: str | Path,
    workdir: str | Path,
    known: str = "",
    invert: bool = False,
    form: str = "same",
    suffix: str = "",
    compare: bool = False,
    overwrite: bool = False,
    **how: Any,
) -> int:
    """The pictures of IN through a run; `how` as in `Way.open`. How many are made; a UserError at the end where some failed.

    A file that is there is skipped, so that what was broken off goes on. OUT/apply.jsonl: a record of what was made or failed.
    """
    work = plan(source, target, known, how.get("num", 1), form, suffix, overwrite)
    for name, why in work.failed.items():
        say(f"{readable(name)}: {why}")
    if not work.items and not work.failed:
        say(f"all {len(work.skipped):,} pictures are there already; --overwrite makes them anew")
        return 0
    made = 0
    RunDir(workdir).config()  # that there is a run
    if work.items:
        way = Way.open(workdir, masked=bool(known), **how)
        facts = _facts(way)
        total = _tell(work, way)
        with tqdm(desc="tiles", total=total, unit="tile", delay=1, leave=False, disable=None) as bar:
            for item in work.items:
                began, before = time.perf_counter(), bar.n
                try:
                    record = _one(item, way, invert, compare, bar)
                except (UserError, Unreadable, OSError) as error:
                    why = f"cannot be read: {error}" if isinstance(error, Unreadable) else str(error)
                    work.failed[item.name] = why
                    say(f"{readable(item.name)}: {why}")
                    bar.update(before + _tiles(item, way) - bar.n)
                    continue
                for note in (*item.notes, *record.pop("notes")):
                    say(f"{readable(item.name)}: {note}")
                made += 1
                _record(
                    work.folder,
                    {"file": item.name, **record, "seconds": round(time.perf_counter() - began, 3), **facts},
                )
    for name, why in work.failed.items():
        _record(work.folder, {"file": name, "error": why})
    told = f"{made:,} made" + (f", {len(work.skipped):,} were there" if work.skipped else "")
    if not work.failed:
        say(f"{told}: {readable(str(target))}")
        return made
    raise UserError(f"{len(work.failed):,} of {made + len(work.failed):,} pictures failed, as is said above ({told})")


def _one(item: Item, way: Way, invert: bool, compare: bool, bar: tqdm) -> dict[str, Any]:
    """A picture read, made and written -> what its record says."""
    picture, mask, notes = files.read(str(item.source)), None, []
    record: dict[str, Any] = {"out": [str(t.name) for t in item.targets], "size": [*item.head.size]}
    if item.mask:
        if item.mask == "alpha":
            mask, picture = picture.alpha == picture.most, files.replace(picture, alpha=None)
        else:
            mask = decode.photo(item.mask, 1) < 128
        mask = ~mask if invert else mask
        refuse_mask(mask, picture.pixels.shape[:2], f"--known={readable(item.mask)}")
        record["anew"] = share = round(1 - float(mask.mean()), 4)
        say(
            f"{readable(item.name)}: {share:.1%} is made anew"
            + (", is the mask inverted? --invert" if share > MUCH else "")
        )
    exp, choice = way.maker.trained.exp, way.maker.choice
    seams, first = [], 0
    with exp.explaining({choice.name: way.maker.w}):
        for i, (result, made) in enumerate(way.results(picture, mask, bar.update)):
            files.write(item.targets[i], result, item.form)
            seams.append(made.seam)
            if i == 0:
                first = zlib.crc32(np.ascontiguousarray(result.pixels))
            elif i == 1 and zlib.crc32(np.ascontiguousarray(result.pixels)) == first:
                notes.append("the run draws nothing, so all results are the same")
            if compare:
                folder = item.targets[i].parent.relative_to(_top(item))
                save_png(
                    _top(item) / "compare" / folder / f"{item.targets[i].stem}.png",
                    preview(picture.pixels, result.pixels),
                )
    record |= {"size_out": [side * way.maker.scale for side in item.head.size], "tiles": made.tiles}
    if way.tiling.overlap and made.tiles > 1:
        record["seam"] = round(max(seams), 3)
        notes.append(f"tiles differ by {max(seams):.2f} of 255 levels where they are blended")
    return record | {"notes": notes}


def _top(item: Item) -> Path:
    """OUT."""
    return item.targets[0].parents[len(Path(item.name).parts) - 1]


def _tiles(item: Item, way: Way) -> int:
    return len(way.tiling.cut(*item.head.size)) * way.passes(item.head.alpha and item.mask != "alpha")


def _tell(work: Plan, way: Way) -> int:
    """Says what is to be done, and about how long it takes -> the tiles of it."""
    maker, tiling = way.maker, way.tiling
    total = sum(_tiles(item, way) for item in work.items)
    pixels = sum(item.head.size[0] * item.head.size[1] for item in work.items) / 1e6
    parts = [f"{len(work.items):,} picture{'s' * (len(work.items) != 1)}, {pixels:.3g} megapixels"]
    parts += [f"{maker.scale} times as large" if maker.scale > 1 else ""]
    parts += [f"{len(work.skipped):,} there already" if work.skipped else ""]
    height, width = tiling.tile
    parts += [f"{total:,} tile{'s' * (total != 1)} of {'up to ' * tiling.whole}{width}x{height}"]
    parts += [f"{maker.evaluations:,} evaluation{'s' * (maker.evaluations != 1)} each"]
    say(f"plan     {', '.join(filter(None, parts))}")
    if tiling.overlap:
        why = "takes that size alone" if not maker.sizes.multiple else "sees more than a tile's surroundings"
        say(f"tiles    the run {why}, so tiles overlap by {tiling.overlap} pixels and are blended")
    else:
        say(f"tiles    a pixel sees {tiling.halo} around it: the result is that of the whole picture at once")
    if seconds := _seconds(work, way):
        say(f"time     about {duration(seconds)}")
    return total


def _seconds(work: Plan, way: Way) -> float:
    """About how long all take, by one program that is run twice where it pays; else 0."""
    runs: dict[tuple, int] = {}
    for item in work.items:
        cut = way.tiling.cut(*item.head.size)
        size = way.maker.batch(way.tiling, cut)
        key = (size, cut, item.head.channels, item.head.deep)
        runs[key] = runs.get(key, 0) - (-len(cut) // size) * way.passes(item.head.alpha)
    (size, cut, channels, deep), _ = max(runs.items(), key=lambda pair: pair[1] * pair[0][0])
    if sum(runs.values()) < TRIED:
        return 0.0
    spent = way.maker.timed(way.tiling, cut, channels, np.uint16 if deep else np.uint8)
    area = size * cut.tile[0] * cut.tile[1]
    return sum(spent * count * n * c.tile[0] * c.tile[1] / area for (n, c, *_), count in runs.items())


def _facts(way: Way) -> dict[str, Any]:
    """What records say of the run."""
    maker = way.maker
    return {
        "run": str(maker.trained.run.path), "step": maker.trained.at, "weights": maker.choice.name, "seed": way.seed,
        "method": maker.trained.exp.config.method.name, "scale": maker.scale, "evaluations": maker.evaluations,
        "tile": [*way.tiling.tile], "halo": way.tiling.halo, "overlap": way.tiling.overlap,
        **({"changes": {k: str(v) for k, v in maker.trained.changes.items()}} if maker.trained.changes else {}),
    }  # fmt: skip


def _record(folder: Path, record: Mapping[str, Any]) -> None:
    """A line of apply.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {k: readable(v) if isinstance(v, str) else v for k, v in record.items()}
    with (folder / "apply.jsonl").open("a") as file:
        file.write(json.dumps(told, ensure_ascii=True) + "\n")


def _refuse_nested(source: Path, target: Path) -> None:
    """A UserError for a tree that would grow into itself, or overwrite what it is made of."""
    a, b = source.resolve(), target.resolve()
    if a == b or a.is_relative_to(b) or b.is_relative_to(a):
        how = "are one folder" if a == b else "lies inside OUT" if a.is_relative_to(b) else "holds OUT"
        raise UserError(f"IN={readable(str(source))} {how if a != b else 'and OUT ' + how}; name an OUT beside it")


def _masks(known: str, names: list[str]) -> dict[str, str] | str:
    """A file for all; a table of stems; or "alpha"."""
    if known in ("", "alpha"):
        return known
    place = Path(expand(known))
    if place.is_dir():
        return {str(Path(name).with_suffix("")): str(place / name) for name in find(str(place)).names}
    if not place.is_file():
        raise UserError(
            f"--known={known} is not there; name a mask, white where the picture is made anew, a folder of masks, or alpha"
        )
    return str(place)


def _mask_of(masks: dict[str, str] | str, name: str, head: Head) -> str:
    """The mask of a picture; a UserError where there is none, or one of another size."""
    if masks == "alpha":
        if not head.alpha:
            raise UserError("--known=alpha: nothing of it is transparent; give a mask (--known=FILE)")
        return masks
    found = masks if isinstance(masks, str) else masks.get(str(Path(name).with_suffix("")))
    if not found:
        raise UserError(f"--known has no mask of its name; add {readable(str(Path(name).with_suffix('.png')))} there")
    try:
        width, height = decode.head(found).size
    except Unreadable as error:
        raise UserError(f"--known={readable(found)} cannot be read: {error}") from None
    if (height, width) != head.size:
        raise UserError(
            f"--known={readable(found)} is {width}x{height} and the picture {head.size[1]}x{head.size[0]}; give a mask of its size"
        )
    return found

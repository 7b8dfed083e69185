"""Image files in folders."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxgen.core.given import FilePath
from jaxgen.core.ranges import BelowOne, Natural
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.data import decode
from jaxgen.data.captions import Told, captions_of
from jaxgen.data.files import find, natural, readable
from jaxgen.data.sources.source import (
    Source,
    hold_out,
    one_of,
    split_rows,
    told_of_classes,
    told_of_split,
    warn_once,
)
from jaxgen.errors import UserError

TRAINING = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "eval", "test", "testing")  # the first that is there is held out


@dataclass(frozen=True)
class FolderSource(Source):
    """Image files, decoded when asked for. A file that cannot be decoded stands aside for the next that can."""

    spec: Spec
    root: str
    names: tuple[str, ...]  # of the files below the root, with "/"
    classes: tuple[str, ...]  # the folders of the labels
    size: int
    resize: str
    on_broken: str
    notes: tuple[str, ...] = ()
    told: tuple[tuple[str, ...], ...] = ()  # captions of each; (): there are none
    broken: set[int] = field(default_factory=set)  # those that could not be decoded when they were asked for

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        for j in itertools.chain(range(i, len(self)), range(i)):
            try:
                image = decode.photo(self.file(j), self.spec.shape[2], self.size, self.resize)
                if image.shape != self.spec.shape:
                    raise decode.Unreadable(f"its shape is {image.shape}, not {self.spec.shape}")
            except decode.Unreadable as e:
                if self.on_broken == "stop":
                    raise UserError(f"image '{readable(self.file(j))}' is broken: {e}") from e
                self.broken.add(j)
                warn_once(
                    f"image '{readable(self.file(j))}' is broken ({e}): in training the next stands in for it, and no measure "
                    "counts it"
                )
                continue
            found = {"image": image} if self.labels is None else {"image": image, "label": self.labels[j]}
            return found | ({"caption": (*self.told[j], "")[0]} if self.told else {})
        raise UserError(f"none of the {len(self)} images can be decoded, such as '{readable(self.file(0))}'")

    def sound(self, i: int) -> bool:
        """Whether image i is itself."""
        return i not in self.broken

    def file(self, i: int) -> str:
        """The path of image i."""
        return os.path.join(self.root, self.names[i])

    @cached_property
    def labels(self) -> np.ndarray | None:
        """int32 [N], by the class folders."""
        return labels_of(self.names, self.classes)

    @property
    def lossy(self) -> bool:
        """By the endings of the names."""
        return any(name.lower().endswith(decode.JPEG) for name in self.names)

    @property
    def captions(self) -> Sequence[tuple[str, ...]] | None:
        """Those of the files; a picture may have several, or none."""
        return self.told or None

    def facts(self) -> Any:
        """Names and sizes of the files, and how they are brought to one size."""
        with ThreadPoolExecutor(8) as pool:
            sizes = list(pool.map(os.path.getsize, map(self.file, range(len(self)))))
        return [super().facts(), self.names, sizes, self.size, self.resize]

    def contents(self) -> Iterator[bytes]:
        """The files as they are stored."""
        return (Path(self.file(i)).read_bytes() for i in range(len(self)))


class Part(NamedTuple):
    """The pictures of a folder, by their names in natural order."""

    root: str
    names: list[str]


class Look(NamedTuple):
    """What a look at the headers gave."""

    part: Part  # without the broken files
    shape: tuple[int, int, int]  # [H, W, C] of the set
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Folder:
    """A directory of pictures: one folder per class, in natural order (2 before 10), or unlabelled where any lie beside folders.

    PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF, PPM; other files are left aside and told. Pictures are turned upright by EXIF;
    transparency becomes white, 16 bits are scaled to 8, of animations the first frame is taken (jaxgen.data.decode).

    size: side of the square images; 0 keeps them as they are, then all must be equal.
    resize: "cover" (scale the shorter side, cut the centre), "contain" (scale the longer side, black bars), "stretch",
    "none" (all must be `size` already); antialiased.
    channels: 1 or 3; 0 looks: 3 if any image has colour.
    on_broken: "skip" or "stop". Files with a broken header leave the set when it is opened; one whose pixels turn out
    broken is replaced by the next. With size and channels given, no header is read in advance.
    eval_path: a second directory for evaluation. Without it, a folder that holds `train` and `val` (`valid`, `validation`,
    `eval`, `test`) and nothing else is its own two splits; else `eval_fraction` of the files are held out, by a hash of
    their names, 0: none. Where the captions' file says of every picture which `split` it is of, that counts.
    captions: a file of captions (jaxgen.data.captions); "" looks for one in the folder and above it, or beside each picture.
    """

    path: FilePath
    eval_path: FilePath = ""
    eval_fraction: BelowOne = 0.1
    size: Natural = 0
    resize: str = "cover"
    channels: Literal[0, 1, 3] = 0
    on_broken: str = "skip"
    captions: FilePath = ""

    def open(self, split: str) -> FolderSource:
        """The "train" or "eval" part. Errors: no folder, no readable image, sizes that differ with no `size` given."""
        one_of(split, ("train", "eval"), "split")
        one_of(self.resize, decode.RESIZE, "resize policy")
        one_of(self.on_broken, ("skip", "stop"), "on_broken")
        train, held, notes = self.parts()
        classes = _classes(train.names)
        if not classes and (inside := next((name for name in train.names if "/" in name), "")):
            flat = next(name for name in train.names if "/" not in name)
            notes += (
                f"labels: none, since pictures ('{readable(flat)}') lie beside folders ('{readable(_top(inside))}')",
            )
        train, shape, looked = self.look(train, self.channels)
        labels, names = labels_of(train.names, classes), tuple(map(readable, classes))
        if held is None:
            said = captions_of(train.root, train.names, self.captions)
            out, why = apart(train.names, said, self.eval_fraction, labels)
            notes += (*looked, *told_of_split(out, why, labels, names))
            rows = split_rows(out, split, f"folder '{readable(self.path)}'")
            part = Part(train.root, [train.names[row] for row in rows])
        else:
            if classes and (strange := next((name for name in held.names if _top(name) not in classes), "")):
                raise UserError(
                    f"'{readable(held.root)}' holds '{readable(strange)}', which is in none of the {len(classes)} class "
                    f"folders of '{readable(train.root)}'; move it into one, or away"
                )
            held, own, also = self.look(held, shape[2])
            if own != shape:
                raise UserError(
                    f"'{readable(held.root)}' has images {own}, '{readable(train.root)}' has {shape}: set config.data.size=64"
                )
            notes += (*looked, f"held out: the {len(held.names):,} pictures of '{readable(held.root)}'", *also)
            if classes:
                notes += told_of_classes(labels, labels_of(held.names, classes), names)
            part = train if split == "train" else held
            said = captions_of(part.root, part.names, self.captions)
        spec = pictures(shape, len(classes), names)
        spec = Spec(spec, caption=Field((), "str", "text")) if said else spec
        told = tuple(said[name].texts if name in said else () for name in part.names) if said else ()
        return FolderSource(
            spec, part.root, tuple(part.names), classes, self.size, self.resize, self.on_broken, notes, told
        )

    def parts(self) -> tuple[Part, Part | None, tuple[str, ...]]:
        """The pictures to be trained on; those of a held-out folder, if there is one; and what is to be said of them."""
        found = find(self.path)
        notes = found.notes()
        train, held = _splits(found.names)
        part = Part(self.path, found.names)
        if train:
            part = Part(os.path.join(self.path, train), found.below(train).names)
            aside = sorted({top for top in map(_top, found.names)} - {train, *([] if self.eval_path else [held])})
            told = f"splits: '{train}' is trained on" + (f", '{held}' held out" if held and not self.eval_path else "")
            notes = (told + (f"; left aside: {', '.join(aside)}" if aside else ""), *notes)
        if self.eval_path:
            other = find(self.eval_path, "data.eval_path")
            return part, Part(self.eval_path, other.names), (*notes, *other.notes())
        return part, Part(os.path.join(self.path, held), found.below(held).names) if held else None, notes

    def look(self, part: Part, channels: int) -> Look:
        """Reads headers where the shape of the set depends on them, and tells what is broken."""
        natural_size = not self.size or self.resize == "none"
        if not natural_size and channels:
            return Look(part, (self.size, self.size, channels), ())
        sound = self.heads(part)
        part = Part(part.root, list(sound))
        channels = channels or (3 if any(head.colour for head in sound.values()) else 1)
        sizes = Counter(head.size for head in sound.values())
        notes = _converted(sound)
        if not natural_size:
            if set(sizes) != {(self.size, self.size)}:
                notes += (f"sizes: {_span(sizes)}, brought to {self.size}x{self.size} by {HOW[self.resize]}",)
            return Look(part, (self.size, self.size, channels), notes)
        if self.size:
            sizes[self.size, self.size] += 0
        if len(sizes) > 1:
            kinds = ", ".join(f"{w}x{h}" for (w, h), _ in sizes.most_common(3))
            raise UserError(
                f"the images in '{readable(part.root)}' differ in size ({kinds} ...): set config.data.size=64"
            )
        ((w, h),) = sizes
        return Look(part, (h, w, channels), notes)

    def heads(self, part: Part) -> dict[str, decode.Head]:
        """Name -> what the header says, of all files that have one; the others are told."""
        with ThreadPoolExecutor(4) as pool:
            heads = list(pool.map(_head, (os.path.join(part.root, name) for name in part.names)))
        self._tell_broken(part, heads)
        return {name: head for name, head in zip(part.names, heads, strict=True) if isinstance(head, decode.Head)}

    def _tell_broken(self, part: Part, heads: Sequence[decode.Head | str]) -> None:
        """One line for each way of being broken: how many files, and the first."""
        broken: dict[str, list[str]] = {}
        for name, head in zip(part.names, heads, strict=True):
            if isinstance(head, str):
                broken.setdefault(head, []).append(name)
        where = readable(part.root)
        for why, names in broken.items():
            first = readable(names[0])
            if self.on_broken == "stop":
                raise UserError(f"image '{where}/{first}' is broken: {why}")
            if sum(map(len, broken.values())) == len(heads):
                raise UserError(f"none of the {len(heads)} images in '{where}' can be read, such as '{first}': {why}")
            warn_once(f"{len(names)} of {len(heads)} images in '{where}' left out, such as '{first}': {why}")


def apart(
    names: Sequence[str], said: Mapping[str, Told], fraction: float, labels: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """(bool [N], which pictures are held out, why): as the file of captions says, where it does of all, else by their names."""
    splits = [said[name].split.lower() if name in said else "" for name in names]
    told = np.array([split not in TRAINING for split in splits])
    if all(splits) and told.any() and not told.all():
        return told, "as the file of captions says"
    return hold_out(names, fraction, labels), f"eval_fraction={fraction:g}"


HOW = {
    "cover": "cover (the shorter side fits, the centre is kept)",
    "contain": "contain (the longer side fits, between black bars)",
    "stretch": "stretch (the sides are forced)",
}


def _classes(names: Sequence[str]) -> tuple[str, ...]:
    """The class folders in natural order; () where a picture is in none."""
    return () if any("/" not in name for name in names) else tuple(sorted({_top(name) for name in names}, key=natural))


def labels_of(names: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
    """int32 [N]: the places of the names' folders among the classes; None without classes."""
    index = {name: k for k, name in enumerate(classes)}
    return np.array([index[_top(name)] for name in names], np.int32) if classes else None


def _top(name: str) -> str:
    return name.partition("/")[0]


def _splits(names: Sequence[str]) -> tuple[str, str]:
    """The folders of training and held-out pictures, if a folder holds such and nothing else; "" for one that is not there."""
    tops = {_top(name).lower(): _top(name) for name in names}
    if any("/" not in name for name in names) or not set(tops) <= {*TRAINING, *HELD_OUT}:
        return "", ""
    train, held = (next((tops[known] for known in kind if known in tops), "") for kind in (TRAINING, HELD_OUT))
    return (train, held) if train else ("", "")


def _head(file: str) -> decode.Head | str:
    """The header, or what is wrong with the file; a file is looked at once in a process, however often the folder is opened."""
    try:
        found = os.stat(file)
    except OSError as e:
        return e.strerror
    return _head_of(file, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1 << 20)
def _head_of(file: str, size: int, changed: int) -> decode.Head | str:
    try:
        return decode.head(file)
    except decode.Unreadable as e:
        return str(e)


def _converted(heads: dict[str, decode.Head]) -> tuple[str, ...]:
    """A note on what the rules of decoding take from the pictures: how many for each rule, and the first."""
    kinds: dict[str, list[str]] = {}
    for name, head in heads.items():
        for rule in head.converted:
            kinds.setdefault(rule, []).append(name)
    if not kinds:
        return ()
    told = (f"{rule} ({len(names):,}, such as '{readable(names[0])}')" for rule, names in sorted(kinds.items()))
    return (f"converted: {'; '.join(told)}",)


def _span(sizes: Counter) -> str:
    """`40x30`, or `12 from 8x8 to 40x30`."""
    first, last = (f"{w}x{h}" for w, h in (f(sizes, key=lambda s: s[0] * s[1]) for f in (min, max)))
    return first if len(sizes) == 1 else f"{len(sizes)} from {first} to {last}"

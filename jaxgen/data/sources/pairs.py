"""Pictures in pairs: what is to be made, and the condition `seen` that a method is told of it."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from jaxgen.core.given import FilePath
from jaxgen.core.ranges import BelowOne, Natural
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.data import decode
from jaxgen.data.captions import captions_of
from jaxgen.data.files import readable
from jaxgen.data.sources.folder import Folder, Part, apart
from jaxgen.data.sources.source import Source, one_of, split_rows, told_of_split, warn_once
from jaxgen.errors import UserError

SEEN = "seen"


@dataclass(frozen=True)
class PairSource(Source):
    """Pairs of files, or of halves of one file. A pair of which a file cannot be decoded stands aside for the next that can."""

    spec: Spec
    files: tuple[tuple[str, ...], ...]  # of each pair: that of the target and that which is seen; or of both halves
    left: str  # the field of the left half
    size: int
    resize: str
    on_broken: str
    notes: tuple[str, ...] = ()
    broken: set[int] = field(default_factory=set)  # those that could not be decoded when they were asked for

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        for j in itertools.chain(range(i, len(self)), range(i)):
            try:
                return self._read(j)
            except decode.Unreadable as e:
                first = readable(self.files[j][0])
                if self.on_broken == "stop":
                    raise UserError(f"the pair of '{first}' is broken: {e}") from e
                self.broken.add(j)
                warn_once(
                    f"the pair of '{first}' is broken ({e}): in training the next stands in for it, and no measure counts it"
                )
        raise UserError(f"none of the {len(self)} pairs can be decoded, such as that of '{readable(self.files[0][0])}'")

    def _read(self, i: int) -> dict[str, np.ndarray]:
        """Both parts of a pair; Unreadable where one is not what the others are."""
        names, files = tuple(self.spec), self.files[i]
        if len(files) == 1:
            whole = decode.photo(files[0], self.spec.shape[2])
            if whole.shape[1] % 2:
                raise decode.Unreadable(f"it is {whole.shape[1]} pixels wide, which have no halves")
            halves = np.split(whole, 2, axis=1)
            halves = halves if self.left == names[0] else halves[::-1]
            parts = [_resized(half, self.size, self.resize) for half in halves]
        else:
            shapes = [self.spec[name].shape for name in names]
            parts = [decode.photo(f, s[2], self.size, self.resize) for f, s in zip(files, shapes, strict=True)]
        for name, part in zip(names, parts, strict=True):
            if part.shape != self.spec[name].shape:
                raise decode.Unreadable(f"its {name} has shape {part.shape}, not {self.spec[name].shape}")
        return dict(zip(names, parts, strict=True))

    def sound(self, i: int) -> bool:
        """Whether pair i is itself."""
        return i not in self.broken

    @property
    def lossy(self) -> bool:
        """By the endings of the names of what is made."""
        return any(files[0].lower().endswith(decode.JPEG) for files in self.files)

    def facts(self) -> Any:
        """Names and sizes of the files, which half is which, and how they are brought to one size."""
        with ThreadPoolExecutor(8) as pool:
            sizes = list(pool.map(lambda files: [os.path.getsize(file) for file in files], self.files))
        names = [[os.path.basename(file) for file in files] for files in self.files]
        return [super().facts(), names, sizes, self.left, self.size, self.resize]

    def contents(self) -> Iterator[bytes]:
        """The files as they are stored."""
        return (b"".join(Path(file).read_bytes() for file in files) for files in self.files)


@dataclass(frozen=True)
class Pairs:
    """Pictures A and B that belong together: two folders whose files have the same names but for their endings, or, without a
    `path_b`, a folder of pictures whose left half is A and whose right half is B (pix2pix's own sets).

    direction: "ab" makes B and sees A, "ba" the other way round. What is seen is the condition `seen`.
    eval_path, eval_path_b, eval_fraction, size, resize, on_broken: as in `Folder`; what is made says what is held out. Without a
    `size` both folders are as they are, and a pair may differ in size by one factor for all.
    channels: of both; 0 looks.
    unmatched: a file without a partner is an error ("stop"), or is left aside ("skip").
    """

    path: FilePath
    path_b: FilePath = ""
    direction: Literal["ab", "ba"] = "ab"
    eval_path: FilePath = ""
    eval_path_b: FilePath = ""
    eval_fraction: BelowOne = 0.1
    size: Natural = 0
    resize: str = "cover"
    channels: Literal[0, 1, 3] = 0
    on_broken: str = "skip"
    unmatched: Literal["stop", "skip"] = "stop"

    def open(self, split: str) -> PairSource:
        """The "train" or "eval" part. Errors: those of `Folder`, a file without a partner, partners or halves of sizes that do not
        fit; each names the first."""
        one_of(split, ("train", "eval"), "split")
        one_of(self.resize, decode.RESIZE, "resize policy")
        one_of(self.on_broken, ("skip", "stop"), "on_broken")
        return self._two_folders(split) if self.path_b else self._halves(split)

    def _folder(self, path: str, eval_path: str, **changes: Any) -> Folder:
        options = dict(size=self.size, resize=self.resize, channels=self.channels, on_broken=self.on_broken)
        return Folder(path, eval_path, eval_fraction=self.eval_fraction, **{**options, **changes})

    def _halves(self, split: str) -> PairSource:
        """Of a folder of pictures A|B."""
        if self.eval_path_b:
            raise UserError(
                "config.data.eval_path_b is of a second folder, and halves are of one: name it by config.data.path_b, or set "
                "config.data.eval_path_b=''"
            )
        folder = self._folder(self.path, self.eval_path)
        train, held, notes = folder.parts()
        train, (height, width, channels), looked = folder.look(train, self.channels)
        if not self.size:
            if width % 2:
                raise UserError(
                    f"the pictures in '{readable(train.root)}' are {width} pixels wide, which have no halves; name the folder of "
                    "B's by config.data.path_b"
                )
            width //= 2
        held = held and folder.look(held, channels).part
        names, more = self._split(split, train, held)
        left, files = "image" if self.direction == "ba" else SEEN, tuple((f,) for f in names)
        shape = (height, width, channels)
        looked = (note for note in looked if not note.startswith("sizes: "))  # of both halves
        return self._source(shape, shape, files, left, (*notes, *looked, *more))

    def _two_folders(self, split: str) -> PairSource:
        """Of two folders."""
        sides = [(self.path, self.eval_path), (self.path_b, self.eval_path_b)]
        made, seen = (self._folder(*side) for side in (sides if self.direction == "ba" else sides[::-1]))
        (train, held, notes), (train_seen, held_seen, _) = (self._parts(folder) for folder in (made, seen))
        b_is_seen = self.direction == "ba"
        if sides[b_is_seen][1] and not held:
            alone, other = ("eval_path_b", "eval_path") if b_is_seen else ("eval_path", "eval_path_b")
            raise UserError(
                f"config.data.{alone} names pictures that are seen, and what is made says what is held out; name the folder of "
                f"what is made by config.data.{other}, or set config.data.{alone}=''"
            )
        if held and not held_seen:  # one folder holds the partners of both
            held_seen = train_seen
        partners, shapes, left = {}, None, 0
        found: list[Part | None] = []
        for part, others in ((train, train_seen), (held, held_seen)):
            if part is None:
                found.append(None)
                continue
            shared = others is train_seen and held is not None and held_seen is train_seen
            names, matched = self._matched(part, others, shared)
            left += len(part.names) - len(names) + (0 if shared else len(others.names) - len(names))
            looks = [
                made.look(Part(part.root, names), shapes[0][2] if shapes else self.channels),
                seen.look(Part(others.root, list(matched.values())), shapes[1][2] if shapes else self.channels),
            ]
            own = [look.shape for look in looks]
            shapes = shapes or own
            if own != shapes:
                told = f"'{readable(part.root)}' has pairs {own}, and '{readable(train.root)}' {shapes}"
                raise UserError(f"{told}: set config.data.size=64")
            sound = {os.path.join(others.root, name) for name in looks[1].part.names}
            paths = {name: os.path.join(others.root, matched[name]) for name in looks[0].part.names}
            names = [name for name, path in paths.items() if path in sound]
            partners |= {os.path.join(part.root, name): paths[name] for name in names}
            found.append(Part(part.root, names))
        height, width = shapes[0][:2]
        h, w = shapes[1][:2]
        if (max(height, h) % min(height, h), max(width, w) % min(width, w)) != (0, 0) or height * w != width * h:
            raise UserError(
                f"the pairs do not fit: '{readable(next(iter(partners)))}' is {height}x{width} and its partner {h}x{w}; set "
                "config.data.size=64"
            )
        files, more = self._split(split, *found)
        aside = (f"left aside: {left:,} without a partner",) if left else ()
        return self._source(*shapes, tuple((f, partners[f]) for f in files), "", (*notes, *aside, *more))

    def _parts(self, folder: Folder) -> tuple[Part, Part | None, tuple[str, ...]]:
        """Its parts; errors say the keys of b where it is b."""
        try:
            return folder.parts()
        except UserError as error:
            b = folder.path == self.path_b
            raise UserError(re.sub(r"(config\.data\.(?:eval_)?path)\b", r"\1_b" if b else r"\1", str(error))) from None

    def _matched(self, part: Part, others: Part, shared: bool) -> tuple[list[str], dict[str, str]]:
        """(names with a partner, each name's partner); the first without one is an error where all must have one.

        shared: the others are partners of another part too, so that some are left over.
        """
        stems = [_stems(side, whose) for side, whose in ((part.names, part.root), (others.names, others.root))]
        for mine, theirs, here, there in ((*stems, part, others), (*stems[::-1], others, part)):
            lonely = [name for stem, name in mine.items() if stem not in theirs]
            if lonely and self.unmatched == "stop" and not (shared and here is others):
                raise UserError(
                    f"'{readable(lonely[0])}' of '{readable(here.root)}' has no partner in '{readable(there.root)}', as "
                    f"{len(lonely):,} of {len(mine):,}; add it, or set config.data.unmatched=skip"
                )
        both = [stem for stem in stems[0] if stem in stems[1]]
        if not both:
            raise UserError(
                f"no file of '{readable(part.root)}' has the name of one in '{readable(others.root)}'; name other folders"
            )
        return [stems[0][stem] for stem in both], {stems[0][stem]: stems[1][stem] for stem in both}

    def _split(self, split: str, train: Part, held: Part | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(files of what is made in that part, notes)."""
        if held is None:
            out, why = apart(train.names, captions_of(train.root, train.names), self.eval_fraction)
            rows = split_rows(out, split, f"folder '{readable(self.path)}'")
            part, notes = Part(train.root, [train.names[row] for row in rows]), told_of_split(out, why, None, ())
        else:
            part = train if split == "train" else held
            notes = (f"held out: the {len(held.names):,} pairs of '{readable(held.root)}'",)
        return tuple(os.path.join(part.root, name) for name in part.names), notes

    def _source(
        self,
        made: Sequence[int],
        seen: Sequence[int],
        files: tuple[tuple[str, ...], ...],
        left: str,
        notes: tuple[str, ...],
    ) -> PairSource:
        spec = Spec(pictures(tuple(made)), **{SEEN: Field(tuple(seen), "uint8", "image")})
        return PairSource(spec, files, left, self.size, self.resize, self.on_broken, notes)


def _stems(names: Sequence[str], where: str) -> dict[str, str]:
    """Names without their endings -> names; two of one stem are an error."""
    found: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        if stem in found:
            both = f"'{readable(found[stem])}' and '{readable(name)}' of '{readable(where)}'"
            raise UserError(f"{both} have one name but for their endings; rename one of them")
        found[stem] = name
    return found


def _resized(half: np.ndarray, size: int, resize: str) -> np.ndarray:
    """A half as a picture of that size; 0: as it is."""
    if not size:
        return half
    image = decode.RESIZE[resize](Image.fromarray(half[..., 0] if half.shape[2] == 1 else half), size)
    return np.asarray(image).reshape(image.height, image.width, half.shape[2])

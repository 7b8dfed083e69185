"""Squares cut out of pictures of any size: what nets that see no size are trained on (super-resolution, denoising)."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from jaxgen.core.given import FilePath
from jaxgen.core.ranges import BelowOne, Count, Natural, Range
from jaxgen.core.spec import Spec, pictures
from jaxgen.data import decode
from jaxgen.data.files import readable
from jaxgen.data.sources.folder import Folder, Part
from jaxgen.data.sources.source import Source, hold_out, one_of, split_rows, told_of_split, warn_once
from jaxgen.errors import UserError

KEPT = 1 << 29  # bytes of decoded pictures that stay in memory
RECENT: dict[tuple, np.ndarray] = {}
LOCK = threading.Lock()


def print_of(picture: np.ndarray) -> np.ndarray:
    """What tells a picture uint8 [H, W, C] from others: its size and 12 x 12 means, float32 [146].

    The same to a level for its grey form, and for what benchmarks leave of it that cut its sides to multiples of their scale.
    """
    grey = np.asarray(Image.fromarray(picture.squeeze()).convert("L"), np.float32)
    height, width = (max(side // 24 * 24, 12) for side in grey.shape)
    grey = np.pad(grey, [(0, max(0, 12 - side)) for side in grey.shape])[:height, :width]
    means = grey.reshape(12, height // 12, 12, width // 12).mean((1, 3))
    return np.concatenate([[1e3 * height, 1e3 * width], means.ravel()]).astype(np.float32)


class Place(NamedTuple):
    """Where a square lies."""

    file: int
    scale: float
    row: int
    column: int


@dataclass(frozen=True)
class CropsSource(Source):
    """Squares of the pictures of some files, all of a file's after one another."""

    spec: Spec
    root: str
    names: tuple[str, ...]  # of the files below the root
    sizes: tuple[tuple[int, int], ...]  # height and width of each
    size: int
    stride: int
    scales: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def counts(self) -> np.ndarray:
        """Squares of every file at every scale, down and across: int [files, scales, 2]."""
        sides = np.array([[_scaled(size, scale) for scale in self.scales] for size in self.sizes])
        return np.maximum((sides - self.size) // self.stride + 1, 0) * (sides >= self.size).all(-1, keepdims=True)

    @cached_property
    def ends(self) -> np.ndarray:
        """Squares of the first files and scales together, one after the other."""
        return self.counts.prod(-1).ravel().cumsum()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, i: int) -> Place:
        """Where square i lies."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        which = int(np.searchsorted(self.ends, i, "right"))
        file, scale = divmod(which, len(self.scales))
        row, column = divmod(i - (int(self.ends[which - 1]) if which else 0), int(self.counts[file, scale, 1]))
        return Place(file, self.scales[scale], row * self.stride, column * self.stride)

    def __getitem__(self, i: int) -> dict[str, Any]:
        at = self.place(i)
        whole = self.picture(at.file, at.scale)
        return {"image": whole[at.row : at.row + self.size, at.column : at.column + self.size]}

    def picture(self, file: int, scale: float = 1.0) -> np.ndarray:
        """A whole picture, uint8 [H, W, C]; a UserError where it is damaged."""
        return _picture(os.path.join(self.root, self.names[file]), self.spec.shape[-1], scale, self.sizes[file])

    @property
    def lossy(self) -> bool:
        """By the endings of the names."""
        return any(name.lower().endswith(decode.JPEG) for name in self.names)

    def holds(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """For each of those pictures the name of the file here that is the same one, or ""."""
        mine = np.stack([print_of(self.picture(i)) for i in range(len(self.names))])
        off = [np.abs(mine - print_of(one)).max(1) for one in pictures]
        return [self.names[int(d.argmin())] if d.min() < 2.0 else "" for d in off]

    def facts(self) -> Any:
        """Names and sizes of the pictures, and how they are cut."""
        return [super().facts(), self.names, self.sizes, self.size, self.stride, self.scales]

    def contents(self) -> Iterator[bytes]:
        """The files as they are stored."""
        return (Path(self.root, name).read_bytes() for name in self.names)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return tuple(max(1, round(side * scale)) for side in size)


def _picture(file: str, channels: int, scale: float, size: tuple[int, int]) -> np.ndarray:
    """A decoded picture; the last ones stay in memory, since squares of one are read in no order."""
    key = (file, channels, scale)
    if (found := RECENT.get(key)) is not None:
        return found
    try:
        found = decode.photo(file, channels)
    except decode.Unreadable as e:
        raise UserError(f"image '{readable(file)}' is broken: {e}; take it out of the folder") from e
    if scale != 1.0:
        height, width = _scaled(size, scale)
        image = Image.fromarray(found.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
        found = np.asarray(image).reshape(height, width, channels)
    with LOCK:
        RECENT[key] = found
        while sum(one.nbytes for one in RECENT.values()) > KEPT and len(RECENT) > 1:
            RECENT.pop(next(iter(RECENT)))
    return found


@dataclass(frozen=True)
class Crops:
    """Squares of `size` pixels out of the pictures of a folder, every `stride` pixels; pictures of any size, the smaller left out.

    channels: 1 or 3; 0: 3 if any picture has colour. scales: the pictures also at these sizes (DnCNN: 1, 0.9, 0.8, 0.7). eval_path:
    a second folder for evaluation; without it, `train` and `val` (`test`, ...) as in a folder, or a share of the files.
    """

    path: FilePath
    eval_path: FilePath = ""
    eval_fraction: BelowOne = 0.1
    size: Count = 64
    stride: Natural = 0  # 0: the size, so that no two squares share a pixel
    scales: tuple[Annotated[float, Range(above=0, most=1)], ...] = (1.0,)
    channels: Literal[0, 1, 3] = 0

    def open(self, split: str) -> CropsSource:
        """The "train" or "eval" part. Errors: no folder, no picture as large as a square."""
        one_of(split, ("train", "eval"), "split")
        folder = Folder(self.path, self.eval_path, self.eval_fraction, channels=self.channels)
        train, held, notes = folder.parts()
        if held is None:
            out = hold_out(train.names, self.eval_fraction)
            notes += told_of_split(out, f"eval_fraction={self.eval_fraction:g}", None, ())
            rows = split_rows(out, split, f"folder '{readable(self.path)}'")
            part = Part(train.root, [train.names[row] for row in rows])
        else:
            notes += (f"held out: the {len(held.names):,} pictures of '{readable(held.root)}'",)
            part = train if split == "train" else held
        heads = folder.heads(part)
        colour = self.channels or (3 if any(head.colour for head in folder.heads(train).values()) else 1)
        large = {k: h.size[::-1] for k, h in heads.items() if min(h.size) >= self.size}
        if not large:
            least = max((min(head.size) for head in heads.values()), default=1)
            raise UserError(
                f"no picture of '{readable(part.root)}' has {self.size} pixels a side; set config.data.size={least}"
            )
        if few := len(heads) - len(large):
            warn_once(
                f"{few} of {len(heads)} pictures in '{readable(part.root)}' are smaller than {self.size} pixels: left out"
            )
        source = CropsSource(
            pictures((self.size, self.size, colour)), part.root, tuple(large), tuple(large.values()), self.size,
            self.stride or self.size, self.scales,
        )  # fmt: skip
        told = f"crops: {len(source):,} squares of {self.size} pixels out of {len(large):,} pictures"
        return replace(source, notes=(*notes, told))

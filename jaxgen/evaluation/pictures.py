"""Sets of pictures to be measured, each of its own size; what cannot be read is left out, and both are told."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from jaxgen.core import parallel
from jaxgen.data import decode
from jaxgen.data.files import find, natural, readable
from jaxgen.data.sources import Source
from jaxgen.data.sources.folder import FolderSource
from jaxgen.errors import UserError

Picture = np.ndarray  # uint8 [h, w, C]
Shape = tuple[int, int, int]
Row, Seen = TypeVar("Row"), TypeVar("Seen")


def counter(what: str, total: int) -> tqdm:
    """A progress bar that counts images, on the first host, after two seconds."""
    hidden = None if parallel.is_lead() else True
    return tqdm(desc=what, total=total, unit="img", delay=2, leave=False, disable=hidden)


def bar(what: str, total: int) -> Callable[[Iterable], Iterator]:
    """A `counter` of batches (images, labels)."""

    def watch(batches: Iterable) -> Iterator:
        with counter(what, total) as shown:
            for images, labels in batches:
                yield images, labels
                shown.update(len(images))

    return watch


def read_ahead(get: Callable[[Row], Any], rows: Sequence[Row], size: int) -> Iterator[list[tuple[Row, Any]]]:
    """(row, get(row)) of `size` rows at a time, in order, while threads read the next ones."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        following = None
        for k, part in enumerate(parts):
            values = following or [pool.submit(get, row) for row in part]
            following = [pool.submit(get, row) for row in parts[k + 1]] if k + 1 < len(parts) else None
            yield [(row, value.result()) for row, value in zip(part, values, strict=True)]


@dataclass(frozen=True)
class Pictures:
    """`read(i)` gives picture i, `shape(i)` its shape without reading it; both raise UserError where it cannot be read."""

    what: str  # the set's name, for messages
    names: tuple[str, ...]  # of files below a folder, in natural order; () where pictures have no names
    num: int
    read: Callable[[int], Picture]
    shape: Callable[[int], Shape]
    fingerprint: Callable[..., str]  # as a source's
    labels: np.ndarray | None = None  # int [N]
    classes: tuple[str, ...] = ()  # what the labels are called
    notes: tuple[str, ...] = ()  # what is to be said of the set
    lost: dict[int, str] = field(default_factory=dict)  # those that turned out broken, and why
    sizes: Counter = field(default_factory=Counter)  # (height, width) of those that were read

    def __len__(self) -> int:
        return self.num

    def name(self, i: int) -> str:
        """What picture i is called."""
        return readable(self.names[i]) if self.names else str(i)

    def get(self, i: int) -> Picture | None:
        """Picture i, or None where it is broken."""
        return self._or_lost(self.read, int(i))

    def look(self, i: int) -> Shape | None:
        """The shape of picture i, or None where it is broken."""
        return self._or_lost(self.shape, int(i))

    def _or_lost(self, look: Callable[[int], Seen], i: int) -> Seen | None:
        try:
            return look(i)
        except UserError as error:
            self.lost[i] = str(error)
            return None

    def batches(self, rows: Sequence[int], size: int) -> Iterator[tuple[list[Picture], np.ndarray | None]]:
        """(pictures, their labels or None) of those rows in order, `size` at a time, without the broken ones."""
        for part in read_ahead(self.get, rows, size):
            read = [(i, x) for i, x in part if x is not None]
            self.sizes.update(x.shape[:2] for _, x in read)
            if read:
                yield [x for _, x in read], None if self.labels is None else self.labels[[i for i, _ in read]]

    def told(self) -> list[str]:
        """What is to be said after reading: pictures that were left out, and sizes that differ."""
        lines = [f"{self.what}: {note}" for note in self.notes]
        if self.lost:
            i = min(self.lost)
            lines.append(f"{self.what}: {len(self.lost)} of {len(self)} pictures cannot be read and are left out, such as "
                         f"{self.name(i)}: {self.lost[i]}")  # fmt: skip
        if len(self.sizes) > 1:
            lines.append(f"{self.what}: pictures of {self.span()}, each taken at its own size")
        return lines

    def span(self) -> str:
        """`32x32`, or `12 sizes from 8x8 to 40x30` (width x height)."""
        first, last = (f"{w}x{h}" for h, w in (least(self.sizes, key=np.prod) for least in (min, max)))
        return first if len(self.sizes) == 1 else f"{len(self.sizes)} sizes from {first} to {last}"

    @staticmethod
    def of(source: Source, what: str) -> "Pictures":
        """The targets of a data set. A file that is broken is left out: no other stands in for it."""
        target = source.spec.target
        if isinstance(source, FolderSource):
            source = replace(source, on_broken="stop")
        names = source.spec[source.spec.label].names if source.spec.label else ()
        read, shape = (lambda i: source[i][target]), (lambda i: source.spec.shape)
        return Pictures(what, (), len(source), read, shape, source.fingerprint, source.labels, names)

    @staticmethod
    def folder(path: str, size: int = 0) -> "Pictures":
        """All pictures below a folder; `size`: squares of that side, the centre of each. Class folders give labels."""
        found = find(path)
        files = Files(path, tuple(found.names), size)
        tops = [name.partition("/")[0] for name in found.names]
        classes = () if any("/" not in name for name in found.names) else sorted(set(tops), key=natural)
        labels = np.array([classes.index(top) for top in tops]) if classes else None
        names = tuple(map(readable, classes))
        return Pictures(
            path, files.names, len(files), files.read, files.shape, files.fingerprint, labels, names, found.notes()
        )


@dataclass(frozen=True)
class Files(Source):
    """Picture files below a folder, each grey or in colour as it is."""

    root: str
    names: tuple[str, ...]
    size: int  # of the squares that they are brought to; 0: as they are

    def __len__(self) -> int:
        return len(self.names)

    def file(self, i: int) -> str:
        """The path of picture i."""
        return os.path.join(self.root, self.names[i])

    def read(self, i: int) -> Picture:
        """Picture i."""
        try:
            return decode.photo(self.file(i), 0, self.size, "cover" if self.size else "none")
        except decode.Unreadable as error:
            raise UserError(str(error)) from error

    def shape(self, i: int) -> Shape:
        """From the header alone."""
        try:
            head = decode.head(self.file(i))
        except decode.Unreadable as error:
            raise UserError(str(error)) from error
        width, height = (self.size, self.size) if self.size else head.size
        return height, width, 3 if head.colour else 1

    def facts(self) -> tuple:
        """Names, and the size they are brought to."""
        return self.names, self.size

    def contents(self) -> Iterator[bytes]:
        """The files as they are stored."""
        return (Path(self.file(i)).read_bytes() for i in range(len(self)))

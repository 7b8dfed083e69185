"""What a data set is to the rest of the house, and what several formats need to become one."""

import difflib
import hashlib
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from jaxgen.core.spec import Spec
from jaxgen.errors import UserError

TOLD: dict[str, object] = {}  # the faults that this process has told


class NothingHeldOut(UserError):
    """The data set has no part for evaluation."""


class Source(Protocol):
    """A split of a data set: random access, deterministic, picklable. A source of one's own may inherit what is here."""

    spec: Spec  # all that its examples hold; the run decides what of it a method is told
    notes: tuple[str, ...] = ()  # facts that the plan of a run tells: what is held out, left aside, converted

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Example i: an array or number for every field of the spec, str for text. Of several sets also by a number for each."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Examples of each set that it holds, by the `order` of fields; mostly all fields of an example belong together."""
        return (len(self),)

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [N] where they are known without reading the examples; None: unlabelled, or not that cheap."""
        return None

    @property
    def captions(self) -> Sequence[tuple[str, ...]] | None:
        """Of every example the texts that say what it shows; None: there are none. Better known without reading the pictures."""
        names = tuple(self.spec.of("text"))
        return [tuple(self[i][name] for name in names) for i in range(len(self))] if names else None

    def sound(self, i: int) -> bool:
        """Whether what was last read as example i is that, and not another that stands in for what cannot be decoded."""
        return True

    @property
    def lossy(self) -> bool:
        """Whether pictures come from JPEG files: their levels are those of a decoder, not of a camera or a hand."""
        return False

    def facts(self) -> Any:
        """What tells this split from others without reading it: plain values, none of them a place or a time."""
        return [plain(self.spec), len(self), None if self.labels is None else self.labels.tolist()]

    def contents(self) -> Iterator[bytes]:
        """Every byte of it, in order, in pieces: one for each example."""
        for i in range(len(self)):
            yield b"".join(
                value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
                for value in self[i].values()
            )

    def fingerprint(self, content: bool = False) -> str:
        """Sixteen hex digits of what the split holds: names, sizes, labels, number, order; with `content` also every byte.

        The same for a copy elsewhere. Without `content` nothing is read, so a picture repainted at equal size goes unseen.
        """
        found = hashlib.sha256(repr(self.facts()).encode())
        if content:
            for piece in tqdm(
                self.contents(), "fingerprint", len(self), leave=False, disable=None, delay=2, unit="img"
            ):
                found.update(hashlib.sha256(piece).digest())  # of each, so that no byte moves over a border unseen
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Rows(Source):
    """Rows of arrays in memory or memory-mapped, [N, ...] by name."""

    spec: Spec
    arrays: Mapping[str, np.ndarray]
    rows: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: values[self.rows[i]] for name, values in self.arrays.items()}

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [N]."""
        return self.arrays["label"][self.rows] if "label" in self.arrays else None

    def facts(self) -> Any:
        """With the places of the rows in their arrays."""
        return [super().facts(), self.rows.tolist()]


@dataclass(frozen=True)
class Wrapped(Source):
    """Another source, of which something is told otherwise."""

    inner: Source

    @property
    def spec(self) -> Spec:
        """That of the other."""
        return self.inner.spec

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the other."""
        return self.inner.notes

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Those of the other."""
        return self.inner.lengths

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.inner[i]

    @property
    def labels(self) -> np.ndarray | None:
        """Those of the other."""
        return self.inner.labels

    @property
    def captions(self) -> Sequence[tuple[str, ...]] | None:
        """Those of the other."""
        return self.inner.captions

    def sound(self, i: int) -> bool:
        """As the other says."""
        return self.inner.sound(i)

    @property
    def lossy(self) -> bool:
        """As the other says."""
        return self.inner.lossy

    def facts(self) -> Any:
        """Those of the other: what values mean is no fact of what they are."""
        return self.inner.facts()

    def contents(self) -> Iterator[bytes]:
        """Those of the other."""
        return self.inner.contents()


@dataclass(frozen=True)
class OnLevels(Wrapped):
    """Another source, whose pictures to be made are said to have so many even levels; each is looked at as it is read."""

    levels: int

    def __post_init__(self) -> None:
        spec = self.inner.spec
        if spec[spec.target].dtype != "uint8" or self.levels < 2:
            raise UserError(
                f"config.data.levels={self.levels} must be at least 2, of pictures in uint8, and the data hold {spec}; "
                "set config.data.levels=0"
            )

    @cached_property
    def spec(self) -> Spec:
        """With the levels."""
        spec = self.inner.spec
        return Spec(spec, **{spec.target: replace(spec[spec.target], levels=self.levels)})

    @cached_property
    def on(self) -> np.ndarray:
        """bool [256]: which values are levels, rounded either way."""
        even = np.arange(self.levels) * (255 / (self.levels - 1))
        return np.abs(np.arange(256)[:, None] - even).min(1) < 1

    def __getitem__(self, i: int) -> dict[str, Any]:
        example = self.inner[i]
        on = self.on[example[self.spec.target]]
        if not on.all():
            place = np.unravel_index(np.argmin(on), on.shape)
            raise UserError(
                f"picture {i} has the value {example[self.spec.target][place]} at {tuple(map(int, place))}, which is none of the "
                f"{self.levels} levels of config.data.levels; set config.data.levels=256, or put pictures on levels by "
                f"config.tasks.levels.num={self.levels}"
            )
        return example


def plain(spec: Spec) -> dict[str, Any]:
    """A Spec as plain values, without levels and order: what values mean, and how they are drawn, is no fact of what they are."""
    return {
        name: {k: v for k, v in field.items() if k not in ("levels", "order")} for name, field in spec.to_json().items()
    }


def one_of(value: str, known: Iterable[str], what: str) -> None:
    """A UserError with the nearest name unless the value is known."""
    known = list(known)
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
        raise UserError(f"{what} {value!r} is unknown; {hint}")


def warn_once(message: str) -> None:
    """A fault of the data, told once in a process however often the data are opened; atomic, since threads meet the same file."""
    mark = object()
    if TOLD.setdefault(message, mark) is mark:
        warnings.warn(message, stacklevel=2)


def hold_out(names: Sequence[str], fraction: float, labels: np.ndarray | None = None) -> np.ndarray:
    """Which items are held out for evaluation: bool [N].

    An item is by a hash of its name, so that new items move no old one. Two things are put right: a class (or a set without
    labels) that would be held out whole keeps one item, and one that should give an item or more and would give none gives
    that of the smallest hash. Of several items one at least is held out.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"eval_fraction={fraction} must be at least 0 and below 1")
    held = np.zeros(len(names), bool)
    if not fraction:
        return held
    hashes = np.array([zlib.crc32(name.encode("utf-8", "surrogateescape")) for name in names], np.uint32)
    held = hashes <= fraction * 2**32
    groups = np.zeros(len(names), int) if labels is None else labels
    order = np.lexsort((hashes, groups))
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if len(rows) > 1 and held[rows].all():
            held[rows[-1]] = False
        elif len(rows) == 1:
            held[rows] = False
        elif not held[rows].any() and len(rows) * fraction >= 0.5:
            held[rows[0]] = True
    if not held.any():
        spare = np.bincount(groups)[groups] > 1
        held[np.argmin(np.where(spare, hashes, 2**32) if spare.any() else hashes)] = True
    return held


def split_rows(held: np.ndarray, split: str, where: str) -> np.ndarray:
    """Indices of the items of a split; a single item serves both. Errors: NothingHeldOut."""
    rows = np.flatnonzero(held == (split == "eval"))
    if split == "eval" and not rows.size:
        raise NothingHeldOut(
            f"no picture of {where} is held out (eval_fraction=0): name other pictures by --config.data.eval_path=PATH, or "
            "train with --config.data.eval_fraction=0.1"
        )
    return rows if rows.size else np.arange(len(held))


def told_of_split(held: np.ndarray, why: str, labels: np.ndarray | None, names: Sequence[str]) -> tuple[str, ...]:
    """Notes: how many are held out and why, and which classes have none in a part. `names` are those of the labels."""
    if not held.any():
        return (f"held out: none ({why})",)
    if len(held) == 1:
        return ("held out: the only picture, which is trained on too",)
    told = f"held out: {held.sum():,} of {len(held):,} pictures ({why})"
    return (told, *(() if labels is None else told_of_classes(labels[~held], labels[held], names)))


def told_of_classes(trained: np.ndarray, held: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """Notes on classes that a part of the data has no picture of."""
    notes = []
    for part, labels in (("training", trained), ("the held-out part", held)):
        if (without := np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)).size:
            notes.append(f"no picture in {part}: {without.size} of {len(names)} classes, such as '{names[without[0]]}'")
    return tuple(notes)

"""What a data set is to the rest of the house, and what several formats need to become one."""

import difflib
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from jaxgen.core.spec import Spec
from jaxgen.errors import UserError


class Source(Protocol):
    """A split of a data set: random access, deterministic, picklable. A source of one's own may inherit what is here."""

    spec: Spec  # all that its examples hold; the run decides what of it a method is told
    notes: tuple[str, ...] = ()  # facts that the plan of a run tells: what is held out, left aside, converted

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Example i: an array or number for every field of the spec, str for text."""

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [N] where they are known without reading the examples; None: unlabelled, or not that cheap."""
        return None

    def facts(self) -> Any:
        """What tells this split from others without reading it: plain values, none of them a place or a time."""
        return [self.spec.to_json(), len(self), None if self.labels is None else self.labels.tolist()]

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


def one_of(value: str, known: Iterable[str], what: str) -> None:
    """A UserError with the nearest name unless the value is known."""
    known = list(known)
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
        raise UserError(f"{what} {value!r} is unknown; {hint}")


def line(e: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(e).split()) or type(e).__name__


def split_rows(names: Sequence[str], split: str, fraction: float, where: str) -> np.ndarray:
    """Indices of the items of a split; a single item serves both.

    An item is held out by a hash of its name, so that new items move no old one; one at least (that with the smallest hash)
    if the fraction is not 0.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"eval_fraction={fraction} must be at least 0 and below 1")
    hashes = np.array([zlib.crc32(name.encode()) for name in names], np.uint32)
    held = hashes <= max(fraction * 2**32, hashes.min()) if fraction > 0 else np.zeros(len(hashes), bool)
    rows = np.flatnonzero(held == (split == "eval"))
    if rows.size == 0 and split == "eval":
        raise UserError(f"{where} has no held-out part: set eval_fraction above 0 or eval_path")
    return rows if rows.size else np.arange(len(names))

"""Two sets of pictures that do not belong together, and sets made of others."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from jaxgen.core.spec import Spec
from jaxgen.data.sources.pairs import SEEN
from jaxgen.data.sources.source import Source, Wrapped, one_of
from jaxgen.errors import UserError


class Opens(Protocol):
    """What a config names as a source."""

    def open(self, split: str) -> Source:
        """The "train" or "eval" part."""


def opened(source: Opens, split: str, key: str) -> Source:
    """That part of a source which is named in a config by a key of another; its errors say its own keys as they stand there."""
    try:
        return source.open(split)
    except UserError as error:
        own = lambda found: f"config.data.{key}.{found[1]}" if hasattr(source, found[1]) else found[0]  # noqa: E731
        raise type(error)(re.sub(r"config\.data\.(\w+)", own, str(error))) from None


@dataclass(frozen=True)
class UnpairedSource(Source):
    """Pictures of one set as what is made and of another as what is seen, each in an order of its own where a run learns of them.

    An example is called by a number, which goes round the shorter set, or by a number for each set.
    """

    made: Source
    seen: Source

    @cached_property
    def spec(self) -> Spec:
        """The picture of either set; labels and captions would be of one alone, and are left out."""
        made, seen = (source.spec[source.spec.target] for source in (self.made, self.seen))
        told = replace(seen, role="condition", order=1)
        return Spec(image=replace(made, role="target"), **{SEEN: told})

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of both sets."""
        both = (("image", self.made), (SEEN, self.seen))
        return tuple(f"{name}: {note}" for name, s in both for note in (f"{len(s):,} pictures", *s.notes))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of both sets."""
        return len(self.made), len(self.seen)

    def __len__(self) -> int:
        return max(self.lengths)

    def __getitem__(self, i: int | tuple[int, int]) -> dict[str, Any]:
        places = i if isinstance(i, tuple) else (i % len(self.made), i % len(self.seen))
        made, seen = (s[int(j)][s.spec.target] for s, j in zip((self.made, self.seen), places, strict=True))
        return {"image": made, SEEN: seen}

    def sound(self, i: int) -> bool:
        """Whether both pictures are themselves."""
        return self.made.sound(i % len(self.made)) and self.seen.sound(i % len(self.seen))

    @property
    def lossy(self) -> bool:
        """As the set of what is made says."""
        return self.made.lossy

    def facts(self) -> Any:
        """Those of both sets."""
        return [self.made.facts(), self.seen.facts()]

    def contents(self) -> Iterator[bytes]:
        """Those of both sets."""
        yield from self.made.contents()
        yield from self.seen.contents()


@dataclass(frozen=True)
class Unpaired:
    """Pictures of source_a and of source_b; direction "ab" makes those of b of those of a, "ba" the other way round.

    Each set has its own permutation, seeded apart, and never a fixed pairing: its order does not depend on the length of the
    other. An epoch is as long as the larger set.
    """

    source_a: Opens
    source_b: Opens
    direction: Literal["ab", "ba"] = "ab"

    def open(self, split: str) -> UnpairedSource:
        """The "train" or "eval" part. Errors: those of the sources, and one that holds no pictures."""
        one_of(split, ("train", "eval"), "split")
        a, b = opened(self.source_a, split, "source_a"), opened(self.source_b, split, "source_b")
        for name, source in (("a", a), ("b", b)):
            kind = source.spec[source.spec.target].kind
            if kind != "image" or not len(source):
                what = "has no pictures" if kind == "image" else f"holds {kind}, not pictures"
                raise UserError(f"config.data.source_{name} {what}; name another source")
        return UnpairedSource(b, a) if self.direction == "ab" else UnpairedSource(a, b)


@dataclass(frozen=True)
class NegativeSource(Wrapped):
    """Another source, whose pictures to be made are turned from black to white: v becomes 255 - v."""

    @cached_property
    def spec(self) -> Spec:
        """As the other; a UserError for pictures that are not in uint8."""
        spec = self.inner.spec
        if spec[spec.target].dtype != "uint8":
            raise UserError(
                f"source negative needs pictures in uint8, and the other holds {spec}; name the other alone"
            )
        return spec

    def __getitem__(self, i: int) -> dict[str, Any]:
        example = self.inner[i]
        return {**example, self.spec.target: 255 - example[self.spec.target]}

    def facts(self) -> Any:
        """With what is done."""
        return ["negative", self.inner.facts()]


@dataclass(frozen=True)
class Negative:
    """The pictures of another source as negatives."""

    source: Opens

    def open(self, split: str) -> NegativeSource:
        """The "train" or "eval" part."""
        return NegativeSource(opened(self.source, split, "source"))

"""Ranges of numbers: what a field of a config may hold, said by its type, as in `width: Count` or `dropout: BelowOne`.

The registry refuses a value outside. A range that one field alone has is written in place: `Annotated[int, Range(least=2)]`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxgen.errors import UserError


@dataclass(frozen=True)
class Range:
    """Finite numbers x with least <= x <= most and above < x < below."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, x: float) -> bool:
        return self.least <= x <= self.most and self.above < x < self.below

    def __str__(self) -> str:
        bounds = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        return " and ".join(f"{word} {x:.15g}" for word, x in bounds if math.isfinite(x)) or "a finite number"


Count = Annotated[int, Range(least=1)]
Natural = Annotated[int, Range(least=0)]  # where 0 has a meaning of its own
SEEDS = Range(least=0, most=2**32 - 1)  # the bits that jax.random.key reads: it would take 2**32 for 0
Seed = Annotated[int, SEEDS]

Number = Annotated[float, Range()]  # any that is finite
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
BelowOne = Annotated[float, Range(least=0, below=1)]  # decays, dropout
Inside = Annotated[float, Range(above=0, below=1)]  # strictly between the ends

Precision = Literal["float32", "bfloat16", "float16"]  # of a net's products
Remat = Literal[False, "cheap", True]  # what a net computes again in its backward pass: nothing, all but products, all


def refuse_seed(seed: int) -> None:
    """A UserError for what would be another seed's stream."""
    if seed not in SEEDS:
        raise UserError(f"seed={seed} must be {SEEDS}")

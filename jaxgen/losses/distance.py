"""How far an answer is from what was wanted: pictures x, y [B, ...] in [-1, 1] -> [B], means over their numbers."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import NonNegative, Positive

Array = jax.Array


class Distance(Protocol):
    """A loss of pixels; `strength`: how much it counts beside others."""

    strength: float

    def __call__(self, x: Array, y: Array) -> Array:
        """Elementwise, of the shape of x."""


@dataclass(frozen=True)
class L1:
    """|x - y|."""

    strength: NonNegative = 1.0

    def __call__(self, x: Array, y: Array) -> Array:
        """Elementwise."""
        return jnp.abs(x - y)


@dataclass(frozen=True)
class L2:
    """(x - y)^2, which asks for the mean of all pictures that there may be: what PSNR measures."""

    strength: NonNegative = 1.0

    def __call__(self, x: Array, y: Array) -> Array:
        """Elementwise."""
        return jnp.square(x - y)


@dataclass(frozen=True)
class Charbonnier:
    """sqrt((x - y)^2 + eps^2): |x - y| with a round tip (Lai et al. 2017, arXiv:1704.03915, sec. 3.3)."""

    strength: NonNegative = 1.0
    eps: Positive = 1e-3

    def __call__(self, x: Array, y: Array) -> Array:
        """Elementwise."""
        return jnp.sqrt(jnp.square(x - y) + self.eps**2)


def distance(kinds: Distance | tuple[Distance, ...], x: Array, y: Array, where: Array | None = None) -> Array:
    """The weighed sum [B] of one distance or several; where [B, H, W, 1]: 1 at the pixels that count."""
    count = jnp.ones((*x.shape[:-1], 1)) if where is None else where
    number = jnp.maximum(count.reshape(len(x), -1).sum(-1), 1.0) * x.shape[-1]
    return sum(
        one.strength * (one(x, y) * count).reshape(len(x), -1).sum(-1) / number
        for one in (kinds if isinstance(kinds, tuple) else (kinds,))
    )

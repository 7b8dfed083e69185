"""Levels as numbers in [0, 1], for a model that knows densities (Theis et al. 2016, arXiv:1511.01844, section 3.1).

    u = (k + e) / L, e ~ U(0, 1)^D:    log P(k) >= E log p(u) - D log L

A density on the levels themselves would grow without bound. The mean over `draws` of e inside the logarithm tightens the bound
as in importance-weighted autoencoders (Burda et al. 2015, eq. 8; Hoogeboom et al. 2020, arXiv:2001.11235):

    log P(k) >= E log 1/n sum_i p(u_i) - D log L
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import Count
from jaxgen.core.spec import Levels
from jaxgen.errors import UserError
from jaxgen.images import from_levels, to_float, to_levels, within

Array = jax.Array
LogDensity = Callable[[Array], Array]  # u [B, ...] in [0, 1] -> log p(u) [B]


class Dequantise(Protocol):
    """How pixels become numbers that have a density."""

    levels: int  # 0: they are such numbers
    kind: str  # what `log_prob` is of an exact density: "exact", or a "bound" from below

    def spread(self, x: Array, rng: Array) -> Array:
        """Pixels, uint8 or floats in [-1, 1] -> u [B, ...] in [0, 1]."""

    def pixels(self, u: Array) -> Array:
        """The way back: u -> floats in [-1, 1]."""

    def cost(self, dims: int) -> float:
        """log P(x) is log p(u) less these nats."""

    def log_prob(self, log_density: LogDensity, x: Array, rng: Array) -> Array:
        """log P(x) [B] in nats, as near as it gets; training takes one draw."""


@dataclass(frozen=True)
class Uniform:
    """A number drawn evenly from a level's share of [0, 1]."""

    levels: Levels = 256
    kind: ClassVar[str] = "bound"

    def __post_init__(self) -> None:
        if not self.levels:
            raise UserError(
                "method.dequantise is of pixels that have levels, and these are floats; set method.dequantise=none for their "
                "density, or leave out what made floats of them"
            )

    def spread(self, x: Array, rng: Array) -> Array:
        """(k + e) / L, below 1 also where float32 rounds."""
        k = to_levels(x, self.levels).astype(jnp.float32)
        return jnp.minimum((k + jax.random.uniform(rng, x.shape)) / self.levels, 1.0 - 2.0**-24)

    def pixels(self, u: Array) -> Array:
        """The level in whose share it lies."""
        return within(from_levels(jnp.floor(u * self.levels), self.levels))

    def cost(self, dims: int) -> float:
        """D log L."""
        return dims * math.log(self.levels)

    def log_prob(self, log_density: LogDensity, x: Array, rng: Array) -> Array:
        """By one draw."""
        return log_density(self.spread(x, rng)) - self.cost(x[0].size)


@dataclass(frozen=True)
class Importance(Uniform):
    """The same in training; what is measured is the bound of `draws` draws."""

    draws: Count = 16

    def log_prob(self, log_density: LogDensity, x: Array, rng: Array) -> Array:
        """log of the mean over the draws, made one after the other."""
        once = super().log_prob
        found = jax.lax.map(lambda key: once(log_density, x, key), jax.random.split(rng, self.draws))
        return jax.nn.logsumexp(found, axis=0) - math.log(self.draws)


@dataclass(frozen=True)
class NoNoise:
    """Floats in [-1, 1] as they are: what a model gives them is a density there."""

    levels: ClassVar[int] = 0
    kind: ClassVar[str] = "exact"

    def spread(self, x: Array, rng: Array) -> Array:
        """[-1, 1] as [0, 1]."""
        return 0.5 * (to_float(x) + 1.0)

    def pixels(self, u: Array) -> Array:
        """[0, 1] as [-1, 1]."""
        return 2.0 * u - 1.0

    def cost(self, dims: int) -> float:
        """D log 2."""
        return dims * math.log(2.0)

    def log_prob(self, log_density: LogDensity, x: Array, rng: Array) -> Array:
        """Exactly."""
        return log_density(self.spread(x, rng)) - self.cost(x[0].size)

"""Noise of pictures [B, H, W, C] in [-1, 1]. 25 grey levels of 255, as papers say it, are 25 / 127.5 here."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import NonNegative, Number, Positive, Share
from jaxgen.degradations.blur import along_both, gaussian_taps
from jaxgen.degradations.degradation import Degradation, Maps, bright, dark, wide
from jaxgen.errors import UserError

Array = jax.Array


@dataclass(frozen=True)
class Nothing(Degradation):
    """The picture as it is."""

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """x."""
        return x

    def maps(self, shape: tuple[int, ...]) -> Maps:
        """The identity."""
        return Maps()


@dataclass(frozen=True)
class Gaussian(Degradation):
    """White Gaussian noise, not cut off unless `clip` says so: as denoisers are published."""

    strength: ClassVar[str] = "sigma"
    sigma: NonNegative | tuple[NonNegative, ...] = 25 / 127.5  # standard deviation, of pixels in [-1, 1]
    clip: bool = False
    grey: bool = False  # the same in all channels

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """x + sigma eps."""
        shape = (*x.shape[:-1], 1) if self.grey else x.shape
        x = x + wide(level) * jax.random.normal(rng, shape)
        return jnp.clip(x, -1.0, 1.0) if self.clip else x

    def maps(self, shape: tuple[int, ...]) -> Maps:
        """The identity, and noise of one level."""
        low, high = self.span
        if self.clip or self.grey or low != high:
            raise UserError(
                f"degradation gaussian is linear with one level, unclipped and white; set sigma={high}, clip=False, grey=False"
            )
        return Maps(noise=high)


@dataclass(frozen=True)
class Poisson(Degradation):
    """Shot noise: Poisson(peak x) / peak of light x in [0, 1], where `peak` photons make white."""

    strength: ClassVar[str] = "peak"
    peak: Positive | tuple[Positive, ...] = 30.0
    clip: bool = False

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """What is counted."""
        light = wide(level) * jnp.clip(bright(x), 0.0, 1.0)
        x = dark(jax.random.poisson(rng, light) / wide(level))
        return jnp.clip(x, -1.0, 1.0) if self.clip else x


@dataclass(frozen=True)
class Speckle(Degradation):
    """Noise that grows with the light: x (1 + sigma eps), x in [0, 1]."""

    strength: ClassVar[str] = "sigma"
    sigma: NonNegative | tuple[NonNegative, ...] = 0.2
    clip: bool = False

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """x (1 + sigma eps)."""
        x = dark(bright(x) * (1.0 + wide(level) * jax.random.normal(rng, x.shape)))
        return jnp.clip(x, -1.0, 1.0) if self.clip else x


@dataclass(frozen=True)
class Impulse(Degradation):
    """A share `p` of the pixels is white or black, by the toss of a coin (salt and pepper), or of a `random` colour."""

    strength: ClassVar[str] = "p"
    p: Share | tuple[Share, ...] = 0.25
    random: bool = False

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """All channels of a pixel go together."""
        rng, colour_rng = jax.random.split(rng)
        draw = jax.random.uniform(rng, (*x.shape[:-1], 1))
        coin = jnp.where(draw < wide(level) / 2, 1.0, -1.0)
        colour = jax.random.uniform(colour_rng, x.shape, minval=-1.0) if self.random else coin
        return jnp.where(draw < wide(level), colour, x)


@dataclass(frozen=True)
class Correlated(Degradation):
    """Gaussian noise of deviation `sigma` whose neighbours are alike: white noise blurred by a Gaussian of `scale` pixels."""

    strength: ClassVar[str] = "sigma"
    sigma: NonNegative | tuple[NonNegative, ...] = 25 / 127.5
    scale: Positive = 1.5
    clip: bool = False

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """x + sigma times the blurred noise, scaled to deviation 1."""
        reach = max(1, int(3 * self.scale + 0.5))
        taps = gaussian_taps(jnp.array([self.scale]), reach)
        taps = taps / jnp.sqrt((taps**2).sum())
        b, h, w, c = x.shape
        eps = jax.random.normal(rng, (b, h + 2 * reach, w + 2 * reach, c))
        x = x + wide(level) * along_both(eps, taps)
        return jnp.clip(x, -1.0, 1.0) if self.clip else x


@dataclass(frozen=True)
class Mask(Degradation):
    """A share `p` of the pixels is hidden."""

    strength: ClassVar[str] = "p"
    p: Share | tuple[Share, ...] = 0.25
    value: Number = 0.0  # what stands there instead: 0 grey, -1 black

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """All channels of a pixel go together."""
        return jnp.where(jax.random.uniform(rng, (*x.shape[:-1], 1)) < wide(level), self.value, x)

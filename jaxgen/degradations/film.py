"""What age does to photographs, and the dark: grey, faded, sepia, scratched, dusty (after Wan et al. 2020, arXiv:2004.09484, sec.
3.2); dim."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import NonNegative, Positive, Share
from jaxgen.degradations.degradation import Degradation, Maps, bright, dark, wide
from jaxgen.images import LUMA, luma

Array = jax.Array

SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))  # rows of red, green, blue out


@dataclass(frozen=True)
class Grey(Degradation):
    """All colour goes; the luma of BT.601 stands in every channel."""

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Equal channels."""
        return jnp.broadcast_to(luma(x), x.shape)

    def maps(self, shape: tuple[int, ...]) -> Maps:
        """A matrix of equal rows."""
        channels = shape[-1]
        row = np.array(LUMA) if channels == 3 else np.full(channels, 1 / channels)
        return Maps(channels=np.tile(row, (channels, 1)))

    def finish(self, seen: Array, made: Array) -> Array:
        """The luma of `seen` with the colours of `made`, as far from grey as fits into [-1, 1]."""
        grey, colour = luma(seen), made - luma(made)
        room = jnp.where(colour > 0, 1.0 - grey, 1.0 + grey)
        share = jnp.where(jnp.abs(colour) > room, room / jnp.maximum(jnp.abs(colour), 1e-12), 1.0).min(
            -1, keepdims=True
        )
        return grey + jnp.clip(share, 0.0, 1.0) * colour


@dataclass(frozen=True)
class Dim(Degradation):
    """Too little light: x^gamma of light x in [0, 1], so that shadows go first. Shot noise (`poisson`) belongs behind it."""

    strength: ClassVar[str] = "gamma"
    gamma: Positive | tuple[Positive, ...] = 2.5

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Darker."""
        return dark(jnp.clip(bright(x), 0.0, 1.0) ** wide(level))


@dataclass(frozen=True)
class Fade(Degradation):
    """Black becomes lighter and white darker: contrast lost by a share `by`, around a light grey."""

    strength: ClassVar[str] = "by"
    by: Share | tuple[Share, ...] = 0.3

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Towards 0.6 of white."""
        return dark(0.6 + (1.0 - wide(level)) * (bright(x) - 0.6))


@dataclass(frozen=True)
class Sepia(Degradation):
    """A share `by` of the picture is brown, as prints become."""

    strength: ClassVar[str] = "by"
    by: Share | tuple[Share, ...] = 0.8

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Mixed with its brown form; grey pictures stay."""
        if x.shape[-1] != 3:
            return x
        brown = jnp.einsum("oc,bhwc->bhwo", jnp.asarray(SEPIA), bright(x), precision=jax.lax.Precision.HIGHEST)
        return x + wide(level) * (dark(jnp.minimum(brown, 1.0)) - x)


@dataclass(frozen=True)
class Scratches(Degradation):
    """Up to 12 bright or dark lines across the picture; `number` of them on the average."""

    strength: ClassVar[str] = "number"
    number: NonNegative | tuple[NonNegative, ...] = 4.0
    most: ClassVar[int] = 12

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Each line has a place, a slope, a width of up to two pixels and a light of its own."""
        keys = jax.random.split(rng, 6)
        shape, (h, w) = (len(x), self.most), x.shape[1:3]
        there = jax.random.uniform(keys[0], shape) < jnp.minimum(level / self.most, 1.0)[:, None]
        along = jax.random.bernoulli(keys[1], 0.7, shape)  # most run from top to bottom, as in a projector
        place = jax.random.uniform(keys[2], shape)
        slope = 0.2 * jax.random.normal(keys[3], shape)
        half = jax.random.uniform(keys[4], shape, minval=0.3, maxval=1.0)
        light = jnp.where(jax.random.bernoulli(keys[5], 0.7, shape), 1.0, -1.0)
        rows, columns = jnp.arange(h)[:, None], jnp.arange(w)[None]
        for i in range(self.most):
            of = lambda v: v[:, i, None, None]  # noqa: B023, E731
            down = jnp.abs(columns - of(place) * w - of(slope) * (rows - h / 2))
            across = jnp.abs(rows - of(place) * h - of(slope) * (columns - w / 2))
            cover = jnp.clip(of(half) + 0.5 - jnp.where(of(along), down, across), 0.0, 1.0) * of(there)
            x = x + 0.8 * cover[..., None] * (of(light)[..., None] - x)
        return x


@dataclass(frozen=True)
class Dust(Degradation):
    """Up to 24 specks of one to three pixels, bright or dark; `number` of them on the average."""

    strength: ClassVar[str] = "number"
    number: NonNegative | tuple[NonNegative, ...] = 8.0
    most: ClassVar[int] = 24

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Each speck has a place, a size and a light."""
        keys = jax.random.split(rng, 4)
        shape, (h, w) = (len(x), self.most), x.shape[1:3]
        there = jax.random.uniform(keys[0], shape) < jnp.minimum(level / self.most, 1.0)[:, None]
        place = jax.random.uniform(keys[1], (*shape, 2)) * jnp.array([h, w])
        size = jax.random.uniform(keys[2], shape, minval=0.5, maxval=1.5)
        light = jnp.where(jax.random.bernoulli(keys[3], 0.5, shape), 1.0, -1.0)
        rows, columns = jnp.arange(h)[:, None], jnp.arange(w)[None]
        for i in range(self.most):
            of = lambda v: v[:, i, None, None]  # noqa: B023, E731
            far = jnp.sqrt((rows - of(place[..., 0])) ** 2 + (columns - of(place[..., 1])) ** 2)
            cover = jnp.clip(of(size) + 0.5 - far, 0.0, 1.0) * of(there)
            x = x + cover[..., None] * (of(light)[..., None] - x)
        return x

"""What a denoising autoencoder's input has lost: pictures x [B, H, W, C] in [-1, 1] -> the same shape (Vincent et al. 2010, 3.3).

Several (`corrupt=(dict(name="gaussian"), dict(name="mask"))`) follow one another.
"""

from dataclasses import dataclass
from typing import Protocol

import jax

from jaxgen.core.ranges import NonNegative, Number, Share
from jaxgen.core.state import Array
from jaxgen.metrics import degrade


class Corruption(Protocol):
    """A way to spoil pictures."""

    def __call__(self, x: Array, rng: Array) -> Array:
        """What is left of x."""


@dataclass(frozen=True)
class NoCorruption:
    """Nothing is lost: the plain autoencoder."""

    def __call__(self, x: Array, rng: Array) -> Array:
        """x."""
        return x


@dataclass(frozen=True)
class GaussianNoise:
    """White Gaussian noise."""

    sigma: NonNegative = 0.5  # standard deviation, of pixels in [-1, 1]

    def __call__(self, x: Array, rng: Array) -> Array:
        """x + sigma eps."""
        return degrade.noise(x, self.sigma, rng)


@dataclass(frozen=True)
class Masking:
    """A share of the pixels is hidden."""

    p: Share = 0.25
    value: Number = 0.0  # what stands there instead: 0 grey, -1 black (the paper's)

    def __call__(self, x: Array, rng: Array) -> Array:
        """All channels of a pixel go together."""
        return degrade.mask(x, self.p, rng, self.value)


@dataclass(frozen=True)
class SaltAndPepper:
    """A share of the pixels is white or black, by the toss of a coin."""

    p: Share = 0.25

    def __call__(self, x: Array, rng: Array) -> Array:
        """All channels of a pixel go together."""
        return degrade.salt_pepper(x, self.p, rng)


def corrupted(kinds: Corruption | tuple[Corruption, ...], x: Array, rng: Array) -> Array:
    """One corruption, or several in turn."""
    for i, corrupt in enumerate(kinds if isinstance(kinds, tuple) else (kinds,)):
        x = corrupt(x, jax.random.fold_in(rng, i))
    return x

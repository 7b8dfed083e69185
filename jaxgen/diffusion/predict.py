"""What the network predicts, and the closed form that turns it into the denoised image."""

from dataclasses import dataclass
from typing import Protocol

import jax

Array = jax.Array


class Prediction(Protocol):
    """One parameterisation; a = alpha(t), s = sigma(t), broadcast against x."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array) -> Array:
        """What the network should say."""

    def denoised(self, out: Array, x: Array, a: Array, s: Array) -> Array:
        """x_0 from the network's output and x = a x_0 + s eps."""

    def gain(self, a: Array, s: Array) -> Array:
        """Squared error of the prediction = gain * squared error of x_0."""


@dataclass(frozen=True)
class Eps:
    """The noise (Ho et al. 2020, eq. 11-12)."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array) -> Array:
        """eps."""
        return eps

    def denoised(self, out: Array, x: Array, a: Array, s: Array) -> Array:
        """(x - s eps) / a."""
        return (x - s * out) / a

    def gain(self, a: Array, s: Array) -> Array:
        """The signal-to-noise ratio."""
        return (a / s) ** 2


@dataclass(frozen=True)
class X0:
    """The image itself."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array) -> Array:
        """x_0."""
        return x0

    def denoised(self, out: Array, x: Array, a: Array, s: Array) -> Array:
        """The output."""
        return out

    def gain(self, a: Array, s: Array) -> Array:
        """1."""
        return a * 0 + 1.0


@dataclass(frozen=True)
class V:
    """v = a eps - s x_0 (Salimans & Ho 2022, appendix D); needs a variance-preserving process."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array) -> Array:
        """a eps - s x_0."""
        return a * eps - s * x0

    def denoised(self, out: Array, x: Array, a: Array, s: Array) -> Array:
        """a x - s v, divided by a^2 + s^2 = 1."""
        return (a * x - s * out) / (a**2 + s**2)

    def gain(self, a: Array, s: Array) -> Array:
        """(a^2 / s^2 + 1), the SNR plus one: v = (a x - (a^2 + s^2) x_0) / s."""
        return ((a**2 + s**2) / s) ** 2

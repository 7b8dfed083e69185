"""What the network predicts, and the closed form that turns it into the denoised image.

With a = alpha(t), s = sigma(t) and their rates of change da, ds, every prediction is a linear map of (x_t, x_0), so any
turns into any other through x_0. Only `Velocity` reads the rates.
"""

from dataclasses import dataclass
from typing import Protocol

import jax

Array = jax.Array
Rate = jax.Array | float


class Prediction(Protocol):
    """One parameterisation; a = alpha(t), s = sigma(t) and their rates, broadcast against x."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """What the network should say."""

    def denoised(self, out: Array, x: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """x_0 from the network's output and x = a x_0 + s eps."""

    def gain(self, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """Squared error of the prediction = gain * squared error of x_0."""

    def scale(self, a: Array, s: Array) -> Rate:
        """The network sees scale * x."""


@dataclass(frozen=True)
class Eps:
    """The noise (Ho et al. 2020, eq. 11-12)."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """eps."""
        return eps

    def denoised(self, out: Array, x: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """(x - s eps) / a."""
        return (x - s * out) / a

    def gain(self, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """The signal-to-noise ratio."""
        return (a / s) ** 2

    def scale(self, a: Array, s: Array) -> Rate:
        """1."""
        return 1.0


@dataclass(frozen=True)
class X0:
    """The image itself."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """x_0."""
        return x0

    def denoised(self, out: Array, x: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """The output."""
        return out

    def gain(self, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """1."""
        return a * 0 + 1.0

    def scale(self, a: Array, s: Array) -> Rate:
        """1."""
        return 1.0


@dataclass(frozen=True)
class V:
    """v = a eps - s x_0 (Salimans & Ho 2022, appendix D); needs a variance-preserving process."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """a eps - s x_0."""
        return a * eps - s * x0

    def denoised(self, out: Array, x: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """a x - s v, divided by a^2 + s^2 = 1."""
        return (a * x - s * out) / (a**2 + s**2)

    def gain(self, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """(a^2 / s^2 + 1), the SNR plus one: v = (a x - (a^2 + s^2) x_0) / s."""
        return ((a**2 + s**2) / s) ** 2

    def scale(self, a: Array, s: Array) -> Rate:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Flow:
    """eps - x_0, the velocity of the straight path (Lipman et al. 2023; Liu et al. 2023), on whatever process."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """eps - x_0."""
        return eps - x0

    def denoised(self, out: Array, x: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """(x - s u) / (a + s)."""
        return (x - s * out) / (a + s)

    def gain(self, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """((a + s) / s)^2."""
        return ((a + s) / s) ** 2

    def scale(self, a: Array, s: Array) -> Rate:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Velocity:
    """dx_t / dt = a' x_0 + s' eps along the process's own path (Albergo & Vanden-Eijnden 2023; SiT, Ma et al. 2024, eq. 2)."""

    def target(self, x0: Array, eps: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """a' x_0 + s' eps."""
        return da * x0 + ds * eps

    def denoised(self, out: Array, x: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """(s' x - s u) / (a s' - s a')."""
        return (ds * x - s * out) / (a * ds - s * da)

    def gain(self, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """((a s' - s a') / s)^2."""
        return ((a * ds - s * da) / s) ** 2

    def scale(self, a: Array, s: Array) -> Rate:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Score:
    """The score grad log p(x_t | x_0) = -eps / s, times s^power: 1 is NCSN's and score SDE's scaled output, 0 the score itself."""

    power: float = 0.0

    def target(self, x0: Array, eps: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """-eps s^(power - 1)."""
        return -eps * s ** (self.power - 1)

    def denoised(self, out: Array, x: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """(x + s^2 score) / a: Tweedie's formula."""
        return (x + s ** (2 - self.power) * out) / a

    def gain(self, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """(a s^(power - 2))^2."""
        return (a * s ** (self.power - 2)) ** 2

    def scale(self, a: Array, s: Array) -> Rate:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Edm:
    """EDM's preconditioned image (Karras et al. 2022, eq. 7, table 1): D = c_skip y + c_out F(c_in y), y = x / a, r = s / a.

    c_skip = d^2 / (r^2 + d^2), c_out = r d / sqrt(r^2 + d^2), c_in = 1 / sqrt(r^2 + d^2), d = sigma_data; written with
    a and s so that it also holds where no signal is left.
    """

    sigma_data: float = 0.5

    def _size(self, a: Array, s: Array) -> Array:
        return (s**2 + (a * self.sigma_data) ** 2) ** 0.5

    def target(self, x0: Array, eps: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """(x_0 - c_skip y) / c_out = (s x_0 - a d^2 eps) / (d sqrt(s^2 + a^2 d^2))."""
        return (s * x0 - a * self.sigma_data**2 * eps) / (self.sigma_data * self._size(a, s))

    def denoised(self, out: Array, x: Array, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """c_skip y + c_out F."""
        size = self._size(a, s)
        return a * self.sigma_data**2 / size**2 * x + s * self.sigma_data / size * out

    def gain(self, a: Array, s: Array, da: Rate = 0.0, ds: Rate = 0.0) -> Array:
        """1 / c_out^2."""
        return (self._size(a, s) / (s * self.sigma_data)) ** 2

    def scale(self, a: Array, s: Array) -> Rate:
        """c_in / a."""
        return 1.0 / self._size(a, s)

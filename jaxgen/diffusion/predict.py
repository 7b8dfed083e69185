"""What the network predicts, and the closed form that turns it into the denoised image.

Every prediction is a linear map of (x_0, eps), hence of (x_t, x_0), so any turns into any other through x_0. In the formulas
a = alpha, s = sigma, a' and s' their rates of change; only `Velocity` reads the rates.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax

from jaxgen.core.ranges import Number, Positive
from jaxgen.diffusion.process import Level

Array = jax.Array


class Prediction:
    """One parameterisation: a frozen dataclass of options with these functions. Levels multiply x [B, ...]."""

    gives: ClassVar[tuple[str, ...]] = ("start",)  # see jaxgen.diffusion.needs

    def target(self, x0: Array, eps: Array, level: Level) -> Array:
        """What the network should say, [B, ...]."""
        raise TypeError(f"{type(self).__name__} must define its target")

    def denoised(self, out: Array, x: Array, level: Level) -> Array:
        """x_0 [B, ...] from the network's output and x = a x_0 + s eps."""
        raise TypeError(f"{type(self).__name__} must say what the denoised image is")

    def gain(self, level: Level) -> Array:
        """Squared error of the prediction = gain * squared error of x_0; of the level's shape."""
        raise TypeError(f"{type(self).__name__} must define its gain")

    def scale(self, level: Level) -> Array | float:
        """The network sees scale * x."""
        return 1.0


@dataclass(frozen=True)
class Eps(Prediction):
    """The noise (Ho et al. 2020, eq. 11-12)."""

    needs: ClassVar[tuple[str, ...]] = ("signal",)
    gives: ClassVar[tuple[str, ...]] = ()

    def target(self, x0: Array, eps: Array, level: Level) -> Array:
        """eps."""
        return eps

    def denoised(self, out: Array, x: Array, level: Level) -> Array:
        """(x - s eps) / a."""
        return (x - level.sigma * out) / level.alpha

    def gain(self, level: Level) -> Array:
        """The signal-to-noise ratio."""
        return level.snr


@dataclass(frozen=True)
class X0(Prediction):
    """The image itself."""

    def target(self, x0: Array, eps: Array, level: Level) -> Array:
        """x_0."""
        return x0

    def denoised(self, out: Array, x: Array, level: Level) -> Array:
        """The output."""
        return out

    def gain(self, level: Level) -> Array:
        """1."""
        return level.alpha * 0 + 1.0


@dataclass(frozen=True)
class V(Prediction):
    """v = a eps - s x_0 (Salimans & Ho 2022, appendix D), which on a variance-preserving process turns x into x_0."""

    def target(self, x0: Array, eps: Array, level: Level) -> Array:
        """a eps - s x_0."""
        return level.alpha * eps - level.sigma * x0

    def denoised(self, out: Array, x: Array, level: Level) -> Array:
        """a x - s v, divided by a^2 + s^2 (1 on a variance-preserving process)."""
        return (level.alpha * x - level.sigma * out) / (level.alpha**2 + level.sigma**2)

    def gain(self, level: Level) -> Array:
        """(a^2 / s^2 + 1), the SNR plus one: v = (a x - (a^2 + s^2) x_0) / s."""
        return ((level.alpha**2 + level.sigma**2) / level.sigma) ** 2


@dataclass(frozen=True)
class Flow(Prediction):
    """eps - x_0, the velocity of the straight path (Lipman et al. 2023; Liu et al. 2023), on whatever process."""

    def target(self, x0: Array, eps: Array, level: Level) -> Array:
        """eps - x_0."""
        return eps - x0

    def denoised(self, out: Array, x: Array, level: Level) -> Array:
        """(x - s u) / (a + s)."""
        return (x - level.sigma * out) / (level.alpha + level.sigma)

    def gain(self, level: Level) -> Array:
        """((a + s) / s)^2."""
        return ((level.alpha + level.sigma) / level.sigma) ** 2


@dataclass(frozen=True)
class Velocity(Prediction):
    """dx_t / dt = a' x_0 + s' eps along the process's own path (Albergo & Vanden-Eijnden 2023; SiT, Ma et al. 2024, eq. 2)."""

    def target(self, x0: Array, eps: Array, level: Level) -> Array:
        """a' x_0 + s' eps."""
        return level.velocity(x0, eps)

    def denoised(self, out: Array, x: Array, level: Level) -> Array:
        """(s' x - s u) / (a s' - s a')."""
        turn = level.alpha * level.sigma_rate - level.sigma * level.alpha_rate
        return (level.sigma_rate * x - level.sigma * out) / turn

    def gain(self, level: Level) -> Array:
        """((a s' - s a') / s)^2."""
        return ((level.alpha * level.sigma_rate - level.sigma * level.alpha_rate) / level.sigma) ** 2


@dataclass(frozen=True)
class Score(Prediction):
    """The score grad log p(x_t | x_0) = -eps / s, times s^power: 1 is NCSN's and score SDE's scaled output, 0 the score itself."""

    needs: ClassVar[tuple[str, ...]] = ("signal",)
    gives: ClassVar[tuple[str, ...]] = ()
    power: Number = 0.0

    def target(self, x0: Array, eps: Array, level: Level) -> Array:
        """-eps s^(power - 1)."""
        return -eps * level.sigma ** (self.power - 1)

    def denoised(self, out: Array, x: Array, level: Level) -> Array:
        """(x + s^2 score) / a: Tweedie's formula."""
        return (x + level.sigma ** (2 - self.power) * out) / level.alpha

    def gain(self, level: Level) -> Array:
        """(a s^(power - 2))^2."""
        return (level.alpha * level.sigma ** (self.power - 2)) ** 2


@dataclass(frozen=True)
class Edm(Prediction):
    """EDM's preconditioned image (Karras et al. 2022, eq. 7, table 1): D = c_skip y + c_out F(c_in y), y = x / a, r = s / a.

    c_skip = d^2 / (r^2 + d^2), c_out = r d / sqrt(r^2 + d^2), c_in = 1 / sqrt(r^2 + d^2), d = sigma_data; written with
    a and s so that it also holds where no signal is left.
    """

    sigma_data: Positive = 0.5

    def _size(self, level: Level) -> Array:
        return (level.sigma**2 + (level.alpha * self.sigma_data) ** 2) ** 0.5

    def target(self, x0: Array, eps: Array, level: Level) -> Array:
        """(x_0 - c_skip y) / c_out = (s x_0 - a d^2 eps) / (d sqrt(s^2 + a^2 d^2))."""
        return (level.sigma * x0 - level.alpha * self.sigma_data**2 * eps) / (self.sigma_data * self._size(level))

    def denoised(self, out: Array, x: Array, level: Level) -> Array:
        """c_skip y + c_out F."""
        size = self._size(level)
        return level.alpha * self.sigma_data**2 / size**2 * x + level.sigma * self.sigma_data / size * out

    def gain(self, level: Level) -> Array:
        """1 / c_out^2."""
        return (self._size(level) / (level.sigma * self.sigma_data)) ** 2

    def scale(self, level: Level) -> Array | float:
        """c_in / a."""
        return 1.0 / self._size(level)

"""Continuous processes: stochastic differential equations and interpolants between data and noise.

Each is x_t = alpha(t) x_0 + sigma(t) eps with its own alpha and sigma; t = 0 is always the data themselves.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Inside, NonNegative, Positive
from jaxgen.diffusion.process import Array, at_least_one, lib
from jaxgen.errors import UserError


def down_to(first: float, steps: int) -> np.ndarray:
    """Even times 1 .. first, then 0: the score there is too steep for an even step (Song et al. 2021, appendix C)."""
    at_least_one(steps)
    return np.append(np.linspace(1.0, first, steps), 0.0)


def down(steps: int) -> np.ndarray:
    """Even times 1 .. 0."""
    at_least_one(steps)
    return np.linspace(1.0, 0.0, steps + 1)


def validate_betas(low: float, high: float) -> None:
    """The noise rate of a VP path grows."""
    if low > high:
        raise UserError(f"method.process.beta_min={low} is above beta_max={high}; set method.process.beta_max={low}")


@dataclass(frozen=True)
class VpSde:
    """DDPM's limit dx = -beta/2 x dt + sqrt(beta) dw, beta = b0 + t (b1 - b0) (Song et al. 2021, eq. 11 and 29)."""

    gives: ClassVar[tuple[str, ...]] = ("signal",)
    beta_min: NonNegative = 0.1
    beta_max: Positive = 20.0
    first: Inside = 1e-3  # sampling stops here, then jumps to 0
    earliest: Inside = 1e-5  # training times start here
    scale: Positive = 999.0  # the network sees scale * t

    def __post_init__(self) -> None:
        validate_betas(self.beta_min, self.beta_max)

    def _log_bar(self, t: Array) -> Array:
        return -(self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2)

    def alpha(self, t: Array) -> Array:
        """exp(-1/2 int beta)."""
        return lib(t).exp(0.5 * self._log_bar(t))

    def sigma(self, t: Array) -> Array:
        """sqrt(1 - alpha^2)."""
        return lib(t).sqrt(-lib(t).expm1(self._log_bar(t)))

    def rates(self, t: Array) -> tuple[Array, Array]:
        """(-beta alpha / 2, beta alpha^2 / (2 sigma))."""
        beta, alpha = self.beta_min + t * (self.beta_max - self.beta_min), self.alpha(t)
        return -0.5 * beta * alpha, 0.5 * beta * alpha**2 / self.sigma(t)

    def _solve(self, spent: Array) -> Array:
        """t where int beta = spent: the root of a quadratic, written so that small times stay exact."""
        low, slope = self.beta_min, self.beta_max - self.beta_min
        return 2 * spent / (low + lib(spent).sqrt(low**2 + 2 * slope * spent))

    def when(self, ratio: Array) -> Array:
        """int beta = log(1 + ratio^2)."""
        return self._solve(lib(ratio).log1p(ratio**2))

    def clock(self, t: Array) -> Array:
        """scale * t."""
        return self.scale * t

    def time(self, u: Array) -> Array:
        """Uniform on [earliest, 1)."""
        return self.earliest + u * (1 - self.earliest)

    def grid(self, steps: int) -> np.ndarray:
        """Even times 1 .. first, then 0."""
        return down_to(self.first, steps)


@dataclass(frozen=True)
class SubVp(VpSde):
    """sub-VP SDE: VP's mean with less noise, sigma = 1 - alpha^2 (Song et al. 2021, eq. 13 and 29)."""

    def sigma(self, t: Array) -> Array:
        """1 - alpha^2."""
        return -lib(t).expm1(self._log_bar(t))

    def rates(self, t: Array) -> tuple[Array, Array]:
        """(-beta alpha / 2, beta alpha^2)."""
        beta, alpha = self.beta_min + t * (self.beta_max - self.beta_min), self.alpha(t)
        return -0.5 * beta * alpha, beta * alpha**2

    def when(self, ratio: Array) -> Array:
        """1 / alpha - alpha = ratio, so alpha = 2 / (ratio + sqrt(ratio^2 + 4))."""
        xp = lib(ratio)
        return self._solve(2 * xp.log((ratio + xp.sqrt(ratio**2 + 4)) / 2))


def validate_sigmas(low: float, high: float) -> None:
    """A range of noise levels."""
    if low >= high:
        raise UserError(
            f"method.process.sigma_min={low} is not below sigma_max={high}; set method.process.sigma_max={2 * low}"
        )


@dataclass(frozen=True)
class VE:
    """Variance-exploding SDE: sigma grows geometrically from sigma_min (Song et al. 2021, eq. 9 and 30).

    At t = 0 itself sigma is 0: the step from sigma_min is the final denoising of their appendix G.
    """

    gives: ClassVar[tuple[str, ...]] = ("signal",)
    sigma_min: Positive = 0.01
    sigma_max: Positive = 50.0
    first: Inside = 1e-5

    def __post_init__(self) -> None:
        validate_sigmas(self.sigma_min, self.sigma_max)

    def alpha(self, t: Array) -> Array:
        """1."""
        return lib(t).ones_like(t)

    def sigma(self, t: Array) -> Array:
        """sigma_min (sigma_max / sigma_min)^t for t > 0."""
        xp = lib(t)
        return xp.where(t > 0, self.sigma_min * xp.exp(t * np.log(self.sigma_max / self.sigma_min)), 0.0)

    def rates(self, t: Array) -> tuple[Array, Array]:
        """(0, sigma log(sigma_max / sigma_min))."""
        return lib(t).zeros_like(t), self.sigma(t) * np.log(self.sigma_max / self.sigma_min)

    def when(self, ratio: Array) -> Array:
        """log(ratio / sigma_min) / log(sigma_max / sigma_min); 0 for no noise."""
        xp = lib(ratio)
        t = xp.log(xp.maximum(ratio, self.sigma_min) / self.sigma_min) / np.log(self.sigma_max / self.sigma_min)
        return xp.where(ratio > 0, xp.maximum(t, self.first), 0.0)

    def clock(self, t: Array) -> Array:
        """log(sigma / 2), as Karras et al. 2022 (table 1) write NCSN++'s embedding."""
        return lib(t).log(0.5 * lib(t).maximum(self.sigma(t), self.sigma_min))

    def time(self, u: Array) -> Array:
        """Uniform on [first, 1): sigma is log-uniform."""
        return self.first + u * (1 - self.first)

    def grid(self, steps: int) -> np.ndarray:
        """Geometric sigmas down to sigma_min, then 0."""
        return down_to(self.first, steps)


@dataclass(frozen=True)
class Sigma:
    """EDM's space: alpha = 1, sigma = sigma_max t^power (Karras et al. 2022, table 1).

    power = 1 is EDM and DDIM's own clock; 1/2 is the diffusion whose variance grows linearly (their VE row).
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0  # of the default grid and of uniform training times
    power: Positive = 1.0

    def __post_init__(self) -> None:
        validate_sigmas(self.sigma_min, self.sigma_max)

    @property
    def first(self) -> float:
        """The time of sigma_min."""
        return (self.sigma_min / self.sigma_max) ** (1 / self.power)

    @property
    def gives(self) -> tuple[str, ...]:
        """EDM's own time is sigma itself."""
        return ("signal", "sigma") if self.power == 1 else ("signal",)

    def alpha(self, t: Array) -> Array:
        """1."""
        return lib(t).ones_like(t)

    def sigma(self, t: Array) -> Array:
        """sigma_max t^power."""
        return self.sigma_max * t**self.power

    def rates(self, t: Array) -> tuple[Array, Array]:
        """(0, power sigma / t)."""
        return lib(t).zeros_like(t), self.sigma_max * self.power * t ** (self.power - 1)

    def when(self, ratio: Array) -> Array:
        """(ratio / sigma_max)^(1 / power)."""
        return (ratio / self.sigma_max) ** (1 / self.power)

    def clock(self, t: Array) -> Array:
        """c_noise = log(sigma) / 4."""
        return 0.25 * lib(t).log(lib(t).maximum(self.sigma(t), 1e-20))

    def time(self, u: Array) -> Array:
        """Sigma^(1/rho) uniform between its ends; EDM itself draws log-normal sigmas (times=log_normal)."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return self.when((low + u * (high - low)) ** self.rho)

    def grid(self, steps: int) -> np.ndarray:
        """Karras et al. 2022, eq. 5, then 0."""
        at_least_one(steps)
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return np.append(self.when(np.linspace(high, low, steps) ** self.rho), 0.0)


@dataclass(frozen=True)
class Linear:
    """x_t = (1 - t) x_0 + t eps: flow matching with straight paths, rectified flow (Lipman 2023; Liu 2023).

    `shift` moves training and sampling towards noise for larger images: t -> shift t / (1 + (shift - 1) t), which
    multiplies sigma / alpha by shift (Esser et al. 2024, SD3, eq. 23; shift = sqrt(pixels / base pixels)).
    """

    gives: ClassVar[tuple[str, ...]] = ("straight", "interpolant")
    shift: Positive = 1.0
    first: Inside = 1e-3
    scale: Positive = 1000.0  # the network sees scale * t

    def alpha(self, t: Array) -> Array:
        """1 - t."""
        return 1.0 - t

    def sigma(self, t: Array) -> Array:
        """t."""
        return t * 1.0

    def rates(self, t: Array) -> tuple[Array, Array]:
        """(-1, 1)."""
        return -lib(t).ones_like(t), lib(t).ones_like(t)

    def when(self, ratio: Array) -> Array:
        """ratio / (1 + ratio); 1 for no signal at all."""
        with np.errstate(divide="ignore"):
            return 1.0 / (1.0 + 1.0 / ratio)

    def clock(self, t: Array) -> Array:
        """scale * t."""
        return self.scale * t

    def time(self, u: Array) -> Array:
        """u, shifted."""
        return shifted(u, self.shift)

    def grid(self, steps: int) -> np.ndarray:
        """Even times, shifted."""
        return shifted(down(steps), self.shift)


def shifted(t: Array, shift: float) -> Array:
    """shift t / (1 + (shift - 1) t): sigma / alpha of the linear path times `shift`."""
    return t if shift == 1.0 else shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class Trigonometric:
    """x_t = cos(pi t / 2) x_0 + sin(pi t / 2) eps (Albergo & Vanden-Eijnden 2023; SiT's GVP; VDM's cosine schedule)."""

    gives: ClassVar[tuple[str, ...]] = ("interpolant",)
    first: Inside = 1e-3
    scale: Positive = 1000.0

    def alpha(self, t: Array) -> Array:
        """cos(pi t / 2), written as a sine so that t = 1 gives exactly 0."""
        return lib(t).sin(0.5 * np.pi * (1.0 - t))

    def sigma(self, t: Array) -> Array:
        """sin(pi t / 2)."""
        return lib(t).sin(0.5 * np.pi * t)

    def rates(self, t: Array) -> tuple[Array, Array]:
        """(-pi/2 sigma, pi/2 alpha)."""
        return -0.5 * np.pi * self.sigma(t), 0.5 * np.pi * self.alpha(t)

    def when(self, ratio: Array) -> Array:
        """2/pi arctan(ratio)."""
        return 2 / np.pi * lib(ratio).arctan(ratio)

    def clock(self, t: Array) -> Array:
        """scale * t."""
        return self.scale * t

    def time(self, u: Array) -> Array:
        """u."""
        return jnp.asarray(u)

    def grid(self, steps: int) -> np.ndarray:
        """Even times."""
        return down(steps)

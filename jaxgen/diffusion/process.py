"""Forward processes: how data turn into noise, x_t = alpha(t) x_0 + sigma(t) eps.

The discrete chain lives here; `paths` has the continuous ones. All that a solver needs of a process is alpha, sigma
and the way back from a noise-to-signal ratio sigma / alpha to the time at which it holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Count, Natural, Positive
from jaxgen.errors import UserError

Array = jax.Array | np.ndarray  # numpy in -> numpy float64 out: solvers tabulate their coefficients exactly


class Process(Protocol):
    """A Gaussian path from data (t=0) to noise (t=1); what it `gives` is in jaxgen.diffusion.needs."""

    first: float  # the smallest time worth visiting before 0: a chain's first step, a path's cut-off

    def alpha(self, t: Array) -> Array:
        """Signal scale, of t's shape."""

    def sigma(self, t: Array) -> Array:
        """Noise scale, of t's shape."""

    def rates(self, t: Array) -> tuple[Array, Array]:
        """(d alpha / dt, d sigma / dt); may be infinite at t=0."""

    def when(self, ratio: Array) -> Array:
        """The time at which sigma / alpha is `ratio`."""

    def clock(self, t: Array) -> Array:
        """What the network is told about t."""

    def time(self, u: Array) -> Array:
        """u uniform in [0, 1) -> a training time."""

    def grid(self, steps: int) -> np.ndarray:
        """float64 [steps + 1] times from 1 down to 0 that a solver visits."""


def lib(t: Array) -> ModuleType:
    """numpy for numpy arrays, jax.numpy for all else."""
    return np if isinstance(t, np.ndarray) else jnp


def spread(v: Array, x: Array) -> Array:
    """[B] -> [B, 1, 1, ...] to multiply x [B, ...]."""
    return v.reshape(v.shape + (1,) * (x.ndim - v.ndim))


class Level(NamedTuple):
    """The scales of x_t = alpha x_0 + sigma eps and their rates of change with t, all of a shape that multiplies x."""

    alpha: Array
    sigma: Array
    alpha_rate: Array
    sigma_rate: Array

    def noised(self, x0: Array, eps: Array) -> Array:
        """x_t."""
        return self.alpha * x0 + self.sigma * eps

    def noise(self, x: Array, x0: Array) -> Array:
        """The eps for which x is x_t."""
        return (x - self.alpha * x0) / self.sigma

    def velocity(self, x0: Array, eps: Array) -> Array:
        """dx_t / dt."""
        return self.alpha_rate * x0 + self.sigma_rate * eps

    @property
    def snr(self) -> Array:
        """Signal-to-noise ratio alpha^2 / sigma^2."""
        return (self.alpha / self.sigma) ** 2


def level_at(process: Process, t: Array, x: Array) -> Level:
    """The process at times t [B], to multiply x [B, ...]; with t in place of x, [B] each."""
    return Level(*(spread(v, x) for v in (process.alpha(t), process.sigma(t), *process.rates(t))))


def ratio(process: Process, t: Array) -> Array:
    """sigma / alpha: the noise level of x_t / alpha, EDM's sigma; infinite where no signal is left."""
    with np.errstate(divide="ignore"):
        return process.sigma(t) / process.alpha(t)


def drift(process: Process, t: Array) -> tuple[Array, Array]:
    """(f, g) of the forward SDE dx = f(t) x dt + g(t) dw with these marginals (Song et al. 2021, section 3.4, inverted).

    f = alpha' / alpha and g^2 = (sigma^2)' - 2 f sigma^2.
    """
    alpha, sigma, alpha_rate, sigma_rate = level_at(process, t, t)
    return alpha_rate / alpha, lib(t).sqrt(2 * sigma * (sigma_rate - sigma * alpha_rate / alpha))


def count(steps: int, most: int, name: str) -> None:
    """Refuse a number of solver steps outside 1 .. most."""
    if not 1 <= steps <= most:
        raise UserError(f"method.solver.steps={steps} must lie in 1 .. {name}={most}; set method.solver.steps={most}")


def at_least_one(steps: int) -> None:
    """Refuse a number of solver steps below one."""
    if steps < 1:
        raise UserError(f"method.solver.steps={steps} must be at least 1")


def betas_linear(steps: int, low: float, high: float) -> np.ndarray:
    """Ho et al. 2020, section 4: beta grows linearly; low and high are for 1,000 steps and scale with 1000 / steps."""
    scale = 1000 / steps
    return np.linspace(low * scale, high * scale, steps, dtype=np.float64)


def betas_scaled_linear(steps: int, low: float, high: float) -> np.ndarray:
    """Rombach et al. 2022 (latent diffusion): sqrt(beta) grows linearly."""
    scale = 1000 / steps
    return np.linspace((low * scale) ** 0.5, (high * scale) ** 0.5, steps, dtype=np.float64) ** 2


def betas_sigmoid(steps: int, low: float, high: float) -> np.ndarray:
    """Xu et al. 2022 (GeoDiff): beta follows a logistic curve over [-6, 6]."""
    scale = 1000 / steps
    return (high - low) * scale / (1 + np.exp(-np.linspace(-6, 6, steps, dtype=np.float64))) + low * scale


def betas_cosine(steps: int, offset: float = 0.008, most: float = 0.999) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar(t) = cos^2((t + s) / (1 + s) pi / 2), beta clipped at 0.999."""
    u = np.arange(steps + 1, dtype=np.float64) / steps
    bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], most)


def log_bar_zero_snr(log_bar: np.ndarray) -> np.ndarray:
    """Lin et al. 2024, algorithm 1: alpha is shifted and scaled so that none is left at the end; the first step stays.

    log of exactly 0 would poison interpolation, so alpha_bar ends at exp(-60), nothing in float32 sums.
    """
    alpha = np.exp(0.5 * log_bar[1:])
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return np.concatenate([[0.0], 2 * np.log(np.maximum(alpha, np.exp(-30.0)))])


def log_bar_shifted(log_bar: np.ndarray, shift: float) -> np.ndarray:
    """Hoogeboom et al. 2023 (simple diffusion), eq. 2-3: sigma / alpha grows by `shift` (resolution / base resolution)."""
    return -np.log1p(shift**2 * np.expm1(-log_bar))


BETAS: dict[str, Callable[[int, float, float], np.ndarray]] = {
    "linear": betas_linear,
    "scaled_linear": betas_scaled_linear,
    "sigmoid": betas_sigmoid,
    "cosine": lambda steps, low, high: betas_cosine(steps),
    "squared_cosine": lambda steps, low, high: betas_cosine(steps),  # the same curve: alpha_bar is a squared cosine
}


@dataclass(frozen=True)
class VP:
    """Variance-preserving chain of `steps` steps (Ho et al. 2020, eq. 4): alpha^2 = prod(1 - beta), sigma^2 = 1 - alpha^2.

    Step i = 1..T of the paper is t = i / T; between the steps log alpha^2 is interpolated linearly. The chain is that
    of Sohl-Dickstein et al. 2015 (eq. 3, Gaussian kernel), who learned means and variances by the bound itself:
    DDPM with predict=x0, objective=bound.
    """

    schedule: str = "linear"  # a key of BETAS
    steps: Count = 1000
    beta_min: Positive = 1e-4  # not read by the cosine schedules
    beta_max: Positive = 0.02
    zero_snr: bool = False  # rescale to zero terminal signal (Lin et al. 2024); needs predict v, x0 or flow
    shift: Positive = 1.0  # noise-to-signal ratio times this: resolution / the resolution the schedule was made for
    clock_steps: Natural = 0  # of the clock that the network sees (improved DDPM: 1000); 0: the chain's own
    whole_clock: bool = False  # between two steps the network sees the nearest, as diffusers' DPM-Solver has it

    def __post_init__(self) -> None:
        if self.schedule not in BETAS:
            raise UserError(f"method.process.schedule={self.schedule!r} is unknown; there are: {', '.join(BETAS)}")
        if "cosine" not in self.schedule and not 0 < self.beta_min <= self.beta_max < self.steps / 1000:
            raise UserError(
                f"method.process.beta_min={self.beta_min}, beta_max={self.beta_max}: need beta_min <= beta_max < "
                f"{self.steps / 1000:g} with {self.steps} steps; set method.process.steps=1000, method.process.beta_min=0.0001, "
                "method.process.beta_max=0.02"
            )
        if self.zero_snr and self.steps < 2:
            raise UserError(
                "method.process.zero_snr=True needs two steps; set method.process.steps=2, or method.process.zero_snr=False"
            )

    @property
    def first(self) -> float:
        """The chain's first step."""
        return 1 / self.steps

    @property
    def gives(self) -> tuple[str, ...]:
        """Steps, and unless it is taken away some signal at the last."""
        return ("chain",) if self.zero_snr else ("chain", "signal")

    @cached_property
    def betas(self) -> np.ndarray:
        """float64 [steps]: share of the signal's energy that each step destroys, after rescaling and shift."""
        if not self.zero_snr and self.shift == 1.0:
            return BETAS[self.schedule](self.steps, self.beta_min, self.beta_max)
        return -np.expm1(np.diff(self.log_bar))

    @cached_property
    def log_bar(self) -> np.ndarray:
        """float64 [steps + 1]: log of alpha_bar (alpha squared) at t = 0, 1/T, ..., 1."""
        betas = BETAS[self.schedule](self.steps, self.beta_min, self.beta_max)
        out = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
        out = log_bar_zero_snr(out) if self.zero_snr else out
        return out if self.shift == 1.0 else log_bar_shifted(out, self.shift)

    def _log_bar(self, t: Array) -> Array:
        knots = np.arange(self.steps + 1)
        if isinstance(t, np.ndarray):
            return np.interp(t * self.steps, knots, self.log_bar)
        return jnp.interp(t * self.steps, knots.astype(np.float32), self.log_bar.astype(np.float32))

    def alpha(self, t: Array) -> Array:
        """sqrt(alpha_bar)."""
        return lib(t).exp(0.5 * self._log_bar(t))

    def sigma(self, t: Array) -> Array:
        """sqrt(1 - alpha_bar), exact near t = 0 too."""
        return lib(t).sqrt(-lib(t).expm1(self._log_bar(t)))

    def rates(self, t: Array) -> tuple[Array, Array]:
        """alpha' = alpha l / 2, sigma' = -alpha^2 l / (2 sigma), with l the slope of log alpha^2 before t."""
        xp = lib(t)
        slopes = np.diff(self.log_bar) * self.steps
        step = xp.clip(xp.ceil(t * self.steps) - 1, 0, self.steps - 1).astype(int)
        slope = xp.asarray(slopes, t.dtype)[step]
        alpha = self.alpha(t)
        return 0.5 * alpha * slope, -0.5 * alpha**2 * slope / self.sigma(t)

    def when(self, ratio: Array) -> Array:
        """alpha^2 = 1 / (1 + ratio^2), looked up in the chain."""
        xp = lib(ratio)
        knots = np.arange(self.steps + 1) / self.steps
        with np.errstate(over="ignore"):
            return xp.interp(xp.log1p(ratio**2), xp.asarray(-self.log_bar, ratio.dtype), xp.asarray(knots, ratio.dtype))

    def clock(self, t: Array) -> Array:
        """The network sees the step index 0 .. T-1 (step i of the paper is i - 1 here), brought to `clock_steps`."""
        index = t * self.steps - 1.0
        index = lib(t).round(index) if self.whole_clock else index
        return index * (self.clock_steps / self.steps) if self.clock_steps else index

    def time(self, u: Array) -> Array:
        """Training times are the chain's steps: (floor(u T) + 1) / T."""
        return (jnp.minimum(jnp.floor(u * self.steps), self.steps - 1) + 1.0) / self.steps

    def grid(self, steps: int) -> np.ndarray:
        """Evenly spaced steps of the chain, rounded to whole ones."""
        count(steps, self.steps, "method.process.steps")
        return np.round(np.linspace(self.steps, 0, steps + 1)) / self.steps


def as_chain(process: Process, who: str, otherwise: str = "") -> VP:
    """The process, where it is a chain of training steps; `who` needs one, `otherwise` is another way out."""
    if not isinstance(process, VP):
        raise UserError(
            f"{who} needs a chain of training steps, and process {type(process).__name__} is continuous; "
            f"set method.process.name=vp{otherwise}"
        )
    return process

"""Forward processes: how data turn into noise, x_t = alpha(t) x_0 + sigma(t) eps."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError

Array = jax.Array | np.ndarray  # numpy in -> numpy float64 out: solvers tabulate their coefficients exactly


class Process(Protocol):
    """A Gaussian path from data (t=0) to noise (t=1)."""

    def alpha(self, t: Array) -> Array:
        """Signal scale, of t's shape."""

    def sigma(self, t: Array) -> Array:
        """Noise scale, of t's shape."""

    def clock(self, t: Array) -> Array:
        """What the network is told about t."""

    def time(self, u: Array) -> Array:
        """u uniform in [0, 1) -> a training time."""

    def grid(self, steps: int) -> np.ndarray:
        """float64 [steps + 1] times from 1 down to 0 that a solver visits."""


def betas_linear(steps: int, low: float, high: float) -> np.ndarray:
    """Ho et al. 2020, section 4: beta grows linearly; low and high are for 1,000 steps and scale with 1000 / steps."""
    scale = 1000 / steps
    return np.linspace(low * scale, high * scale, steps, dtype=np.float64)


def betas_cosine(steps: int, offset: float = 0.008, most: float = 0.999) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar(t) = cos^2((t + s) / (1 + s) pi / 2), beta clipped at 0.999."""
    u = np.arange(steps + 1, dtype=np.float64) / steps
    bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], most)


@dataclass(frozen=True)
class VP:
    """Variance-preserving chain of `steps` steps (Ho et al. 2020, eq. 4): alpha^2 = prod(1 - beta), sigma^2 = 1 - alpha^2.

    Step i = 1..T of the paper is t = i / T; between the steps log alpha^2 is interpolated linearly.
    """

    schedule: str = "linear"  # linear (Ho et al. 2020) | cosine (Nichol & Dhariwal 2021)
    steps: int = 1000
    beta_min: float = 1e-4  # linear only
    beta_max: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"process.steps={self.steps} must be at least 1")
        if self.schedule not in ("linear", "cosine"):
            raise UserError(f"process.schedule={self.schedule!r} is unknown; there are: linear, cosine")
        if self.schedule == "linear" and not 0 < self.beta_min <= self.beta_max < self.steps / 1000:
            raise UserError(
                f"process.beta_min={self.beta_min}, beta_max={self.beta_max}: need 0 < beta_min <= beta_max < "
                f"{self.steps / 1000:g} with process.steps={self.steps}"
            )

    @cached_property
    def betas(self) -> np.ndarray:
        """float64 [steps]."""
        if self.schedule == "cosine":
            return betas_cosine(self.steps)
        return betas_linear(self.steps, self.beta_min, self.beta_max)

    @cached_property
    def log_bar(self) -> np.ndarray:
        """float64 [steps + 1]: log of alpha_bar (alpha squared) at t = 0, 1/T, ..., 1."""
        return np.concatenate([[0.0], np.cumsum(np.log1p(-self.betas))])

    def _log_bar(self, t: Array) -> Array:
        knots = np.arange(self.steps + 1)
        if isinstance(t, np.ndarray):
            return np.interp(t * self.steps, knots, self.log_bar)
        return jnp.interp(t * self.steps, knots.astype(np.float32), self.log_bar.astype(np.float32))

    def alpha(self, t: Array) -> Array:
        """sqrt(alpha_bar)."""
        xp = np if isinstance(t, np.ndarray) else jnp
        return xp.exp(0.5 * self._log_bar(t))

    def sigma(self, t: Array) -> Array:
        """sqrt(1 - alpha_bar), exact near t = 0 too."""
        xp = np if isinstance(t, np.ndarray) else jnp
        return xp.sqrt(-xp.expm1(self._log_bar(t)))

    def clock(self, t: Array) -> Array:
        """The network sees the step index 0 .. T-1 (step i of the paper is i - 1 here)."""
        return t * self.steps - 1.0

    def time(self, u: Array) -> Array:
        """Training times are the chain's steps: (floor(u T) + 1) / T."""
        return (jnp.minimum(jnp.floor(u * self.steps), self.steps - 1) + 1.0) / self.steps

    def grid(self, steps: int) -> np.ndarray:
        """Evenly spaced steps of the chain, rounded to whole ones."""
        if not 1 <= steps <= self.steps:
            raise UserError(f"solver.steps={steps} must lie in 1 .. process.steps={self.steps}")
        return np.round(np.linspace(self.steps, 0, steps + 1)) / self.steps

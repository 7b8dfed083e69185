"""What a diffusion model minimises: the weighted error of its prediction, the variational bound, or both.

With a learned variance (Nichol & Dhariwal 2021, arXiv:2102.09672) the net has 2 C output channels; the second half says where
the log-variance lies between its bounds, and only the bound teaches it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import NonNegative
from jaxgen.diffusion.bound import log_variance, term
from jaxgen.diffusion.predict import Prediction
from jaxgen.diffusion.process import Process, level_at
from jaxgen.diffusion.solvers.table import Estimate
from jaxgen.metrics.bits_per_dim import bits_per_dim

Array = jax.Array


class Predicted(NamedTuple):
    """A batch of noisy images and the net's output for them."""

    process: Process
    predict: Prediction
    t: Array  # [B]
    x0: Array  # [B, ...]
    x: Array  # x_t
    out: Array  # the prediction, [B, ...]
    fraction: Array | None  # [B, ...] of the log-variance's range, where the objective gives a learned variance
    error: Array  # [B] weighted squared error of the prediction
    uncertainty: Callable[[], Array]  # () -> [B]: the net's own
    levels: int = 256  # of a value of x0; latents, which have none, are taken for 256 as in DiT's program

    def bound(self, out: Array) -> Array:
        """[B] T terms of L_vlb in bits per dimension, each for its t, with `out` as the prediction."""
        guess = self.predict.denoised(out, self.x, level_at(self.process, self.t, self.x))
        log_var = log_variance(self.process, self.t, Estimate(guess, self.fraction), self.x, "learned")
        nats = term(self.process, self.x0, self.x, self.t, guess, log_var, self.levels)
        return self.process.steps * bits_per_dim(-nats, math.prod(self.x0.shape[1:]))


class Objective(Protocol):
    """A loss per example; what it `needs` and `gives` is in jaxgen.diffusion.needs."""

    def __call__(self, found: Predicted) -> tuple[Array, dict[str, Array]]:
        """(the loss [B], metrics [B])."""


@dataclass(frozen=True)
class Weighted:
    """The weighted squared error (Ho et al. 2020, eq. 14: weight=simple)."""

    gives: ClassVar[tuple[str, ...]] = ("fixed",)

    def __call__(self, found: Predicted) -> tuple[Array, dict[str, Array]]:
        """The error."""
        return found.error, {}


@dataclass(frozen=True)
class Hybrid:
    """L_simple + share T L_vlb with the mean held still in L_vlb (Nichol & Dhariwal 2021, eq. 16)."""

    needs: ClassVar[tuple[str, ...]] = ("chain",)
    gives: ClassVar[tuple[str, ...]] = ("variance",)
    share: NonNegative = 0.001

    def __call__(self, found: Predicted) -> tuple[Array, dict[str, Array]]:
        """The sum, and `vlb`."""
        vlb = found.bound(jax.lax.stop_gradient(found.out))
        return found.error + self.share * vlb, {"vlb": vlb}


@dataclass(frozen=True)
class Bound:
    """L_vlb itself, mean and variance both learned (Sohl-Dickstein et al. 2015; Nichol & Dhariwal 2021, with times=importance)."""

    needs: ClassVar[tuple[str, ...]] = ("chain",)
    gives: ClassVar[tuple[str, ...]] = ("variance",)

    def __call__(self, found: Predicted) -> tuple[Array, dict[str, Array]]:
        """T terms in bits per dimension, also as `vlb`."""
        vlb = found.bound(found.out)
        return vlb, {"vlb": vlb}


@dataclass(frozen=True)
class Uncertainty:
    """error / e^u + u with the net's own u(t), which comes to be the error's logarithm (Karras et al. 2024, EDM2, eq. 21)."""

    needs: ClassVar[tuple[str, ...]] = ("uncertainty",)
    gives: ClassVar[tuple[str, ...]] = ("fixed",)

    def __call__(self, found: Predicted) -> tuple[Array, dict[str, Array]]:
        """It may fall below zero; `weighted`, the error that u follows, does not."""
        u = found.uncertainty()
        return found.error * jnp.exp(-u) + u, {"weighted": found.error}

"""Loss weights over time, as factors of the squared error of the network's own prediction."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

Array = jax.Array


class Weight(Protocol):
    """Weight of the squared prediction error at alpha a, sigma s; `gain` as in `Prediction.gain`."""

    def __call__(self, a: Array, s: Array, gain: Array) -> Array:
        """[B] -> [B]."""


@dataclass(frozen=True)
class Simple:
    """1: L_simple (Ho et al. 2020, eq. 14)."""

    def __call__(self, a: Array, s: Array, gain: Array) -> Array:
        """Ones."""
        return jnp.ones_like(a)


@dataclass(frozen=True)
class MinSnr:
    """min(SNR, gamma) on the error of x_0 (Hang et al. 2023), whatever is predicted."""

    gamma: float = 5.0

    def __call__(self, a: Array, s: Array, gain: Array) -> Array:
        """min(a^2 / s^2, gamma) / gain."""
        return jnp.minimum((a / s) ** 2, self.gamma) / gain

"""Loss weights over time, as factors of the squared error of the network's own prediction.

A weight is thought of as w(t) on the error of x_0 (SNR gives the eps loss of DDPM); dividing by the prediction's `gain`
moves it to the error of what the network says, so the same weight means the same loss whatever is predicted.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import NonNegative, Number, Positive
from jaxgen.diffusion.process import Level

Array = jax.Array


class Weight(Protocol):
    """Weight of the squared error of a prediction."""

    def __call__(self, level: Level, gain: Array) -> Array:
        """Level and gain (see `Prediction.gain`) of [B] each -> [B]."""


@dataclass(frozen=True)
class Simple:
    """1: L_simple (Ho et al. 2020, eq. 14)."""

    def __call__(self, level: Level, gain: Array) -> Array:
        """Ones."""
        return jnp.ones_like(level.alpha)


@dataclass(frozen=True)
class Snr:
    """SNR on x_0: the eps loss, whatever is predicted (Salimans & Ho 2022, eq. 9)."""

    def __call__(self, level: Level, gain: Array) -> Array:
        """SNR / gain."""
        return level.snr / gain


@dataclass(frozen=True)
class TruncatedSnr:
    """max(SNR, 1) on x_0 (Salimans & Ho 2022, eq. 10)."""

    least: NonNegative = 1.0

    def __call__(self, level: Level, gain: Array) -> Array:
        """max(SNR, least) / gain."""
        return jnp.maximum(level.snr, self.least) / gain


@dataclass(frozen=True)
class MinSnr:
    """min(SNR, gamma) on the error of x_0 (Hang et al. 2023), whatever is predicted."""

    gamma: Positive = 5.0

    def __call__(self, level: Level, gain: Array) -> Array:
        """min(SNR, gamma) / gain."""
        return jnp.minimum(level.snr, self.gamma) / gain


@dataclass(frozen=True)
class EdmLambda:
    """(r^2 + d^2) / (r d)^2 on x_0 with r = sigma / alpha, d = sigma_data (Karras et al. 2022, table 1): SNR + 1 / d^2."""

    sigma_data: Positive = 0.5

    def __call__(self, level: Level, gain: Array) -> Array:
        """(SNR + d^-2) / gain; 1 for predict=edm."""
        return (level.snr + self.sigma_data**-2) / gain


@dataclass(frozen=True)
class Sigmoid:
    """sigmoid(bias - log SNR) on eps (Kingma & Gao 2023, section 5; Hoogeboom et al. 2024): low noise counts less."""

    bias: Number = 2.0

    def __call__(self, level: Level, gain: Array) -> Array:
        """SNR e^b / (e^b + SNR) / gain."""
        return level.snr * jnp.exp(self.bias) / (jnp.exp(self.bias) + level.snr) / gain


@dataclass(frozen=True)
class P2:
    """1 / (k + SNR)^gamma on eps (Choi et al. 2022, eq. 8): fine detail counts less."""

    k: Positive = 1.0
    gamma: NonNegative = 1.0

    def __call__(self, level: Level, gain: Array) -> Array:
        """SNR (k + SNR)^-gamma / gain."""
        return level.snr * (self.k + level.snr) ** -self.gamma / gain


@dataclass(frozen=True)
class InverseVariance:
    """1 / sigma^2 on the network's own error (Esser et al. 2024, SD3's sigma_sqrt)."""

    def __call__(self, level: Level, gain: Array) -> Array:
        """sigma^-2."""
        return level.sigma**-2.0


@dataclass(frozen=True)
class CosMap:
    """2 / (pi (alpha^2 + sigma^2)) on the network's own error: a straight path as a cosine schedule (Esser et al. 2024, eq. 21)."""

    def __call__(self, level: Level, gain: Array) -> Array:
        """2 / (pi (1 - 2 sigma + 2 sigma^2)) where alpha = 1 - sigma."""
        return 2.0 / (np.pi * (level.alpha**2 + level.sigma**2))

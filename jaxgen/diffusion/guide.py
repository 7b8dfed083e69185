"""Guidance: a conditional denoiser in, a sharper one out. Linear in x_0, hence in eps, v and score as well."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Denoiser = Callable[[Array, Array], Array]  # (x_t [B, ...], t [B]) -> x_0
CondDenoiser = Callable[[Array, Array, Array], Array]  # (x_t, t, label [B]) -> x_0


class Guide(Protocol):
    """Turns D(x, t, label) into D(x, t) for the labels asked for; `null` is the label that means "any"."""

    def __call__(self, model: CondDenoiser, label: Array, null: int) -> Denoiser:
        """The denoiser that the solver sees."""


@dataclass(frozen=True)
class NoGuide:
    """The model as it is."""

    def __call__(self, model: CondDenoiser, label: Array, null: int) -> Denoiser:
        """D(x, t, label)."""
        return lambda x, t: model(x, t, label)


@dataclass(frozen=True)
class ClassifierFree:
    """(1 - scale) D_null + scale D_label in one doubled batch (Ho & Salimans 2022); scale = 1 + w of their eq. 6."""

    scale: float = 1.5

    def __call__(self, model: CondDenoiser, label: Array, null: int) -> Denoiser:
        """Both branches run as one batch of 2B."""

        def guided(x: Array, t: Array) -> Array:
            both = jnp.concatenate([label, jnp.full_like(label, null)])
            with_label, without = jnp.split(model(jnp.concatenate([x, x]), jnp.concatenate([t, t]), both), 2)
            return (1.0 - self.scale) * without + self.scale * with_label

        return guided

"""How training times are drawn: u in [0, 1), which the process maps to its own times."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

Array = jax.Array


class Times(Protocol):
    """A distribution over [0, 1)."""

    def __call__(self, rng: Array, num: int) -> Array:
        """float32 [num]."""


@dataclass(frozen=True)
class Uniform:
    """Independent draws (Ho et al. 2020, algorithm 1)."""

    def __call__(self, rng: Array, num: int) -> Array:
        """U[0, 1)."""
        return jax.random.uniform(rng, (num,))


@dataclass(frozen=True)
class Stratified:
    """One draw shared by the batch, spread evenly: less variance (Kingma et al. 2021, VDM, appendix I.1)."""

    def __call__(self, rng: Array, num: int) -> Array:
        """(u + i / num) mod 1."""
        return jnp.mod(jax.random.uniform(rng, ()) + jnp.arange(num) / num, 1.0)

"""Penalties on a critic's gradient with respect to its input, per example [B], strength included.

    gradient  strength * (|grad D(x^)| - 1)^2, x^ = u x + (1 - u) G(z), u ~ U(0, 1) (Gulrajani et al. 2017, eq. 3)
    R1        strength / 2 * |grad D(x)|^2 on real images                           (Mescheder et al. 2018, eq. 9)

A critic with batch norm has no gradient of one example: give it none, or layer norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

Array = jax.Array
Critic = Callable[[Array], Array]  # [B, H, W, C] -> [B] logits


class Penalty(Protocol):
    """A term of the discriminator's loss."""

    every: int  # lazy regularisation: computed on every so-manieth step, and weighted by as much

    def __call__(self, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
        """The penalty [B]."""


def squared_slope(critic: Critic, x: Array) -> Array:
    """|grad D(x)|^2 of each example [B]."""
    slope = jax.grad(lambda images: critic(images).sum())(x)
    slope = slope.astype(jnp.promote_types(slope.dtype, jnp.float32))
    return (slope**2).reshape(x.shape[0], -1).sum(-1)


def lazily(penalty: Penalty, step: Array, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
    """The penalty on every `every`-th step, times `every`; zeros in between (Karras et al. 2019, app. B)."""
    if penalty.every == 1:
        return penalty(critic, real, fake, rng)
    return penalty.every * jax.lax.cond(
        step % penalty.every == 0,
        lambda: penalty(critic, real, fake, rng),
        lambda: jnp.zeros(real.shape[0], jnp.float32),
    )


@dataclass(frozen=True)
class NoPenalty:
    """The unconstrained game."""

    every: int = 1

    def __call__(self, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
        """Zeros."""
        return jnp.zeros(real.shape[0], jnp.float32)


@dataclass(frozen=True)
class GradientPenalty:
    """WGAN-GP: slope `target` between real and generated images."""

    strength: float = 10.0  # lambda
    target: float = 1.0
    every: int = 1

    def __call__(self, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
        """strength * (|grad D(x^)| - target)^2."""
        mix = jax.random.uniform(rng, (real.shape[0],) + (1,) * (real.ndim - 1))
        between = mix * real + (1.0 - mix) * fake
        norm = jnp.sqrt(squared_slope(critic, between) + 1e-12)  # the root has no slope at 0
        return self.strength * (norm - self.target) ** 2


@dataclass(frozen=True)
class R1:
    """A flat discriminator on the data: the equilibrium becomes locally stable."""

    strength: float = 10.0  # gamma
    every: int = 1

    def __call__(self, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
        """strength / 2 * |grad D(x)|^2."""
        return 0.5 * self.strength * squared_slope(critic, real)

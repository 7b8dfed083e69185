"""What keeps the players of a GAN in check: penalties, per example [B] and with their strength, and what D sees.

Of D, on its gradient with respect to its input; a critic with batch norm has no gradient of one example, so give it none, or
layer norm:

    gradient  strength * (|grad D(x^)| - 1)^2, x^ = u x + (1 - u) G(z), u ~ U(0, 1) (Gulrajani et al. 2017, eq. 3)
    R1        strength / 2 * |grad D(x)|^2 on real images                           (Mescheder et al. 2018, eq. 9)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import Count, NonNegative

Array = jax.Array
T = TypeVar("T")
Critic = Callable[[Array], Array]  # [B, H, W, C] -> [B] logits
Generate = Callable[..., Array]  # (z, cond) -> [B, H, W, C]; (*args, method=NAME): another function of the net
Memory = dict[str, Array]  # what a part remembers between steps, in the state's `extra`


class Penalty(Protocol):
    """A term of the discriminator's loss."""

    every: int  # lazy regularisation: computed on every so-manieth step, and weighted by as much

    def __call__(self, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
        """The penalty [B]."""


class GenPenalty(Protocol):
    """A term of the generator's loss, such as the length of paths (Karras et al. 2019, arXiv:1912.04958, eq. 4)."""

    every: int  # as above

    def start(self) -> Memory:
        """What it remembers, before the first step."""

    def __call__(self, generate: Generate, inputs: tuple, memory: Memory, rng: Array) -> tuple[Array, Memory]:
        """-> (the penalty [B], what it remembers next); inputs (z, cond) are those of the images that G's loss is of."""


class GanAugment(Protocol):
    """What D sees of real and generated images alike; p is the probability of each change (Karras et al. 2020, ADA)."""

    p: float  # where it adapts, that of the first step
    adapts: bool

    def __call__(self, x: Array, rng: Array, p: Array | float) -> Array:
        """Images [B, H, W, C] in [-1, 1] -> the same, changed; differentiable."""

    def adapt(self, p: Array, overfit: Array, images: int) -> Array:
        """The next p, where it adapts: `overfit` is the mean sign of D's logits of so many real images."""


def squared_slope(critic: Critic, x: Array) -> Array:
    """|grad D(x)|^2 of each example [B]."""
    slope = jax.grad(lambda images: critic(images).sum())(x)
    slope = slope.astype(jnp.promote_types(slope.dtype, jnp.float32))
    return (slope**2).reshape(x.shape[0], -1).sum(-1)


def lazily(every: int, step: Array, compute: Callable[[], T], between: T) -> T:
    """compute() on every `every`-th step, `between` on the others (Karras et al. 2019, app. B)."""
    return compute() if every == 1 else jax.lax.cond(step % every == 0, compute, lambda: between)


@dataclass(frozen=True)
class NoPenalty:
    """The unconstrained game."""

    every: Count = 1

    def __call__(self, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
        """Zeros."""
        return jnp.zeros(real.shape[0], jnp.float32)


@dataclass(frozen=True)
class NoGenPenalty:
    """Nothing but the game."""

    every: Count = 1

    def start(self) -> Memory:
        """Nothing."""
        return {}

    def __call__(self, generate: Generate, inputs: tuple, memory: Memory, rng: Array) -> tuple[Array, Memory]:
        """Zeros."""
        return jnp.zeros(len(inputs[0]), jnp.float32), memory


@dataclass(frozen=True)
class NoAugment:
    """D sees the images themselves."""

    p: ClassVar[float] = 0.0
    adapts: ClassVar[bool] = False

    def __call__(self, x: Array, rng: Array, p: Array | float) -> Array:
        """x."""
        return x


@dataclass(frozen=True)
class GradientPenalty:
    """WGAN-GP: slope `target` between real and generated images."""

    strength: NonNegative = 10.0  # lambda
    target: NonNegative = 1.0
    every: Count = 1

    def __call__(self, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
        """strength * (|grad D(x^)| - target)^2."""
        mix = jax.random.uniform(rng, (real.shape[0],) + (1,) * (real.ndim - 1))
        between = mix * real + (1.0 - mix) * fake
        norm = jnp.sqrt(squared_slope(critic, between) + 1e-12)  # the root has no slope at 0
        return self.strength * (norm - self.target) ** 2


@dataclass(frozen=True)
class R1:
    """A flat discriminator on the data: the equilibrium becomes locally stable."""

    strength: NonNegative = 10.0  # gamma
    every: Count = 1

    def __call__(self, critic: Critic, real: Array, fake: Array, rng: Array) -> Array:
        """strength / 2 * |grad D(x)|^2."""
        return 0.5 * self.strength * squared_slope(critic, real)

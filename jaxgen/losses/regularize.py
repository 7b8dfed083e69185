"""What keeps the players of a GAN in check: penalties, per example [B] and with their strength.

Of D, mostly on its gradient with respect to its input, which is that of one example alone (so D may have no batch norm):

    gradient    strength * (|grad D(x^)| - t)^2 / t^2, x^ = u x + (1 - u) G(z), u ~ U(0, 1)  (Gulrajani et al. 2017, eq. 3)
    R1          strength / 2 * |grad D(x)|^2 on real images                                 (Mescheder et al. 2018, eq. 9)
    R2          the same on generated images                                                (eq. 10)
    drift       strength * D(x)^2                                                           (Karras et al. 2017, app. A.1)

Of G, on how far a step in w moves the image, where it has a latent w:

    path length strength * (|J^T y| - a)^2, y ~ N(0, I) / sqrt(pixels), a the lengths' mean  (Karras et al. 2019, eq. 4)

Of either, on its weights:

    orthogonal  strength * |W^T W o (1 - I)|^2 of every kernel                              (Brock et al. 2018, eq. 3)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import Count, NonNegative, Positive, Share
from jaxgen.errors import UserError

Array = jax.Array
T = TypeVar("T")
PyTree = Any
Critic = Callable[[Array], Array]  # [B, H, W, C] -> [B] logits
Generate = Callable[..., Array]  # (z, cond) -> [B, H, W, C]; (*args, method=NAME): another function of the net
Memory = dict[str, Array]  # what a part remembers between steps, in the state's `extra`


class Seen(NamedTuple):
    """What a penalty of D may look at."""

    critic: Critic  # D as it is in this update: images -> logits [B], each example told its condition
    real: Array
    fake: Array
    params: PyTree  # of D


@dataclass(frozen=True)
class Regularizer:
    """When a penalty is computed, and which update it belongs to.

    `every`: lazy regularisation (Karras et al. 2019, app. B): computed on every so-manieth step, and weighted by as much.
    `apart`: it is no term of the player's loss but has an update of its own, with the learning rate and the decays of the
    moments of both updates adjusted (Karras et al. 2020, StyleGAN2-ADA).
    """

    every: Count = 1
    apart: bool = False

    label: ClassVar[str] = "penalty"  # its name in the log


class Penalty(Regularizer, ABC):
    """A penalty of the discriminator."""

    slopes: ClassVar[bool] = True  # it needs the gradient of each example's own logit

    @abstractmethod
    def __call__(self, seen: Seen, rng: Array) -> Array:
        """The penalty [B], or one number of the whole net []."""


class GenPenalty(Regularizer, ABC):
    """A penalty of the generator, such as the length of paths (Karras et al. 2019, arXiv:1912.04958, eq. 4)."""

    def start(self) -> Memory:
        """What it remembers, before the first step."""
        return {}

    @abstractmethod
    def __call__(
        self, generate: Generate, inputs: tuple, params: PyTree, memory: Memory, rng: Array
    ) -> tuple[Array, Memory]:
        """-> (the penalty [B] or [], what it remembers next); inputs (z, cond) are those of the images that G's loss is of."""


def squared_slope(critic: Critic, x: Array) -> Array:
    """|grad D(x)|^2 of each example [B]."""
    slope = jax.grad(lambda images: critic(images).sum())(x)
    slope = slope.astype(jnp.promote_types(slope.dtype, jnp.float32))
    return (slope**2).reshape(x.shape[0], -1).sum(-1)


def lazily(every: int, step: Array, compute: Callable[[], T], between: T) -> T:
    """compute() on every `every`-th step, `between` on the others."""
    return compute() if every == 1 else jax.lax.cond(step % every == 0, compute, lambda: between)


def off_orthogonal(params: PyTree) -> Array:
    """Sum over all kernels of the squared products of different output channels []."""

    def of(kernel: Array) -> Array:
        flat = kernel.reshape(-1, kernel.shape[-1])
        products = flat.T @ flat
        return jnp.square(products - jnp.diag(jnp.diag(products))).sum()

    return sum(of(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim > 1)


@dataclass(frozen=True)
class NoPenalty(Penalty):
    """The unconstrained game."""

    slopes: ClassVar[bool] = False

    def __call__(self, seen: Seen, rng: Array) -> Array:
        """Zeros."""
        return jnp.zeros(len(seen.real), jnp.float32)


@dataclass(frozen=True)
class GradientPenalty(Penalty):
    """WGAN-GP: slope `target` between real and generated images; ProGAN's CIFAR-10 has a target of 750."""

    strength: NonNegative = 10.0  # lambda
    target: Positive = 1.0
    one_sided: bool = False  # only slopes above the target cost

    label: ClassVar[str] = "gradient_penalty"

    def __call__(self, seen: Seen, rng: Array) -> Array:
        """strength * (|grad D(x^)| - target)^2 / target^2."""
        mix = jax.random.uniform(rng, (seen.real.shape[0],) + (1,) * (seen.real.ndim - 1))
        between = mix * seen.real + (1.0 - mix) * seen.fake
        excess = jnp.sqrt(squared_slope(seen.critic, between) + 1e-12) / self.target - 1.0  # the root has no slope at 0
        return self.strength * (jax.nn.relu(excess) if self.one_sided else excess) ** 2


@dataclass(frozen=True)
class R1(Penalty):
    """A flat discriminator on the data: the equilibrium becomes locally stable."""

    strength: NonNegative = 10.0  # gamma

    label: ClassVar[str] = "r1"

    def __call__(self, seen: Seen, rng: Array) -> Array:
        """strength / 2 * |grad D(x)|^2."""
        return 0.5 * self.strength * squared_slope(seen.critic, seen.real)


@dataclass(frozen=True)
class R2(Penalty):
    """A flat discriminator on generated images."""

    strength: NonNegative = 10.0  # gamma

    label: ClassVar[str] = "r2"

    def __call__(self, seen: Seen, rng: Array) -> Array:
        """strength / 2 * |grad D(G(z))|^2."""
        return 0.5 * self.strength * squared_slope(seen.critic, seen.fake)


@dataclass(frozen=True)
class Drift(Penalty):
    """A critic is known up to a constant: this keeps its answers near zero."""

    strength: NonNegative = 0.001

    slopes: ClassVar[bool] = False
    label: ClassVar[str] = "drift"

    def __call__(self, seen: Seen, rng: Array) -> Array:
        """strength * D(x)^2."""
        return self.strength * seen.critic(seen.real) ** 2


@dataclass(frozen=True)
class Orthogonal(Penalty):
    """Output channels of D at right angles, whatever their lengths."""

    strength: NonNegative = 1e-4

    slopes: ClassVar[bool] = False
    label: ClassVar[str] = "orthogonal"

    def __call__(self, seen: Seen, rng: Array) -> Array:
        """strength * |W^T W o (1 - I)|^2 []."""
        return self.strength * off_orthogonal(seen.params)


@dataclass(frozen=True)
class NoGenPenalty(GenPenalty):
    """Nothing but the game."""

    def __call__(
        self, generate: Generate, inputs: tuple, params: PyTree, memory: Memory, rng: Array
    ) -> tuple[Array, Memory]:
        """Zeros."""
        return jnp.zeros(len(inputs[0]), jnp.float32), memory


@dataclass(frozen=True)
class OrthogonalGen(GenPenalty):
    """Output channels of G at right angles, whatever their lengths: truncation gives whole images (Brock et al. 2018)."""

    strength: NonNegative = 1e-4

    label: ClassVar[str] = "gen_orthogonal"

    def __call__(
        self, generate: Generate, inputs: tuple, params: PyTree, memory: Memory, rng: Array
    ) -> tuple[Array, Memory]:
        """strength * |W^T W o (1 - I)|^2 []."""
        return self.strength * off_orthogonal(params), memory


@dataclass(frozen=True)
class PathLength(GenPenalty):
    """A step in w of one length moves the image by one length, wherever and whichever way: G can be inverted more easily."""

    strength: NonNegative = 2.0
    decay: Share = 0.01  # share of the new lengths in their running mean
    shrink: Count = 2  # of the batch's images one in so many is looked at

    every: Count = 4
    label: ClassVar[str] = "path_length"

    def start(self) -> Memory:
        """The mean of lengths."""
        return {"mean": jnp.zeros(())}

    def __call__(
        self, generate: Generate, inputs: tuple, params: PyTree, memory: Memory, rng: Array
    ) -> tuple[Array, Memory]:
        """strength * mean (|J^T y| - a)^2 []; |J^T y| is the root mean square over the places of w of [B, L, D]."""
        few = len(inputs[0]) // self.shrink
        if not few:
            raise UserError(
                f"path_length looks at 1 in {self.shrink} images of a batch of {len(inputs[0])}, which is none; set "
                f"data.batch={self.shrink} or more, or method.gen_penalties=none"
            )
        ws = generate(*jax.tree.map(lambda v: v[:few], inputs), method="map")
        images, back = jax.vjp(lambda ws: generate(ws, method="synthesize"), ws)
        y = jax.random.normal(rng, images.shape, images.dtype) / math.sqrt(images.shape[1] * images.shape[2])
        lengths = jnp.sqrt((back(y)[0] ** 2).sum(-1).mean(-1))  # [few]
        mean = memory["mean"] + self.decay * (lengths.mean() - memory["mean"])
        return self.strength * jnp.square(lengths - mean).mean(), {"mean": jax.lax.stop_gradient(mean)}

"""The nets of progressive growing (Karras et al. 2017, arXiv:1710.10196, table 2): another size of picture is another net.

Weights are N(0, 1) and scaled where they are used (section 4.1, "equalised rate"), features of G have unit length in every
pixel (section 4.2), and D sees how much its batch differs (section 3). A net that fades holds the layers to and from RGB of
two resolutions, named by them, and mixes both ways by `alpha` (figure 2):

    G  image = (1 - alpha) up(to_rgb(h)) + alpha to_rgb'(block(up(h)))
    D  h = (1 - alpha) from_rgb(down(x)) + alpha down(block(from_rgb'(x)))          up: nearest, down: mean
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural, Precision
from jaxgen.core.spec import TargetShape
from jaxgen.nets.conditioning import image_shape, one_hot
from jaxgen.nets.convolution import conv2d, dense, upsample2x, upsample2x_conv
from jaxgen.nets.gan import Player, mean_pool2x, pyramid
from jaxgen.nets.layers import minibatch_std

Array = jax.Array
Grid = tuple[int, int]


def leaky(x: Array) -> Array:
    """Leaky ReLU of slope 0.2."""
    return nn.leaky_relu(x, 0.2)


def unit_length(x: Array) -> Array:
    """[..., C] with a root mean square of 1 over the channels."""
    wide = x.astype(jnp.float32)
    return (x * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-8)).astype(x.dtype)


class Equal(nn.Module):
    """A layer with equalised rate: dense for size 0, else a convolution, of nearest doubling where `up`; in x's dtype."""

    features: int
    size: int = 3
    up: bool = False
    gain: float = math.sqrt(2.0)  # He's: half of the variance is lost to what comes next

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*(self.size,) * (2 if self.size else 0), x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        kernel = (kernel * (self.gain / math.sqrt(math.prod(shape[:-1])))).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        if not self.size:
            return dense(x, kernel) + bias
        return (upsample2x_conv(x, kernel) if self.up else conv2d(x, kernel)) + bias


class Growing(Player):
    """What both nets share: `channels` at 1x1, halved with every doubling, at most `most`; the coarsest grid is `base` or more."""

    channels: Count = 16384
    most: Count = 512
    base: Count = 4
    dtype: Precision = "float32"

    def grids(self, shape: tuple[int, ...]) -> list[Grid]:
        """Every grid up to the picture's, coarsest first."""
        (height, width), doublings = pyramid(image_shape(shape, self), self.base)
        return [(height << i, width << i) for i in range(doublings + 1)]

    def wide(self, grid: Grid) -> int:
        """Channels of a grid."""
        return min(self.most, max(1, self.channels // max(grid)))


def called(what: str, grid: Grid) -> str:
    """`torgb_8x8`: of a resolution, so that a grown net finds its layers again."""
    return f"{what}_{grid[0]}x{grid[1]}"


class ProganGenerator(Growing):
    """z [B, Z] -> [B, H, W, C], of any size. Labels are projected, brought to unit length as z is, and stand beside it."""

    shape: TargetShape = (32, 32, 3)

    @nn.compact
    def __call__(self, z: Array, cond: Cond | None = None, train: bool = False, alpha: Array | float = 1.0) -> Array:
        first, *finer = self.grids(self.shape)
        parts = [unit_length(z)]
        for name in sorted(self.conditions):
            label = one_hot(self.conditions, cond, name, len(z), has_null=False)
            parts.append(unit_length(Equal(z.shape[-1], 0, name=name)(label)))
        x = jnp.concatenate(parts, -1).astype(self.dtype)
        width = self.wide(first)
        x = Equal(math.prod(first) * width, 0, gain=math.sqrt(2.0) / 4, name="dense")(x).reshape(-1, *first, width)
        x = unit_length(leaky(x))
        x = unit_length(leaky(Equal(width, name=called("conv", first))(x)))
        before = x
        for grid in finer:
            before, width = x, self.wide(grid)
            x = unit_length(leaky(Equal(width, up=True, name=called("up", grid))(x)))
            x = unit_length(leaky(Equal(width, name=called("conv", grid))(x)))
        *_, coarser, last = (first, first, *finer)
        image = self.to_rgb(x, last)
        if finer:
            coarse = upsample2x(self.to_rgb(before, coarser))
            image = coarse + alpha * (image - coarse)
        return image

    def to_rgb(self, x: Array, grid: Grid) -> Array:
        """Features -> the picture, linear."""
        return Equal(self.shape[-1], 1, gain=1.0, name=called("torgb", grid))(x).astype(jnp.float32)


class ProganDiscriminator(Growing):
    """[B, H, W, C] -> logits [B]; labels by projection."""

    group: Natural = 0  # examples that are compared with each other; 0: the whole batch

    @nn.compact
    def __call__(self, x: Array, cond: Cond | None = None, train: bool = False, alpha: Array | float = 1.0) -> Array:
        first, *finer = self.grids(x.shape[1:])
        x = x.astype(self.dtype)
        h = self.from_rgb(x, (first, *finer)[-1])
        for i, grid in reversed(list(enumerate(finer))):
            coarser = (first, *finer)[i]
            h = leaky(Equal(self.wide(grid), name=called("conv", grid))(h))
            h = mean_pool2x(leaky(Equal(self.wide(coarser), name=called("down", grid))(h)))
            if grid == finer[-1]:
                coarse = self.from_rgb(mean_pool2x(x), coarser)
                h = (coarse + alpha * (h - coarse)).astype(self.dtype)
        h = minibatch_std(h, self.group or len(h), train=train)
        h = leaky(Equal(self.wide(first), name=called("conv", first))(h))
        h = leaky(Equal(self.wide(first), 0, name="dense")(h.reshape(len(h), -1))).astype(jnp.float32)
        logit = Equal(1, 0, gain=1.0, name="logit")(h)[:, 0]
        rows = self.rows(cond, len(h), nn.initializers.normal(1.0), h.shape[-1])
        return sum(((row * h).sum(-1) / math.sqrt(h.shape[-1]) for row in rows), logit)

    def from_rgb(self, x: Array, grid: Grid) -> Array:
        """The picture -> features."""
        return leaky(Equal(self.wide(grid), 1, name=called("fromrgb", grid))(x))

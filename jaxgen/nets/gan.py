"""Generators G(z, cond) -> images and discriminators D(x, cond) -> logits.

    Mlp*     Goodfellow et al. 2014 (arXiv:1406.2661): ReLU generator, maxout discriminator with dropout
    Dcgan*   Radford et al. 2015 (arXiv:1511.06434): strided 4x4 convolutions, batch norm, N(0, 0.02) weights

Residual ones are in `gan_resnet`, those that judge patches in `patchgan`.
They can be told labels, which have no null: every example needs one. Images of any size work: they are halved while both
sides stay even and no side falls below `base`.
"""

import math
from functools import reduce
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Natural, Precision
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import image_shape, one_hot, value
from jaxgen.nets.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    GroupNorm,
    Initializer,
    dcgan_init,
    ddpm_init,
    instance_norm,
)
from jaxgen.nets.spectral import normalised

Array = jax.Array

he_uniform = ddpm_init(2.0)  # variance 4 / (fan_in + fan_out), as the authors' code
glorot_uniform = ddpm_init(1.0)


def dcgan_scale_init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """N(1, 0.02) for the scales of norms."""
    return 1.0 + dcgan_init(key, shape, dtype)


def pyramid(shape: tuple[int, int, int], base: int) -> tuple[tuple[int, int], int]:
    """Image shape -> ((height, width) of the coarsest grid, number of halvings to it)."""
    height, width, _ = shape
    halvings = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) // 2 >= base:
        height, width, halvings = height // 2, width // 2, halvings + 1
    return (height, width), halvings


def mean_pool2x(x: Array) -> Array:
    """Mean of 2x2 pixels; an odd last row or column is left out."""
    b, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


@struct.dataclass
class Judged:
    """What a discriminator says of images that reads their labels too (AC-GAN, Odena et al. 2016)."""

    logit: Array  # [B], or [B, h, w] of patches
    labels: dict[str, Array]  # condition -> logits [B, values]


class Player(nn.Module):
    """A net that can be told labels, and needs them of every example."""

    takes: ClassVar[tuple[str, ...]] = ("label",)

    conditions: Conditions = Spec()

    def one_hot(self, cond: Cond | None, num: int) -> Array:
        """The one-hot vectors of all labels side by side, [num, ...]; of width 0 where there are none."""
        told = sorted(self.conditions.of("label"))
        vectors = [one_hot(self.conditions, cond, name, num, has_null=False) for name in told]
        return jnp.concatenate([jnp.zeros((num, 0)), *vectors], -1)

    def with_maps(self, x: Array, cond: Cond | None) -> Array:
        """Images [B, H, W, C] and behind their channels one constant map for every value of a label."""
        maps = self.one_hot(cond, len(x))[:, None, None]
        return jnp.concatenate([x, jnp.broadcast_to(maps, (*x.shape[:3], maps.shape[-1])).astype(x.dtype)], -1)

    def rows(self, cond: Cond | None, num: int, init: Initializer, width: int, spectral: bool = False) -> list[Array]:
        """For each label its row [num, width] of a table that is called by its name; zeros for a number out of range."""
        told = sorted(self.conditions.of("label"))
        labels = {name: value(self.conditions, cond, name, num, has_null=False) for name in told}
        tables = [self.param(name, init, (self.conditions[name].values, width)) for name in labels]
        if spectral:
            tables = [normalised(self, table, name) for name, table in zip(labels, tables, strict=True)]
        return [t.at[label].get(mode="fill", fill_value=0) for t, label in zip(tables, labels.values(), strict=True)]


class Norm(Player):
    """The norm `kind`: batch, layer (over a whole example), instance or none; with `conditions`, scaled and shifted by label.

    Where it is given a vector, `style` [B, D], what scales and shifts is linear in that instead (Brock et al. 2018).
    """

    kind: str = "batch"
    dtype: str = "float32"
    spectral: bool = False
    style_init: Initializer = dcgan_init

    @nn.compact
    def __call__(self, x: Array, cond: Cond | None, train: bool, style: Array | None = None) -> Array:
        kinds = {
            "batch": lambda: BatchNorm(dtype=self.dtype, scale_init=dcgan_scale_init)(x, train),
            "layer": lambda: GroupNorm(groups=1, dtype=self.dtype)(x),
            "instance": lambda: instance_norm(x),
            "none": lambda: x,
        }
        if self.kind not in kinds:
            raise UserError(f"norm={self.kind!r} is unknown; there are: {', '.join(kinds)}")
        x = kinds[self.kind]()
        double = 2 * x.shape[-1]
        if style is None:
            rows = self.rows(cond, len(x), nn.initializers.zeros, double)
        else:
            options = dict(dtype=self.dtype, kernel_init=self.style_init, spectral=self.spectral)
            rows = [Dense(double, use_bias=False, **options)(style)]
        for row in rows:
            scale, shift = jnp.split(row[:, None, None].astype(x.dtype), 2, axis=-1)
            x = x * (1 + scale) + shift
        return x


class MlpGenerator(Player):
    """z [B, Z] -> [B, H, W, C]: `depth` ReLU layers and tanh."""

    shape: TargetShape = (28, 28, 1)
    width: Count = 1200
    depth: Natural = 2
    norm: str = "none"
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, z: Array, cond: Cond | None = None, train: bool = False) -> Array:
        x = jnp.concatenate([z, self.one_hot(cond, len(z))], -1)
        for _ in range(self.depth):
            x = Dense(self.width, dtype=self.dtype, kernel_init=he_uniform)(x)
            x = nn.relu(Norm(kind=self.norm, dtype=self.dtype)(x, cond, train))
        x = Dense(math.prod(self.shape), dtype=self.dtype)(x)
        return jnp.tanh(x.astype(jnp.float32)).reshape(-1, *self.shape)


class MlpDiscriminator(Player):
    """[B, H, W, C] -> logits [B]: `depth` maxout layers of `width` units with `pieces` linear pieces each."""

    width: Count = 240
    depth: Natural = 2
    pieces: Count = 5
    dropout: BelowOne = 0.5
    spectral: bool = False
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, cond: Cond | None = None, train: bool = False) -> Array:
        x = jnp.concatenate([x.reshape(len(x), -1), self.one_hot(cond, len(x))], -1)
        for _ in range(self.depth):
            options = dict(dtype=self.dtype, kernel_init=glorot_uniform, spectral=self.spectral)
            x = Dense(self.width * self.pieces, **options)(x)
            x = reduce(jnp.maximum, jnp.split(x, self.pieces, axis=-1))  # max's gradient divides by a count of equals
            x = Dropout(self.dropout)(x, train)
        return Dense(1, dtype=self.dtype, spectral=self.spectral)(x)[:, 0].astype(jnp.float32)


class DcganGenerator(Player):
    """z [B, Z] -> [B, H, W, C]: project to the coarsest grid, then transposed convolutions double it; tanh.

    `width` is the number of channels before the image; each coarser grid has twice as many.
    """

    shape: TargetShape = (32, 32, 3)
    width: Count = 64
    base: Count = 4
    norm: str = "batch"
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, z: Array, cond: Cond | None = None, train: bool = False) -> Array:
        (height, width), doublings = pyramid(image_shape(self.shape, self), self.base)
        channels = self.width * 2 ** max(doublings - 1, 0)
        bias = self.norm == "none"  # a norm has its own

        x = jnp.concatenate([z, self.one_hot(cond, len(z))], -1)
        x = Dense(height * width * channels, use_bias=bias, dtype=self.dtype, kernel_init=dcgan_init)(x)
        x = x.reshape(-1, height, width, channels)
        x = nn.relu(Norm(kind=self.norm, dtype=self.dtype)(x, cond, train))
        for i in range(1, doublings):
            x = ConvTranspose(channels >> i, use_bias=bias, dtype=self.dtype, kernel_init=dcgan_init)(x)
            x = nn.relu(Norm(kind=self.norm, dtype=self.dtype)(x, cond, train))
        last = ConvTranspose if doublings else Conv
        x = last(self.shape[-1], dtype=self.dtype, kernel_init=dcgan_init)(x)
        return jnp.tanh(x.astype(jnp.float32))


class DcganDiscriminator(Player):
    """[B, H, W, C] -> logits [B]: strided convolutions, leaky ReLU, no norm on the first; labels as constant maps."""

    width: Count = 64
    base: Count = 4
    norm: str = "batch"
    spectral: bool = False
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, cond: Cond | None = None, train: bool = False) -> Array:
        _, halvings = pyramid(image_shape(x.shape[1:], self), self.base)
        options = dict(dtype=self.dtype, kernel_init=dcgan_init, spectral=self.spectral)
        x = self.with_maps(x, cond)
        for i in range(max(halvings, 1)):
            size, stride, padding = (4, 2, 1) if halvings else (3, 1, 1)
            bias = i == 0 or self.norm == "none"
            x = Conv(self.width << i, size, stride, padding, bias, **options)(x)
            x = x if i == 0 else Norm(kind=self.norm, dtype=self.dtype)(x, cond, train)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(x.shape[0], -1)
        return Dense(1, **options)(x)[:, 0].astype(jnp.float32)

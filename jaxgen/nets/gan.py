"""Generators G(z, label) -> images and discriminators D(x, label) -> logits.

    Mlp*     Goodfellow et al. 2014 (arXiv:1406.2661): ReLU generator, maxout discriminator with dropout
    Dcgan*   Radford et al. 2015 (arXiv:1511.06434): strided 4x4 convolutions, batch norm, N(0, 0.02) weights
    Resnet*  Gulrajani et al. 2017 (arXiv:1704.00028), appendix C: the CIFAR-10 WGAN-GP

Every net takes `label` int32 [B]; with `classes=0` it is ignored: a one-hot vector of width zero conditions on nothing.
Images of any size work: they are halved while both sides stay even and no side falls below `base`.
"""

import math
from functools import reduce

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    GroupNorm,
    UpConv,
    dcgan_init,
    ddpm_init,
    upsample2x,
)

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


class Norm(nn.Module):
    """The norm `kind`: batch, layer (over a whole example) or none; with `classes`, scaled and shifted by label."""

    kind: str
    classes: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, label: Array, train: bool) -> Array:
        kinds = {
            "batch": lambda: BatchNorm(dtype=self.dtype, scale_init=dcgan_scale_init)(x, train),
            "layer": lambda: GroupNorm(groups=1, dtype=self.dtype)(x),
            "none": lambda: x,
        }
        if self.kind not in kinds:
            raise UserError(f"norm={self.kind!r} is unknown; there are: {', '.join(kinds)}")
        x = kinds[self.kind]()
        if not self.classes:
            return x
        table = self.param("label", nn.initializers.zeros, (self.classes, 2 * x.shape[-1]))
        scale, shift = jnp.split(table[label][:, None, None].astype(x.dtype), 2, axis=-1)
        return x * (1 + scale) + shift


class MlpGenerator(nn.Module):
    """z [B, Z] -> [B, H, W, C]: `depth` ReLU layers and tanh."""

    shape: tuple[int, int, int] = (28, 28, 1)
    classes: int = 0
    width: int = 1200
    depth: int = 2
    norm: str = "none"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: Array, label: Array, train: bool = False) -> Array:
        x = jnp.concatenate([z, jax.nn.one_hot(label, self.classes)], -1)
        for _ in range(self.depth):
            x = Dense(self.width, dtype=self.dtype, kernel_init=he_uniform)(x)
            x = nn.relu(Norm(self.norm, dtype=self.dtype)(x, label, train))
        x = Dense(math.prod(self.shape), dtype=self.dtype)(x)
        return jnp.tanh(x.astype(jnp.float32)).reshape(-1, *self.shape)


class MlpDiscriminator(nn.Module):
    """[B, H, W, C] -> logits [B]: `depth` maxout layers of `width` units with `pieces` linear pieces each."""

    classes: int = 0
    width: int = 240
    depth: int = 2
    pieces: int = 5
    dropout: float = 0.5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, label: Array, train: bool = False) -> Array:
        x = jnp.concatenate([x.reshape(x.shape[0], -1), jax.nn.one_hot(label, self.classes)], -1)
        for _ in range(self.depth):
            x = Dense(self.width * self.pieces, dtype=self.dtype, kernel_init=glorot_uniform)(x)
            x = reduce(jnp.maximum, jnp.split(x, self.pieces, axis=-1))  # max's gradient divides by a count of equals
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(1, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)


class DcganGenerator(nn.Module):
    """z [B, Z] -> [B, H, W, C]: project to the coarsest grid, then transposed convolutions double it; tanh.

    `width` is the number of channels before the image; each coarser grid has twice as many.
    """

    shape: tuple[int, int, int] = (32, 32, 3)
    classes: int = 0
    width: int = 64
    base: int = 4
    norm: str = "batch"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: Array, label: Array, train: bool = False) -> Array:
        (height, width), doublings = pyramid(self.shape, self.base)
        channels = self.width * 2 ** max(doublings - 1, 0)
        bias = self.norm == "none"  # a norm has its own

        x = jnp.concatenate([z, jax.nn.one_hot(label, self.classes)], -1)
        x = Dense(height * width * channels, use_bias=bias, dtype=self.dtype, kernel_init=dcgan_init)(x)
        x = x.reshape(-1, height, width, channels)
        x = nn.relu(Norm(self.norm, dtype=self.dtype)(x, label, train))
        for i in range(1, doublings):
            x = ConvTranspose(channels >> i, use_bias=bias, dtype=self.dtype)(x)
            x = nn.relu(Norm(self.norm, dtype=self.dtype)(x, label, train))
        last = ConvTranspose if doublings else Conv
        x = last(self.shape[-1], dtype=self.dtype, kernel_init=dcgan_init)(x)
        return jnp.tanh(x.astype(jnp.float32))


class DcganDiscriminator(nn.Module):
    """[B, H, W, C] -> logits [B]: strided convolutions, leaky ReLU, no norm on the first; labels as constant maps."""

    classes: int = 0
    width: int = 64
    base: int = 4
    norm: str = "batch"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, label: Array, train: bool = False) -> Array:
        _, halvings = pyramid(x.shape[1:], self.base)
        maps = jax.nn.one_hot(label, self.classes)[:, None, None]
        x = jnp.concatenate([x, jnp.broadcast_to(maps, (*x.shape[:3], self.classes))], -1)
        for i in range(max(halvings, 1)):
            size, stride, padding = (4, 2, 1) if halvings else (3, 1, 1)
            bias = i == 0 or self.norm == "none"
            x = Conv(self.width << i, size, stride, padding, bias, self.dtype, kernel_init=dcgan_init)(x)
            x = x if i == 0 else Norm(self.norm, dtype=self.dtype)(x, label, train)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(x.shape[0], -1)
        return Dense(1, dtype=self.dtype, kernel_init=dcgan_init)(x)[:, 0].astype(jnp.float32)


class ResnetGenerator(nn.Module):
    """z [B, Z] -> [B, H, W, C]: up-sampling residual blocks of `width` channels; labels scale and shift the norms."""

    shape: tuple[int, int, int] = (32, 32, 3)
    classes: int = 0
    width: int = 128
    base: int = 4
    norm: str = "batch"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: Array, label: Array, train: bool = False) -> Array:
        (height, width), doublings = pyramid(self.shape, self.base)
        x = Dense(height * width * self.width, dtype=self.dtype, kernel_init=glorot_uniform)(z)
        x = x.reshape(-1, height, width, self.width)
        for _ in range(doublings):
            x = self._block(x, label, train)
        x = nn.relu(Norm(self.norm, self.classes, self.dtype)(x, label, train))
        x = Conv(self.shape[-1], dtype=self.dtype, kernel_init=glorot_uniform)(x)
        return jnp.tanh(x.astype(jnp.float32))

    def _block(self, x: Array, label: Array, train: bool) -> Array:
        h = nn.relu(Norm(self.norm, self.classes, self.dtype)(x, label, train))
        h = UpConv(self.width, use_bias=self.norm == "none", dtype=self.dtype, kernel_init=he_uniform)(h)
        h = nn.relu(Norm(self.norm, self.classes, self.dtype)(h, label, train))
        h = Conv(self.width, dtype=self.dtype, kernel_init=he_uniform)(h)
        # A 1x1 convolution and nearest-neighbour doubling commute: convolve where it is cheap.
        return h + upsample2x(Conv(self.width, 1, dtype=self.dtype, kernel_init=glorot_uniform)(x))


class ResnetDiscriminator(nn.Module):
    """[B, H, W, C] -> logits [B]: `downs` halving and `plain` more residual blocks, mean, linear.

    Labels enter by projection, as an inner product with the features (Miyato & Koyama 2018).
    """

    classes: int = 0
    width: int = 128
    downs: int = 2
    plain: int = 2
    norm: str = "none"  # layer or none: the gradient penalty is per example
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, label: Array, train: bool = False) -> Array:
        h = nn.relu(Conv(self.width, dtype=self.dtype, kernel_init=he_uniform)(x))
        h = mean_pool2x(Conv(self.width, dtype=self.dtype, kernel_init=he_uniform)(h))
        x = h + Conv(self.width, 1, dtype=self.dtype, kernel_init=glorot_uniform)(mean_pool2x(x))
        for i in range(1, self.downs + self.plain):
            h = nn.relu(Norm(self.norm, dtype=self.dtype)(x, label, train))
            h = Conv(self.width, dtype=self.dtype, kernel_init=he_uniform)(h)
            h = nn.relu(Norm(self.norm, dtype=self.dtype)(h, label, train))
            h = Conv(self.width, dtype=self.dtype, kernel_init=he_uniform)(h)
            if i < self.downs:
                h, x = mean_pool2x(h), mean_pool2x(x)
                x = Conv(self.width, 1, dtype=self.dtype, kernel_init=glorot_uniform)(x)
            x = x + h
        x = nn.relu(x).astype(jnp.float32).mean((1, 2))
        logit = Dense(1)(x)[:, 0]
        if not self.classes:
            return logit
        table = self.param("label", glorot_uniform, (self.classes, self.width))
        return logit + (table[label] * x).sum(-1)

"""Encoders, decoders, and the nets composed of them.

An encoder is called as encoder(x [B, H, W, C], train) -> features [B, ...]; a decoder as decoder(z, channels, train)
-> [B, H, W, channels], where the caller says how many channels its likelihood needs.

    Mlp*   Kingma & Welling 2013 (arXiv:1312.6114), app. C: layers of tanh
    Conv*  van den Oord et al. 2017 (arXiv:1711.00937), sec. 4.1: strided 4x4 convolutions, then residual blocks
"""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural, Precision
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import image_shape, one_hot
from jaxgen.nets.layers import Conv, ConvTranspose, Dense
from jaxgen.nets.quantize import Ids, Quantized

Array = jax.Array

ACTIVATIONS = {"tanh": jnp.tanh, "relu": nn.relu}


def activation(name: str) -> Callable[[Array], Array]:
    """The non-linearity of that name."""
    if name not in ACTIVATIONS:
        raise UserError(f"act={name!r} is unknown; there are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MlpEncoder(nn.Module):
    """[B, H, W, C] -> [B, width]."""

    width: Count = 500
    depth: Natural = 1
    act: str = "tanh"  # or relu, which learns faster at first
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = x.reshape(x.shape[0], -1)
        for _ in range(self.depth):
            x = activation(self.act)(Dense(self.width, dtype=self.dtype)(x))
        return x


class MlpDecoder(nn.Module):
    """z [B, Z] -> [B, H, W, channels]."""

    shape: TargetShape = (28, 28, 1)
    width: Count = 500
    depth: Natural = 1
    act: str = "tanh"  # or relu, which learns faster at first
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, z: Array, channels: int, train: bool = False) -> Array:
        for _ in range(self.depth):
            z = activation(self.act)(Dense(self.width, dtype=self.dtype)(z))
        places = self.shape[:-1]
        return Dense(math.prod(places) * channels, dtype=self.dtype)(z).reshape(-1, *places, channels)


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))."""

    hidden: int
    dtype: str = "float32"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Conv(self.hidden, 3, use_bias=self.use_bias, dtype=self.dtype)(nn.relu(x))
        return x + Conv(x.shape[-1], 1, use_bias=self.use_bias, dtype=self.dtype)(nn.relu(h))


class ConvEncoder(nn.Module):
    """[B, H, W, C] -> [B, ceil(H / 2^downs), ceil(W / 2^downs), width]."""

    width: Count = 256
    hidden: Count = 256  # of the residual blocks
    downs: Natural = 2
    blocks: Natural = 2
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        image_shape(x.shape[1:], self)
        edges = [(0, -side % 2**self.downs) for side in x.shape[1:3]]  # sides that do not halve are continued
        x = jnp.pad(x, ((0, 0), *edges, (0, 0)), mode="edge")
        for i in range(self.downs):
            x = x if i == 0 else nn.relu(x)
            x = Conv(self.width, 4, stride=2, padding=1, dtype=self.dtype)(x)
        for _ in range(self.blocks):
            x = Residual(self.hidden, self.dtype)(x)
        return nn.relu(x)


class ConvDecoder(nn.Module):
    """z [B, h, w, Z] (a vector [B, Z] is first spread over that grid) -> [B, H, W, channels]; another grid: 2^downs times it."""

    shape: TargetShape = (32, 32, 3)
    width: Count = 256
    hidden: Count = 256
    downs: Natural = 2
    blocks: Natural = 2
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, z: Array, channels: int, train: bool = False) -> Array:
        height, width, _ = image_shape(self.shape, self)
        grid = (-(-height // 2**self.downs), -(-width // 2**self.downs))
        if z.ndim == 2:
            x = Dense(math.prod(grid) * self.width, dtype=self.dtype)(z).reshape(-1, *grid, self.width)
        else:
            x = Conv(self.width, 3, dtype=self.dtype)(z)
        if x.shape[1:3] != grid:
            height, width = (side * 2**self.downs for side in x.shape[1:3])
        for _ in range(self.blocks):
            x = Residual(self.hidden, self.dtype)(x)
        for i in reversed(range(self.downs)):
            features = self.width if i else channels
            x = ConvTranspose(features, dtype=self.dtype)(nn.relu(x))
        if not self.downs:
            x = Conv(channels, 3, dtype=self.dtype)(nn.relu(x))
        return x[:, :height, :width]


class AutoencoderNet(nn.Module):
    """z = f(x) and g(z): `latent` numbers in all, or at every place where the encoder keeps places (`conv_encoder`)."""

    encoder: nn.Module
    decoder: nn.Module
    latent: Count = 32

    def setup(self) -> None:
        self.project = Dense(self.latent)

    def encode(self, x: Array, train: bool = False) -> Array:
        """Codes, float32 [B, latent] or [B, h, w, latent]."""
        return self.project(self.encoder(x, train=train).astype(jnp.float32))

    def decode(self, z: Array, channels: int, train: bool = False) -> Array:
        """Parameters of p(x | z), [B, H, W, channels]."""
        return self.decoder(z, channels, train=train)

    def __call__(self, x: Array, channels: int, train: bool = False) -> Array:
        """Both."""
        return self.decode(self.encode(x, train), channels, train)


class Group(NamedTuple):
    """Latents that are drawn at once, all float32 [B, ...]: q(z | x) and, given the groups above, the prior."""

    mean: Array
    log_var: Array
    prior_mean: Array
    prior_log_var: Array


class Inferred(NamedTuple):
    """A draw of the latents and what comes of it."""

    out: Array  # parameters of p(x | z), [B, H, W, channels]
    z: Array  # float32 [B, latent], of a prior N(0, I): (z - prior mean) / prior standard deviation of all groups
    groups: tuple[Group, ...]  # the upper first


class VaeNet(nn.Module):
    """q(z | x, cond) and p(x | z, cond) with a vector z [B, latent] and a prior N(0, I).

    Labels, where it is told any (conditional VAE, Sohn et al. 2015), stand behind the encoder's features and behind z.
    """

    takes: ClassVar[tuple[str, ...]] = ("label",)

    encoder: nn.Module
    decoder: nn.Module
    latent: Count = 20
    conditions: Conditions = Spec()

    def setup(self) -> None:
        self.posterior = Dense(2 * self.latent)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Latents of every group."""
        return (self.latent,)

    def told(self, x: Array, cond: Cond | None) -> Array:
        """x [B, D] and the one-hot vectors of all labels."""
        labels = [one_hot(self.conditions, cond, name, len(x)) for name in sorted(self.conditions.of("label"))]
        return jnp.concatenate([x, *labels], -1) if labels else x

    def encode(self, x: Array, cond: Cond | None = None, train: bool = False) -> tuple[Array, Array]:
        """Mean and log-variance of q(z | x), float32 [B, latent] each."""
        features = self.encoder(x, train=train).astype(jnp.float32)
        mean, log_var = jnp.split(self.posterior(self.told(features.reshape(len(x), -1), cond)), 2, axis=-1)
        return mean, log_var

    def infer(
        self, seen: tuple[Array, Array], noise: Array, channels: int, cond: Cond | None = None, train: bool = False
    ) -> Inferred:
        """What `encode` saw, and noise ~ N(0, I) [B, latent] -> a draw of q(z | x)."""
        mean, log_var = seen
        z = mean + jnp.exp(0.5 * log_var) * noise
        none = jnp.zeros_like(mean)
        return Inferred(self.decode(z, channels, cond, train), z, (Group(mean, log_var, none, none),))

    def decode(self, z: Array, channels: int, cond: Cond | None = None, train: bool = False) -> Array:
        """Parameters of p(x | z), [B, H, W, channels]."""
        return self.decoder(self.told(z, cond), channels, train=train)

    def __call__(self, x: Array, channels: int, cond: Cond | None = None, train: bool = False) -> Array:
        """The mean's decoding: touches every parameter."""
        return self.decode(self.encode(x, cond, train)[0], channels, cond, train)


class VqVaeNet(nn.Module):
    """Encoder, codes for features of `quantizer.dim` numbers, decoder. ids: int32 [B, h, w], or a pyramid of such maps."""

    encoder: nn.Module
    decoder: nn.Module
    quantizer: nn.Module

    def setup(self) -> None:
        self.project = Dense(self.quantizer.dim)

    def quantize(self, x: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """x [B, H, W, C] -> codes of its features."""
        features = self.project(self.encoder(x, train=train).astype(jnp.float32))
        return self.quantizer(features, train=train, step=step)

    def encode(self, x: Array, train: bool = False) -> Ids:
        """The picture's ids."""
        return self.quantize(x, train).ids

    def vectors(self, ids: Ids, train: bool = False) -> Array:
        """ids [...] -> entries of the codebook [..., D]."""
        return self.quantizer.vectors(ids)

    def nearest(self, z: Array, train: bool = False) -> Ids:
        """Vectors [..., D] -> ids int32 [...] of the entries nearest to them."""
        return self.quantizer.nearest(z)

    def decode(self, ids: Ids, channels: int, train: bool = False) -> Array:
        """ids -> parameters of p(x | z), [B, H, W, channels]."""
        return self.decoder(self.quantizer.lookup(ids), channels, train=train)

    def __call__(self, x: Array, channels: int, train: bool = False, step: Array | int = 0) -> tuple[Array, Quantized]:
        """Parameters of p(x | z_q(x)), and z_q."""
        quantized = self.quantize(x, train, step)
        return self.decoder(quantized.codes, channels, train=train), quantized

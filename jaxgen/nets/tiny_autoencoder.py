"""The tiny autoencoders of latent spaces: TAESD, TAESD3, TAEF1, TAEF2 (github.com/madebyollin/taesd).

    x in [0, 1] -> convolutions, halved where a level begins -> z
    3 tanh(z / 3) -> convolutions, doubled where a level ends -> [0, 1]

Pictures here are in [-1, 1] as everywhere in the house, and are brought to [0, 1] inside. A side that 8 does not divide is rounded
up to one that it does: the picture comes back larger. The norm of TAEF2's coarsest level is over the whole picture, so that
a tile of it has other latents than the picture has there.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Count, Natural
from jaxgen.nets.layers import Conv, GroupNorm, UpConv

Array = jax.Array


class Block(nn.Module):
    """relu(x + three convolutions); with the norm a bottleneck of four groups is added to x first."""

    width: int
    norm: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.norm:
            wide = Conv(4 * self.width, 1, use_bias=False, dtype=self.dtype, name="pool_in")(x)
            wide = nn.relu(GroupNorm(4, 1e-5, self.dtype, name="pool_norm")(wide))
            x = x + Conv(self.width, 1, use_bias=False, dtype=self.dtype, name="pool_out")(wide)
        y = x
        for i in range(3):
            y = y if i == 0 else nn.relu(y)
            y = Conv(self.width, padding=1, dtype=self.dtype, name=f"conv{i}")(y)
        return nn.relu(y + x)


class Encoder(nn.Module):
    """[B, H, W, C] in [0, 1] -> [B, h, w, z]."""

    z: int
    width: int
    blocks: tuple[int, ...]
    norm: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, blocks in enumerate(self.blocks):
            how = {"stride": 2, "use_bias": False} if i else {}
            x = Conv(self.width, padding=1, dtype=self.dtype, name=f"down{i}_conv", **how)(x)
            for j in range(blocks):
                norm = self.norm and i == len(self.blocks) - 1
                x = Block(self.width, norm, self.dtype, name=f"down{i}_block{j}")(x)
        return Conv(self.z, padding=1, dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)


class Decoder(nn.Module):
    """[B, h, w, z] -> [B, H, W, channels], nearly all of it in [0, 1]."""

    width: int
    blocks: tuple[int, ...]
    norm: bool
    dtype: str

    @nn.compact
    def __call__(self, z: Array, channels: int) -> Array:
        x = 3.0 * jnp.tanh(z / 3.0)
        x = nn.relu(Conv(self.width, padding=1, dtype=self.dtype, name="conv_in")(x))
        for i in reversed(range(len(self.blocks))):
            for j in range(self.blocks[i]):
                norm = self.norm and i == len(self.blocks) - 1
                x = Block(self.width, norm, self.dtype, name=f"up{i}_block{j}")(x)
            x = UpConv(self.width, use_bias=False, dtype=self.dtype, name=f"up{i}_conv")(x) if i else x
        return Conv(channels, padding=1, dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)


class TinyAutoencoder(nn.Module):
    """[B, H, W, C] in [-1, 1] <-> latents [B, H / f, W / f, z], f = 2^(len(blocks) - 1); any H and W, rounded up."""

    z: Count = 4  # channels of a latent
    width: Count = 64
    blocks: tuple[Natural, ...] = (1, 3, 3, 3)  # residual blocks of every level, finest first
    mid_norm: bool = False  # the coarsest blocks look at the whole picture (TAEF2)
    dtype: Literal["float32", "bfloat16"] = "float32"  # float16 overflows

    def setup(self) -> None:
        options = dict(width=self.width, blocks=self.blocks, norm=self.mid_norm, dtype=self.dtype)
        self.encoder, self.decoder = Encoder(self.z, **options), Decoder(**options)

    def encode(self, x: Array, train: bool = False) -> Array:
        """Latents, float32."""
        return self.encoder(0.5 * (x + 1.0))

    def decode(self, z: Array, channels: int = 3, train: bool = False) -> Array:
        """Pictures, float32."""
        return 2.0 * self.decoder(z, channels) - 1.0

    def __call__(self, x: Array, channels: int = 3, train: bool = False) -> Array:
        """The picture's reconstruction."""
        return self.decode(self.encode(x), channels)

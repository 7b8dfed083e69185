"""The level nets of LAPGAN (Denton et al. 2015, arXiv:1506.05751) as the authors' code (facebook/eyescream) has them.

Both are told the coarse picture as the condition "coarse", and labels as one plane each that a dense layer draws.
"""

from math import prod

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Precision
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import one_hot
from jaxgen.nets.gan import Player
from jaxgen.nets.layers import Conv, Dense, Dropout

Array = jax.Array


class LevelNet(Player):
    """A net that is told the coarse picture of its level."""

    def coarse(self, cond: Cond | None) -> Array:
        """That picture, [B, H, W, C]."""
        if not cond or "coarse" not in cond:
            raise UserError(
                f"{type(self).__name__} makes the detail of a coarse picture; set config.method.name=lapgan"
            )
        return cond["coarse"]

    def planes(self, cond: Cond | None, size: tuple[int, int], num: int) -> list[Array]:
        """For each label a plane [num, *size, 1] that is learned."""
        vectors = {name: one_hot(self.conditions, cond, name, num, has_null=False) for name in sorted(self.conditions)}
        return [Dense(prod(size), name=name)(v).reshape(num, *size, 1) for name, v in vectors.items()]


class LevelGenerator(LevelNet):
    """One plane of noise z [B, H W] and the coarse picture -> its detail [B, H, W, C], of any sign: three convolutions."""

    width: Count = 128
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, z: Array, cond: Cond | None = None, train: bool = False) -> Array:
        coarse = self.coarse(cond)
        num, *size, channels = coarse.shape
        x = jnp.concatenate([coarse, z.reshape(num, *size, 1), *self.planes(cond, tuple(size), num)], -1)
        for _ in range(2):
            x = nn.relu(Conv(self.width, 7, dtype=self.dtype)(x))
        return Conv(channels, 5, dtype=self.dtype)(x).astype(jnp.float32)


class LevelDiscriminator(LevelNet):
    """The detail [B, H, W, C], added to the coarse picture -> logits [B]: two convolutions, dropout, dense."""

    width: Count = 128
    dropout: BelowOne = 0.5
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, cond: Cond | None = None, train: bool = False) -> Array:
        num, *size, _ = x.shape
        x = jnp.concatenate([x + self.coarse(cond), *self.planes(cond, tuple(size), num)], -1)
        x = nn.relu(Conv(self.width, 5, dtype=self.dtype)(x))
        x = nn.relu(Conv(self.width, 5, 2, dtype=self.dtype)(x))
        x = Dropout(self.dropout)(x.reshape(num, -1), train)
        return Dense(1, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)

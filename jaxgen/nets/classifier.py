"""Small residual classifiers (He et al. 2016, arXiv:1603.05027: pre-activation) with group norm."""

import jax
from flax import linen as nn
from jax import numpy as jnp

from jaxgen.core.ranges import BelowOne, Count, Precision
from jaxgen.core.spec import Classes
from jaxgen.nets.conditioning import image_shape
from jaxgen.nets.layers import Conv, Dense, Dropout, GroupNorm, timestep_embedding

Array = jax.Array


class PreActivation(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); a stride or a new width sends the shortcut through a 1x1 convolution."""

    features: int
    stride: int = 1
    groups: int = 8
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.silu(GroupNorm(self.groups, dtype=self.dtype)(x))
        if self.stride > 1 or self.features != x.shape[-1]:
            x = Conv(self.features, 1, self.stride, use_bias=False, dtype=self.dtype)(h)
        h = Conv(self.features, 3, self.stride, dtype=self.dtype)(h)
        h = nn.silu(GroupNorm(self.groups, dtype=self.dtype)(h))
        return x + Conv(self.features, 3, dtype=self.dtype)(h)


class ResidualClassifier(nn.Module):
    """[B, H, W, C] -> (features [B, width 2^(stages - 1)], logits [B, classes]), both float32.

    The resolution halves and the width doubles from stage to stage; features are means over positions. What every stage ends in
    is in the collection "taps" for those who ask for it. coordinates: two more channels say where a place is (Liu et al. 2018,
    arXiv:1807.03247), which means over positions forget.
    """

    classes: Classes
    width: Count = 64
    stages: Count = 3
    blocks: Count = 2  # per stage
    groups: Count = 8
    dropout: BelowOne = 0.0
    coordinates: bool = False
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        return self.classify(x, None, train)

    def classify(self, x: Array, emb: Array | None, train: bool) -> tuple[Array, Array]:
        """The net, with a projection of emb [B, E] added to every block's input if there is one."""
        height, width, _ = image_shape(x.shape[1:], self)
        if self.coordinates:
            where = jnp.stack(jnp.meshgrid(*(jnp.linspace(-1, 1, n) for n in (height, width)), indexing="ij"), -1)
            x = jnp.concatenate([x, jnp.broadcast_to(where, (len(x), *where.shape)).astype(x.dtype)], -1)
        x = Conv(self.width, 3, dtype=self.dtype)(x)
        for stage in range(self.stages):
            for block in range(self.blocks):
                x = x if emb is None else x + Dense(x.shape[-1], dtype=self.dtype)(emb)[:, None, None]
                stride = 2 if stage and not block else 1
                x = PreActivation(self.width * 2**stage, stride, self.groups, self.dtype)(x)
            if not self.is_initializing():
                self.sow("taps", f"stage{stage}", x)
        x = nn.silu(GroupNorm(self.groups, dtype=self.dtype)(x))
        features = x.astype(jnp.float32).mean((1, 2))
        return features, Dense(self.classes)(Dropout(self.dropout)(features, train))


class TimedClassifier(ResidualClassifier):
    """The same for noisy images: x [B, H, W, C] and the clock [B] of their noise -> (features [B, D], logits [B, classes]).

    An embedding of the clock is added to every block's input, as in the UNet of Ho et al. 2020.
    """

    @nn.compact
    def __call__(self, x: Array, clock: Array, train: bool = False) -> tuple[Array, Array]:
        emb = nn.silu(Dense(4 * self.width)(timestep_embedding(clock, self.width)))
        return self.classify(x, nn.silu(Dense(4 * self.width)(emb)), train)

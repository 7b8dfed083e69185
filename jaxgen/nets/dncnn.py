"""Denoisers: DnCNN (Zhang et al. 2016, arXiv:1608.03981) and FFDNet (Zhang et al. 2017, arXiv:1710.04026).

    DnCNN    y = x - net(x):  conv, relu | conv, norm, relu | ... | conv, so that the net says what the noise is (eq. 1)
    FFDNet   y = net(x in quarters beside a map of the noise's level)                                            (eq. 4)

DnCNN-S of one level and of grey pictures has 17 convolutions, DnCNN-B of all levels and DnCNN-3 of several tasks have 20.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Positive
from jaxgen.nets.layers import BatchNorm, Conv, pixel_shuffle, pixel_unshuffle
from jaxgen.nets.restorer import Restorer, answer, filled_up

Array = jax.Array


class _Row(nn.Module):
    """`depth` convolutions of 3x3; between the first and the last each is normalised by its batch where `norm` says so."""

    depth: int
    width: int
    out: int
    norm: bool
    eps: float
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        options = dict(padding=1, dtype=self.dtype, kernel_init=nn.initializers.he_normal())
        for i in range(self.depth - 1):
            normed = self.norm and i > 0
            x = Conv(self.width, use_bias=not normed, name=f"conv{i}", **options)(x)
            x = BatchNorm(eps=self.eps, dtype=self.dtype, name=f"norm{i}")(x, train) if normed else x
            x = nn.relu(x)
        return Conv(self.out, use_bias=not self.norm, name=f"conv{self.depth - 1}", **options)(x)


class DnCnn(Restorer, kw_only=True):
    """The picture without the noise that the net finds in it, [B, H, W, C]; where it is told a level, blind no more."""

    depth: Count = 17
    width: Count = 64
    norm: bool = True  # batch norm; False: folded into the convolutions, as KAIR's files are
    eps: Positive = 1e-4  # of the norms; the authors' value

    @nn.compact
    def __call__(self, cond: Cond | None, train: bool = False) -> Array:
        x = self.pictures(cond)
        row = _Row(self.depth, self.width, self.channels, self.norm, self.eps, self.dtype, name="row")
        return answer(x[..., : self.channels] - row(x, train))


class FfdNet(Restorer, kw_only=True):
    """The picture of a noisy one, at a quarter of the places: [B, H, W, C], any H and W.

    Embeddings are maps beside it. The condition `level` of the task degrade is in units of [-1, 1]: half of it counts in [0, 1].
    """

    depth: Count = 15  # 12 of colour
    width: Count = 64  # 96 of colour

    @nn.compact
    def __call__(self, cond: Cond | None, train: bool = False) -> Array:
        x = self.pictures(cond)
        height, width = x.shape[1:3]
        maps = sum(field.shape[-1] for field in self.conditions.of("embedding").values())
        seen, level = x[..., : x.shape[-1] - maps], x[:, ::2, ::2, x.shape[-1] - maps :]
        told = jnp.concatenate([pixel_unshuffle(filled_up(seen, 2)), 0.5 * level], -1)
        row = _Row(self.depth, self.width, 4 * self.channels, False, 1e-5, self.dtype, name="row")
        return answer(pixel_shuffle(row(told, train))[:, :height, :width])

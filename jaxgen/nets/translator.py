"""Nets that make a picture of a picture of the same size, for pix2pix and CycleGAN.

    UNetTranslator     Isola et al. 2017 (arXiv:1611.07004, section 6.1.1): halved to a point and back, with skips
    ResnetTranslator   Johnson et al. 2016 (arXiv:1603.08155) as Zhu et al. 2017 (arXiv:1703.10593, section 4) have it

Both as the authors' code has them (junyanz/pytorch-CycleGAN-and-pix2pix), whose weights `jaxgen.pretrained.translation` reads.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Natural, Precision
from jaxgen.core.spec import TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import join_pictures, value
from jaxgen.nets.gan import Norm, Player
from jaxgen.nets.layers import Conv, ConvTranspose, Dropout, dcgan_init

Array = jax.Array


class Translator(Player):
    """Called as net(cond): the pictures [B, h, w, ...] that it is told -> [B, H, W, C of the target] in [-1, 1].

    It is also called with one picture [B, H, W, C]. Pictures that are smaller than the target are enlarged first (cubic).
    Labels scale and shift what norms give (Dumoulin et al. 2016, arXiv:1610.07629): constant maps would not get past an instance
    norm. Of the pictures' sizes nothing is kept in the weights. `train` is for norms, `dropping` for dropout, which may also be
    on when it samples; None: while it trains.
    """

    takes: ClassVar[tuple[str, ...]] = ("label", "image", "latent", "mask")
    of_pictures: ClassVar[bool] = True  # it has no latent

    shape: TargetShape = (256, 256, 3)  # of the target: its channels, and how many times smaller conditions are
    width: Count = 64
    norm: str = "instance"  # batch, instance, layer or none
    dtype: Precision = "float32"

    def joined(self, told: Cond | Array | None) -> tuple[Array, Cond]:
        """(all pictures that it sees, side by side [B, H, W, K]; its conditions)."""
        if not isinstance(told, dict | None):
            return told.astype(self.dtype), {}
        fields = self.conditions.of("image", "latent", "mask")
        if not fields:
            raise UserError(
                f"{type(self).__name__} makes pictures of pictures, and is told {self.conditions or 'nothing'}; set "
                "config.tasks.hide={}"
            )
        told, name = told or {}, max(fields, key=lambda name: fields[name].shape[-3])
        num = len(next(iter(told.values()))) if told else 1
        first = value(fields, told, name, num)
        size = [n * full // own for n, full, own in zip(first.shape[1:3], self.shape, fields[name].shape, strict=False)]
        nothing = jnp.zeros((num, *size, 0), first.dtype)
        return join_pictures(nothing, self.conditions, told, self).astype(self.dtype), told

    def normalised(self, x: Array, cond: Cond | None, train: bool, name: str) -> Array:
        """x after the norm of that name."""
        told = self.conditions.of("label")
        return Norm(conditions=told, kind=self.norm, dtype=self.dtype, name=name)(x, cond, train)

    @property
    def layer(self) -> dict:
        """Options of a convolution: one in front of batch norm has no bias."""
        return dict(use_bias=self.norm != "batch", dtype=self.dtype, kernel_init=dcgan_init)


class UNetTranslator(Translator):
    """`downs` times halved by 4x4 convolutions, 8 for 256x256, 7 for 128x128; the width doubles up to eightfold.

    The sides must be multiples of 2^downs. Dropout is behind all ups of full width on both sides but the first, three in the
    paper: its only noise. Raises UserError for other sides.
    """

    downs: Count = 8
    dropout: BelowOne = 0.5

    @nn.compact
    def __call__(self, cond: Cond | Array | None, train: bool = False, dropping: bool | None = None) -> Array:
        x, cond = self.joined(cond)
        if x.shape[1] % 2**self.downs or x.shape[2] % 2**self.downs:
            both = x.shape[1] | x.shape[2]
            raise UserError(
                f"UNetTranslator with downs={self.downs} needs sides that are multiples of {2**self.downs}, not "
                f"{x.shape[1]}x{x.shape[2]}; set downs={max((both & -both).bit_length() - 1, 1)}, or data.size={2**self.downs}"
            )
        h, skips, last = x, [], self.downs - 1
        for i in range(self.downs):
            h = Conv(self.width * min(2**i, 8), 4, 2, 1, name=f"down{i}", **self.layer)(h)
            h = self.normalised(h, cond, train, f"down{i}_norm") if 0 < i < last else h
            h = nn.leaky_relu(h, 0.2)
            skips.append(h)
        for i in reversed(range(self.downs)):
            h = skips[i] if i == last else jnp.concatenate([skips[i], h], -1)
            if i == 0:
                out = ConvTranspose(self.shape[-1], name="up0", dtype=self.dtype, kernel_init=dcgan_init)
                return jnp.tanh(out(nn.relu(h)).astype(jnp.float32))
            h = ConvTranspose(self.width * min(2 ** (i - 1), 8), name=f"up{i}", **self.layer)(nn.relu(h))
            h = self.normalised(h, cond, train, f"up{i}_norm")
            h = Dropout(self.dropout)(h, train if dropping is None else dropping) if 4 <= i < last else h


class ResnetTranslator(Translator):
    """A 7x7 convolution, `downs` halvings, `blocks` residual blocks, doublings, a 7x7 convolution; borders are mirrored.

    9 blocks for 256x256, 6 for 128x128. Sides that are no multiples of 2^downs are mirrored to the next, and cut again.
    relu_after: what leaves a block goes through a ReLU, as in some other programs.
    """

    downs: Natural = 2
    blocks: Count = 9
    dropout: BelowOne = 0.0
    relu_after: bool = False

    @nn.compact
    def __call__(self, cond: Cond | Array | None, train: bool = False, dropping: bool | None = None) -> Array:
        x, cond = self.joined(cond)
        height, width, dropping = x.shape[1], x.shape[2], train if dropping is None else dropping

        def conv(h: Array, features: int, size: int, stride: int, name: str, mirrored: bool = False) -> Array:
            h = mirror(h, [(size // 2, size // 2)] * 2) if mirrored else h
            h = Conv(features, size, stride, 0 if mirrored else size // 2, name=name, **self.layer)(h)
            return self.normalised(h, cond, train, f"{name}_norm")

        if min(height, width) <= 2**self.downs:
            raise UserError(
                f"ResnetTranslator with downs={self.downs} leaves nothing of {height}x{width} to mirror at a border; set "
                f"downs={max((min(height, width) - 1).bit_length() - 1, 0)}"
            )
        more = [(0, -side % 2**self.downs) for side in (height, width)]
        h = mirror(x, more)
        h = nn.relu(conv(h, self.width, 7, 1, "stem", mirrored=True))
        for i in range(self.downs):
            h = nn.relu(conv(h, self.width << i + 1, 3, 2, f"down{i}"))
        for i in range(self.blocks):
            y = nn.relu(conv(h, h.shape[-1], 3, 1, f"block{i}_conv0", mirrored=True))
            y = Dropout(self.dropout)(y, dropping)
            h = h + conv(y, h.shape[-1], 3, 1, f"block{i}_conv1", mirrored=True)
            h = nn.relu(h) if self.relu_after else h
        for i in range(self.downs):
            h = ConvTranspose(h.shape[-1] // 2, 3, 2, 1, 1, name=f"up{i}", **self.layer)(h)
            h = nn.relu(self.normalised(h, cond, train, f"up{i}_norm"))
        out = Conv(self.shape[-1], 7, 1, 0, name="out", dtype=self.dtype, kernel_init=dcgan_init)
        return jnp.tanh(out(mirror(h, [(3, 3)] * 2)).astype(jnp.float32))[:, :height, :width]


def mirror(x: Array, edges: list[tuple[int, int]]) -> Array:
    """x [B, H, W, C] with so many rows and columns more at its borders, mirrored at their pixels' centres.

    Raises UserError where a side has not as many.
    """
    if any(max(edge) >= side for edge, side in zip(edges, x.shape[1:3], strict=True)):
        raise UserError(
            f"a picture of {x.shape[1]}x{x.shape[2]} is too small to mirror {max(map(max, edges))} pixels at its border"
        )
    return jnp.pad(x, [(0, 0), *edges, (0, 0)], "reflect") if any(map(any, edges)) else x

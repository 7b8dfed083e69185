"""PatchGAN (Isola et al. 2017, arXiv:1611.07004, section 3.2.2): a logit for every patch of an image."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural, Precision
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import image_shape, join_pictures
from jaxgen.nets.gan import Norm, Player
from jaxgen.nets.layers import Conv, dcgan_init

Array = jax.Array


class PatchGan(Player):
    """[B, H, W, C] -> logits [B, h, w], each of a square of 70 pixels with 3 `layers` (16 with 1, 34 with 2, 142 with 4).

    `layers` convolutions halve the image, two more keep its size but for a border; `width` doubles up to eightfold. layers=0:
    1x1 convolutions judge every pixel by itself. Labels are constant maps, and pictures that D is told join the channels.
    Raises UserError for an image that leaves no logit.
    """

    takes: ClassVar[tuple[str, ...]] = ("label", "image", "latent", "mask")

    width: Count = 64
    layers: Natural = 3
    norm: str = "batch"  # batch, instance, layer or none
    spectral: bool = False
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, cond: Cond | None = None, train: bool = False) -> Array:
        height, width, _ = image_shape(x.shape[1:], self)
        least = 3 * 2**self.layers if self.layers else 1  # the two last convolutions take a pixel each
        if min(height, width) < least:
            raise UserError(
                f"PatchGan with layers={self.layers} needs images of at least {least}x{least}, not {height}x{width}; "
                f"set layers={max((min(height, width) // 3).bit_length() - 1, 0)}"
            )
        x = self.with_maps(join_pictures(x, self.conditions, cond, self), cond)

        size, padding, strides = (4, 1, (*(2,) * self.layers, 1)) if self.layers else (1, 0, (1, 1))
        for i, stride in enumerate(strides):
            bias = i == 0 or self.norm != "batch"
            x = self._conv(self.width * min(2**i, 8), size, stride, padding, bias)(x)
            x = x if i == 0 else Norm(kind=self.norm, dtype=self.dtype)(x, cond, train)
            x = nn.leaky_relu(x, 0.2)
        bias = self.layers > 0 or self.norm != "batch"
        return self._conv(1, size, 1, padding, bias)(x)[..., 0].astype(jnp.float32)

    def _conv(self, features: int, size: int, stride: int, padding: int, bias: bool) -> Conv:
        options = dict(use_bias=bias, dtype=self.dtype, kernel_init=dcgan_init, spectral=self.spectral)
        return Conv(features, size, stride, padding, **options)

"""The nets of VQ-VAE-2 (Razavi et al. 2019, arXiv:1906.00446) as rosinality/vq-vae-2-pytorch has them: two levels of codes.

e_b = enc_b(x)          top    = quantise(conv(enc_t(e_b)))                         a map of x / 8
d_t = dec_t(top)        bottom = quantise(conv([d_t, e_b]))                         a map of x / 4
out = dec([up(top), bottom])
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import Count, Natural, Precision
from jaxgen.errors import UserError
from jaxgen.nets.autoencoder import Residual
from jaxgen.nets.conditioning import image_shape
from jaxgen.nets.layers import Conv, ConvTranspose, Dense
from jaxgen.nets.quantize import Ids, Quantized

Array = jax.Array


class Blocks(nn.Module):
    """Residual blocks, then ReLU."""

    hidden: int
    blocks: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.blocks):
            x = Residual(self.hidden, self.dtype, use_bias=True)(x)
        return nn.relu(x)


class Down(nn.Module):
    """[B, H, W, C] -> [B, H / 2^downs, W / 2^downs, width]."""

    width: int
    hidden: int
    blocks: int
    downs: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for features in (self.width // 2, self.width)[: self.downs]:
            x = nn.relu(Conv(features, 4, stride=2, padding=1, dtype=self.dtype)(x))
        x = Conv(self.width, 3, padding=1, dtype=self.dtype)(x)
        return Blocks(self.hidden, self.blocks, self.dtype)(x)


class Up(nn.Module):
    """[B, h, w, C] -> [B, 2^ups h, 2^ups w, features]."""

    width: int
    hidden: int
    blocks: int
    ups: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, features: int) -> Array:
        x = Conv(self.width, 3, padding=1, dtype=self.dtype)(x)
        x = Blocks(self.hidden, self.blocks, self.dtype)(x)
        if self.ups == 2:
            x = nn.relu(ConvTranspose(self.width // 2, dtype=self.dtype)(x))
        return ConvTranspose(features, dtype=self.dtype)(x)


class VqVae2Net(nn.Module):
    """Two codebooks like `quantizer`; ids: (top [B, H/8, W/8], bottom [B, H/4, W/4]), H and W divisible by 8."""

    quantizer: nn.Module
    width: Count = 128  # channels
    hidden: Count = 32  # channels inside the residual blocks
    blocks: Natural = 2  # residual blocks of every part
    dtype: Precision = "float32"

    def setup(self) -> None:
        sizes = dict(width=self.width, hidden=self.hidden, blocks=self.blocks, dtype=self.dtype)
        dim = self.quantizer.dim
        self.enc_b, self.enc_t = Down(downs=2, **sizes), Down(downs=1, **sizes)
        self.project_t, self.project_b = Dense(dim), Dense(dim)
        self.quantize_t, self.quantize_b = self.quantizer.clone(), self.quantizer.clone()
        self.dec_t, self.up_t = Up(ups=1, **sizes), ConvTranspose(dim, dtype=self.dtype)
        self.dec = Up(ups=2, **sizes)

    def quantize(self, x: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """x [B, H, W, C] -> the codes of both levels."""
        height, width, _ = image_shape(x.shape[1:], self)
        if height % 8 or width % 8:
            raise UserError(
                f"vqvae2_net halves a picture three times, which {height}x{width} does not allow; set "
                f"data.size={max(height, width) // 8 * 8 or 8}"
            )
        features = self.enc_b(x)
        top = self.quantize_t(self.project_t(self.enc_t(features).astype(jnp.float32)), train, step)
        told = self.dec_t(top.codes, self.quantizer.dim)
        both = jnp.concatenate([told, features], -1).astype(jnp.float32)
        bottom = self.quantize_b(self.project_b(both), train, step)
        each = {k: (top.metrics[k], bottom.metrics[k]) for k in top.metrics}
        metrics = {
            f"{k}_{level}": v for k, pair in each.items() for level, v in zip(("top", "bottom"), pair, strict=True)
        }
        return Quantized((top.codes, bottom.codes), (top.ids, bottom.ids), top.loss + bottom.loss, metrics)

    def encode(self, x: Array, train: bool = False) -> Ids:
        """(top, bottom)."""
        return self.quantize(x, train).ids

    def vectors(self, ids: Ids, train: bool = False) -> tuple[Array, Array]:
        """The entries of both levels, [..., D] each."""
        return self.quantize_t.vectors(ids[0]), self.quantize_b.vectors(ids[1])

    def nearest(self, z: tuple[Array, Array], train: bool = False) -> Ids:
        """The inverse, also for vectors between the entries."""
        return self.quantize_t.nearest(z[0]), self.quantize_b.nearest(z[1])

    def decode(self, ids: Ids, channels: int, train: bool = False) -> Array:
        """Both levels -> parameters of p(x | z), [B, H, W, channels]."""
        return self._decoded((self.quantize_t.lookup(ids[0]), self.quantize_b.lookup(ids[1])), channels)

    def __call__(self, x: Array, channels: int, train: bool = False, step: Array | int = 0) -> tuple[Array, Quantized]:
        """Parameters of p(x | z_q(x)), and z_q."""
        quantized = self.quantize(x, train, step)
        return self._decoded(quantized.codes, channels), quantized

    def _decoded(self, codes: tuple[Array, Array], channels: int) -> Array:
        return self.dec(jnp.concatenate([self.up_t(codes[0]).astype(jnp.float32), codes[1]], -1), channels)

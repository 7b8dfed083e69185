"""The magnitude-preserving UNet.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv:2312.02696, configuration G:
every layer is built so that inputs of unit magnitude (root of the mean square) give outputs of unit magnitude, and neither
norms with learned parameters nor biases are needed. From its appendix B:

    silu(x) / 0.596                        for E silu(x)^2 = 0.596^2 if x ~ N(0, 1)                          (81)
    sum(a, b; t) = ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)                                                 (88)
    cat(a, b; t) = sqrt((Na + Nb) / ((1 - t)^2 + t^2)) [(1 - t) / sqrt(Na) a, t / sqrt(Nb) b]               (103)
    conv(x, w)                             with w of norm 1 for each output channel                          (66)

Weights are normalised where they are used, which makes gradients tangential. Section 2.3 also asks for *forced* weight
normalisation: the optimizer's `unit=".*kernel"` puts the stored weights back to unit magnitude after each of its steps.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Natural, Precision, Remat, Share
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import TAKES, halvings, join_pictures, one_hot, vector
from jaxgen.nets.convolution import conv2d, dense, upsample2x
from jaxgen.nets.layers import Dropout, attention, kept, remat
from jaxgen.nets.unet import average2x2

EPS = 1e-4
CLIP = 256.0  # of activations: the paper trains in float16
SIZES: dict[str, int] = {"XS": 128, "S": 192, "M": 256, "L": 320, "XL": 384, "XXL": 448}  # table 2: `width`


def unit(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """x scaled to unit magnitude along `axis`."""
    x = x.astype(jnp.float32)
    return x / (EPS + jnp.sqrt(kept(jnp.mean(x * x, axis, keepdims=True))))


def mp_silu(x: Array) -> Array:
    """silu that keeps unit magnitude."""
    return nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float = 0.5) -> Array:
    """(1 - t) a + t b at unit magnitude."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a: Array, b: Array, t: float = 0.5) -> Array:
    """Concatenation along channels in which a and b have shares 1 - t and t of the magnitude."""
    na, nb = a.shape[-1], b.shape[-1]
    c = math.sqrt((na + nb) / ((1 - t) ** 2 + t**2))
    return jnp.concatenate([a * (c * (1 - t) / math.sqrt(na)), b * (c * t / math.sqrt(nb))], -1)


class MPFourier(nn.Module):
    """sqrt(2) cos(2 pi (w t + phase)), w ~ N(0, 1), phase ~ U(0, 1), never trained: t [B] -> [B, features] float32.

    Both live in the collection "fourier".
    """

    features: int

    @nn.compact
    def __call__(self, t: Array) -> Array:
        shape = (self.features,)
        w = self.variable("fourier", "frequencies", lambda: jax.random.normal(self.make_rng("params"), shape)).value
        phase = self.variable("fourier", "phases", lambda: jax.random.uniform(self.make_rng("params"), shape)).value
        return math.sqrt(2) * jnp.cos(2 * math.pi * (t.astype(jnp.float32)[:, None] * w + phase))


class MPConv(nn.Module):
    """Convolution of stride 1 at the image's size, or a linear layer (size 0), whose weights have norm 1 per output.

    gain: a learned factor that starts at zero.
    """

    features: int
    size: int = 3
    gain: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        window = (self.size,) * 2 if self.size else ()
        kernel = self.param("kernel", nn.initializers.normal(1.0), (*window, x.shape[-1], self.features))
        kernel = jnp.asarray(kernel)  # of an adapter the sum
        w = unit(kernel, tuple(range(kernel.ndim - 1))) / math.sqrt(kernel[..., 0].size)
        if self.gain:
            w = w * self.param("gain", nn.initializers.zeros, ())
        x, w = x.astype(self.dtype), w.astype(self.dtype)
        return kept(conv2d(x, w, 1, self.size // 2) if self.size else dense(x, w))


class MPBlock(nn.Module):
    """A residual block of the encoder or, with `decoder`, of the decoder: x [B, H, W, C], emb [B, E] -> [B, H, W, features].

    way: "same", "down" (means) or "up" (nearest), before anything else. heads: 0 = no attention.
    """

    features: int
    decoder: bool = False
    way: str = "same"
    heads: int = 0
    res_balance: float = 0.3
    attn_balance: float = 0.3
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, emb: Array, train: bool = False) -> Array:
        def conv(x, features, name, size=3, **kw):
            return MPConv(features, size, dtype=self.dtype, name=name, **kw)(x)

        x = {"same": lambda x: x, "down": average2x2, "up": upsample2x}[self.way](x)
        project = x.shape[-1] != self.features
        if not self.decoder:  # section B.4: the encoder's main path is normalised, the decoder's is not
            x = conv(x, self.features, "shortcut", 1) if project else x
            x = unit(x).astype(self.dtype)
        h = conv(mp_silu(x), self.features, "conv0")
        scale = 1 + conv(emb, self.features, "emb", 0, gain=True)[:, None, None]
        h = Dropout(self.dropout)(mp_silu(h * scale), train)
        h = conv(h, self.features, "conv1")
        x = conv(x, self.features, "shortcut", 1) if self.decoder and project else x
        x = mp_sum(x, h, self.res_balance)
        if self.heads:
            b, height, width, c = x.shape
            qkv = conv(x, 3 * c, "qkv", 1).reshape(b, height * width, 3, self.heads, c // self.heads)
            q, k, v = jnp.moveaxis(unit(qkv).astype(self.dtype), 2, 0)  # cosine attention
            h = conv(attention(q, k, v).reshape(x.shape), c, "out", 1)
            x = mp_sum(x, h, self.attn_balance)
        return jnp.clip(x, -CLIP, CLIP)  # at a bound its gradient is 0.5, the authors' is 1


class Edm2UNet(nn.Module):
    """The paper's net for ImageNet-512 latents, size S (280 M parameters); `SIZES` gives the width of the others.

    x [B, H, W, C] float of unit magnitude; t [B], the noise condition log(sigma) / 4; cond: conditions by name, labels (any
    number out of range is null) and embeddings summed with the embedding of t, pictures joined to x as they are;
    -> [B, H, W, out] float32, zero at the start. `train=True` draws dropout from the rng "dropout".

    shape: image or latent [H, W, C], H and W divisible by 2^(levels - 1); C is the number of output channels unless
        `out_channels` says otherwise.
    conditions: what the net is told.
    attend: image heights whose blocks attend, in heads of `head_dim` channels.
    emb_mult: channels of the embedding in units of `width`; 0 = those of the widest level.
    uncertainty_width: Fourier features of `uncertainty`.
    label_balance (time against all conditions), concat_balance, res_balance, attn_balance: t of the magnitude-preserving sums
        and concatenations.
    """

    takes: ClassVar[tuple[str, ...]] = TAKES

    shape: TargetShape = (64, 64, 4)
    conditions: Conditions = Spec()
    width: Count = 192
    mults: tuple[Count, ...] = (1, 2, 3, 4)
    blocks: Count = 3
    attend: tuple[Count, ...] = (16, 8)
    head_dim: Count = 64
    emb_mult: Natural = 0
    dropout: BelowOne = 0.0
    label_balance: Share = 0.5
    concat_balance: Share = 0.5
    res_balance: Share = 0.3
    attn_balance: Share = 0.3
    uncertainty_width: Count = 128
    out_channels: Natural = 0
    dtype: Precision = "float32"
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        x = join_pictures(x, self.conditions, cond, self)
        levels = range(len(self.mults))
        for side in x.shape[1:3]:
            if side % 2 ** levels[-1]:
                raise UserError(
                    f"edm2_unet: a side of {side} pixels cannot be halved {levels[-1]} times; set "
                    f"mults={self.mults[: halvings(side) + 1]}, or another size of the images"
                )
        kind = remat(MPBlock, self.remat, static_argnums=(3,))
        widths = [self.width * m for m in self.mults]
        attends = [self.shape[0] // 2**i in self.attend for i in levels]
        emb = self.embed(t, cond)
        if self.is_initializing():
            self.uncertainty(t)

        def block(h, features, name, decoder=False, way="same", attend=False):
            if attend and features % self.head_dim:
                fitting = math.gcd(features, self.head_dim)
                raise UserError(
                    f"edm2_unet: {features} channels do not split into heads of head_dim={self.head_dim}; set head_dim={fitting}"
                )
            module = kind(
                features, decoder, way, features // self.head_dim if attend else 0, self.res_balance, self.attn_balance,
                self.dropout, self.dtype, name=name,
            )  # fmt: skip
            return module(h, emb, train)

        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)  # in place of biases
        h = MPConv(widths[0], dtype=self.dtype, name="conv_in")(x)
        skips = [h]
        for i in levels:
            if i > 0:
                h = block(h, widths[i - 1], f"down{i}_sample", way="down")
                skips.append(h)
            for j in range(self.blocks):
                h = block(h, widths[i], f"down{i}_block{j}", attend=attends[i])
                skips.append(h)
        h = block(h, widths[-1], "mid_block0", True, attend=True)
        h = block(h, widths[-1], "mid_block1", True)
        for i in reversed(levels):
            if i < levels[-1]:
                h = block(h, widths[i + 1], f"up{i}_sample", True, "up")
            for j in range(self.blocks + 1):
                h = mp_cat(h, skips.pop(), self.concat_balance)
                h = block(h, widths[i], f"up{i}_block{j}", True, attend=attends[i])
        out = MPConv(self.out_channels or self.shape[2], gain=True, dtype=self.dtype, name="conv_out")(h)
        return out.astype(jnp.float32)

    @nn.compact_name_scope
    def uncertainty(self, t: Array, train: bool = False) -> Array:
        """u(sigma) of c_noise [B] -> [B]: logarithm of the error to expect, learned with the net (eq. 21)."""
        return MPConv(1, 0, name="linear")(MPFourier(self.uncertainty_width, name="fourier")(t))[:, 0]

    def embed(self, t: Array, cond: Cond | None) -> Array:
        """What every block is conditioned on, [B, emb_mult * width]."""
        features = self.width * (self.emb_mult or max(self.mults))
        linear = lambda name, x: MPConv(features, 0, dtype=self.dtype, name=name)(x)  # noqa: E731
        emb = linear("time", MPFourier(self.width, name="time_fourier")(t))
        vectors = []
        for name in sorted(self.conditions.of("label")):
            label = one_hot(self.conditions, cond, name, len(t))  # zeros for the null label
            vectors.append(linear(name, label * math.sqrt(label.shape[-1])))
        for name in sorted(self.conditions.of("embedding")):
            vectors.append(linear(name, vector(self.conditions, cond, name, len(t))))
        if vectors:
            emb = mp_sum(emb, sum(vectors) / math.sqrt(len(vectors)), self.label_balance)
        return mp_silu(emb)

"""The autoencoder of VQGAN (Esser et al. 2020, arXiv:2012.09841) and of latent diffusion (Rombach et al. 2021, arXiv:2112.10752).

    x -> encoder -> convolution -> regularizer -> convolution -> decoder

A regularizer is a quantiser (jaxgen.nets.quantize), or a normal posterior with a faint pull to N(0, I):

    z ~ N(mean, exp(log_var)),  KL = 1/2 sum(mean^2 + exp(log_var) - 1 - log_var)
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.core.ranges import BelowOne, Count, Natural, NonNegative, Positive, Precision
from jaxgen.core.spec import TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import halvings, image_shape
from jaxgen.nets.layers import Conv, GroupNorm, UpConv, torch_kernel_init
from jaxgen.nets.quantize import Ids, Quantized, Quantizer
from jaxgen.nets.unet import ResBlock, SelfAttention

Array = jax.Array

TORCH = dict(init=torch_kernel_init, last_init=torch_kernel_init)


class NormalRegularizer(nn.Module):
    """Moments [B, h, w, 2 dim] -> z [B, h, w, dim] ~ N(mean, exp(log_var))."""

    dim: Count = 4  # channels of a latent
    kl_weight: NonNegative = 1e-6  # of KL, in nats an image

    def moments(self, z: Array) -> tuple[Array, Array]:
        """Mean and log-variance (in [-30, 20]), float32 [B, h, w, dim] each."""
        mean, log_var = jnp.split(z.astype(jnp.float32), 2, -1)
        return mean, jnp.clip(log_var, -30.0, 20.0)

    def __call__(self, z: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """In training a draw, else the mean."""
        mean, log_var = self.moments(z)
        z = mean
        if train:
            z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(self.make_rng("codebook"), mean.shape)
        kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1.0 - log_var).reshape(len(z), -1).sum(-1)
        return Quantized(z, None, self.kl_weight * kl, {"kl": kl})


class Trunk(nn.Module):
    """What encoder and decoder share: levels by number, finest first, each of `width * mults[i]` channels."""

    width: int
    mults: tuple[float, ...]
    blocks: int
    attend: tuple[int, ...]
    attend_mid: bool
    groups: int
    eps: float
    dropout: float
    dtype: str

    def block(self, x: Array, level: int, name: str, train: bool) -> Array:
        """A residual block."""
        options = dict(eps=self.eps, dropout=self.dropout, dtype=self.dtype, **TORCH)
        return ResBlock(self.channels(level), self.groups, name=name, **options)(x, None, train)

    def attention(self, x: Array, name: str) -> Array:
        """One head over all places."""
        inits = dict(qkv_init=torch_kernel_init, out_init=torch_kernel_init)
        return SelfAttention(1, self.groups, self.eps, dtype=self.dtype, name=name, **inits)(x)

    def middle(self, x: Array, train: bool) -> Array:
        """Block, attention, block."""
        x = self.block(x, -1, "mid_block0", train)
        x = self.attention(x, "mid_attend") if self.attend_mid else x
        return self.block(x, -1, "mid_block1", train)

    def conv(self, x: Array, features: int, name: str, **options: Any) -> Array:
        """3x3."""
        return Conv(features, 3, dtype=self.dtype, name=name, **{"padding": 1, **options})(x)

    def out(self, x: Array, features: int) -> Array:
        """Norm, SiLU, convolution; float32."""
        x = nn.silu(GroupNorm(self.groups, self.eps, self.dtype, name="norm_out")(x))
        return self.conv(x, features, "conv_out").astype(jnp.float32)

    def channels(self, level: int) -> int:
        """Of a level."""
        return round(self.width * self.mults[level])


class Encoder(Trunk):
    """[B, H, W, C] -> [B, H / f, W / f, features]."""

    features: int = 0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = self.conv(x, self.width, "conv_in")
        for i in range(len(self.mults)):
            for j in range(self.blocks):
                x = self.block(x, i, f"down{i}_block{j}", train)
                x = self.attention(x, f"down{i}_attend{j}") if i in self.attend else x
            if i < len(self.mults) - 1:
                x = self.conv(x, self.channels(i), f"down{i}_sample", stride=2, padding=((0, 1), (0, 1)))
        return self.out(self.middle(x, train), self.features)


class Decoder(Trunk):
    """[B, h, w, z] -> [B, f h, f w, features]."""

    features: int = 0

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        x = self.middle(self.conv(z, self.channels(-1), "conv_in"), train)
        for i in reversed(range(len(self.mults))):
            for j in range(self.blocks + 1):
                x = self.block(x, i, f"up{i}_block{j}", train)
                x = self.attention(x, f"up{i}_attend{j}") if i in self.attend else x
            if i > 0:
                x = UpConv(self.channels(i), dtype=self.dtype, name=f"up{i}_sample")(x)
        return self.out(x, self.features)


class LdmAutoencoder(nn.Module):
    """[B, H, W, C] <-> latents [B, H / f, W / f, regularizer.dim], f = 2^(len(mults) - 1); any H and W that f divides."""

    # by which a discriminator's weight is found
    last_kernel: ClassVar[tuple[str, ...]] = ("decoder", "conv_out", "kernel")

    regularizer: nn.Module  # a quantiser, or `normal`
    shape: TargetShape = (32, 32, 3)
    width: Count = 128  # channels of the finest level
    mults: tuple[Positive, ...] = (1, 2, 4, 4)  # channels of every level, as multiples
    blocks: Count = 2  # residual blocks of a level (one more in the decoder)
    attend: tuple[Natural, ...] = ()  # levels by number, finest first, whose blocks attend
    attend_mid: bool = True  # whether the middle does
    z: Count = 4  # channels of the encoder's output (twice as many before `normal`) and of the decoder's input
    project: Natural = 1  # size of the convolutions around the regularizer (VAR: 3); 0: none, z is its dim
    groups: Count = 32  # of the norms
    eps: Positive = 1e-6  # of the norms
    dropout: BelowOne = 0.0
    learn_log_var: bool = False  # learn the log-variance of the distance, one scalar (theirs stays 0)
    dtype: Precision = "float32"

    def setup(self) -> None:
        parts = ("width", "mults", "blocks", "attend", "attend_mid", "groups", "eps", "dropout", "dtype")
        options = {name: getattr(self, name) for name in parts}
        wide = 1 if isinstance(self.regularizer, Quantizer) else 2
        if not self.project and self.z != self.regularizer.dim:
            raise UserError(
                f"without projections z={self.z} must be the regularizer's dim={self.regularizer.dim}; set "
                f"method.ae.z={self.regularizer.dim}"
            )
        self.encoder = Encoder(**options, features=wide * self.z)
        self.decoder = Decoder(**options, features=self.shape[-1])
        if self.project:
            conv = lambda features: Conv(features, self.project, padding=self.project // 2)  # noqa: E731
            self.pre, self.post = conv(wide * self.regularizer.dim), conv(self.z)
        self.log_var = self.param("log_var", nn.initializers.zeros, ()) if self.learn_log_var else jnp.zeros(())

    def features(self, x: Array, train: bool = False) -> Array:
        """What the regularizer is given, float32 [B, h, w, ...]."""
        height, width, _ = image_shape(x.shape[1:], self)
        f = 2 ** (len(self.mults) - 1)
        if height % f or width % f:
            raise UserError(
                f"ldm_autoencoder with {len(self.mults)} levels divides a picture by {f}, which {height}x{width} does not allow; "
                f"set method.ae.mults={self.mults[: min(halvings(height), halvings(width)) + 1]}"
            )
        h = self.encoder(x, train)
        return self.pre(h) if self.project else h

    def quantize(self, x: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """x [B, H, W, C] -> what passes the regularizer."""
        return self.regularizer(self.features(x, train), train=train, step=step)

    def moments(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        """Mean and log-variance of a posterior, [B, h, w, dim] each."""
        return self.regularizer.moments(self.features(x, train))

    def encode(self, x: Array, train: bool = False) -> Ids:
        """The picture's ids."""
        return self.quantize(x, train).ids

    def vectors(self, ids: Ids, train: bool = False) -> Array:
        """ids [...] -> entries of the codebook [..., D]."""
        return self.regularizer.vectors(ids)

    def nearest(self, z: Array, train: bool = False) -> Ids:
        """Vectors [..., D] -> ids int32 [...] of the entries nearest to them."""
        return self.regularizer.nearest(z)

    def decode_ids(self, ids: Ids, train: bool = False) -> Array:
        """ids -> [B, H, W, C]."""
        return self.decode(self.regularizer.lookup(ids), train)

    def decode(self, z: Array, train: bool = False) -> Array:
        """Latents [B, h, w, dim] -> [B, H, W, C]."""
        return self.decoder(self.post(z) if self.project else z, train)

    def __call__(self, x: Array, train: bool = False, step: Array | int = 0) -> tuple[Array, Quantized]:
        """The picture's reconstruction, and what passed the regularizer."""
        found = self.quantize(x, train, step)
        return self.decode(found.codes, train), found

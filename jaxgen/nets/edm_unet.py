"""The UNets of score-based models as Karras et al. trained them: DDPM++, NCSN++ and ADM.

Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456, appendix
H (DDPM++, NCSN++: FIR resampling, Fourier embedding, residual encoder, sums divided by sqrt(2)); Dhariwal & Nichol 2021,
"Diffusion Models Beat GANs", arXiv:2105.05233, section 3 (ADM: adaptive group norm, heads of 64 channels, resampling
residual blocks); Karras et al. 2022, "Elucidating the Design Space", arXiv:2206.00364, appendix F (the common form, the
augmentation label, which is an embedding, the defaults below).
"""

import math
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Natural, Number, Positive, Precision, Remat
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import TAKES, halvings, join_pictures, one_hot, vector
from jaxgen.nets.fir import Fir
from jaxgen.nets.layers import (
    Conv,
    Dense,
    Dropout,
    GaussianFourier,
    GroupNorm,
    ddpm_init,
    remat,
    timestep_embedding,
    torch_kernel_init,
)
from jaxgen.nets.unet import SelfAttention

# name -> kernels in general, kernels of queries, keys and values
INITS = {"xavier": (ddpm_init(), ddpm_init(0.2)), "torch": (torch_kernel_init, torch_kernel_init)}


def groups(channels: int) -> int:
    """At most 32 groups of at least 4 channels."""
    return max(1, min(32, channels // 4))


class EdmBlock(nn.Module):
    """norm, silu, [resample,] conv, embedding, norm, silu, dropout, conv, + shortcut[, attention]: x [B, H, W, C], emb [B, E].

    way: "same", "down" or "up". heads: 0 = no attention. project: a resampling shortcut has a 1x1 convolution too.
    """

    features: int
    way: str = "same"
    heads: int = 0
    taps: tuple[float, ...] = (1.0, 1.0)
    scale_shift: bool = False
    skip_scale: float = 1.0
    project: bool = True
    dropout: float = 0.0
    eps: float = 1e-6
    kernel_init: str = "xavier"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array | tuple[Array, ...], emb: Array, train: bool = False) -> Array:
        x = jnp.concatenate(x, -1) if isinstance(x, tuple) else x  # here, so that `remat` need not keep it
        init, qkv_init = INITS[self.kernel_init]
        resamples = self.way != "same"
        h = nn.silu(GroupNorm(groups(x.shape[-1]), self.eps, self.dtype, name="norm0")(x))
        h = Fir(self.taps, self.way, name="fir0")(h) if resamples else h
        h = Conv(self.features, 3, padding=1, dtype=self.dtype, kernel_init=init, name="conv0")(h)
        width = 2 * self.features if self.scale_shift else self.features
        emb = Dense(width, dtype=self.dtype, kernel_init=init, name="emb")(emb)[:, None, None]  # [B, 1, 1, width]
        norm = GroupNorm(groups(self.features), self.eps, self.dtype, name="norm1")
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, -1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = Dropout(self.dropout)(nn.silu(h), train)
        h = Conv(self.features, 3, padding=1, dtype=self.dtype, kernel_init=ddpm_init(0.0), name="conv1")(h)
        x = Fir(self.taps, self.way, name="fir_shortcut")(x) if resamples else x
        if x.shape[-1] != self.features or (resamples and self.project):
            x = Conv(self.features, 1, dtype=self.dtype, kernel_init=init, name="shortcut")(x)
        x = (x + h) * self.skip_scale
        if self.heads:
            x = SelfAttention(
                self.heads, groups(self.features), self.eps, 1 / self.skip_scale, self.dtype, qkv_init, name="attend"
            )(x)
        return x


class DdpmPP(nn.Module):
    """DDPM++ with the fields of EDM's CIFAR-10 net (55.7 M parameters); the other UNets of this file differ in fields.

    x [B, H, W, C] float; t [B], the noise condition c_noise (log(sigma) / 4 in EDM); cond: conditions by name, labels (any
    number out of range is null) and embeddings added to the embedding of t, pictures to x; -> [B, H, W, out] float32.
    `train=True` draws dropout from the rng "dropout".

    shape: image [H, W, C], H and W divisible by 2^(levels - 1); C is the number of output channels unless `out_channels`
        says otherwise.
    conditions: what the net is told.
    attend: image heights whose blocks attend; on the way up only the last block of a level does unless `attend_all`.
    head_dim: channels per attention head; 0 = one head.
    embedding: "sines" (of Ho et al. 2020), "cosines" (cosines first, lowest frequency 1/10,000^(1 - 2/width)) or "fourier", of
        random frequencies with standard deviation fourier_scale; sines and cosines also take several times t [B, K].
    embed_first: labels are added to the embedding before its two layers, not after them.
    noise_mult, emb_mult: channels of the embedding before and after these layers, in units of `width`.
    filter: FIR taps of the resampling; each filter is a variable of the collection "fir".
    residual_encoder: the image itself, resampled and convolved, is added at every level of the encoder.
    skip_scale: factor of each sum of a block and its shortcut.
    project: see `EdmBlock`. scale_shift: the embedding scales and shifts the second norm instead of being added before it.
    kernel_init: "xavier" (Ho et al. 2020) or "torch" (uniform of variance 1 / (3 fan_in)); biases start at zero.
    """

    takes: ClassVar[tuple[str, ...]] = TAKES

    shape: TargetShape = (32, 32, 3)
    conditions: Conditions = Spec()
    width: Count = 128
    mults: tuple[Count, ...] = (2, 2, 2)
    blocks: Count = 4
    attend: tuple[Count, ...] = (16,)
    attend_all: bool = False
    head_dim: Natural = 0
    dropout: BelowOne = 0.13
    embedding: str = "sines"
    fourier_scale: Positive = 16.0
    embed_first: bool = True
    noise_mult: Count = 1
    emb_mult: Count = 4
    filter: tuple[Number, ...] = (1.0, 1.0)
    residual_encoder: bool = False
    skip_scale: Positive = math.sqrt(0.5)
    project: bool = True
    scale_shift: bool = False
    norm_eps: Positive = 1e-6
    kernel_init: str = "xavier"
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
                    f"{type(self).__name__}: a side of {side} pixels cannot be halved {levels[-1]} times; set "
                    f"mults={self.mults[: halvings(side) + 1]}, or another size of the images"
                )
        kind = remat(EdmBlock, self.remat, static_argnums=(3,))
        widths = [self.width * m for m in self.mults]
        attends = [self.shape[0] // 2**i in self.attend for i in levels]
        emb = self.embed(t, cond)

        def heads(features):
            if not self.head_dim:
                return 1
            if features % self.head_dim:
                raise UserError(
                    f"{type(self).__name__}: {features} channels do not split into heads of head_dim={self.head_dim}; "
                    f"set head_dim={math.gcd(features, self.head_dim)}"
                )
            return features // self.head_dim

        def block(h, features, name, attend=False, way="same"):
            module = kind(
                features, way, heads(features) if attend else 0, self.filter, self.scale_shift, self.skip_scale,
                self.project, self.dropout, self.norm_eps, self.kernel_init, self.dtype, name=name,
            )  # fmt: skip
            return module(h, emb, train)

        def conv(h, features, name, init=INITS[self.kernel_init][0], **kw):
            return Conv(features, 3, dtype=self.dtype, kernel_init=init, name=name, **kw)(h)

        h = conv(x, self.width, "conv_in", padding=1)  # not mults[0] times as wide
        skips, image = [h], x
        for i in levels:
            if i > 0:
                h = block(h, widths[i - 1], f"down{i}_sample", way="down")
                if self.residual_encoder:
                    # filtering before the strided convolution equals filtering after a full one, at less work
                    image = Fir(self.filter, "blur", len(self.filter) // 2, name=f"down{i}_fir")(image)
                    image = conv(image, widths[i - 1], f"down{i}_image", stride=2, padding="VALID")
                    h = image = (h + image) * math.sqrt(0.5)
                skips.append(h)
            for j in range(self.blocks):
                h = block(h, widths[i], f"down{i}_block{j}", attends[i])
                skips.append(h)
        h = block(h, widths[-1], "mid_block0", True)
        h = block(h, widths[-1], "mid_block1")
        for i in reversed(levels):
            if i < levels[-1]:
                h = block(h, widths[i + 1], f"up{i}_sample", way="up")
            for j in range(self.blocks + 1):
                attend = attends[i] and (self.attend_all or j == self.blocks)
                h = block((h, skips.pop()), widths[i], f"up{i}_block{j}", attend)
        h = nn.silu(GroupNorm(groups(widths[0]), self.norm_eps, self.dtype, name="norm_out")(h))
        return conv(h, self.out_channels or self.shape[2], "conv_out", ddpm_init(0.0), padding=1).astype(jnp.float32)

    def embed(self, t: Array, cond: Cond | None) -> Array:
        """What every block is conditioned on, [B, emb_mult * width]."""
        init, waves = INITS[self.kernel_init][0], self.noise_mult * self.width
        dense = lambda n, name, **kw: Dense(n, dtype=self.dtype, **dict(kernel_init=init, name=name) | kw)  # noqa: E731
        if self.embedding == "fourier":
            emb = GaussianFourier(waves // 2, self.fourier_scale, log=False, name="time_fourier")(t)
        else:
            cosines = self.embedding == "cosines"
            emb = timestep_embedding(t, waves, flip_sin_to_cos=cosines, freq_shift=0.0 if cosines else 1.0)
        labels = {name: one_hot(self.conditions, cond, name, len(t)) for name in sorted(self.conditions.of("label"))}
        if self.embed_first:
            for name, label in labels.items():
                emb += dense(emb.shape[-1], name)(label * math.sqrt(label.shape[-1]))
        for name in sorted(self.conditions.of("embedding")):
            emb += dense(emb.shape[-1], name, use_bias=False)(vector(self.conditions, cond, name, len(t)))
        emb = dense(self.emb_mult * self.width, "time0")(emb)
        emb = dense(self.emb_mult * self.width, "time1")(nn.silu(emb))
        if not self.embed_first:
            for name, label in labels.items():
                emb += dense(emb.shape[-1], name, use_bias=False, kernel_init=nn.initializers.normal(1.0))(label)
        return nn.silu(emb)


class NcsnPP(DdpmPP):
    """NCSN++ of Song et al. 2021 as in EDM's CIFAR-10 runs."""

    embedding: str = "fourier"
    noise_mult: Count = 2
    filter: tuple[Number, ...] = (1.0, 3.0, 3.0, 1.0)
    residual_encoder: bool = True


class Adm(DdpmPP):
    """ADM of Dhariwal & Nichol 2021 for ImageNet at 64 x 64 (296 M parameters with its 1,000 labels)."""

    shape: TargetShape = (64, 64, 3)
    width: Count = 192
    mults: tuple[Count, ...] = (1, 2, 3, 4)
    blocks: Count = 3
    attend: tuple[Count, ...] = (32, 16, 8)
    attend_all: bool = True
    head_dim: Natural = 64
    dropout: BelowOne = 0.1
    embedding: str = "cosines"
    embed_first: bool = False
    skip_scale: Positive = 1.0
    project: bool = False
    scale_shift: bool = True
    norm_eps: Positive = 1e-5
    kernel_init: str = "torch"

"""The UNet of denoising diffusion.

Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, appendix B. The defaults are its
CIFAR-10 net (35.7 M parameters); the other fields cover what diffusers' `UNet2DModel` can be configured to.
"""

import math
from typing import Annotated, Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Natural, NonNegative, Number, Positive, Precision, Range, Remat
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import TAKES, add_vectors, join_pictures
from jaxgen.nets.convolution import sum2x2, upsample2x
from jaxgen.nets.layers import (
    Conv,
    Dense,
    Dropout,
    GaussianFourier,
    GroupNorm,
    Initializer,
    UpConv,
    attention,
    ddpm_init,
    remat,
    timestep_embedding,
)

ACTIVATIONS = {
    "silu": nn.silu,
    "swish": nn.silu,
    "relu": nn.relu,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "gelu": lambda x: nn.gelu(x, approximate=False),
}


def average2x2(x: Array) -> Array:
    """Means of 2x2 windows, [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C]; windows at an odd edge are smaller."""
    h, w = x.shape[1:3]
    edges = ((0, 0), (0, h % 2), (0, w % 2), (0, 0))
    return sum2x2(jnp.pad(x, edges)) / sum2x2(jnp.pad(jnp.ones((1, h, w, 1), x.dtype), edges))


class ResBlock(nn.Module):
    """norm, act, conv, + time embedding, norm, act, dropout, conv, + shortcut: [B, H, W, C] -> [B, H, W, features].

    resample: "none", "down" (2x2 means) or "up" (nearest) before the first convolution and on the shortcut.
    scale_shift: the embedding scales and shifts the second norm instead of being added before it. emb=None: there is none.
    """

    features: int
    groups: int = 32
    eps: float = 1e-6
    dropout: float = 0.0
    scale_shift: bool = False
    activation: str = "silu"
    resample: str = "none"
    scale: float = 1.0
    dtype: str = "float32"
    init: Initializer = ddpm_init()
    last_init: Initializer = ddpm_init(0.0)

    @nn.compact
    def __call__(self, x: Array | tuple[Array, ...], emb: Array | None = None, train: bool = False) -> Array:
        x = jnp.concatenate(x, -1) if isinstance(x, tuple) else x  # here, so that `remat` need not keep it
        act = ACTIVATIONS[self.activation]
        resample = {"none": lambda x: x, "down": average2x2, "up": upsample2x}[self.resample]
        h = act(GroupNorm(self.groups, self.eps, self.dtype, name="norm0")(x))
        x, h = resample(x), resample(h)
        h = Conv(self.features, 3, padding=1, dtype=self.dtype, kernel_init=self.init, name="conv0")(h)
        if emb is not None:
            width = 2 * self.features if self.scale_shift else self.features
            emb = Dense(width, dtype=self.dtype, kernel_init=self.init, name="emb")(act(emb))
            emb = emb[:, None, None]  # [B, 1, 1, F]
        norm = GroupNorm(self.groups, self.eps, self.dtype, name="norm1")
        if emb is not None and self.scale_shift:
            scale, shift = jnp.split(emb, 2, -1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h if emb is None else h + emb)
        h = Dropout(self.dropout)(act(h), train)
        h = Conv(self.features, 3, padding=1, dtype=self.dtype, kernel_init=self.last_init, name="conv1")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, kernel_init=self.init, name="shortcut")(x)
        return (x + h) / self.scale if self.scale != 1 else x + h


class SelfAttention(nn.Module):
    """x + out(attention(norm(x))) over all positions: [B, H, W, C] -> [B, H, W, C]. groups = 0: no norm."""

    heads: int = 1
    groups: int = 32
    eps: float = 1e-6
    scale: float = 1.0
    dtype: str = "float32"
    qkv_init: Initializer = ddpm_init()
    out_init: Initializer = ddpm_init(0.0)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, height, width, c = x.shape
        h = GroupNorm(self.groups, self.eps, self.dtype, name="norm")(x) if self.groups else x
        h = Dense(3 * c, dtype=self.dtype, kernel_init=self.qkv_init, name="qkv")(h.reshape(b, height * width, c))
        q, k, v = (a.reshape(b, height * width, self.heads, -1) for a in jnp.split(h, 3, -1))
        h = attention(q, k, v).reshape(x.shape)
        x = x + Dense(c, dtype=self.dtype, kernel_init=self.out_init, name="out")(h)
        return x / self.scale if self.scale != 1 else x


class Told(NamedTuple):
    """What every block of a net is told: the embedding of time [B, D], whether this is training, and of a text what nets know."""

    emb: Array
    train: bool
    text: Any = None


class UNet(nn.Module):
    """eps(x, t) of Ho et al. 2020, or any other output of the image's size.

    x [B, H, W, C] float; t [B] in diffusion steps, 0..999, fractions allowed, or several times [B, K]; cond: conditions by
    name, labels and embeddings added to the embedding of time, pictures to x; -> [B, H, W, out] float32. Level i works on an
    image halved i times (odd sizes round up), with `width * mults[i]` channels. Any H and W, square or not. `train=True`
    draws dropout from the rng "dropout".

    shape: image [H, W, C]; C is the number of output channels unless `out_channels` says otherwise.
    conditions: what the net is told. null_label: the tables of labels have a row for null.
    attend: image heights whose levels attend; heights that do not occur are ignored.
    attend_down, attend_up: one bool per level, finest first, in place of `attend`; () = use `attend`.
    head_dim: channels per attention head; 0 = use `heads`.
    mid_norm_groups: groups of the middle attention's norm; 0 = no norm, -1 = `groups`.
    downsample, upsample: "conv" or "resnet" (a residual block that resamples), for all levels or one per level.
    downsample_padding: of the strided convolution: "SAME" as in the paper, or 1 on every side.
    time_embedding: "positional", or "fourier" (Song et al. 2021: t is a noise level, the output is divided by it).
    time_width: channels of the time embedding; 0 = 4 * width.
    """

    takes: ClassVar[tuple[str, ...]] = TAKES
    unused: ClassVar[tuple[str, ...]] = ()  # fields that mean nothing to a net that is built on this

    shape: TargetShape = (32, 32, 3)
    conditions: Conditions = Spec()
    null_label: bool = False
    width: Count = 128
    mults: tuple[Positive, ...] = (1, 2, 2, 2)
    blocks: Count = 2
    attend: tuple[Count, ...] = (16,)
    attend_down: tuple[bool, ...] = ()
    attend_up: tuple[bool, ...] = ()
    attend_mid: bool = True
    mid_norm_groups: Annotated[int, Range(least=-1)] = -1
    mid_scale: NonNegative = 1.0
    heads: Count = 1
    head_dim: Natural = 0
    dropout: BelowOne = 0.1
    groups: Count = 32
    norm_eps: Positive = 1e-6
    activation: str = "silu"
    scale_shift: bool = False
    downsample: str | tuple[str, ...] = "conv"
    upsample: str | tuple[str, ...] = "conv"
    downsample_padding: Natural | str = "SAME"
    time_embedding: str = "positional"
    time_width: Natural = 0
    flip_sin_to_cos: bool = False
    freq_shift: Number = 1.0
    center_input: bool = False
    out_channels: Natural = 0
    dtype: Precision = "float32"
    remat: Remat = False

    def per_level(self, name: str, value: bool | int | str | tuple) -> tuple:
        """`value` for each level; a tuple must have one entry per level."""
        if not isinstance(value, tuple | list):
            return (value,) * len(self.mults)
        if len(value) != len(self.mults):
            raise UserError(f"unet: {name} has {len(value)} entries, mults {len(self.mults)}: give one per level")
        return tuple(value)

    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(round(self.width * m) for m in self.mults)

    def attends(self) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        """Whether each level attends on the way down and on the way up, finest first."""
        heights = [-(-self.shape[0] // 2**i) for i in range(len(self.mults))]
        found = tuple(h in self.attend for h in heights)
        down = self.per_level("attend_down", self.attend_down) if self.attend_down else found
        up = self.per_level("attend_up", self.attend_up) if self.attend_up else found
        return down, up

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        told = self.told(t, cond, train)
        skips = self.down(self.conv_in(x, cond), told)
        return self.scaled(self.up(self.middle(skips[-1], told), skips, told), t)

    def told(self, t: Array, cond: Cond | None, train: bool) -> Told:
        """What every block is told."""
        return Told(self.embed(t, cond), train)

    def scaled(self, out: Array, t: Array) -> Array:
        """The output, divided by the noise level where that is what t is."""
        return out / t[:, None, None, None] if self.time_embedding == "fourier" else out

    def conv_in(self, x: Array, cond: Cond | None) -> Array:
        """The first convolution, of the image and the pictures that the net is told."""
        for name in self.unused:
            if getattr(self, name) != (usual := getattr(type(self), name)):
                raise UserError(
                    f"{type(self).__name__} has no use for {name}={getattr(self, name)!r}; set {name}={usual!r}"
                )
        x = join_pictures(2 * x - 1 if self.center_input else x, self.joined(), cond, self)
        return self.conv(self.widths()[0], "conv_in", padding=1)(x)

    def joined(self) -> Spec:
        """The conditions of which the pictures are joined to the image."""
        return self.heard

    def down(self, h: Array, told: Told) -> list[Array]:
        """The way down: what the way up is shown, finest first; the last goes to the middle."""
        skips, last = [h], len(self.mults) - 1
        attends, samples = self.attends()[0], self.per_level("downsample", self.downsample)
        for i, features in enumerate(self.widths()):
            for j in range(self.blocks):
                h = self.block(h, features, f"down{i}_block{j}", told)
                h = self.look(h, i, f"down{i}_attend{j}", told) if attends[i] else h
                skips.append(h)
            if i < last:
                if samples[i] == "resnet":
                    h = self.block(h, features, f"down{i}_sample", told, "down")
                else:
                    h = self.conv(features, f"down{i}_sample", stride=2, padding=self.downsample_padding)(h)
                skips.append(h)
        return skips

    def middle(self, h: Array, told: Told) -> Array:
        """Block, attention, block."""
        last = len(self.mults) - 1
        h = self.block(h, self.widths()[-1], "mid_block0", told, scale=self.mid_scale)
        h = self.look(h, last, "mid_attend", told) if self.attend_mid else h
        return self.block(h, self.widths()[-1], "mid_block1", told, scale=self.mid_scale)

    def up(self, h: Array, skips: list[Array], told: Told) -> Array:
        """The way up, to the output."""
        widths, attends = self.widths(), self.attends()[1]
        samples, skips = self.per_level("upsample", self.upsample), list(skips)
        for i in reversed(range(len(self.mults))):
            for j in range(self.blocks + 1):
                h = self.block((h, skips.pop()), widths[i], f"up{i}_block{j}", told)
                h = self.look(h, i, f"up{i}_attend{j}", told) if attends[i] else h
            if i > 0:
                if samples[i] == "resnet":
                    h = self.block(h, widths[i], f"up{i}_sample", told, "up")
                else:
                    h = UpConv(widths[i], dtype=self.dtype, kernel_init=ddpm_init(), name=f"up{i}_sample")(h)
                h = h[:, : skips[-1].shape[1], : skips[-1].shape[2]]  # an odd size was rounded up
        return self.conv_out(h)

    def conv_out(self, h: Array) -> Array:
        """The last norm and convolution, float32."""
        h = nn.silu(GroupNorm(self.groups, self.norm_eps, self.dtype, name="norm_out")(h))
        return self.conv(self.out_channels or self.shape[2], "conv_out", 0.0, padding=1)(h).astype(jnp.float32)

    def conv(self, features: int, name: str, scale: float = 1.0, **options: Any) -> Conv:
        """A 3x3 convolution."""
        return Conv(features, 3, dtype=self.dtype, kernel_init=ddpm_init(scale), name=name, **options)

    def block(
        self,
        h: Array | tuple[Array, ...],
        features: int,
        name: str,
        told: Told,
        resample: str = "none",
        scale: float = 1.0,
    ) -> Array:
        """A residual block."""
        module = remat(ResBlock, self.remat, static_argnums=(3,))(
            features, self.groups, self.norm_eps, self.dropout, self.scale_shift, self.activation, resample, scale,
            self.dtype, name=name,
        )  # fmt: skip
        return module(h, told.emb, told.train)

    def look(self, h: Array, level: int, name: str, told: Told) -> Array:
        """Attention at a level."""
        middle, heads = name == "mid_attend", self.heads_at(level, h.shape[-1])
        groups = self.mid_norm_groups if middle and self.mid_norm_groups >= 0 else self.groups
        scale = self.mid_scale if middle else 1.0
        module = remat(SelfAttention, self.remat)(heads, groups, self.norm_eps, scale, self.dtype, name=name)
        return module(h)

    def heads_at(self, level: int, channels: int) -> int:
        """Heads of attention at a level; a UserError where channels do not split into them."""
        name = "head_dim" if self.head_dim else "heads"
        size = self.head_dim or self.per_level("heads", self.heads)[level]
        if channels % size:
            raise UserError(
                f"unet: {channels} channels do not split into {name}={size}; set {name}={math.gcd(channels, size)}"
            )
        return channels // size if self.head_dim else size

    def embed(self, t: Array, cond: Cond | None) -> Array:
        """The vector of time, labels and embeddings, [B, time_width]."""
        dim = self.time_width or 4 * self.width
        if self.time_embedding == "fourier":
            emb = GaussianFourier(self.width, name="time_fourier")(t)
        else:
            emb = timestep_embedding(t, self.width, self.flip_sin_to_cos, self.freq_shift)
        emb = Dense(dim, dtype=self.dtype, kernel_init=ddpm_init(), name="time0")(emb)
        emb = Dense(dim, dtype=self.dtype, kernel_init=ddpm_init(), name="time1")(nn.silu(emb))
        return add_vectors(emb, self.added(), cond, self.null_label, nn.initializers.normal(1.0), ddpm_init())

    def added(self) -> Spec:
        """The conditions that are added to the embedding of time."""
        return self.heard

    @property
    def heard(self) -> Spec:
        """The conditions, where those of a text are no tokens any more."""
        return self.conditions

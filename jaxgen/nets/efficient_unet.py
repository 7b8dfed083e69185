"""The Efficient U-Net of Imagen (Saharia et al. 2022, arXiv:2205.11487, appendix B).

Most blocks work where the picture is small: a level halves it before its blocks and doubles it after them, what the way up is
shown of the way down is scaled by 1/sqrt(2), and nothing stands between the two ways. Places attend to each other and to the text
in one softmax. The mean of the text, and how noisy the small picture is that is to be made larger, are told with the time.
"""

import math
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Positive
from jaxgen.core.spec import Spec
from jaxgen.nets.conditioning import Listens, Text, beside_text, read_text, seen_by_all, vector
from jaxgen.nets.layers import (
    Dense,
    GroupNorm,
    LayerNorm,
    UpConv,
    attention,
    ddpm_init,
    remat,
    split_heads,
    timestep_embedding,
)
from jaxgen.nets.unet import Told, UNet


class JointAttention(nn.Module):
    """x [B, H, W, C] + what its places see of each other and of a text -> [B, H, W, C]."""

    heads: int
    groups: int = 32
    eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, text: Text) -> Array:
        b, height, width, c = x.shape

        def linear(features, name, scale=1.0):
            return Dense(features, dtype=self.dtype, kernel_init=ddpm_init(scale), name=name)

        h = GroupNorm(self.groups, self.eps, self.dtype, name="norm")(x).reshape(b, height * width, c)
        q, k, v = split_heads(linear(3 * c, "qkv")(h), self.heads)
        told_k, told_v = split_heads(linear(2 * c, "text")(text.states), self.heads, 2)
        mask = seen_by_all(text.mask, height * width)
        h = attention(q, jnp.concatenate([told_k, k], 1), jnp.concatenate([told_v, v], 1), mask)
        return x + linear(c, "out", 0.0)(h.reshape(x.shape))


class EfficientUNet(Listens, UNet):
    """Any prediction about x that is told a text; the defaults have the widths and blocks of Imagen's net from 64 to 256 pixels.

    x [B, H, W, C] float; t [B] in diffusion steps, 0..999; cond: a text (`jaxgen.nets.conditioning`), labels and embeddings, added
    to the embedding of time, pictures, resized and joined to x; an embedding `noise` [1], the noise level in [0, 1] of a small
    picture, is embedded as the time is -> [B, H, W, out] float32. 460.5 M parameters; the paper says 600 M of a net that it does
    not describe in full.

    blocks: for all levels or one number per level, finest first. attend_down, attend_up: which levels look at the text.
    """

    unused: ClassVar[tuple[str, ...]] = ("attend_mid", "mid_norm_groups", "mid_scale", "downsample", "upsample")

    width: Count = 128
    mults: tuple[Positive, ...] = (1, 2, 4, 8)
    blocks: Count | tuple[Count, ...] = (2, 4, 8, 8)
    attend_down: tuple[bool, ...] = (False, False, False, True)
    attend_up: tuple[bool, ...] = (False, False, False, True)
    heads: Count = 8
    dropout: BelowOne = 0.0
    scale_shift: bool = True

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        cond = self.listen(len(x), cond, train)
        told = self.told(t, cond, train)
        skips = self.down(self.conv_in(x, cond), told)
        return self.scaled(self.up(skips[-1], skips[:-1], told), t)

    def told(self, t: Array, cond: Cond | None, train: bool) -> Told:
        """With the text, its mean, and the noise of a small picture."""
        text = read_text(self.heard, cond, len(t), self)
        states = LayerNorm(dtype=self.dtype, name="text_norm")(text.states)
        seen = jnp.ones_like(states[..., 0]) if text.mask is None else text.mask[:, 0].astype(states.dtype)
        mean = (states * seen[..., None]).sum(1) / jnp.maximum(seen.sum(1), 1)[:, None]
        emb = self.embed(t, cond)

        def net(h, name):
            h = nn.silu(Dense(emb.shape[-1], dtype=self.dtype, kernel_init=ddpm_init(), name=f"{name}0")(h))
            return Dense(emb.shape[-1], dtype=self.dtype, kernel_init=ddpm_init(), name=f"{name}1")(h)

        emb = emb + net(mean, "pooled")
        if self.noisy:
            level = 1000.0 * vector(self.heard, cond, "noise", len(t))[:, 0]
            emb = emb + net(timestep_embedding(level, self.width, self.flip_sin_to_cos, self.freq_shift), "noise")
        return Told(emb, train, Text(states, text.mask))

    @property
    def noisy(self) -> bool:
        """Whether it is told how noisy a small picture is."""
        return "noise" in self.heard.of("embedding")

    def added(self) -> Spec:
        """The text is looked at, and the noise has a net of its own."""
        return beside_text(self.heard).where(lambda name, _: name != "noise")

    def down(self, h: Array, told: Told) -> list[Array]:
        """What every level gives, finest first."""
        skips, attends, blocks = [], self.attends()[0], self.per_level("blocks", self.blocks)
        for i, features in enumerate(self.widths()):
            h = self.conv(features, f"down{i}_sample", stride=2, padding=self.downsample_padding)(h) if i else h
            for j in range(blocks[i]):
                h = self.block(h, features, f"down{i}_block{j}", told)
            h = self.look(h, i, f"down{i}_attend", told) if attends[i] else h
            skips.append(h)
        return skips

    def up(self, h: Array, skips: list[Array], told: Told) -> Array:
        """The way up, to the output."""
        attends, widths, blocks = self.attends()[1], self.widths(), self.per_level("blocks", self.blocks)
        for i in reversed(range(len(widths))):
            if i < len(skips):
                h = h[:, : skips[i].shape[1], : skips[i].shape[2]]  # an odd size was rounded up
                h = jnp.concatenate([h, skips[i] / math.sqrt(2)], -1)
            for j in range(blocks[i]):
                h = self.block(h, widths[i], f"up{i}_block{j}", told)
            h = self.look(h, i, f"up{i}_attend", told) if attends[i] else h
            h = UpConv(widths[i - 1], dtype=self.dtype, kernel_init=ddpm_init(), name=f"up{i}_sample")(h) if i else h
        return self.conv_out(h)

    def look(self, h: Array, level: int, name: str, told: Told) -> Array:
        """Attention to the other places and the text."""
        heads = self.heads_at(level, h.shape[-1])
        return remat(JointAttention, self.remat)(heads, self.groups, self.norm_eps, self.dtype, name=name)(h, told.text)

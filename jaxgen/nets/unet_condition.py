"""The UNet that reads a text, of latent diffusion and Stable Diffusion.

Rombach et al. 2021, "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752, section 3.3; SDXL: Podell
et al. 2023, arXiv:2307.01952. It is the UNet of `nets/unet.py` with transformers in place of attention:

    x <- x + proj_out(blocks(proj_in(GN(x))))
    block:  h <- h + attention(LN(h)),  h <- h + attention(LN(h), text),  h <- h + mlp(LN(h)), the MLP with a gate (GEGLU)

SDXL is told besides a pooled text and sizes (of the picture before it was cropped, the crop's corner, the size to make).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Natural, Number, Positive, Remat
from jaxgen.core.spec import Spec
from jaxgen.nets.conditioning import Listens, Text, TextAttention, beside_text, read_text, vector
from jaxgen.nets.dit import through
from jaxgen.nets.layers import (
    Dense,
    GroupNorm,
    LayerNorm,
    attention,
    ddpm_init,
    merge_heads,
    remat,
    split_heads,
    timestep_embedding,
)
from jaxgen.nets.unet import Told, UNet


def geglu(h: Array) -> Array:
    """[..., 2 D] -> [..., D]: the first half times GELU of the second (Shazeer 2020, arXiv:2002.05202)."""
    h, gate = jnp.split(h, 2, -1)
    return h * nn.gelu(gate, approximate=False)


class TextBlock(nn.Module):
    """Attention, attention to a text, an MLP: x [B, N, D] -> [B, N, D]."""

    heads: int
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Array, text: Text) -> Array:
        d = x.shape[-1]

        def linear(features, name, use_bias=True):
            return Dense(features, use_bias, self.dtype, name=name)

        def norm(name):
            return LayerNorm(1e-5, dtype=self.dtype, name=name)(x)

        h = attention(*split_heads(linear(3 * d, "qkv", False)(norm("norm1")), self.heads))
        x = x + linear(d, "out")(merge_heads(h))
        x = x + TextAttention(self.heads, dtype=self.dtype, name="text")(norm("norm2"), text)
        return x + linear(d, "mlp1")(geglu(linear(8 * d, "mlp0")(norm("norm3"))))


class SpatialTransformer(nn.Module):
    """x [B, H, W, C] + what blocks make of its places and of the text -> [B, H, W, C]."""

    heads: int
    layers: int = 1
    groups: int = 32
    dtype: Any = "float32"
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, text: Text) -> Array:
        b, height, width, c = x.shape
        h = GroupNorm(self.groups, 1e-6, self.dtype, name="norm")(x).reshape(b, height * width, c)
        h = Dense(c, dtype=self.dtype, name="proj_in")(h)
        kind = partial(remat(TextBlock, self.remat, prevent_cse=not self.scan), self.heads, self.dtype)
        h = through(kind, self.layers, "block", self.scan, h, text)
        return x + Dense(c, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="proj_out")(h).reshape(x.shape)


class Residuals(NamedTuple):
    """What another net adds to what the way up is shown, finest first, and to the middle."""

    skips: Sequence[Array]
    middle: Array


class UNetCondition(Listens, UNet):
    """Any prediction about x that is told a text; the defaults are the net of Stable Diffusion 1 (859.5 M parameters).

    x [B, H, W, C] float; t [B] in diffusion steps, 0..999; cond: a text (`jaxgen.nets.conditioning`), labels and embeddings,
    added to the embedding of time, and pictures, joined to x, as the other nets take them; -> [B, H, W, out] float32. Where it is
    told an embedding `size`, that and `pooled` reach the embedding of time as in SDXL: waves of each number of `size`, then a net.

    heads, layers: of the transformers, for all levels or one per level, finest first; the middle's are the last level's.
        head_dim: channels per head in place of `heads`.
    size_waves: sines and cosines of each number of `size`.
    linear_projection: how diffusers stores the ends of a transformer, linear or 1x1 convolutions; they compute the same.
    scan: the blocks of each transformer are one `lax.scan` over stacked parameters.
    """

    unused: ClassVar[tuple[str, ...]] = ("mid_norm_groups",)

    width: Count = 320
    mults: tuple[Positive, ...] = (1, 2, 4, 4)
    attend_down: tuple[bool, ...] = (True, True, True, False)
    attend_up: tuple[bool, ...] = (True, True, True, False)
    heads: Count | tuple[Count, ...] = 8
    layers: Count | tuple[Count, ...] = 1
    dropout: BelowOne = 0.0
    norm_eps: Positive = 1e-5
    downsample_padding: Natural | str = 1
    flip_sin_to_cos: bool = True
    freq_shift: Number = 0.0
    size_waves: Natural = 256
    linear_projection: bool = False
    scan: bool = False

    @nn.compact
    def __call__(
        self, x: Array, t: Array, cond: Cond | None = None, train: bool = False, residuals: Residuals | None = None
    ) -> Array:
        cond = self.listen(len(x), cond, train)
        told = self.told(t, cond, train)
        skips = self.down(self.conv_in(x, cond), told)
        h = self.middle(skips[-1], told)
        if residuals:
            skips = [skip + more for skip, more in zip(skips, residuals.skips, strict=True)]
            h = h + residuals.middle
        return self.scaled(self.up(h, skips, told), t)

    @property
    def sized(self) -> bool:
        """Whether it is told sizes."""
        return "size" in self.heard.of("embedding")

    def told(self, t: Array, cond: Cond | None, train: bool) -> Told:
        """With the text."""
        return Told(self.embed(t, cond), train, read_text(self.heard, cond, len(t), self))

    def embed(self, t: Array, cond: Cond | None) -> Array:
        """The vector of time, pooled text, sizes, labels and embeddings, [B, time_width]."""
        emb = super().embed(t, cond)
        if not self.sized:
            return emb
        size = vector(self.heard, cond, "size", len(t))
        parts = [timestep_embedding(size, self.size_waves, self.flip_sin_to_cos, self.freq_shift)]
        if "pooled" in self.heard.of("embedding"):
            parts.insert(0, vector(self.heard, cond, "pooled", len(t)))
        h = Dense(emb.shape[-1], dtype=self.dtype, kernel_init=ddpm_init(), name="added0")(jnp.concatenate(parts, -1))
        return emb + Dense(emb.shape[-1], dtype=self.dtype, kernel_init=ddpm_init(), name="added1")(nn.silu(h))

    def added(self) -> Spec:
        """The text is looked at, and what is told with `size` goes another way."""
        apart = ("pooled", "size") if self.sized else ()
        return beside_text(self.heard).where(lambda name, _: name not in apart)

    def look(self, h: Array, level: int, name: str, told: Told) -> Array:
        """A transformer that looks at the text."""
        heads = self.heads_at(level, h.shape[-1])
        layers = self.per_level("layers", self.layers)[level]
        module = SpatialTransformer(heads, layers, self.groups, self.dtype, self.scan, self.remat, name=name)
        return module(h, told.text)

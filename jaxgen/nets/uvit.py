"""The masked transformer of aMUSEd (Patil et al. 2024, arXiv:2401.01808), a small MUSE (Chang et al. 2023, arXiv:2301.00704).

A U-ViT (Hoogeboom et al. 2023, arXiv:2301.11093): residual blocks of convolutions on the grid of tokens, perhaps halved, a
transformer in the middle, residual blocks again. All look at the text; a pooled text and numbers about the picture shift and scale.
"""

import math
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural, Precision, Remat
from jaxgen.core.spec import Conditions, Spec, TargetShape, Vocabulary
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import Listens, Text, TextAttention, add_vectors, beside_text, read_text, vector
from jaxgen.nets.dit import through
from jaxgen.nets.layers import (
    Conv,
    ConvTranspose,
    Dense,
    LayerNorm,
    RmsNorm,
    attention,
    merge_heads,
    remat,
    split_heads,
    timestep_embedding,
)
from jaxgen.nets.unet_condition import geglu

normal = nn.initializers.normal(0.02)


class Layers(nn.Module):
    """What blocks are made of. c [B, D]: what shifts and scales."""

    use_bias: bool = False
    dtype: Any = "float32"

    def linear(self, features: int, name: str) -> Dense:
        """A dense layer."""
        return Dense(features, self.use_bias, self.dtype, normal, name=name)

    def norm(self, x: Array, name: str) -> Array:
        """Of length sqrt(D)."""
        return RmsNorm(dtype=self.dtype, name=name)(x)

    def steered(self, x: Array, c: Array, name: str) -> Array:
        """x (1 + scale) + shift."""
        parts = self.linear(2 * x.shape[-1], name)(nn.silu(c))
        scale, shift = jnp.split(parts.reshape(len(c), *[1] * (x.ndim - 2), -1), 2, -1)
        return x * (1 + scale) + shift

    def look(self, x: Array, text: Text, heads: int, name: str) -> Array:
        """Attention to the text."""
        return TextAttention(heads, self.use_bias, self.dtype, normal, self.use_bias, name=name)(x, text)


class ConvBlock(Layers):
    """A block of ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808) that is shifted and scaled: x [B, H, W, D] -> the same."""

    @nn.compact
    def __call__(self, x: Array, c: Array) -> Array:
        _, height, width, d = x.shape
        kernel = self.param("kernel", nn.initializers.normal(1 / 3), (3, 3, 1, d)).astype(self.dtype)
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        h = sum(padded[:, i : i + height, j : j + width] * kernel[i, j, 0] for i in range(3) for j in range(3))
        if self.use_bias:
            h += self.param("bias", nn.initializers.zeros, (d,)).astype(self.dtype)
        h = nn.gelu(self.linear(4 * d, "mlp0")(self.norm(h, "norm")), approximate=False)
        gamma, beta = (
            self.param(name, nn.initializers.zeros, (1, 1, 1, 4 * d)).astype(h.dtype) for name in ("gamma", "beta")
        )
        size = jnp.sqrt((h.astype(jnp.float32) ** 2).sum((1, 2), keepdims=True))
        h = gamma * (h * (size / (size.mean(-1, keepdims=True) + 1e-6)).astype(h.dtype)) + beta + h
        return self.steered(x + self.linear(d, "mlp1")(h), c, "adaln")


class TextBlock(Layers):
    """Attention to the text, twice: x [B, N, D] -> the same."""

    heads: int = 1

    @nn.compact
    def __call__(self, x: Array, text: Text) -> Array:
        states = text.states
        if states.shape[-1] != x.shape[-1]:
            states = self.linear(x.shape[-1], "text")(nn.silu(states))
        text = Text(states, text.mask)
        x = x + self.look(self.norm(x, "norm0"), text, self.heads, "look0")
        return x + self.look(self.norm(x, "norm1"), text, self.heads, "look1")


class Layer(Layers):
    """Attention, attention to the text, an MLP with a gate, each shifted and scaled before: x [B, N, D] -> the same."""

    heads: int = 1
    hidden: int = 1

    @nn.compact
    def __call__(self, x: Array, c: Array, text: Text) -> Array:
        d = x.shape[-1]

        def norm(i):
            return self.steered(self.norm(x, f"norm{i}"), c, f"adaln{i}")

        h = attention(*split_heads(self.linear(3 * d, "qkv")(norm(0)), self.heads))
        x = x + self.linear(d, "out")(merge_heads(h))
        x = x + self.look(norm(1), text, self.heads, "text")
        # the published nets' third is no RMS norm
        h = LayerNorm(dtype=self.dtype, use_bias=self.use_bias, name="norm2")(x)
        h = geglu(self.linear(2 * self.hidden, "mlp0")(self.steered(h, c, "adaln2")))
        return x + self.linear(d, "mlp1")(h)


class UVitMasked(Listens, Layers):
    """p(hidden token | those shown, a text): ids int32 [B, N], `vocabulary` where hidden -> logits [B, N, vocabulary].

    The defaults are aMUSEd's for pictures of 256 pixels (603 M parameters). cond: a text (`jaxgen.nets.conditioning`), `pooled`
    and the numbers `size`, which reach a net, and labels and other embeddings, added to what it gives. It has no dropout.

    shape: of the tokens, [h, w]. rows: of the table of tokens, the last that of the hidden one; 0: vocabulary + 1.
    channels, blocks, block_heads: of the residual blocks. width, depth, heads, hidden: of the transformer; hidden of its MLP.
    embed: channels of a token before the first layer. size_waves: sines and cosines of each number of `size`.
    positions: every place of the grid has a learned vector; aMUSEd knows places by the borders that its convolutions meet.
    halve: the transformer's grid has half as many rows and columns. scan: its layers are one `lax.scan`.
    """

    causal: ClassVar[bool] = False

    shape: TargetShape = (16, 16)
    vocabulary: Vocabulary = 8192
    conditions: Conditions = Spec()
    null_label: bool = True
    rows: Natural = 0
    embed: Count = 768
    channels: Count = 768
    blocks: Count = 3
    block_heads: Count = 12
    width: Count = 1024
    depth: Count = 22
    heads: Count = 16
    hidden: Count = 2816
    size_waves: Count = 256
    positions: bool = False
    halve: bool = False
    use_bias: bool = False
    dtype: Precision = "float32"
    scan: bool = False
    remat: Remat = False

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of conditions."""
        return ("label", "embedding", "mask", *(["tokens"] if self.text else []))

    @nn.compact
    def __call__(self, ids: Array, cond: Cond | None = None, train: bool = False) -> Array:
        rows, columns = self.grid()
        cond = self.listen(len(ids), cond, train)
        text = read_text(self.heard, cond, len(ids), self)
        c, states = self.told(cond, len(ids)), self.norm(self.linear(self.width, "states")(text.states), "states_norm")
        text = Text(states, text.mask)

        table = self.rows or self.vocabulary + 1
        ids = jnp.where(ids == self.vocabulary, table - 1, ids)
        x = nn.Embed(table, self.embed, embedding_init=normal, name="table")(ids)
        x = self.linear(self.channels, "embed_out")(self.norm(x, "embed_norm"))
        if self.positions:
            x = x + self.param("position", normal, (rows * columns, self.channels)).astype(x.dtype)
        x = x.reshape(-1, rows, columns, self.channels)
        if self.halve:
            halved = Conv(self.channels, 2, 2, 0, self.use_bias, self.dtype, normal, name="halved")
            x = halved(self.norm(x, "halved_norm"))
        x = self.stage(x, c, text, "down")
        h = self.linear(self.width, "in")(self.norm(x, "in_norm")).reshape(len(ids), -1, self.width)
        kind = remat(Layer, self.remat, prevent_cse=not self.scan)
        block = partial(kind, self.use_bias, self.dtype, self.heads, self.hidden)
        h = through(block, self.depth, "layer", self.scan, h, c, text)
        x = self.linear(self.channels, "out")(self.norm(h, "out_norm")).reshape(x.shape)
        x = self.stage(x, c, text, "up")
        if self.halve:
            doubled = ConvTranspose(self.channels, 2, 2, 0, 0, self.use_bias, self.dtype, normal, name="doubled")
            x = doubled(self.norm(x, "doubled_norm"))

        x = self.norm(self.linear(self.embed, "head0")(x), "head_norm")
        return self.linear(self.vocabulary, "head1")(x).reshape(len(ids), -1, self.vocabulary).astype(jnp.float32)

    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; a UserError where they cannot be halved, or a width has no whole heads."""
        rows, columns = (1, *self.shape) if len(self.shape) == 1 else (self.shape[0], math.prod(self.shape[1:]))
        if self.halve and (rows % 2 or columns % 2):
            raise UserError(f"uvit_masked: {rows} x {columns} tokens cannot be halved; set halve=False")
        for name, width in (("heads", self.width), ("block_heads", self.channels)):
            if width % getattr(self, name):
                fitting = math.gcd(width, getattr(self, name))
                raise UserError(
                    f"uvit_masked: {width} channels do not split into {name}={getattr(self, name)}; set {name}={fitting}"
                )
        return rows, columns

    def told(self, cond: Cond | None, num: int) -> Array:
        """What shifts and scales, [B, width]."""
        own = [name for name in ("pooled", "size") if name in self.heard.of("embedding")]
        parts = {name: vector(self.heard, cond, name, num) for name in own}
        if "size" in parts:
            parts["size"] = timestep_embedding(parts["size"], self.size_waves, True, 0.0)
        c = jnp.zeros((num, self.width))
        if parts:
            h = self.linear(self.width, "told0")(jnp.concatenate(list(parts.values()), -1))
            c = self.linear(self.width, "told1")(nn.silu(h))
        rest = beside_text(self.heard).where(lambda name, _: name not in own)
        return add_vectors(c, rest, cond, self.null_label, normal, normal)

    def stage(self, x: Array, c: Array, text: Text, name: str) -> Array:
        """Residual blocks and attention to the text by turns: x [B, H, W, channels]."""
        conv, look = remat(ConvBlock, self.remat), remat(TextBlock, self.remat)
        for i in range(self.blocks):
            x = conv(self.use_bias, self.dtype, name=f"{name}_conv{i}")(x, c)
            flat = x.reshape(len(x), -1, self.channels)
            x = look(self.use_bias, self.dtype, self.block_heads, name=f"{name}_look{i}")(flat, text).reshape(x.shape)
        return x

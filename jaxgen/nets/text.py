"""Encoders of text: tokens [B, L] -> states [B, L, D], text_mask [B, L] with 1 where a token is real, pooled [B, P].

`TextTransformer` is our own, small, trained along with the net that it tells. CLIP's (Radford et al. 2021, arXiv:2103.00020), T5's
(v1.1, Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020, arXiv:2002.05202) and BERT (Devlin et al. 2019, arXiv:1810.04805) are
those of published weights. Activations along the residual are float32 whatever `dtype` is, so that bfloat16 is safe.
"""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxgen.core.ranges import BelowOne, Count, Natural, Positive, Precision, Range, Remat
from jaxgen.core.spec import TextLength, TextValues
from jaxgen.errors import UserError
from jaxgen.nets.layers import Dense, Dropout, Initializer, LayerNorm, RmsNorm, attention, remat

Text = dict[str, Array]  # states, text_mask and, where there is any, pooled
ACTIVATIONS = {
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
}
init = nn.initializers.normal(0.02)  # of every table and kernel
# Of the tables of an encoder that is trained along: with 0.02 what blocks add soon drowns the tokens, and every state becomes the
# one word that explains most pixels, the background.
loud = nn.initializers.normal(1.0)


def up_to(ids: Array, last: Array) -> Array:
    """float32 [B, L]: 1 for the tokens up to and with the place `last` [B]."""
    return (jnp.arange(ids.shape[1]) <= last[:, None]).astype(jnp.float32)


def mean_of(states: Array, mask: Array) -> Array:
    """The mean [B, D] of the states [B, L, D] whose mask [B, L] is 1."""
    return (states * mask[..., None]).sum(1) / jnp.maximum(mask.sum(1), 1)[:, None]


class Block(nn.Module):
    """Attention and an MLP: x [B, L, D] -> [B, L, D]; norms stand before them, or behind (`post`)."""

    heads: int
    hidden: int
    act: str = "gelu"
    causal: bool = False
    post: bool = False
    eps: float = 1e-5
    dropout: float = 0.0
    dtype: str = "float32"
    head_dim: int = 0  # channels of a head; 0: those of x, divided among the heads
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None, train: bool = False) -> Array:
        """mask: bool [B, 1, L], the tokens that are looked at."""
        b, n, d = x.shape
        dim = self.head_dim or d // self.heads

        def linear(features: int, name: str, use_bias: bool = True) -> Dense:
            return Dense(features, use_bias, self.dtype, init, name=name)

        def norm(x: Array, name: str) -> Array:
            return LayerNorm(self.eps, dtype="float32" if self.post else self.dtype, name=name)(x)

        def attend(x: Array) -> Array:
            qkv = linear(3 * self.heads * dim, "qkv", self.qkv_bias)(x).reshape(b, n, 3, self.heads, dim)
            h = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask, self.causal)
            return Dropout(self.dropout)(linear(d, "out")(h.reshape(b, n, self.heads * dim)), train)

        def mlp(x: Array) -> Array:
            h = ACTIVATIONS[self.act](linear(self.hidden, "mlp0")(x))
            return Dropout(self.dropout)(linear(d, "mlp1")(h), train)

        if self.post:
            x = norm(x + attend(x), "norm1")
            return norm(x + mlp(x), "norm2")
        x = x + attend(norm(x, "norm1"))
        return x + mlp(norm(x, "norm2"))


class T5Block(nn.Module):
    """T5's, without biases and without the root in the attention: x [B, L, D], bias [heads, L, L], mask bool [B, 1, 1, L]."""

    heads: int
    head_dim: int
    hidden: int
    eps: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, bias: Array, mask: Array) -> Array:
        b, n, d = x.shape

        def linear(features: int, name: str) -> Dense:
            return Dense(features, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)

        def norm(x: Array, name: str) -> Array:
            return RmsNorm(self.eps, dtype=self.dtype, name=name)(x)

        qkv = linear(3 * self.heads * self.head_dim, "qkv")(norm(x, "norm1"))
        q, k, v = (a.swapaxes(1, 2) for a in jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, self.head_dim), 2, 0))
        scores = jnp.einsum("bhnd,bhmd->bhnm", q, k).astype(jnp.float32) + bias
        shares = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min)).astype(v.dtype)
        x = x + linear(d, "out")((shares @ v).swapaxes(1, 2).reshape(b, n, -1))
        gate, h = jnp.split(linear(2 * self.hidden, "mlp0")(norm(x, "norm2")), 2, -1)
        return x + linear(d, "mlp1")(ACTIVATIONS["gelu_new"](gate) * h)


class TextEncoder(nn.Module):
    """What all of them are: a table, blocks, and what is made of their states.

    scan: blocks are one `lax.scan` over parameters stacked along a leading axis (`nets.dit.stack_blocks` converts).
    """

    depth: Count = 12
    width: Count = 512
    heads: Count = 8
    dtype: Precision = "float32"
    scan: bool = False
    remat: Remat = False

    @property
    def whole(self) -> int:
        """Numbers of what is pooled; 0: nothing is."""
        return self.width

    def embed(self, values: int, length: int, ids: Array, init: Initializer = init) -> Array:
        """Rows of the tokens, and of their places where there are any: [B, L, D]."""
        x = nn.Embed(values, self.width, embedding_init=init, name="table")(ids)
        if not length:
            return x
        if ids.shape[1] > length:
            raise UserError(
                f"text: {ids.shape[1]} tokens are more than the {length} places that the encoder knows; set "
                f"config.data.tokenizer.length={length}"
            )
        return x + self.param("position", init, (length, self.width))[: ids.shape[1]]

    def through(self, kind: type[nn.Module], fields: dict[str, Any], x: Array, *args: Any) -> tuple[Array, Array]:
        """x through all blocks -> (the last states, those before the last block)."""
        if self.width % self.heads and "head_dim" not in fields:
            raise UserError(
                f"text: width={self.width} does not split into heads={self.heads}; set heads={math.gcd(self.width, self.heads)}"
            )
        block = remat(kind, self.remat, prevent_cse=not self.scan, static_argnums=(3,) if kind is Block else ())
        fields = dict(heads=self.heads, dtype=self.dtype, **fields)

        def call(block: nn.Module, states: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            return (block(states[0], *args), states[0]), None

        states = (x, x)
        if not self.scan:
            for i in range(self.depth):
                states, _ = call(block(**fields, name=f"block{i}"), states)
            return states
        rngs = {"params": True, "dropout": True}
        run = nn.scan(call, variable_axes={"params": 0}, split_rngs=rngs, length=self.depth)
        return run(block(**fields, name="blocks"), states)[0]


class TextTransformer(TextEncoder):
    """Our own, small: every token looks at all that are no pads; pooled is the projected mean of their states.

    values, length: of the tokens; what the data say. pad: the token that says nothing.
    """

    values: TextValues = 512
    length: TextLength = 32
    pad: Natural = 0
    depth: Count = 4
    width: Count = 256
    heads: Count = 4
    mlp_ratio: Positive = 4.0
    dropout: BelowOne = 0.0
    pooled: Natural = 0  # numbers of the whole text's vector; 0: as many as a state has

    @property
    def whole(self) -> int:
        """Numbers of what is pooled."""
        return self.pooled or self.width

    @nn.compact
    def __call__(self, ids: Array, train: bool = False) -> Text:
        mask = (ids != self.pad).astype(jnp.float32)
        fields = dict(hidden=round(self.mlp_ratio * self.width), dropout=self.dropout)
        x, _ = self.through(Block, fields, self.embed(self.values, self.length, ids, loud), mask[:, None] > 0, train)
        states = LayerNorm(1e-5, name="norm")(x)
        pool = Dense(self.whole, use_bias=False, dtype=self.dtype, kernel_init=init, name="pool")
        pooled = pool(mean_of(states, mask)).astype(jnp.float32)
        return {"states": states, "text_mask": mask, "pooled": pooled}


class ClipText(TextEncoder):
    """CLIP's text encoder: tokens look back. Defaults are those of ViT-L/14.

    states: "last" (behind the last norm) or "penultimate" (those before the last block, without a norm: SDXL).
    pooled: the state of the end token, behind the last norm, perhaps projected to `projection` numbers. The end is the first
    token `end`; 0: the largest number, as the published programs do where the config says eos_token_id=2, which is no end at all.
    """

    values: Count = 49_408
    length: Count = 77
    depth: Count = 12
    width: Count = 768
    heads: Count = 12
    hidden: Count = 3072
    act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    eps: Positive = 1e-5
    states: Literal["last", "penultimate"] = "last"
    projection: Natural = 0
    end: Natural = 0

    @property
    def whole(self) -> int:
        """Numbers of what is pooled."""
        return self.projection or self.width

    @nn.compact
    def __call__(self, ids: Array, train: bool = False) -> Text:
        fields = dict(hidden=self.hidden, act=self.act, causal=True, eps=self.eps)
        last, before = self.through(Block, fields, self.embed(self.values, self.length, ids), None, train)
        last = LayerNorm(self.eps, name="norm")(last)
        place = jnp.argmax(ids == self.end if self.end else ids, 1)
        pooled = jnp.take_along_axis(last, place[:, None, None], 1)[:, 0]
        if self.projection:
            pooled = Dense(self.projection, use_bias=False, dtype=self.dtype, kernel_init=init, name="project")(pooled)
        states = last if self.states == "last" else before
        return {"states": states, "text_mask": up_to(ids, place), "pooled": pooled.astype(jnp.float32)}


def buckets(length: int, count: int, far: int) -> np.ndarray:
    """int32 [length, length]: the bucket of the distance from query (row) to key, half of them for keys that come later.

    Near distances have a bucket each, farther ones share them, by their logarithm up to `far` (Raffel et al. 2020, section 2.1).
    """
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half, away = count // 2, np.abs(distance)
    near = half // 2
    share = np.log(np.maximum(away, 1).astype(np.float32) / near) / np.float32(max(math.log(far / near), 1e-6))
    coarse = np.minimum(near + (share * (half - near)).astype(np.int32), half - 1)
    return ((distance > 0) * half + np.where(away < near, away, coarse)).astype(np.int32)


class T5Encoder(TextEncoder):
    """The encoder of T5 v1.1: RMS norms, GELU with a gate, distances in the attention. Defaults are those of XXL.

    There is nothing pooled. States of pads (`pad`) mean nothing; with `pads` all tokens look at all.
    """

    values: Count = 32_128
    depth: Count = 24
    width: Count = 4096
    heads: Count = 64
    head_dim: Count = 64
    hidden: Count = 10_240
    buckets: Annotated[int, Range(least=4)] = 32
    far: Count = 128
    eps: Positive = 1e-6
    pad: Natural = 0
    pads: bool = False

    @property
    def whole(self) -> int:
        """Nothing."""
        return 0

    @nn.compact
    def __call__(self, ids: Array, train: bool = False) -> Text:
        mask = (ids != self.pad).astype(jnp.float32)
        bias = self.param("distance", init, (self.buckets, self.heads))[buckets(ids.shape[1], self.buckets, self.far)]
        fields = dict(head_dim=self.head_dim, hidden=self.hidden, eps=self.eps)
        args = bias.transpose(2, 0, 1), (mask[:, None, None] > 0) | self.pads
        x, _ = self.through(T5Block, fields, self.embed(self.values, 0, ids), *args)
        return {"states": RmsNorm(self.eps, name="norm")(x), "text_mask": mask}


class BertText(TextEncoder):
    """BERT, as published sentence encoders use it (MiniLM): pooled is the mean of the states that are no pads."""

    values: Count = 30_522
    length: Count = 512
    depth: Count = 12
    width: Count = 768
    heads: Count = 12
    hidden: Count = 3072
    eps: Positive = 1e-12
    pad: Natural = 0

    @nn.compact
    def __call__(self, ids: Array, train: bool = False) -> Text:
        mask = (ids != self.pad).astype(jnp.float32)
        x = self.embed(self.values, self.length, ids) + self.param("kind", init, (2, self.width))[0]
        x = LayerNorm(self.eps, name="norm")(x)
        fields = dict(hidden=self.hidden, post=True, eps=self.eps)
        x, _ = self.through(Block, fields, x, mask[:, None] > 0, train)
        return {"states": x, "text_mask": mask, "pooled": mean_of(x, mask)}


class LdmText(TextEncoder):
    """The encoder of the first latent diffusion told by texts (Rombach et al. 2022, arXiv:2112.10752, section 4.3.1).

    Every token looks at all, pads too; there is nothing pooled. Defaults are those of the published one.
    """

    values: Count = 30_522
    length: Count = 77
    depth: Count = 32
    width: Count = 1280
    heads: Count = 8
    head_dim: Count = 64
    hidden: Count = 5120
    eps: Positive = 1e-5
    pad: Natural = 0

    @property
    def whole(self) -> int:
        """Nothing."""
        return 0

    @nn.compact
    def __call__(self, ids: Array, train: bool = False) -> Text:
        fields = dict(hidden=self.hidden, eps=self.eps, head_dim=self.head_dim, qkv_bias=False)
        x, _ = self.through(Block, fields, self.embed(self.values, self.length, ids), None, train)
        return {"states": LayerNorm(self.eps, name="norm")(x), "text_mask": (ids != self.pad).astype(jnp.float32)}

"""Transformers over tokens: one that sees the tokens before a place, with a cache for drawing them, and one that sees all.

The form of GPT-2 (minGPT, which taming-transformers trains; Esser et al. 2020, arXiv:2012.09841):

    x <- x + attention(norm(x)),  x <- x + mlp(norm(x));  logits = linear(norm(x))

or that of LlamaGen (Sun et al. 2024, arXiv:2406.06525): RMS norms (arXiv:1910.07467), an MLP with a gate (SwiGLU,
arXiv:2002.05202), and queries and keys turned by the place of their token on the grid (RoPE, arXiv:2104.09864, in two
dimensions). What the net is told is the first token, before those of the picture; a text may stand between (DALL-E).
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Positive, Precision, Remat
from jaxgen.core.spec import Conditions, Spec, TargetShape, Vocabulary
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import add_vectors, value
from jaxgen.nets.layers import Dense, Dropout, LayerNorm, RmsNorm, attention, remat, split_heads

Cache = tuple[Array, Array]  # keys and values of a block, [B, heads, tokens, d] each
SIZES: dict[str, dict[str, int]] = {  # LlamaGen, table 2
    "B": dict(depth=12, width=768, heads=12),
    "L": dict(depth=24, width=1024, heads=16),
    "XL": dict(depth=36, width=1280, heads=20),
}
TAKES = ("label", "embedding")  # kinds of conditions
NORMS = {"layer": LayerNorm, "rms": RmsNorm}
init = nn.initializers.normal(0.02)  # of every table and kernel


def turns(shape: tuple[int, ...], dim: int, base: float = 10_000.0) -> np.ndarray:
    """Angles [1 + N, dim / 2] by which the first token (none) and those of the grid are turned: by row, then by column.

    shape: [N], [h, w] or [h, w, C]; the channels of a pixel are columns. Frequencies base^(-4 i / dim), i < dim / 4.
    """
    if dim % 4:
        raise UserError(
            f"transformer: heads of {dim} numbers do not split into two axes of pairs; set positions='learned'"
        )
    rows, columns = (1, *shape) if len(shape) == 1 else (shape[0], math.prod(shape[1:]))
    freqs = base ** (-np.arange(dim // 4) / (dim // 4))
    row, column = np.meshgrid(np.arange(1, rows + 1), np.arange(1, columns + 1), indexing="ij")
    angles = np.concatenate([place.reshape(-1, 1) * freqs for place in (row, column)], -1)
    return np.pad(angles, ((1, 0), (0, 0)))


def behind(ids: Array, end: int) -> Array:
    """bool [B, L]: which tokens of texts [B, L] fill them up behind their first `end`."""
    ends = ids == end
    return jnp.cumsum(ends, 1) > ends


def turned(x: Array, angles: Array) -> Array:
    """x [B, N, heads, d]: the pairs (x_i, x_{i + d/2}) turned by angles [N, d / 2], in float32."""
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


def attend(q: Array, parts: list[Cache], last: Array) -> Array:
    """`attention` of one query over a cache in parts, of whose last part the first `last` + 1 tokens are there.

    q [B, heads, d] -> [B, heads, d]. The parts are not joined, which would copy them.
    """
    scores = [jnp.einsum("bhd,bhmd->bhm", q / math.sqrt(q.shape[-1]), k).astype(jnp.float32) for k, _ in parts]
    there = jnp.arange(scores[-1].shape[-1]) <= last
    scores[-1] = jnp.where(there, scores[-1], -jnp.inf)
    most = jnp.stack([s.max(-1) for s in scores if s.shape[-1]]).max(0)[..., None]
    shares = [jnp.exp(s - most) for s in scores]
    out = sum(jnp.einsum("bhm,bhmd->bhd", s.astype(v.dtype), v) for s, (_, v) in zip(shares, parts, strict=True))
    return out / sum(s.sum(-1) for s in shares)[..., None].astype(out.dtype)


class Start(nn.Module):
    """The first token [B, width]: the rows of the labels and the projected embeddings, or a vector where nothing is told."""

    width: int
    conditions: Spec = Spec()
    null_label: bool = True

    @nn.compact
    def __call__(self, num: int, cond: Cond | None) -> Array:
        told = self.conditions.of(*TAKES)
        if not told:
            return jnp.broadcast_to(self.param("token", init, (self.width,)), (num, self.width))
        return add_vectors(jnp.zeros((num, self.width)), told, cond, self.null_label, init, init)


class Block(nn.Module):
    """Attention and an MLP: x [B, N, D] -> [B, N, D]; or one token of it, with the keys and values of those before."""

    heads: int
    hidden: int
    causal: bool
    norm: str = "layer"
    gated: bool = False
    qk_norm: bool = False
    use_bias: bool = True
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Array,
        angles: Array | None,
        train: bool = False,
        frozen: Cache | None = None,
        current: Cache | None = None,
        place: Array | None = None,
    ) -> tuple[Array, Cache]:
        """-> (x, its keys and values). With a cache, x [B, 1, D] is the token whose place in `current` is `place`, to which it is
        added."""
        b, n, d = x.shape

        def linear(features, name):
            return Dense(features, self.use_bias, self.dtype, init, name=name)

        def norm(x, name):
            return NORMS[self.norm](1e-5, dtype=self.dtype, name=name)(x)

        q, k, v = split_heads(linear(3 * d, "qkv")(norm(x, "norm1")), self.heads)
        if self.qk_norm:
            q, k = (RmsNorm(1e-5, dtype=self.dtype, name=name)(y) for name, y in (("norm_q", q), ("norm_k", k)))
        if angles is not None:
            q, k = turned(q, angles), turned(k, angles)
        new = (k.swapaxes(1, 2), v.swapaxes(1, 2))  # [B, heads, N, d]
        if frozen is None:
            h, current = attention(q, k, v, causal=self.causal), new
        else:
            current = tuple(lax.dynamic_update_slice_in_dim(c, y, place, 2) for c, y in zip(current, new, strict=True))
            h = attend(q[:, 0], [frozen, current], place)
        x = x + Dropout(self.dropout)(linear(d, "out")(h.reshape(b, n, d)), train)
        h = linear((1 + self.gated) * self.hidden, "mlp0")(norm(x, "norm2"))
        if self.gated:
            gate, h = jnp.split(h, 2, -1)
            h = nn.silu(gate) * h
        else:
            h = nn.gelu(h, approximate=False)
        return x + Dropout(self.dropout)(linear(d, "mlp1")(h), train), current


class Transformer(nn.Module):
    """What both transformers are. shape: of the tokens, [N], [h, w] or [h, w, C], in reading order.

    norm: "layer" or "rms". gated: SwiGLU in place of GELU; LlamaGen has mlp_ratio 8 / 3. positions: "learned" or "rope".
    qk_norm: queries and keys of a head are brought to length sqrt(d), times a learned scale.
    scan: blocks are one `lax.scan` over parameters stacked along a leading axis (`nets.dit.stack_blocks` converts).
    """

    takes: ClassVar[tuple[str, ...]] = TAKES
    causal: ClassVar[bool]
    more: ClassVar[int]  # rows of the table besides the values

    shape: TargetShape = (16, 16)
    vocabulary: Vocabulary = 1024
    conditions: Conditions = Spec()
    null_label: bool = True
    depth: Count = 12
    width: Count = 768
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    norm: str = "layer"
    gated: bool = False
    qk_norm: bool = False
    positions: str = "learned"
    use_bias: bool = True
    dropout: BelowOne = 0.0
    dtype: Precision = "float32"
    scan: bool = False
    remat: Remat = False

    @property
    def places(self) -> int:
        """Tokens of an example."""
        return math.prod(self.shape)

    @property
    def words(self) -> int:
        """Tokens of the text between the first token and those of the picture."""
        return 0

    @property
    def length(self) -> int:
        """Tokens that the blocks see; those behind the last of a picture are none."""
        return self.words + self.places + (not self.causal)

    def setup(self) -> None:
        for key, chosen, known in (("norm", self.norm, NORMS), ("positions", self.positions, ("learned", "rope"))):
            if chosen not in known:
                raise UserError(f"transformer: {key}={chosen!r} is unknown; there are: {', '.join(known)}")
        if self.width % self.heads:
            raise UserError(
                f"transformer: width={self.width} does not split into heads={self.heads}; "
                f"set heads={math.gcd(self.width, self.heads)}"
            )
        self.start = Start(self.width, self.conditions, self.null_label)
        self.table = nn.Embed(self.vocabulary + self.more, self.width, embedding_init=init)
        if self.positions == "learned":
            self.position = self.param("position", init, (self.length, self.width))
        # inside a scan XLA cannot undo the rematerialisation anyway
        kind = remat(Block, self.remat, prevent_cse=not self.scan, static_argnums=(3,))
        hidden = max(1, round(self.mlp_ratio * self.width))
        fields = dict(heads=self.heads, hidden=hidden, causal=self.causal, norm=self.norm, gated=self.gated)
        fields |= dict(qk_norm=self.qk_norm, use_bias=self.use_bias, dropout=self.dropout)
        names = ["blocks"] if self.scan else [f"block{i}" for i in range(self.depth)]
        self.stack = [kind(**fields, dtype=self.dtype, name=name) for name in names]
        self.last = NORMS[self.norm](1e-5, dtype=self.dtype)
        self.drop = Dropout(self.dropout)
        self.head = Dense(self.vocabulary, use_bias=False, dtype=self.dtype, kernel_init=init)

    def angles(self) -> np.ndarray | None:
        """By which queries and keys are turned, for every token that the blocks see."""
        if self.positions == "learned":
            return None
        found = turns(self.shape, self.width // self.heads).astype(np.float32)
        return np.pad(found, ((self.words, 0), (0, 0)))[: self.length]

    def through(self, call: Callable, x: Array, parts: Any = None) -> tuple[Array, Any]:
        """x through all blocks: call(block, x, part) -> (x, part), where `parts` has one for every block."""
        if self.scan:
            run = nn.scan(
                call, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=self.depth
            )
            return run(self.stack[0], x, parts)
        out = []
        for i, block in enumerate(self.stack):
            x, part = call(block, x, parts[i] if parts else None)
            out.append(part)
        return x, out

    def opening(self, num: int, cond: Cond | None) -> Array:
        """What stands before the tokens of a picture, [B, 1 + words, D]."""
        return self.start(num, cond)[:, None]

    def hidden(self, ids: Array, cond: Cond | None, train: bool) -> Array:
        """The opening and then `ids` [B, N] through the blocks -> [B, 1 + words + N, D]."""
        x = jnp.concatenate([self.opening(len(ids), cond), self.table(ids)], 1)
        x = x + self.position if self.positions == "learned" else x
        angles = self.angles()
        x = self.drop(x, train).astype(self.dtype)
        return self.through(lambda block, x, _: (block(x, angles, train)[0], None), x)[0]

    def logits(self, x: Array) -> Array:
        """[..., D] -> float32 [..., vocabulary]."""
        return self.head(self.last(x)).astype(jnp.float32)


class CausalTransformer(Transformer):
    """p(token | those before it, what it is told): ids int32 [B, N] -> logits [B, N, vocabulary] of each of them."""

    causal: ClassVar[bool] = True
    more: ClassVar[int] = 0

    def __call__(self, ids: Array, cond: Cond | None = None, train: bool = False) -> Array:
        return self.logits(self.hidden(ids[:, :-1], cond, train))

    def begin(self, num: int, cond: Cond | None = None, train: bool = False) -> tuple[Array, Any]:
        """What drawing begins with: the last token of the opening [B, D], and a cache of those before it."""
        *_, first = self.opening(num, cond).swapaxes(0, 1)
        return first, self.cache(num, 0)

    def cache(self, num: int, length: int) -> Any:
        """Room for the keys and values of so many tokens: [B, heads, length, d] each, for every block."""
        empty = jnp.zeros((num, self.heads, length, self.width // self.heads), self.dtype)
        if self.scan:
            return jax.tree.map(lambda x: jnp.zeros((self.depth, *x.shape), x.dtype), (empty, empty))
        return [(empty, empty)] * self.depth

    def step(
        self, before: Array, place: Array, first: Array, frozen: Any, current: Any, train: bool = False
    ) -> tuple[Array, Any]:
        """Logits [B, vocabulary] of the token at `place`, given the one before it, int32 [B]; and `current` with that.

        frozen, current: caches of the tokens that came before. Where tokens are drawn in blocks, the first does not change in a
        block, so that a loop need not carry it: it would be copied. `first`: what `self.begin` gave.
        """
        x = jnp.where(place == 0, first, self.table(before))
        angles = self.angles()
        if angles is not None:
            angles = jnp.asarray(angles)[self.words + place][None]
        if self.positions == "learned":
            x = x + self.position[self.words + place]
        inside = self.words + place - jax.tree.leaves(frozen)[0].shape[-2]

        def call(block: Block, x: Array, caches: tuple[Cache, Cache]) -> tuple[Array, Cache]:
            return block(x, angles, False, *caches, inside)

        parts = (frozen, current) if self.scan else list(zip(frozen, current, strict=True))
        x, current = self.through(call, x[:, None].astype(self.dtype), parts)
        return self.logits(x[:, 0]), current


class TextImageTransformer(CausalTransformer):
    """DALL-E's (Ramesh et al. 2021, arXiv:2102.12092): one sequence of a text and a picture, every token sees those before.

    start, text_1 .. text_L, image_1 .. image_(N-1) say text_1 .. text_L, image_1 .. image_N. What fills a text up is a token of its
    own at every place, and is not learned. positions="rope" turns the tokens of the picture; a text has learned places.
    """

    takes: ClassVar[tuple[str, ...]] = (*TAKES, "tokens")

    @property
    def told(self) -> str:
        """The name of the text; a UserError where there is none."""
        if not self.conditions.texts:
            raise UserError(
                "text_image_transformer reads a text, and the run is told none; set config.data.tokenizer=bytes on data with "
                "captions, or config.method=causal_tokens config.method.net=causal_transformer"
            )
        return next(iter(self.conditions.texts))

    @property
    def words(self) -> int:
        """Tokens of a text."""
        return self.conditions[self.told].shape[0]

    def setup(self) -> None:
        super().setup()
        values = self.conditions[self.told].values
        self.text_table = nn.Embed(values + self.words, self.width, embedding_init=init)
        self.text_head = Dense(values, use_bias=False, dtype=self.dtype, kernel_init=init)
        if self.positions == "rope":
            self.text_position = self.param("text_position", init, (self.words, self.width))

    def opening(self, num: int, cond: Cond | None) -> Array:
        """The first token and the text."""
        field = self.conditions[self.told]
        ids = value(self.conditions, cond, self.told, num)
        x = self.text_table(jnp.where(behind(ids, field.end), field.values + jnp.arange(self.words), ids))
        x = x + self.text_position if self.positions == "rope" else x
        return jnp.concatenate([super().opening(num, cond), x], 1)

    def both(self, ids: Array, cond: Cond | None = None, train: bool = False) -> tuple[Array, Array]:
        """Logits of the picture's tokens [B, N, vocabulary] and of the text's [B, L, values]."""
        x = self.hidden(ids[:, :-1], cond, train)
        text = self.text_head(self.last(x[:, : self.words])).astype(jnp.float32)
        return self.logits(x[:, self.words :]), text

    def __call__(self, ids: Array, cond: Cond | None = None, train: bool = False) -> Array:
        return self.both(ids, cond, train)[0]

    def begin(self, num: int, cond: Cond | None = None, train: bool = False) -> tuple[Array, Any]:
        """The last token of the text, and the keys and values of those before it."""
        x, angles = self.opening(num, cond), self.angles()
        first, x = x[:, -1], x[:, :-1]
        x = x + self.position[: self.words] if self.positions == "learned" else x
        angles = None if angles is None else angles[: self.words]
        return first, self.through(lambda block, x, _: block(x, angles), x.astype(self.dtype))[1]


class MaskedTransformer(Transformer):
    """p(hidden token | those shown, what it is told): ids int32 [B, N], `vocabulary` where hidden -> logits [B, N, vocabulary]."""

    causal: ClassVar[bool] = False
    more: ClassVar[int] = 1

    def __call__(self, ids: Array, cond: Cond | None = None, train: bool = False) -> Array:
        return self.logits(self.hidden(ids, cond, train)[:, 1:])

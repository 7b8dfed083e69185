"""Nets that say what a picture shows: an encoder, and a decoder that looks at its places for every word.

    lstm          Show, attend and tell (Xu et al. 2015, arXiv:1502.03044): soft attention by an MLP with a gate (section 4.2.1)
    transformer   a decoder that looks at the picture, then at the words before (Vaswani et al. 2017, arXiv:1706.03762)

All are called as net(ids [B, N], cond, train) -> (logits [B, N, V] of the word after each, shares [B, N, h, w] of its attention),
and word by word as memory = net.seen(cond), state = net.begin(memory), net.step(before, place, memory, state) -> (logits, state).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Precision
from jaxgen.core.spec import Conditions, Spec, TargetShape, Vocabulary
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import image_shape, value
from jaxgen.nets.dit import grid_of, patchify
from jaxgen.nets.layers import Dense, Dropout, LayerNorm
from jaxgen.nets.transformer import Block, init


class VitEncoder(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) without a class token: [B, H, W, C] -> [B, h, w, width]."""

    width: Count = 192
    depth: Count = 4
    heads: Count = 3
    patch: Count = 4
    dropout: BelowOne = 0.0
    dtype: Precision = "float32"

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        image_shape(x.shape[1:], self)
        rows, columns = grid_of(self, x)
        h = Dense(self.width, dtype=self.dtype, name="patches")(patchify(x, self.patch))
        h += self.param("position", init, h.shape[1:]).astype(h.dtype)
        h = Dropout(self.dropout)(h, train)
        for i in range(self.depth):
            h, _ = Block(self.heads, 4 * self.width, False, dropout=self.dropout, dtype=self.dtype, name=f"block{i}")(
                h, None, train
            )
        h = LayerNorm(1e-5, dtype=self.dtype, name="last")(h)
        return h.reshape(len(x), rows, columns, self.width)


class Captioner(nn.Module):
    """What both are. shape: [L] tokens of a text; width: of words and of the places that they look at."""

    takes: ClassVar[tuple[str, ...]] = ("image",)
    words_init: ClassVar[Any] = staticmethod(init)

    encoder: nn.Module
    shape: TargetShape = (32,)
    vocabulary: Vocabulary = 512
    conditions: Conditions = Spec()
    width: Count = 192
    dropout: BelowOne = 0.1
    dtype: Precision = "float32"

    def setup(self) -> None:
        self.table = nn.Embed(self.vocabulary, self.width, embedding_init=self.words_init)
        self.project = Dense(self.width, dtype=self.dtype)
        self.place = self.param("place", init, (*self._places(), self.width))
        self.drop = Dropout(self.dropout)
        self.head = Dense(self.vocabulary, dtype=self.dtype)
        self.parts()

    def parts(self) -> None:
        """What the decoder has besides."""
        raise TypeError(f"{type(self).__name__} must make its decoder")

    def _picture(self) -> str:
        """The name of the picture that is looked at."""
        return next(iter(self.conditions.of("image")))

    def _places(self) -> tuple[int, int]:
        """Rows and columns of what is looked at."""
        shape = (1, *self.conditions[self._picture()].shape)
        encoder = self.encoder.clone(parent=None)
        out = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), jnp.zeros(shape))[0])
        return image_shape(out.shape[1:], self.encoder, "features")[:2]

    def seen(self, cond: Cond | None, train: bool = False) -> Array:
        """The places of the picture, [B, h w, width]."""
        name = self._picture()
        num = len(cond[name]) if cond else 1
        x = self.encoder(value(self.conditions, cond, name, num), train=train)
        x = self.project(x.astype(self.dtype)) + self.place.astype(self.dtype)
        return self.drop(x.reshape(num, -1, self.width), train)

    def mapped(self, shares: Array) -> Array:
        """Shares of the places [B, N, h w] -> [B, N, h, w]."""
        return shares.reshape(*shares.shape[:2], *self.place.shape[:2])


class Cell(nn.Module):
    """A word of show, attend and tell: (h, c) and the word before [B, D] -> (h, c), what is said of the next [B, D], shares."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], word: Array, memory: Array) -> tuple[tuple, tuple[Array, Array]]:
        def linear(features, name, use_bias=True):
            return Dense(features, use_bias, dtype=self.dtype, name=name)

        h, c = carry
        shown = linear(self.width, "places")(memory) + linear(self.width, "asks", False)(h)[:, None]
        shares = jax.nn.softmax(linear(1, "score", False)(jnp.tanh(shown))[..., 0].astype(jnp.float32))  # [B, M]
        context = (shares[..., None].astype(memory.dtype) * memory).sum(1)
        context *= nn.sigmoid(linear(self.width, "gate")(h))  # beta of section 4.2.1
        gates = linear(4 * self.width, "lstm")(jnp.concatenate([word, context, h], -1))
        i, f, o, g = jnp.split(gates, 4, -1)
        c = nn.sigmoid(f + 1.0) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(c)
        said = word + linear(self.width, "out_state")(h) + linear(self.width, "out_place", False)(context)  # eq. 7
        return (h, c), (jnp.tanh(said), shares)


class LstmCaptioner(Captioner):
    """Show, attend and tell; what is seen at first is the mean of the places."""

    # of 0.02, as a transformer's, the state hears words too faintly: it learned 30 photographs at a third of the pace
    words_init = staticmethod(nn.initializers.normal(1.0))

    def parts(self) -> None:
        """The cell, and what its state is at first."""
        self.cell = Cell(self.width, self.dtype)
        self.first = Dense(2 * self.width, dtype=self.dtype)

    def begin(self, memory: Array, train: bool = False) -> tuple[Array, Array]:
        """(h, c) before the first word."""
        return tuple(jnp.split(jnp.tanh(self.first(memory.mean(1))), 2, -1))

    def step(
        self, before: Array, place: Array, memory: Array, state: tuple, train: bool = False
    ) -> tuple[Array, tuple]:
        """Logits [B, V] of the word at `place`, given the one before, int32 [B]."""
        state, (said, _) = self.cell(state, self.table(before).astype(self.dtype), memory)
        return self.head(said).astype(jnp.float32), state

    def __call__(self, ids: Array, cond: Cond | None = None, train: bool = False) -> tuple[Array, Array]:
        memory = self.seen(cond, train)
        words = self.drop(self.table(ids), train).astype(self.dtype)
        run = nn.scan(
            lambda cell, carry, word: cell(carry, word, memory),
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        _, (said, shares) = run(self.cell, self.begin(memory), words)
        return self.head(self.drop(said, train)).astype(jnp.float32), self.mapped(shares)


class Look(nn.Module):
    """x [B, N, D] + what it finds at the places [B, M, D]; the mean over heads of its shares [B, N, M]."""

    heads: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, memory: Array, train: bool = False) -> tuple[Array, Array]:
        b, n, d = x.shape

        def split(x, name):
            return Dense(d, dtype=self.dtype, kernel_init=init, name=name)(x).reshape(
                b, -1, self.heads, d // self.heads
            )

        q = split(LayerNorm(1e-5, dtype=self.dtype, name="norm")(x), "q") * (d // self.heads) ** -0.5
        k, v = split(memory, "k"), split(memory, "v")
        shares = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k).astype(jnp.float32))
        h = jnp.einsum("bhnm,bmhd->bnhd", shares.astype(v.dtype), v).reshape(b, n, d)
        h = Dense(d, dtype=self.dtype, kernel_init=init, name="out")(h)
        return x + Dropout(self.dropout)(h, train), shares.mean(1)


class TransformerCaptioner(Captioner):
    """Blocks that look at the picture, then at the words before; the shares are the mean over heads and blocks."""

    depth: Count = 3
    heads: Count = 6

    def parts(self) -> None:
        """Blocks."""
        if self.width % self.heads:
            raise UserError(
                f"transformer_captioner: width={self.width} does not split into heads={self.heads}; set heads=1"
            )
        self.position = self.param("position", init, (self.shape[0], self.width))
        self.looks = [Look(self.heads, self.dropout, self.dtype, name=f"look{i}") for i in range(self.depth)]
        fields = dict(causal=True, dropout=self.dropout, dtype=self.dtype)
        self.blocks = [Block(self.heads, 4 * self.width, **fields, name=f"block{i}") for i in range(self.depth)]
        self.last = LayerNorm(1e-5, dtype=self.dtype)

    def begin(self, memory: Array, train: bool = False) -> Any:
        """Room for the keys and values of all words, of every block."""
        empty = jnp.zeros((len(memory), self.heads, self.shape[0], self.width // self.heads), self.dtype)
        return [(empty, empty)] * self.depth

    def step(self, before: Array, place: Array, memory: Array, state: Any, train: bool = False) -> tuple[Array, Any]:
        """Logits [B, V] of the word at `place`, given the one before, int32 [B]; and the state with that."""
        x, after = (self.table(before) + self.position[place])[:, None].astype(self.dtype), []
        for look, block, cache in zip(self.looks, self.blocks, state, strict=True):
            none = jax.tree.map(lambda a: a[:, :, :0], cache)
            x, cache = block(look(x, memory)[0], None, False, none, cache, place)
            after.append(cache)
        return self.head(self.last(x[:, 0])).astype(jnp.float32), after

    def __call__(self, ids: Array, cond: Cond | None = None, train: bool = False) -> tuple[Array, Array]:
        memory, shares = self.seen(cond, train), []
        x = self.drop(self.table(ids) + self.position[: ids.shape[1]], train).astype(self.dtype)
        for look, block in zip(self.looks, self.blocks, strict=True):
            x, share = look(x, memory, train)
            x, _ = block(x, None, train)
            shares.append(share)
        return self.head(self.last(x)).astype(jnp.float32), self.mapped(sum(shares) / self.depth)

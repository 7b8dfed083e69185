"""PixelRNN (van den Oord et al. 2016, arXiv:1601.06759): LSTMs over pictures, sections 3.1 and 3.2.

    Row LSTM         a pixel's state comes from three of the row above: a triangle of the rows above is seen
    Diagonal BiLSTM  from the pixel above and the one before, and in a second pass from the other side: all pixels before are seen

All pixels of a row (of a diagonal, once the rows are shifted against one another) are computed at once.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from jaxgen.core.ranges import Count
from jaxgen.nets.causal import Around, CausalConv, MaskA, Place, Pointwise, form, note
from jaxgen.nets.convolution import dense
from jaxgen.nets.layers import Dropout, torch_kernel_init
from jaxgen.nets.pixelcnn import CausalNet, Head


def cell(gates: Array, memory: Array) -> Array:
    """Gates [..., 4 F], memory [..., F] -> hidden state and memory [..., 2 F] (eq. 3)."""
    out, forget, into, content = jnp.split(gates, 4, -1)
    memory = jax.nn.sigmoid(forget) * memory + jax.nn.sigmoid(into) * jnp.tanh(content)
    return jnp.concatenate([jax.nn.sigmoid(out) * jnp.tanh(memory), memory], -1)


class RowLstm(nn.Module):
    """[B, H, W, C] -> [B, H, W, width]."""

    width: Count
    order: Count
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, vector: Array | None, at: Place) -> Array:
        width = self.width
        gates = CausalConv(4 * width, self.order, 4, back=1, dtype=self.dtype)(x, vector)
        kernel = self.param("state", torch_kernel_init, (3 * width, 4 * width)).astype(self.dtype)

        def from_above(state: Array) -> Array:  # [..., W, 2 F] -> [..., W, 4 F]
            h = jnp.pad(state[..., :width], [(0, 0)] * (state.ndim - 2) + [(1, 1), (0, 0)])
            near = [lax.slice_in_dim(h, k, k + state.shape[-2], axis=h.ndim - 2) for k in range(3)]
            return dense(jnp.concatenate(near, -1), kernel)

        if form(self) == "row":
            state = self.get_variable("row", "rows")
            self.put_variable("row", "above", from_above(state))
            return state[..., :width]  # nobody looks at it
        if form(self) == "pixel":
            state = cell(gates + self.get_variable("row", "above"), self.get_variable("row", "rows")[..., width:])
            self.put_variable("pixel", "now", state)
            return state[..., :width]
        if form(self) == "fixed":
            note(self, jnp.zeros((*x.shape[:3], 2 * width), x.dtype), 1, 0)
            self.put_variable("row", "above", gates[:, :1])

        def one_row(state: Array, gates: Array) -> tuple[Array, Array]:
            state = cell(gates + from_above(state), state[..., width:])
            return state, state[..., :width]

        start = jnp.zeros((len(x), x.shape[2], 2 * width), gates.dtype)
        return jnp.moveaxis(lax.scan(one_row, start, jnp.moveaxis(gates, 1, 0))[1], 0, 1)


def skew(x: Array) -> Array:
    """[B, H, W, C] -> [H + W - 1, B, H, C]: its diagonals; row i is i columns further on."""
    b, h, w, c = x.shape
    wide = jnp.pad(x, ((0, 0), (0, 0), (0, h), (0, 0))).reshape(b, -1, c)[:, : h * (w + h - 1)]
    return jnp.moveaxis(wide.reshape(b, h, w + h - 1, c), 2, 0)


def unskew(x: Array, width: int) -> Array:
    """The inverse: [H + W - 1, B, H, C] -> [B, H, W, C]."""
    x = jnp.moveaxis(x, 0, 2)
    b, h, wide, c = x.shape
    x = jnp.pad(x.reshape(b, -1, c), ((0, 0), (0, h), (0, 0)))
    return x.reshape(b, h, wide + 1, c)[:, :, :width]


class DiagonalLstm(nn.Module):
    """[B, H, W, C] -> [B, H, W, width]: from the upper left; or from the upper right, and one row late."""

    width: Count
    order: Count
    late: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, vector: Array | None, at: Place) -> Array:
        width, order = self.width, 1 if self.late else self.order
        flip = (lambda v: v[:, :, ::-1]) if self.late else (lambda v: v)
        before, above = jnp.split(self.param("state", torch_kernel_init, (2 * width, 4 * width)).astype(self.dtype), 2)
        into = Pointwise(4 * width, order, 4, dtype=self.dtype)

        def along(gates: Array) -> Array:  # a row's [B, 1, W, 4 F], told the row above -> its states [B, 1, W, 2 F]
            def one(state: Array, gates: Array) -> tuple[Array, Array]:
                state = cell(gates + dense(state[..., :width], before), state[..., width:])
                return state, state

            start = jnp.zeros((len(gates), 1, 2 * width), gates.dtype)
            return jnp.moveaxis(lax.scan(one, start, jnp.moveaxis(gates, 2, 0))[1], 0, 2)

        if form(self) == "row" and not self.late:
            state = self.get_variable("row", "rows")
            self.put_variable("row", "above", dense(state[..., :width], above))
            return state[..., :width]  # nobody looks at it
        if form(self) == "row":  # the row that is whole by now
            gates = into(self.get_variable("row", "rows"), vector) + dense(
                self.get_variable("row", "state")[..., :width], above
            )
            state = jnp.where(at[0] > 0, flip(along(flip(gates))), 0.0)
            self.put_variable("row", "state", state)
            return state[..., :width]
        if form(self) == "pixel" and not self.late:
            last = self.get_variable("pixel", "back")
            gates = into(x, vector) + self.get_variable("row", "above") + dense(last[..., :width], before)
            state = cell(gates, last[..., width:])
            self.put_variable("pixel", "back", state)
            self.put_variable("pixel", "now", state)
            return state[..., :width]
        if form(self) == "pixel":
            self.put_variable("pixel", "now", x)
            return self.get_variable("row", "state")[..., :width]
        gates = into(x, vector)
        if form(self) == "fixed":
            states = jnp.zeros((*x.shape[:3], 2 * width), gates.dtype)
            note(self, x if self.late else states, 1, 0 if self.late else 1)
            self.put_variable("row", "state" if self.late else "above", states[:, :1] if self.late else gates[:, :1])

        height, columns = x.shape[1:3]
        inside = skew(jnp.ones((1, height, columns, 1), bool))

        def one_diagonal(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            gates, inside = inputs
            h = state[..., :width]
            higher = jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0)))
            gates += dense(jnp.concatenate([h, higher], -1), jnp.concatenate([before, above]))
            state = jnp.where(inside, cell(gates, state[..., width:]), 0.0)
            return state, state[..., :width]

        start = jnp.zeros((len(x), height, 2 * width), gates.dtype)
        h = flip(unskew(lax.scan(one_diagonal, start, (skew(flip(gates)), inside))[1], columns))
        return jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0))) if self.late else h


class DiagonalBiLstm(nn.Module):
    """[B, H, W, C] -> [B, H, W, width]."""

    width: Count
    order: Count
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, vector: Array | None, at: Place) -> Array:
        sides = (DiagonalLstm(self.width, self.order, late, self.dtype)(x, vector, at) for late in (False, True))
        return sum(sides)


class PixelRnn(CausalNet):
    """Residual LSTMs; the paper's sizes for CIFAR-10."""

    depth: Count = 12
    hidden: Count = 1024

    lstm = None  # the layer

    def out(self, around: Around, channels: int, order: int, vector: Array | None, train: bool, at: Place) -> Array:
        """The layers."""
        y = MaskA(2 * self.width, order=order, dtype=self.dtype)(around, vector)
        for _ in range(self.depth):
            h = Dropout(self.dropout)(self.lstm(self.width, order, self.dtype)(y, vector, at), train)
            y += Pointwise(2 * self.width, order, dtype=self.dtype)(h)
        return Head(self.hidden, channels, order, self.dtype)(y)


class RowPixelRnn(PixelRnn):
    """With row LSTMs."""

    lstm = RowLstm


class DiagonalPixelRnn(PixelRnn):
    """With diagonal BiLSTMs."""

    lstm = DiagonalBiLstm

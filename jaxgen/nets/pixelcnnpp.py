"""PixelCNN++ (Salimans et al. 2017, arXiv:1701.05517): gated ResNets down to a quarter of the resolution and up again.

Two streams: one sees the rows above (2x3 taps), the other the pixels before as well (2x2 taps) and is told the first. Every layer
has weight normalisation; every block of the way up is told the block of the way down at its place.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.ranges import BelowOne, Count
from jaxgen.errors import UserError
from jaxgen.nets.causal import Around, CausalConv, PixelUp, Place, Pointwise, RowConv, RowUp, form, note, once_a_row
from jaxgen.nets.layers import Dropout
from jaxgen.nets.pixelcnn import CausalNet

Blocks = tuple  # what the blocks of a level gave: (on the way down, Blocks of the level below, on the way up), or ()


def concat_elu(x: Array) -> Array:
    """elu of x and of -x, [..., 2 C]."""
    return nn.elu(jnp.concatenate([x, -x], -1))


class GatedResnet(nn.Module):
    """x + a sigmoid(b), where a and b are two layers deep."""

    conv: Any
    width: Count
    dropout: BelowOne
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, beside: Array | None, vector: Array | None, train: bool) -> Array:
        y = self.conv(self.width, normed=True, dtype=self.dtype)(concat_elu(x))
        if beside is not None:
            y += Pointwise(self.width, normed=True, dtype=self.dtype, name="beside")(concat_elu(beside))
        y = Dropout(self.dropout)(concat_elu(y), train)
        y = self.conv(2 * self.width, normed=True, gain=0.1, dtype=self.dtype)(y, vector)
        a, b = jnp.split(y, 2, -1)
        return x + a * jax.nn.sigmoid(b)


class Level(nn.Module):
    """One resolution of a stream and what is below it. `rows`: the stream that is run once a row, and told of no other.

    __call__(x, the other stream's blocks) -> (x, its own blocks: (on the way down, those below, on the way up)).
    """

    rows: bool
    levels: Count  # this one and those below
    blocks: Count
    width: Count
    dropout: BelowOne
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, others: Blocks, vector: Array | None, train: bool, at: Place) -> tuple[Array, Blocks]:
        conv = partial(RowConv, rows=1, side=1) if self.rows else partial(CausalConv, rows=1, left=1, back=1)
        block = partial(GatedResnet, conv, self.width, self.dropout, self.dtype)
        down, under, up, skips = [], (), [], [x]
        for i in range(self.blocks):
            x = block()(x, others[0][i] if others else None, vector, train)
            down.append(x)
        skips += down
        if self.levels > 1:
            if form(self) in ("whole", "fixed") and (x.shape[1] % 2 or x.shape[2] % 2):
                raise UserError(
                    f"pixelcnnpp halves its pictures, and {x.shape[1]}x{x.shape[2]} is odd; set method.net.levels=1 (or fewer than "
                    "there are)"
                )
            y = conv(self.width, stride=2, normed=True, dtype=self.dtype)(x)
            below = Level(self.rows, self.levels - 1, self.blocks, self.width, self.dropout, self.dtype, name="below")
            x, under = self._at_its_places(below, y, others and others[1], vector, train, at)
            x = (RowUp if self.rows else PixelUp)(self.width, normed=True, dtype=self.dtype, name="up")(x, at)
        else:
            skips.pop()
        for i, skip in enumerate(reversed(skips)):
            x = block()(x, jnp.concatenate([others[2][i], skip], -1) if others else skip, vector, train)
            up.append(x)
        return self._noted((x, (down, under, up) if self.rows else ()))

    def _noted(self, found: tuple[Array, Blocks]) -> tuple[Array, Blocks]:
        """`found`, which the level above asks for again at places that this level has not."""
        if form(self) == "fixed" and self.rows:
            self.put_variable("row", "found", jax.tree.map(lambda v: v[:, :1], found))
        elif form(self) == "fixed":
            note(self, found[0], 1, 0)
        elif form(self) == "row" and self.rows:
            self.put_variable("row", "found", found)
        elif form(self) == "pixel":
            self.put_variable("pixel", "now", found[0])
        return found

    def _at_its_places(self, below: nn.Module, y: Array, others: Blocks, vector, train: bool, at: Place) -> Any:
        """The level below at every other row and pixel; between these what it said last, or in the row above."""
        if at is None:
            return below(y, others, vector, train, at)
        row, half, pixel = at[0] % 2 == 0, jax.tree.map(lambda place: place // 2, at), form(self) == "pixel"

        def last(level: nn.Module, y: Array, _: Blocks) -> tuple[Array, Blocks]:
            if self.rows:
                return level.get_variable("row", "found")
            before = level.get_variable("row", "rows")
            return (jnp.where(row, level.get_variable("pixel", "now"), before) if pixel else y), ()

        there = row & (at[1] % 2 == 0) if pixel else row
        return nn.cond(there, lambda level, y, others: level(y, others, vector, train, half), last, below, y, others)


class PixelCnnPP(CausalNet):
    """The paper's sizes for CIFAR-10. The picture needs a further channel of ones, which tells the border from grey."""

    width: Count = 160
    blocks: Count = 5  # at a resolution, on the way down; one more on the way up
    levels: Count = 3  # resolutions
    dropout: BelowOne = 0.5

    orders = False  # a pixel is made at once
    border = True

    def out(self, around: Around, channels: int, order: int, vector: Array | None, train: bool, at: Place) -> Array:
        """The layers."""
        options = dict(normed=True, dtype=self.dtype)
        sizes = (self.levels, self.blocks, self.width, self.dropout, self.dtype)

        def above() -> tuple[Array, Blocks]:
            first = RowConv(self.width, rows=1, side=1, **options, name="up_rows")(around.up)
            row = RowConv(self.width, side=1, **options, name="up_row")(around.up)
            return row, Level(True, *sizes, name="rows")(first, (), vector, train, at)[1]

        row, others = once_a_row(self, "above", above)
        y = row + CausalConv(self.width, rows=1, **options, name="left")(around.left)
        y, _ = Level(False, *sizes, name="pixels")(y, others, vector, train, at)
        return Pointwise(channels, **options, name="out")(nn.elu(y)).astype(jnp.float32)

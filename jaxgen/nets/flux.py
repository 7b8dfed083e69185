"""The transformer of Flux (Black Forest Labs 2024): blocks of two streams, then of one.

The first blocks are those of `nets/mmdit.py`; in the others text and patches are one sequence, and attention and MLP stand beside
each other (Dehghani et al. 2023, arXiv:2302.05442). Queries and keys are turned by the place of their patch (RoPE,
arXiv:2104.09864) along three axes, of which a picture uses two; tokens of the text are not turned.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural, Positive
from jaxgen.core.spec import TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import read_text, seen_by_all, vector
from jaxgen.nets.dit import (
    AdaLnBlock,
    Embedding,
    PatchTransformer,
    adaln,
    normed,
    patchify,
    through,
    unpatchify,
)
from jaxgen.nets.layers import Dense, attention, ddpm_init, merge_heads
from jaxgen.nets.mmdit import JointBlock, turned_pairs


def angles_of(rows: int, columns: int, text: int, axes: tuple[int, ...]) -> np.ndarray:
    """Angles [text + rows * columns, sum(axes) / 2]: by an index that is 0, by row and by column; 0 of the tokens of the text."""
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    places = [np.zeros(rows * columns), row.ravel(), column.ravel()]
    turns = [p[:, None] * 10_000.0 ** (-np.arange(0, n, 2) / n) for p, n in zip(places, axes, strict=True)]
    return np.pad(np.concatenate(turns, -1), ((text, 0), (0, 0))).astype(np.float32)


def packed(x: Array, patch: int) -> Array:
    """`patchify` with each patch flattened as (channel, row, column): [B, H, W, C] -> [B, HW / patch^2, C patch^2]."""
    x = patchify(x, patch)
    return x.reshape(*x.shape[:2], patch**2, -1).swapaxes(2, 3).reshape(x.shape)


def unpacked(x: Array, rows: int, patch: int) -> Array:
    """The inverse of `packed` for a grid of `rows` rows."""
    return unpatchify(x.reshape(*x.shape[:2], -1, patch**2).swapaxes(2, 3).reshape(x.shape), rows, patch)


class SingleBlock(AdaLnBlock):
    """Attention and an MLP beside it, of text and patches [B, L + N, D]; c, angles and mask as of `JointBlock`."""

    @nn.compact
    def __call__(self, x: Array, c: Array, angles: Array | None = None, mask: Array | None = None) -> Array:
        d = x.shape[-1]
        shift, scale, gate = adaln(c, 3, self.dtype, "adaln")
        h = normed(x, shift, scale)
        q, k, v = self.qkv(h)
        seen = merge_heads(attention(turned_pairs(q, angles), turned_pairs(k, angles), v, mask))
        h = nn.gelu(self.linear(4 * d, "mlp")(h))
        return x + gate * self.linear(d, "out")(jnp.concatenate([seen, h], -1))


class Flux(PatchTransformer):
    """Any prediction of a flow model that is told a text; the defaults are FLUX.1 (11.9 G parameters).

    t [B] in [0, 1]; cond: besides a text perhaps `pooled`, which has a net of its own.

    double, single: blocks of each kind. axes: channels of a head that are turned by each axis: index, row, column.
    guided: the net was distilled from a guided one and is told how much guidance it imitates: the embedding `guidance` [1] of the
        conditions, or the number `guidance`.
    """

    shape: TargetShape = (128, 128, 16)
    double: Natural = 19
    single: Natural = 38
    width: Count = 3072
    heads: Count = 24
    axes: tuple[Natural, ...] = (16, 56, 56)
    guided: bool = False
    guidance: Positive = 3.5

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        cond = self.listen(len(x), cond, train)
        text = read_text(self.heard, cond, len(x), self)
        h, rows, columns = self.patches(x, cond, packed)
        dim = self.width // self.heads
        if sum(self.axes) != dim or len(self.axes) != 3 or any(n % 2 for n in self.axes):
            half = dim // 4 * 2
            raise UserError(
                f"Flux: axes={self.axes} must be three even numbers that sum to the {dim} channels of a head; "
                f"set axes={(dim - 2 * half, half, half)}"
            )
        numbers = {"guidance": 1000.0 * self.how_guided(cond, len(x))} if self.guided else {}
        embed = Embedding(self.width, self.heard, self.null_label, pooled_net=True, dtype=self.dtype, name="embed")
        c = embed(1000.0 * t.astype(jnp.float32), cond, **numbers)
        told = Dense(self.width, dtype=self.dtype, kernel_init=ddpm_init(), name="states")(text.states)

        length = told.shape[1]
        angles, mask = jnp.asarray(angles_of(rows, columns, length, self.axes)), seen_by_all(text.mask, rows * columns)
        joint, single = (self.block(kind, qk_norm=True) for kind in (JointBlock, SingleBlock))
        h, told = through(joint, self.double, "double", self.scan, (h, told), c, angles, mask)
        h = through(single, self.single, "single", self.scan, jnp.concatenate([told, h], 1), c, angles, mask)
        scale, shift = adaln(c, 2, self.dtype, "adaln_out")
        return self.picture(h[:, length:], shift, scale, rows, unpacked)

    def how_guided(self, cond: Cond | None, num: int) -> Array:
        """[num]."""
        if cond and "guidance" in cond and "guidance" in self.heard:
            return vector(self.heard, cond, "guidance", num)[:, 0].astype(jnp.float32)
        return jnp.full(num, self.guidance, jnp.float32)

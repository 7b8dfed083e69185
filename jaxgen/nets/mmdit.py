"""The transformer of two streams, of Stable Diffusion 3 (Esser et al. 2024, arXiv:2403.03206, section 4 and figure 2).

Patches and the tokens of a text have weights of their own and attend together; time and a pooled text reach every block by
adaLN-Zero as in `nets/dit.py`. After the last block nobody reads the text, so there it only gives keys and values. SD 3.5 brings
queries and keys to one length, and its first blocks attend a second time, among patches alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural
from jaxgen.core.spec import TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import read_text, seen_by_all
from jaxgen.nets.dit import AdaLnBlock, Embedding, PatchTransformer, adaln, normed, position_waves, through
from jaxgen.nets.layers import Dense, attention, ddpm_init, merge_heads


def turned_pairs(x: Array, angles: Array | None) -> Array:
    """x [B, N, heads, d]: the pairs (x_2i, x_2i+1) turned by angles [N, d / 2], in float32; None: as they are."""
    if angles is None:
        return x
    a, b = x[..., ::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape).astype(x.dtype)


class JointBlock(AdaLnBlock):
    """Two streams that attend together: (x [B, N, D], text [B, L, D]), c -> the same.

    angles: [L + N, d / 2], by which queries and keys are turned. mask: bool [B, 1, L + N], whom all look at.
    dual: patches attend a second time, among themselves. last: the text is as it was.
    """

    dual: bool = False
    last: bool = False

    @nn.compact
    def __call__(
        self, streams: tuple[Array, Array], c: Array, angles: Array | None = None, mask: Array | None = None
    ) -> tuple[Array, Array]:
        x, text = streams
        shift1, scale1, gate1, shift2, scale2, gate2, *again = adaln(c, 9 if self.dual else 6, self.dtype, "adaln")
        told = adaln(c, 2 if self.last else 6, self.dtype, "text_adaln")
        # the published nets have the scale first where it is the last
        shift, scale = told[1::-1] if self.last else told[:2]
        ours, theirs = self.qkv(normed(x, shift1, scale1)), self.qkv(normed(text, shift, scale), "text_")
        q, k, v = (jnp.concatenate(both, 1) for both in zip(theirs, ours, strict=True))
        h = merge_heads(attention(turned_pairs(q, angles), turned_pairs(k, angles), v, mask))
        length, d = text.shape[1], x.shape[-1]
        seen = gate1 * self.linear(d, "out")(h[:, length:])
        if self.dual:
            shift, scale, gate = again
            seen += gate * self.linear(d, "dual_out")(
                merge_heads(attention(*self.qkv(normed(x, shift, scale), "dual_")))
            )
        x = x + seen
        x = x + gate2 * self.mlp(normed(x, shift2, scale2))
        if not self.last:
            _, _, gate1, shift2, scale2, gate2 = told
            text = text + gate1 * self.linear(d, "text_out")(h[:, :length])
            text = text + gate2 * self.mlp(normed(text, shift2, scale2), "text_")
        return x, text


class MMDiT(PatchTransformer):
    """Any prediction of a flow model that is told a text; the defaults are Stable Diffusion 3 medium (2.03 G parameters).

    t [B] in 0..1000 (a flow's `scale=1000`); cond: besides a text perhaps `pooled`, which has a net of its own.

    positions: places of a side that have waves; those in the middle are taken. Their unit is that of a picture of `shape`.
    qk_norm: queries and keys are brought to one length. dual: so many of the first blocks attend a second time.
    """

    shape: TargetShape = (128, 128, 16)
    depth: Count = 24
    width: Count = 1536
    heads: Count = 24
    positions: Count = 192
    qk_norm: bool = False
    dual: Natural = 0

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        cond = self.listen(len(x), cond, train)
        text = read_text(self.heard, cond, len(x), self)
        h, rows, columns = self.patches(x, cond)
        if max(rows, columns) > self.positions:
            raise UserError(
                f"MMDiT: {rows} x {columns} patches are more than positions={self.positions}; set positions higher"
            )
        h += self.waves(rows, columns).astype(h.dtype)
        c = Embedding(self.width, self.heard, self.null_label, pooled_net=True, dtype=self.dtype, name="embed")(t, cond)
        told = Dense(self.width, dtype=self.dtype, kernel_init=ddpm_init(), name="states")(text.states)

        block, mask = self.block(JointBlock, qk_norm=self.qk_norm), seen_by_all(text.mask, rows * columns)
        dual = min(self.dual, self.depth - 1)
        streams = through(partial(block, dual=True), dual, "dual", self.scan, (h, told), c, None, mask)
        streams = through(block, self.depth - 1 - dual, "block", self.scan, streams, c, None, mask)
        h, _ = block(dual=self.dual >= self.depth, last=True, name="last")(streams, c, None, mask)
        scale, shift = adaln(c, 2, self.dtype, "adaln_out")
        return self.picture(h, shift, scale, rows)

    def waves(self, rows: int, columns: int) -> Array:
        """[rows * columns, width]: the middle of a table that is never trained."""
        side = self.positions
        step = self.shape[0] // self.patch / side

        def table() -> Array:
            return jnp.asarray(position_waves(side, side, self.width, (step, step))).reshape(side, side, -1)

        top, left = (side - rows) // 2, (side - columns) // 2
        waves = self.variable("positions", "waves", table).value
        return jax.lax.stop_gradient(waves[top : top + rows, left : left + columns]).reshape(-1, self.width)

"""The transformer of two streams, of Stable Diffusion 3 (Esser et al. 2024, arXiv:2403.03206, section 4 and figure 2).

Patches and the tokens of a text have weights of their own and attend together; time and a pooled text reach every block by
adaLN-Zero as in `nets/dit.py`. After the last block nobody reads the text, so there it only gives keys and values. SD 3.5 brings
queries and keys to one length, and its first blocks attend a second time, among patches alone.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural, Precision, Remat
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import Listens, add_vectors, beside_text, join_pictures, read_text, vector
from jaxgen.nets.dit import TIME_WAVES, patchify, position_waves, through, unpatchify
from jaxgen.nets.layers import Dense, LayerNorm, RmsNorm, attention, ddpm_init, remat, timestep_embedding

Heads = tuple[Array, Array, Array]  # queries, keys, values, [B, N, heads, d] each


def turned_pairs(x: Array, angles: Array | None) -> Array:
    """x [B, N, heads, d]: the pairs (x_2i, x_2i+1) turned by angles [N, d / 2], in float32; None: as they are."""
    if angles is None:
        return x
    a, b = x[..., ::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape).astype(x.dtype)


class Streams(nn.Module):
    """What blocks of such transformers are made of; c [B, D] is what shifts, scales and gates them."""

    heads: int
    qk_norm: bool = False
    dtype: str = "float32"

    def linear(self, features: int, name: str) -> Dense:
        """A dense layer."""
        return Dense(features, dtype=self.dtype, kernel_init=ddpm_init(), name=name)

    def adaln(self, c: Array, parts: int, name: str) -> list[Array]:
        """[B, 1, D] each; zero at the start."""
        dense = Dense(parts * c.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros, name=name)
        return jnp.split(dense(nn.silu(c))[:, None], parts, -1)

    def norm(self, x: Array, shift: Array, scale: Array) -> Array:
        """Float32 up to the product that follows."""
        return LayerNorm(affine=False)(x) * (1 + scale) + shift

    def qkv(self, x: Array, name: str = "") -> Heads:
        """Of one stream [B, N, D]."""
        b, n, d = x.shape
        qkv = self.linear(3 * d, f"{name}qkv")(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.qk_norm:
            q, k = (RmsNorm(dtype=self.dtype, name=f"{name}norm_{which}")(y) for which, y in (("q", q), ("k", k)))
        return q, k, v

    def mlp(self, x: Array, name: str = "") -> Array:
        """Of one stream."""
        d = x.shape[-1]
        return self.linear(d, f"{name}mlp1")(nn.gelu(self.linear(4 * d, f"{name}mlp0")(x)))


def merged(x: Array) -> Array:
    """[B, N, heads, d] -> [B, N, D]."""
    return x.reshape(*x.shape[:2], -1)


class JointBlock(Streams):
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
        parts = self.adaln(c, 9 if self.dual else 6, "adaln")
        shift1, scale1, gate1, shift2, scale2, gate2 = parts[:6]
        told = self.adaln(c, 2 if self.last else 6, "text_adaln")
        shift, scale = (
            told[1::-1] if self.last else told[:2]
        )  # the published nets have the scale first where it is the last
        ours, theirs = self.qkv(self.norm(x, shift1, scale1)), self.qkv(self.norm(text, shift, scale), "text_")
        q, k, v = (jnp.concatenate(both, 1) for both in zip(theirs, ours, strict=True))
        h = merged(attention(turned_pairs(q, angles), turned_pairs(k, angles), v, mask))
        length, d = text.shape[1], x.shape[-1]
        more = 0
        if self.dual:
            more = self.linear(d, "dual_out")(merged(attention(*self.qkv(self.norm(x, parts[6], parts[7]), "dual_"))))
            more = parts[8] * more
        x = x + gate1 * self.linear(d, "out")(h[:, length:]) + more
        x = x + gate2 * self.mlp(self.norm(x, shift2, scale2))
        if not self.last:
            _, _, gate1, shift2, scale2, gate2 = told
            text = text + gate1 * self.linear(d, "text_out")(h[:, :length])
            text = text + gate2 * self.mlp(self.norm(text, shift2, scale2), "text_")
        return x, text


class TimeEmbedding(nn.Module):
    """time(t) + net(pooled text) + net of more numbers + what else is told: t [B] -> [B, width].

    numbers: name -> [B]; waves of each and a net of its own, as of the time.
    """

    width: int
    conditions: Spec = Spec()
    null_label: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, t: Array, cond: Cond | None, **numbers: Array) -> Array:
        normal = nn.initializers.normal(0.02)

        def net(h, name):
            h = nn.silu(Dense(self.width, dtype=self.dtype, kernel_init=normal, name=f"{name}0")(h))
            return Dense(self.width, dtype=self.dtype, kernel_init=normal, name=f"{name}1")(h)

        c = sum(net(timestep_embedding(x, TIME_WAVES, True, 0.0), name) for name, x in {"time": t, **numbers}.items())
        if "pooled" in self.conditions.of("embedding"):
            c = c + net(vector(self.conditions, cond, "pooled", len(t)), "pooled")
        rest = beside_text(self.conditions).where(lambda name, _: name not in ("pooled", *numbers))
        return add_vectors(c, rest, cond, self.null_label, normal, normal)


def seen_by_all(mask: Array | None, patches: int) -> Array | None:
    """The mask of a text [B, 1, L] and of patches behind it, which all may look at: bool [B, 1, L + N]."""
    return None if mask is None else jnp.pad(mask, ((0, 0), (0, 0), (0, patches)), constant_values=True)


class MMDiT(Listens):
    """Any prediction of a flow model that is told a text; the defaults are Stable Diffusion 3 medium (2.03 G parameters).

    x [B, H, W, C] float; t [B] in 0..1000 (a flow's `scale=1000`); cond: a text (`jaxgen.nets.conditioning`), `pooled`, labels and
    embeddings, added to the embedding of time, pictures, joined to x; -> [B, H, W, out] float32. Sides are multiples of `patch`.

    positions: places of a side that have waves; those in the middle are taken. Their unit is that of a picture of `shape`.
    qk_norm: queries and keys are brought to one length. dual: so many of the first blocks attend a second time.
    scan: blocks of one kind are one `lax.scan` over parameters stacked along a leading axis.
    """

    shape: TargetShape = (128, 128, 16)
    conditions: Conditions = Spec()
    null_label: bool = True
    patch: Count = 2
    depth: Count = 24
    width: Count = 1536
    heads: Count = 24
    positions: Count = 192
    qk_norm: bool = False
    dual: Natural = 0
    out_channels: Natural = 0
    dtype: Precision = "float32"
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        cond = self.listen(len(x), cond, train)
        text = read_text(self.heard, cond, len(x), self)
        x = join_pictures(x, self.heard, cond, self)
        rows, columns = grid_of(self, x)
        if max(rows, columns) > self.positions:
            raise UserError(
                f"mmdit: {rows} x {columns} patches are more than positions={self.positions}; set positions higher"
            )
        h = Dense(self.width, dtype=self.dtype, kernel_init=ddpm_init(), name="patch")(patchify(x, self.patch))
        h += self.waves(rows, columns).astype(h.dtype)
        c = TimeEmbedding(self.width, self.heard, self.null_label, self.dtype, name="embed")(t, cond)
        told = Dense(self.width, dtype=self.dtype, kernel_init=ddpm_init(), name="states")(text.states)

        kind = remat(JointBlock, self.remat, prevent_cse=not self.scan)
        block, mask = partial(kind, self.heads, self.qk_norm, self.dtype), seen_by_all(text.mask, rows * columns)
        dual = min(self.dual, self.depth - 1)
        streams = through(partial(block, dual=True), dual, "dual", self.scan, (h, told), c, None, mask)
        streams = through(block, self.depth - 1 - dual, "block", self.scan, streams, c, None, mask)
        h, _ = block(dual=self.dual >= self.depth, last=True, name="last")(streams, c, None, mask)
        return unpatchify(final(self, h, c, self.patch**2 * (self.out_channels or self.shape[2])), rows, self.patch)

    def waves(self, rows: int, columns: int) -> Array:
        """[rows * columns, width]: the middle of a table that is never trained."""
        side = self.positions
        step = self.shape[0] // self.patch / side

        def table() -> Array:
            return jnp.asarray(position_waves(side, side, self.width, (step, step))).reshape(side, side, -1)

        top, left = (side - rows) // 2, (side - columns) // 2
        waves = self.variable("positions", "waves", table).value
        return jax.lax.stop_gradient(waves[top : top + rows, left : left + columns]).reshape(-1, self.width)


def grid_of(net: nn.Module, x: Array) -> tuple[int, int]:
    """Rows and columns of patches; a UserError where x has no whole ones, or the width no whole heads."""
    _, height, width, _ = x.shape
    name = type(net).__name__
    if height % net.patch or width % net.patch:
        raise UserError(
            f"{name}: an image of {height} x {width} pixels does not split into patches of patch={net.patch}; "
            f"set patch={math.gcd(height, width, net.patch)}"
        )
    if net.width % net.heads:
        raise UserError(
            f"{name}: width={net.width} does not split into heads={net.heads}; set heads={math.gcd(net.width, net.heads)}"
        )
    return height // net.patch, width // net.patch


def final(net: nn.Module, h: Array, c: Array, features: int) -> Array:
    """The last norm, scaled and shifted by c, and the last layer: [B, N, D] -> float32 [B, N, features]."""
    zeros = nn.initializers.zeros
    adaln = Dense(2 * h.shape[-1], dtype=net.dtype, kernel_init=zeros, name="adaln_out")(nn.silu(c))[:, None]
    scale, shift = jnp.split(adaln, 2, -1)
    h = LayerNorm(affine=False)(h) * (1 + scale) + shift
    return Dense(features, dtype=net.dtype, kernel_init=zeros, name="out")(h).astype(jnp.float32)

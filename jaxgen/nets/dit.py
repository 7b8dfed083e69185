"""The transformer of diffusion models.

Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", arXiv:2212.09748. Tokens are p x p patches plus fixed
sines and cosines of their place; time and label reach every block by adaLN-Zero (section 3.2):

    c = time(t) + label(y)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = linear(silu(c))            (zero at the start: blocks are identities)
    x <- x + gate_1 attention(LN(x) (1 + scale_1) + shift_1)
    x <- x + gate_2 mlp(LN(x) (1 + scale_2) + shift_2)

SiT (Ma et al. 2024, arXiv:2401.08740) is the same net with a clock in [0, 1]. `PatchTransformer` and `AdaLnBlock` are what PixArt,
MMDiT and Flux have in common with it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Natural, Number, Positive, Precision, Remat
from jaxgen.core.spec import Conditions, Spec, TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import (
    Listens,
    Text,
    TextAttention,
    add_vectors,
    beside_text,
    join_pictures,
    read_text,
    sequences,
    vector,
)
from jaxgen.nets.layers import (
    Dense,
    LayerNorm,
    RmsNorm,
    attention,
    ddpm_init,
    merge_heads,
    remat,
    split_heads,
    timestep_embedding,
)

TIME_WAVES = 256  # sines and cosines of t before the first layer
SIZES: dict[str, dict[str, int]] = {  # table 1
    "S": dict(depth=12, width=384, heads=6),
    "B": dict(depth=12, width=768, heads=12),
    "L": dict(depth=24, width=1024, heads=16),
    "XL": dict(depth=28, width=1152, heads=16),
}


def position_waves(rows: int, columns: int, width: int, step: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """[rows * columns, width] float32: sines, then cosines, of the column in the first half, of the row in the second.

    Frequencies 10,000^(-4 i / width), i < width / 4 (Vaswani et al. 2017 in two dimensions). step: from a row and a column to the
    next.
    """
    if width % 4:
        raise UserError(
            f"dit: width={width} does not split into sines and cosines of two axes; set width={-(-width // 4) * 4}"
        )
    freqs = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    row, column = np.meshgrid(np.arange(rows) * step[0], np.arange(columns) * step[1], indexing="ij")
    angles = [place.reshape(-1, 1) * freqs for place in (column, row)]
    return np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], -1).astype(np.float32)


def patchify(x: Array, patch: int) -> Array:
    """[B, H, W, C] -> [B, HW / patch^2, patch^2 C], rows first, each patch flattened as (row, column, channel)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, -1, patch * patch * c)


def unpatchify(x: Array, rows: int, patch: int) -> Array:
    """The inverse of `patchify` for a grid of `rows` rows: [B, N, patch^2 C] -> [B, H, W, C]."""
    b, n, _ = x.shape
    x = x.reshape(b, rows, n // rows, patch, patch, -1).swapaxes(2, 3)
    return x.reshape(b, rows * patch, n // rows * patch, -1)


class Embedding(nn.Module):
    """What is told besides a text as one vector: t [B] or [B, K] -> [B, width].

    The sum of a net of t, one of every further number, the labels' rows, and the projected embeddings. numbers: name -> [B].
    pooled_net: the embedding `pooled`, of a whole text, has a net as the numbers have, and no projection.
    """

    width: int
    conditions: Spec = Spec()
    null_label: bool = True
    freq_shift: float = 0.0
    pooled_net: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, t: Array, cond: Cond | None, **numbers: Array) -> Array:
        normal = nn.initializers.normal(0.02)

        def net(h, name):
            h = nn.silu(Dense(self.width, dtype=self.dtype, kernel_init=normal, name=f"{name}0")(h))
            return Dense(self.width, dtype=self.dtype, kernel_init=normal, name=f"{name}1")(h)

        told = {"time": t, **numbers}
        c = sum(net(timestep_embedding(x, TIME_WAVES, True, self.freq_shift), name) for name, x in told.items())
        apart = {*numbers}
        if self.pooled_net and "pooled" in self.conditions.of("embedding"):
            c, apart = c + net(vector(self.conditions, cond, "pooled", len(t)), "pooled"), apart | {"pooled"}
        rest = beside_text(self.conditions).where(lambda name, _: name not in apart)
        return add_vectors(c, rest, cond, self.null_label, normal, normal)


def adaln(c: Array, parts: int, dtype: str, name: str) -> list[Array]:
    """What shifts, scales and gates, of c [B, D]: so many arrays [B, 1, D], zeros at the start."""
    dense = Dense(parts * c.shape[-1], dtype=dtype, kernel_init=nn.initializers.zeros, name=name)
    return jnp.split(dense(nn.silu(c))[:, None], parts, -1)


def normed(x: Array, shift: Array, scale: Array, eps: float = 1e-6) -> Array:
    """x [B, N, D] normalised, scaled and shifted, in float32 up to the product that follows."""
    return LayerNorm(eps, affine=False)(x) * (1 + scale) + shift


class AdaLnBlock(nn.Module):
    """What blocks of transformers of patches are made of; names of layers begin with that of their stream."""

    heads: int
    qk_norm: bool = False
    mlp_ratio: float = 4.0
    dtype: str = "float32"

    def linear(self, features: int, name: str) -> Dense:
        """A dense layer."""
        return Dense(features, dtype=self.dtype, kernel_init=ddpm_init(), name=name)

    def qkv(self, x: Array, stream: str = "") -> tuple[Array, Array, Array]:
        """Queries, keys and values of x [B, N, D]: [B, N, heads, d] each."""
        q, k, v = split_heads(self.linear(3 * x.shape[-1], f"{stream}qkv")(x), self.heads)
        if self.qk_norm:
            q, k = (RmsNorm(dtype=self.dtype, name=f"{stream}norm_{which}")(y) for which, y in (("q", q), ("k", k)))
        return q, k, v

    def mlp(self, x: Array, stream: str = "") -> Array:
        """[B, N, D] -> the same."""
        d = x.shape[-1]
        return self.linear(d, f"{stream}mlp1")(nn.gelu(self.linear(round(self.mlp_ratio * d), f"{stream}mlp0")(x)))


class DiTBlock(AdaLnBlock):
    """Attention and an MLP, each shifted, scaled and gated by c, and attention to a text: x [B, N, D], c [B, D] -> [B, N, D]."""

    mlp_norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Array, c: Array, text: Text | None = None) -> Array:
        shift1, scale1, gate1, shift2, scale2, gate2 = adaln(c, 6, self.dtype, "adaln")
        h = merge_heads(attention(*self.qkv(normed(x, shift1, scale1))))
        x = x + gate1 * self.linear(x.shape[-1], "out")(h)
        if text:
            look = TextAttention(self.heads, True, self.dtype, ddpm_init(), out_init=nn.initializers.zeros, name="text")
            x = x + look(LayerNorm(dtype=self.dtype, name="norm_text")(x), text)
        return x + gate2 * self.mlp(normed(x, shift2, scale2, self.mlp_norm_eps))


class PatchTransformer(Listens):
    """What transformers of patches have in common.

    x [B, H, W, C] float; t [B]; cond: conditions by name: a text (`jaxgen.nets.conditioning`) that is attended to, labels and
    embeddings, added to the embedding of time, pictures, joined to x; -> [B, H, W, out] float32. H and W are multiples of
    `patch`, square or not. None has dropout: `train` reaches the encoder of a text alone.

    shape: image or latent [H, W, C]; C is the number of output channels unless `out_channels` says otherwise (2 C where
        the variance is learned: the prediction first, then v of Nichol & Dhariwal 2021).
    conditions: what the net is told. null_label: the tables of labels have a row for null.
    scan: blocks of one kind are one `lax.scan` over parameters stacked along a leading axis; compile time does not grow with
        depth. `stack_blocks` and `unstack_blocks` convert.
    """

    shape: TargetShape = (32, 32, 4)
    conditions: Conditions = Spec()
    null_label: bool = True
    patch: Count = 2
    width: Count = 384
    heads: Count = 6
    out_channels: Natural = 0
    dtype: Precision = "float32"
    scan: bool = False
    remat: Remat = False

    def patches(
        self, x: Array, cond: Cond | None, cut: Callable[[Array, int], Array] = patchify
    ) -> tuple[Array, int, int]:
        """x and the pictures told as tokens [B, N, width], and rows and columns of them.

        A UserError where x has no whole patches or the width no whole heads.
        """
        x = join_pictures(x, self.heard, cond, self)
        rows, columns = grid_of(self, x)
        dense = Dense(self.width, dtype=self.dtype, kernel_init=ddpm_init(), name="patch")
        return dense(cut(x, self.patch)), rows, columns

    def block(self, kind: type[AdaLnBlock], **fields: Any) -> Callable[..., AdaLnBlock]:
        """What makes blocks of that kind, for `through`."""
        # inside a scan XLA cannot undo the rematerialisation anyway
        made = remat(kind, self.remat, prevent_cse=not self.scan)
        return partial(made, heads=self.heads, dtype=self.dtype, **fields)

    def picture(
        self, h: Array, shift: Array, scale: Array, rows: int, join: Callable[[Array, int, int], Array] = unpatchify
    ) -> Array:
        """The last norm and layer: tokens [B, N, width] -> [B, H, W, out] float32."""
        features = self.patch**2 * (self.out_channels or self.shape[2])
        last = Dense(features, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")
        return join(last(normed(h, shift, scale)), rows, self.patch).astype(jnp.float32)


def grid_of(net: nn.Module, x: Array) -> tuple[int, int]:
    """Rows and columns of patches of x [B, H, W, C]; a UserError where it has no whole ones, or the net's width no whole heads."""
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


class DiT(PatchTransformer):
    """Any prediction of a diffusion or flow model from tokens; the defaults are DiT-S/2, `SIZES` has the others.

    t [B], diffusion steps 0..999 or a flow's time in [0, 1], or several times [B, K]; a text is not asked for.

    freq_shift: see `timestep_embedding`; 1 in diffusers.
    block_embed: an `Embedding` for each block in place of one for all, as diffusers stores it.
    """

    depth: Count = 12
    mlp_ratio: Positive = 4.0
    mlp_norm_eps: Positive = 1e-6
    freq_shift: Number = 0.0
    block_embed: bool = False

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        cond = self.listen(len(x), cond, train)
        text = read_text(self.heard, cond, len(x), self) if sequences(self.heard)[0] else None
        h, rows, columns = self.patches(x, cond)
        h += jnp.asarray(position_waves(rows, columns, self.width), h.dtype)

        def embed(name):
            fields = dict(freq_shift=self.freq_shift, dtype=self.dtype)
            return Embedding(self.width, self.heard, self.null_label, **fields, name=name)(t, cond)

        c = [embed(f"embed{i}") for i in range(self.depth)] if self.block_embed else [embed("embed")]
        block = self.block(DiTBlock, mlp_ratio=self.mlp_ratio, mlp_norm_eps=self.mlp_norm_eps)
        own, told = (c, (text,)) if self.block_embed else (None, (c[0], text))
        h = through(block, self.depth, "block", self.scan, h, *told, own=own)
        return self.picture(h, *adaln(c[0], 2, self.dtype, "adaln_out"), rows)


def through(
    kind: Callable[..., nn.Module],
    depth: int,
    name: str,
    scan: bool,
    carry: Any,
    *told: Any,
    own: Sequence[Array] | None = None,
) -> Any:
    """`carry` through so many blocks: carry = kind(name=...)(carry, *told), called name0, name1, ...

    scan: as one `lax.scan` over parameters stacked along a leading axis, called by the name and an s.
    own: what each block alone is told, before what all are told.
    """
    if not scan:
        for i in range(depth):
            carry = kind(name=f"{name}{i}")(carry, *(() if own is None else (own[i],)), *told)
        return carry
    if not depth:
        return carry
    first = () if own is None else (jnp.stack(own),)
    stack = nn.scan(
        lambda block, carry, *told: (block(carry, *told), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0,) * len(first) + (nn.broadcast,) * len(told),
        length=depth,
    )
    return stack(kind(name=f"{name}s"), carry, *first, *told)[0]


def stack_blocks(params: dict[str, Any], name: str = "block") -> dict[str, Any]:
    """Parameters of a net -> those of the same net with `scan`."""
    mine = [key for key in params if key.removeprefix(name).isdigit()]
    rest = {key: value for key, value in params.items() if key not in mine}
    parts = [params[f"{name}{i}"] for i in range(len(mine))]
    return {**rest, f"{name}s": jax.tree.map(lambda *a: jnp.stack(a), *parts)} if parts else rest


def unstack_blocks(params: dict[str, Any], name: str = "block") -> dict[str, Any]:
    """Parameters of a net with `scan` -> those of the same net without."""
    rest = {key: value for key, value in params.items() if key != f"{name}s"}
    if f"{name}s" not in params:
        return rest
    stacked = params[f"{name}s"]
    depth = jax.tree.leaves(stacked)[0].shape[0]
    return rest | {f"{name}{i}": jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(depth)}

"""The transformer of diffusion models.

Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", arXiv:2212.09748. Tokens are p x p patches plus fixed
sines and cosines of their place; time and label reach every block by adaLN-Zero (section 3.2):

    c = time(t) + label(y)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = linear(silu(c))            (zero at the start: blocks are identities)
    x <- x + gate_1 attention(LN(x) (1 + scale_1) + shift_1)
    x <- x + gate_2 mlp(LN(x) (1 + scale_2) + shift_2)

SiT (Ma et al. 2024, arXiv:2401.08740) is the same net with a clock in [0, 1].
"""

import math
from collections.abc import Callable
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
)
from jaxgen.nets.layers import Dense, LayerNorm, attention, ddpm_init, remat, timestep_embedding

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
    """time(t) + the labels' rows + the projected embeddings: t [B] -> [B, width]."""

    width: int
    conditions: Spec = Spec()
    null_label: bool = True
    freq_shift: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, t: Array, cond: Cond | None) -> Array:
        normal = nn.initializers.normal(0.02)
        c = timestep_embedding(t, TIME_WAVES, flip_sin_to_cos=True, freq_shift=self.freq_shift)
        c = nn.silu(Dense(self.width, dtype=self.dtype, kernel_init=normal, name="time0")(c))
        c = Dense(self.width, dtype=self.dtype, kernel_init=normal, name="time1")(c)
        return add_vectors(c, self.conditions, cond, self.null_label, normal, normal)


class DiTBlock(nn.Module):
    """Attention and an MLP, each shifted, scaled and gated by c, and attention to a text: x [B, N, D], c [B, D] -> [B, N, D]."""

    heads: int
    mlp_ratio: float = 4.0
    mlp_norm_eps: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, c: Array, text: Text | None = None) -> Array:
        b, n, d = x.shape

        def linear(features, name):
            return Dense(features, dtype=self.dtype, kernel_init=ddpm_init(), name=name)

        def norm(x, shift, scale, eps=1e-6):  # float32 up to the product that follows
            return LayerNorm(eps, affine=False)(x) * (1 + scale) + shift

        adaln = Dense(6 * d, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="adaln")(nn.silu(c))[:, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(adaln, 6, -1)  # [B, 1, D] each
        qkv = linear(3 * d, "qkv")(norm(x, shift1, scale1)).reshape(b, n, 3, self.heads, d // self.heads)
        h = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(b, n, d)
        x = x + gate1 * linear(d, "out")(h)
        if text:
            look = TextAttention(self.heads, True, self.dtype, ddpm_init(), out_init=nn.initializers.zeros, name="text")
            x = x + look(LayerNorm(dtype=self.dtype, name="norm_text")(x), text)
        h = linear(round(self.mlp_ratio * d), "mlp0")(norm(x, shift2, scale2, self.mlp_norm_eps))
        return x + gate2 * linear(d, "mlp1")(nn.gelu(h))


class DiT(Listens):
    """Any prediction of a diffusion or flow model from tokens; the defaults are DiT-S/2, `SIZES` has the others.

    x [B, H, W, C] float; t [B], diffusion steps 0..999 or a flow's time in [0, 1], or several times [B, K]; cond: conditions
    by name, labels and embeddings added to the embedding of time, pictures to x; -> [B, H, W, out] float32. H and W are
    multiples of `patch`, square or not. The net has no dropout: `train` changes nothing.

    shape: image or latent [H, W, C]; C is the number of output channels unless `out_channels` says otherwise (2 C where
        the variance is learned: the prediction first, then v of Nichol & Dhariwal 2021).
    conditions: what the net is told. null_label: the tables of labels have a row for null.
    freq_shift: see `timestep_embedding`; 1 in diffusers.
    block_embed: an `Embedding` for each block in place of one for all, as diffusers stores it.
    scan: blocks are one `lax.scan` over parameters stacked along a leading axis; compile time does not grow with depth.
        `stack_blocks` and `unstack_blocks` convert.
    """

    shape: TargetShape = (32, 32, 4)
    conditions: Conditions = Spec()
    null_label: bool = True
    patch: Count = 2
    depth: Count = 12
    width: Count = 384
    heads: Count = 6
    mlp_ratio: Positive = 4.0
    mlp_norm_eps: Positive = 1e-6
    freq_shift: Number = 0.0
    block_embed: bool = False
    out_channels: Natural = 0
    dtype: Precision = "float32"
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond | None = None, train: bool = False) -> Array:
        conditions, cond = self.heard, self.listen(len(x), cond, train)
        x = join_pictures(x, conditions, cond, self)
        _, height, width, _ = x.shape
        if height % self.patch or width % self.patch:
            raise UserError(
                f"dit: an image of {height} x {width} pixels does not split into patches of patch={self.patch}; "
                f"set patch={math.gcd(height, width, self.patch)}"
            )
        if self.width % self.heads:
            raise UserError(
                f"dit: width={self.width} does not split into heads={self.heads}; set heads={math.gcd(self.width, self.heads)}"
            )
        rows = height // self.patch
        h = Dense(self.width, dtype=self.dtype, kernel_init=ddpm_init(), name="patch")(patchify(x, self.patch))
        h += jnp.asarray(position_waves(rows, width // self.patch, self.width), h.dtype)

        def embed(name):
            fields = (self.width, beside_text(conditions), self.null_label, self.freq_shift, self.dtype)
            return Embedding(*fields, name=name)(t, cond)

        c = [embed(f"embed{i}") for i in range(self.depth)] if self.block_embed else [embed("embed")] * self.depth
        h = self.blocks(h, c, read_text(conditions, cond, len(x), self) if sequences(conditions)[0] else None)

        zeros = nn.initializers.zeros
        shift, scale = jnp.split(
            Dense(2 * self.width, dtype=self.dtype, kernel_init=zeros, name="adaln_out")(nn.silu(c[0]))[:, None], 2, -1
        )
        h = LayerNorm(affine=False)(h) * (1 + scale) + shift
        out = self.patch**2 * (self.out_channels or self.shape[2])
        h = Dense(out, dtype=self.dtype, kernel_init=zeros, name="out")(h)
        return unpatchify(h, rows, self.patch).astype(jnp.float32)

    def blocks(self, h: Array, c: list[Array], text: Text | None = None) -> Array:
        """The stack of blocks, each with its own c: [B, N, D] -> [B, N, D]."""
        # inside a scan XLA cannot undo the rematerialisation anyway
        kind = remat(DiTBlock, self.remat, prevent_cse=not self.scan)
        fields = dict(heads=self.heads, mlp_ratio=self.mlp_ratio, mlp_norm_eps=self.mlp_norm_eps, dtype=self.dtype)
        if not self.scan:
            for i, ci in enumerate(c):
                h = kind(**fields, name=f"block{i}")(h, ci, text)
            return h
        stack = nn.scan(
            lambda block, h, c: (block(h, c, text), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=0 if self.block_embed else nn.broadcast,
            length=self.depth,
        )
        return stack(kind(**fields, name="blocks"), h, jnp.stack(c) if self.block_embed else c[0])[0]


def through(kind: Callable[..., nn.Module], depth: int, name: str, scan: bool, carry: Any, *told: Any) -> Any:
    """`carry` through so many blocks: carry = kind(name=...)(carry, *told), called name0, name1, ...

    scan: as one `lax.scan` over parameters stacked along a leading axis, called by the name and an s.
    """
    if not scan:
        for i in range(depth):
            carry = kind(name=f"{name}{i}")(carry, *told)
        return carry
    stack = nn.scan(
        lambda block, carry, *told: (block(carry, *told), None),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=depth,
    )
    return stack(kind(name=f"{name}s"), carry, *told)[0] if depth else carry


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

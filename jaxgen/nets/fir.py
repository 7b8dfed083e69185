"""Resampling by small FIR filters (Karras et al. 2020, arXiv:1912.04958, appendix B; Song et al. 2021, NCSN++).

A filter f [n, n], n even, is applied to every channel alike:

    down:  y[i] = sum_a f[a] x[2 i + a - p]          up: the transpose of `down`, times 4          p = n/2 - 1

Sums of shifted images, not convolutions: a depthwise convolution is up to 40 times slower on a CPU. `upfirdn` is the general
form: any filter, factors and edges; a filter of one line is taken along one axis, then along the other.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxgen.errors import UserError
from jaxgen.nets.convolution import sum2x2, upsample2x


def of_sum_1(taps: Sequence[float]) -> np.ndarray:
    """`taps` [n] over their sum; a UserError where that is 0."""
    if not sum(taps):
        raise UserError(f"filter={tuple(taps)} must not sum to zero; set filter=(1, 3, 3, 1)")
    return np.asarray(taps) / sum(taps)


def outer_filter(taps: tuple[float, ...]) -> Array:
    """The filter [n, n] of sum 1 whose rows and columns are proportional to `taps`; (1, 1) takes means of 2 x 2."""
    if len(taps) % 2:
        raise UserError(f"filter={taps} must have an even number of taps; set filter=(1, 1), or filter=(1, 3, 3, 1)")
    line = of_sum_1(taps).astype(np.float32)
    return jnp.asarray(np.outer(line, line))


def fir(x: Array, f: Array, stride: int = 1, padding: int = 0) -> Array:
    """Cross-correlation of every channel with f [n, n]: x [B, H, W, C] -> [B, (H + 2 padding - n) // stride + 1, ..., C]."""
    n, f = f.shape[0], f.astype(x.dtype)
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    last = [size - n + 1 for size in x.shape[1:3]]
    shifted = (f[a, b] * x[:, a : a + last[0] : stride, b : b + last[1] : stride] for a in range(n) for b in range(n))
    return sum(shifted)


def _tiled(f: Array, x: Array) -> Array:
    """f [2, 2] over the whole of x: [H, W, 1]."""
    return jnp.tile(f.astype(x.dtype), (x.shape[1] // 2, x.shape[2] // 2))[..., None]


def fir_down(x: Array, f: Array) -> Array:
    """[B, H, W, C] -> [B, H/2, W/2, C], H and W even."""
    if len(f) == 2:  # windows do not overlap: half the time, with the gradient, of four strided slices
        return sum2x2(_tiled(f, x) * x)
    return fir(x, f, 2, f.shape[0] // 2 - 1)


def fir_up(x: Array, f: Array) -> Array:
    """[B, H, W, C] -> [B, 2H, 2W, C]."""
    n, f = f.shape[0], 4 * f.astype(x.dtype)
    b, h, w, c = x.shape
    if n == 2:  # each pixel becomes its own 2 x 2: a quarter of the time of four phases
        x = upsample2x(x)
        return _tiled(f, x) * x
    p = n // 2 - 1
    edge = -(-p // 2)  # as far as an output pixel looks beyond the image
    wide = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))

    def phase(r: int, s: int) -> Array:
        """Output pixels 2 m + r, 2 m + s: tap a reaches x[m + (r + p - a) / 2] where that is whole."""
        rows = [(a, edge + (r + p - a) // 2) for a in range(n) if (r + p - a) % 2 == 0]
        columns = [(a, edge + (s + p - a) // 2) for a in range(n) if (s + p - a) % 2 == 0]
        return sum(f[a, d] * wide[:, i : i + h, j : j + w] for a, i in rows for d, j in columns)

    grid = jnp.stack([jnp.stack([phase(r, s) for s in (0, 1)], 3) for r in (0, 1)], 2)  # [B, H, 2, W, 2, C]
    return grid.reshape(b, 2 * h, 2 * w, c)


def upfirdn(
    x: Array,
    f: Sequence[float] | np.ndarray,
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    gain: float = 1.0,
) -> Array:
    """Zeros between the pixels, zeros around them, convolution of every channel with f, every `down`-th pixel, times gain.

    x [B, H, W, C]; f: the line of a separable filter [n], or a whole one [n, m], numbers that are known when a program is
    made; up, down: of rows, of columns; padding ((top, bottom), (left, right)) in pixels after `up`, negative ones crop.
    """
    f = np.asarray(f, np.float64)
    if f.ndim == 1:
        x = _along(x, f, 1, up[0], down[0], padding[0])
        return _along(x, gain * f, 2, up[1], down[1], padding[1])
    rows = (_along(x, gain * row, 2, up[1], down[1], padding[1]) for row in f)
    return sum(_along(row, line, 1, up[0], down[0], padding[0]) for row, line in zip(rows, np.eye(len(f)), strict=True))


def _along(x: Array, taps: np.ndarray, axis: int, up: int, down: int, padding: tuple[int, int]) -> Array:
    """`upfirdn` along one axis. Output i = period m + r sums taps[n-1-a] x[(i down + a - before) / up] where that is whole."""
    n, size, (before, after) = len(taps), x.shape[axis], padding
    out = (size * up + before + after - n) // down + 1
    if out < 1:
        raise UserError(
            f"a filter of {n} taps finds no place in {size * up + before + after} pixels; give larger images"
        )
    period, stride = up // math.gcd(up, down), down // math.gcd(up, down)
    steps = -(-out // period)
    reach = {  # output's phase -> (tap, where it begins in x): the zeros between pixels are never looked at
        r: [(float(t), (r * down + a - before) // up) for a, t in enumerate(taps[::-1]) if t and not (r * down + a - before) % up]
        for r in range(period)
    }  # fmt: skip
    starts = [start for found in reach.values() for _, start in found] or [0]
    low, high = min(0, *starts), max(starts) + steps * stride
    edges = [(0, 0)] * x.ndim
    edges[axis] = (-low, max(0, high - size))
    x = jnp.pad(x, edges)

    def every(start: int) -> Array:
        """The `steps` pixels start, start + stride, ...: without a strided slice, whose gradient is slow."""
        begin = [slice(None)] * axis + [slice(start - low, start - low + steps * stride)]
        found = x[tuple(begin)]
        return (
            found.reshape(*x.shape[:axis], steps, stride, *x.shape[axis + 1 :]).take(0, axis + 1)
            if stride > 1
            else found
        )

    shape = (*x.shape[:axis], steps, *x.shape[axis + 1 :])
    phases = [sum((t * every(start) for t, start in found), jnp.zeros(shape, x.dtype)) for found in reach.values()]
    y = (
        jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], steps * period, *x.shape[axis + 1 :])
        if period > 1
        else phases[0]
    )
    return y[(slice(None),) * axis + (slice(out),)]


class Fir(nn.Module):
    """Resampling with its own filter, which is never trained and lives in the collection "fir".

    way: "down", "up", or "blur" (no resampling, `padding` pixels on each side first).
    """

    taps: tuple[float, ...] = (1.0, 1.0)
    way: str = "down"
    padding: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        f = self.variable("fir", "filter", outer_filter, self.taps).value
        ways = {"down": fir_down, "up": fir_up, "blur": lambda x, f: fir(x, f, 1, self.padding)}
        return ways[self.way](x, f)

"""Resampling by small FIR filters (Karras et al. 2020, arXiv:1912.04958, appendix B; Song et al. 2021, NCSN++).

A filter f [n, n], n even, is applied to every channel alike:

    down:  y[i] = sum_a f[a] x[2 i + a - p]          up: the transpose of `down`, times 4          p = n/2 - 1

Sums of shifted images, not convolutions: a depthwise convolution is up to 40 times slower on a CPU.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxgen.errors import UserError
from jaxgen.nets.convolution import sum2x2, upsample2x


def outer_filter(taps: tuple[float, ...]) -> Array:
    """The filter [n, n] of sum 1 whose rows and columns are proportional to `taps`; (1, 1) takes means of 2 x 2."""
    if len(taps) % 2 or not sum(taps):
        raise UserError(
            f"filter={taps} must have an even number of taps that do not sum to zero; set filter=(1, 1), or filter=(1, 3, 3, 1)"
        )
    line = np.asarray(taps, np.float32) / sum(taps)
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

"""Pooling as slices that XLA fuses: on a CPU three to six times faster than `reduce_window`, and so is the gradient."""

from functools import reduce

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgen.errors import UserError


def _windows(x: Array, window: int, stride: int, axis: int) -> list[Array]:
    """The i-th elements of all windows along `axis`, for every i: `window` arrays."""
    count = (x.shape[axis] - window) // stride + 1
    if count < 1:
        raise UserError(
            f"an image of this size is too small for the net: {x.shape[1:3]} is left before a pool of {window}"
        )
    return [lax.slice_in_dim(x, i, i + stride * (count - 1) + 1, stride, axis) for i in range(window)]


def max_pool(x: Array, window: int = 3, stride: int = 2, ceil: bool = False) -> Array:
    """The maximum over each window, no padding: [B, H, W, C] -> [B, H', W', C], H' = floor((H - window) / stride) + 1.

    ceil: torch's ceil_mode, which also keeps a last window that the image only partly fills (stride <= window).
    Raises UserError for an image smaller than the window.
    """
    for axis in (1, 2):
        short = -(x.shape[axis] - window) % stride
        if ceil and short:
            edge = [(0, short * (i == axis), 0) for i in range(4)]
            x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), edge)
        x = reduce(jnp.maximum, _windows(x, window, stride, axis))
    return x


def average_pool(x: Array) -> Array:
    """The mean of each 3x3 neighbourhood, stride 1, over the pixels inside the image only: [B, H, W, C] -> the same."""
    share = np.float32(1)
    for axis in (1, 2):
        i = np.arange(x.shape[axis])
        inside = np.minimum(i + 1, i[-1]) - np.maximum(i - 1, 0) + 1
        share = share / np.expand_dims(inside, [a for a in range(4) if a != axis]).astype(np.float32)
        x = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(4)])
        x = sum(_windows(x, 3, 1, axis))
    return x * share

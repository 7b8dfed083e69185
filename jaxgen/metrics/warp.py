"""Images moved by affine maps with neither blur nor aliasing: bilinear between samples twice as dense, a wavelet both ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

Array = jax.Array

# scaling filter of the wavelet sym6 (Daubechies, "Ten Lectures on Wavelets"): orthonormal to its shifts by two
SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
CENTRE = 5  # where it leaves what is smooth, to the whole tap (5.098): sample m lies at pixel (m - CENTRE) / 2


def choose(where: Array, moved: Array, x: Array) -> Array:
    """Those examples of `moved` for which `where` [B] holds, else those of `x`."""
    return jnp.where(where.reshape(-1, *[1] * (x.ndim - 1)), moved, x)


def rotation(angle: Array) -> Array:
    """[B] -> [B, 2, 2]."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, -s], -1), jnp.stack([s, c], -1)], -2)


def mirror(places: np.ndarray, side: int) -> np.ndarray:
    """The pixels at whole places of a line that goes on mirrored at the centres of its ends, for ever."""
    last = max(side - 1, 1)
    return np.minimum(last - np.abs(places % (2 * last) - last), side - 1)


def coarser(side: int) -> np.ndarray:
    """[side, 2 side + 10]: the pixels as sums of samples twice as dense."""
    out = np.zeros((side, 2 * side + len(SYM6) - 2), np.float32)
    for i in range(side):
        out[i, 2 * i : 2 * i + len(SYM6)] = SYM6
    return out


def finer(side: int) -> np.ndarray:
    """[side, 4 (side - 1)]: samples twice as dense of the line that goes on mirrored, one whole period, as sums of pixels."""
    pixels = np.arange(2 * max(side - 1, 1))
    out = np.zeros((side, 2 * len(pixels)), np.float32)
    for tap, weight in enumerate(SYM6):
        np.add.at(out, (mirror(pixels, side), (2 * pixels + tap) % out.shape[1]), weight)
    return out


def warp(x: Array, inverse: Array) -> Array:
    """x [B, H, W, C] float moved by affine maps given by their inverses [B, 2, 3] in pixels (row, column) from the centre.

    Bilinear between samples twice as dense, low-passed by a wavelet on both ways (Karras et al. 2020, arXiv:2006.06676,
    appendix B), so that the identity changes nothing; beyond its border the image goes on mirrored. Linear in x.
    """
    einsum = functools.partial(jnp.einsum, precision="highest")  # on an accelerator too, or the identity would blur
    sides = x.shape[1:3]
    fine = einsum("bhwc,hi,wj->bcij", x, *map(finer, sides))
    pixels = [(np.arange(2 * side + len(SYM6) - 2) - CENTRE) / 2 - (side - 1) / 2 for side in sides]
    to = jnp.stack([*jnp.meshgrid(*pixels, indexing="ij"), jnp.ones([len(p) for p in pixels])])
    source = einsum("bkl,lij->bkij", inverse, to)
    at = 2 * source + (np.array(sides) - 1 + CENTRE)[:, None, None]  # where a pixel lies among the dense samples
    each = jax.vmap(lambda channel, at: map_coordinates(channel, list(at), order=1, mode="wrap"), (0, None))
    return einsum("bcij,hi,wj->bhwc", jax.vmap(each)(fine, at), *map(coarser, sides))

"""Resizing as other programs do it: features change by a quarter of their norm with the resize, so it has a name.

    pil_F               Pillow on floats (mode F); F is nearest, box, bilinear, bicubic or lanczos
    pil_F_uint8         Pillow on bytes, bit by bit: rounded to levels after each of its two passes
    clean               clean-fid (Parmar et al. 2022, arXiv:2104.11222): pil_bicubic clipped to [0, 255]
    matlab_bicubic      MATLAB's imresize: Keys' a = -1/2, widened where it shrinks, edge pixels repeated past the border
    matlab_bicubic_uint8    the same of bytes, rounded half up to levels after each pass
    torch_F             torch's interpolate without antialias, half-pixel centres: bilinear, bicubic (a = -3/4)
    torch_antialias_F   the same with antialias=True: Pillow's weights (bicubic has a = -1/2)
    tf1                 TensorFlow 1's bilinear: sample i sits at i * in / out, no half-pixel centres, no antialias

All are separable and linear but for the rounding: out = V x H^T with a weight matrix per axis, tabulated in float64 on
the host from the filter's definition, applied as two matrix products at the highest precision. The order of the passes
matters to bytes alone: along rows first, but since Pillow 13 along columns where the height loses more than twice what
the width does (python-pillow/Pillow#9549); for square images both are the same. MATLAB takes the axis that
shrinks more first, at a tie columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.pixel import floats

Array = jax.Array
Filter = Callable[[np.ndarray], np.ndarray]

FIXED = 22  # bits after the point of Pillow's weights for bytes
COARSE = 11  # of which so many are multiplied apart: sums of 8 + 11 bits are exact in float32


def _box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys 1981, eq. 4 (a = -1/2), with its slope a at 1."""
    x = np.abs(x)
    near = (a + 2.0) * x**3 - (a + 3.0) * x**2 + 1.0
    far = a * (x**3 - 5.0 * x**2 + 8.0 * x - 4.0)
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where((x >= -3.0) & (x < 3.0), np.sinc(x) * np.sinc(x / 3.0), 0.0)


ANTIALIASED: dict[str, tuple[Filter, float]] = {  # filter, and half its width
    "box": (_box, 0.5),
    "bilinear": (_triangle, 1.0),
    "bicubic": (partial(_cubic, a=-0.5), 2.0),
    "lanczos": (_lanczos, 3.0),
}


def _antialiased(size: int, out: int, name: str) -> np.ndarray:
    """The filter widened to the output's pitch, cut off at the image's border and normalised."""
    kernel, half = ANTIALIASED[name]
    pitch = size / out
    wide = max(pitch, 1.0)
    centre = (np.arange(out)[:, None] + 0.5) * pitch
    first = np.maximum(0, np.trunc(centre - half * wide + 0.5))
    last = np.minimum(size, np.trunc(centre + half * wide + 0.5))
    place = np.arange(size)[None, :]
    weights = kernel((place - centre + 0.5) / wide) * ((place >= first) & (place < last))
    return weights / weights.sum(axis=1, keepdims=True)


def _interpolated(size: int, out: int, kernel: Filter, reach: int, half_pixel: float) -> np.ndarray:
    """The filter at the input's pitch around the sampled place; places outside count as the border."""
    half, pitch = np.float32(half_pixel), np.float32(size / out)  # places are float32 in torch and in TensorFlow
    place = (np.arange(out, dtype=np.float32) + half) * pitch - half
    if reach == 1:
        place = np.clip(place, 0.0, size - 1.0)
    weights = np.zeros((out, size))
    for offset in range(1 - reach, reach + 1):
        source = np.floor(place) + offset
        share = kernel((place - source).astype(np.float64))
        np.add.at(weights, (np.arange(out), np.clip(source, 0, size - 1).astype(int)), share)
    return weights


def _matlab(size: int, out: int) -> np.ndarray:
    """Keys' kernel widened to the output's pitch; places outside count as the border."""
    pitch = size / out
    wide = max(pitch, 1.0)
    place = (np.arange(out) + 0.5) * pitch - 0.5
    first, reach = np.floor(place - 2.0 * wide).astype(int), math.ceil(4.0 * wide) + 2
    source = first[:, None] + np.arange(reach)
    shares = _cubic((place[:, None] - source) / wide, -0.5)
    shares /= shares.sum(1, keepdims=True)
    weights = np.zeros((out, size))
    np.add.at(weights, (np.arange(out)[:, None], np.clip(source, 0, size - 1)), shares)
    return weights


def _nearest(size: int, out: int) -> np.ndarray:
    """One pixel each; where two are as near, Pillow's running sum decides."""
    pitch = size / out
    place = np.add.accumulate(np.concatenate([[0.5 * pitch], np.full(out - 1, pitch)]))
    return np.eye(size)[np.minimum(place.astype(int), size - 1)]


@dataclass(frozen=True)
class Resize:
    """One way to resize: the weights along an axis (size in, size out) -> [out, in], and what becomes of the values."""

    weights: Callable[[int, int], np.ndarray]
    rounded: bool = False  # to levels after each axis
    clipped: bool = False  # to [0, 255] at the end
    matlab: bool = False  # the axis that loses more comes first; weights of bytes are not rounded


RESIZES: dict[str, Resize] = {
    **{f"pil_{name}": Resize(partial(_antialiased, name=name)) for name in ANTIALIASED},
    **{f"pil_{name}_uint8": Resize(partial(_antialiased, name=name), rounded=True) for name in ANTIALIASED},
    "pil_nearest": Resize(_nearest),
    "pil_nearest_uint8": Resize(_nearest),
    "clean": Resize(partial(_antialiased, name="bicubic"), clipped=True),
    "matlab_bicubic": Resize(_matlab, matlab=True),
    "matlab_bicubic_uint8": Resize(_matlab, rounded=True, matlab=True),
    "torch_bilinear": Resize(partial(_interpolated, kernel=_triangle, reach=1, half_pixel=0.5)),
    "torch_bicubic": Resize(partial(_interpolated, kernel=partial(_cubic, a=-0.75), reach=2, half_pixel=0.5)),
    "torch_antialias_bilinear": Resize(partial(_antialiased, name="bilinear")),
    "torch_antialias_bicubic": Resize(partial(_antialiased, name="bicubic")),
    "tf1": Resize(partial(_interpolated, kernel=_triangle, reach=1, half_pixel=0.0)),
}


def way(how: str) -> Resize:
    """The way of that name, or a UserError."""
    if how not in RESIZES:
        raise UserError(f"resize {how!r} is unknown; there are: {', '.join(sorted(RESIZES))}")
    return RESIZES[how]


@lru_cache(maxsize=256)
def matrix(how: str, size: int, out: int) -> np.ndarray:
    """The weights [out, size], float64, of one axis; its rows sum to 1."""
    table = way(how).weights(size, out)
    table.setflags(write=False)
    return table


def resize(x: Array, size: tuple[int, int], how: str) -> Array:
    """Images [..., H, W, C] on the scale [0, 255] (uint8 or floats) -> floats [..., *size, C]; `size` and `how` are static.

    The `_uint8` ways expect whole numbers and return them, still as floats. Some filters overshoot the scale.
    """
    rule = way(how)
    if x.ndim < 3 or min(*size, *x.shape[-3:-1]) < 1:
        raise UserError(f"images of shape {x.shape} cannot be resized to {tuple(size)}; they must be [..., H, W, C]")
    product = partial(_fixed_point, bits=not rule.matlab) if rule.rounded else _product
    x = floats(x)
    height, width = x.shape[-3:-1]
    columns_first = (
        size[0] / height <= size[1] / width if rule.matlab else height - size[0] > 2 * max(width - size[1], 0)
    )
    for axis in (0, 1) if columns_first else (1, 0):
        side = (height, width)[axis]
        if side != size[axis]:
            x = product(matrix(how, side, size[axis]), x, axis)
    return jnp.clip(x, 0.0, 255.0) if rule.clipped else x


def _product(table: np.ndarray, x: Array, axis: int) -> Array:
    letters = ("oh,...hwc->...owc", "ow,...hwc->...hoc")[axis]
    return jnp.einsum(letters, jnp.asarray(table, x.dtype), x, precision=jax.lax.Precision.HIGHEST)


def _fixed_point(table: np.ndarray, x: Array, axis: int, bits: bool) -> Array:
    """Weights (with `bits` rounded to 2^-22) and sums rounded half up to levels, exactly: coarse and fine bits are summed apart."""
    whole = table * 2.0**FIXED
    whole = np.trunc(whole + np.copysign(0.5, table)) if bits else whole
    high = np.rint(whole / 2 ** (FIXED - COARSE)) * 2 ** (FIXED - COARSE)
    high_sum = _product(high / 2.0**FIXED, x, axis) + 0.5
    fine = _product((whole - high) / 2.0**FIXED, x, axis)
    level = jnp.floor(high_sum)
    return jnp.clip(level + jnp.floor(high_sum - level + fine), 0.0, 255.0)

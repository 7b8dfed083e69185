"""Pixel by pixel: mean squared and absolute error, PSNR, and the protocol of super-resolution.

    PSNR = 10 log10(255^2 / MSE) of images brought to [0, 255], one number per image over all its pixels and channels

Images are [B, H, W, C], uint8 or floats; `span` declares what black and white are: (0, 255), (0, 1), (-1, 1). The
measure of a clip [B, T, H, W, C] is the mean over its frames. Averages over images are taken by the caller, of dB and not
of errors. Super-resolution is measured on luma without a border as wide as the scale (Dong et al. 2014, arXiv:1501.00092,
section 4): `psnr(shave(luma(a), 4), shave(luma(b), 4))`. Arithmetic is float32, float64 where JAX is allowed it
(for uint8 images) or the images have it.
"""

from collections.abc import Callable
from functools import wraps

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError

Array = jax.Array
Span = tuple[float, float]

BYTES: Span = (0.0, 255.0)
PERFECT = 100.0  # dB that a pair counts at most in a mean: two equal images have infinitely many


def floats(x: Array) -> Array:
    """Integers as JAX's default float, half precision as float32, other floats as they are."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else float)


def levels(x: Array, span: Span = BYTES, quantise: bool = False) -> Array:
    """Images within `span` -> floats on the scale [0, 255]; `quantise` rounds to and clips at the levels of uint8."""
    low, high = span
    if not high > low:
        raise UserError(f"span={span}: its second number, white, must exceed its first, black")
    x = (floats(x) - low) * (255.0 / (high - low))
    return jnp.clip(jnp.round(x), 0.0, 255.0) if quantise else x


def frame_by_frame(measure: Callable[..., Array]) -> Callable[..., Array]:
    """A measure of two batches of images, also of clips; both must have the same shape."""

    @wraps(measure)
    def measured(a: Array, b: Array, *args: object, **options: object) -> Array:
        a, b = floats(a), floats(b)
        if a.shape != b.shape or a.ndim not in (4, 5):
            raise UserError(
                f"images of shapes {a.shape} and {b.shape} cannot be compared; both must be the same [B, H, W, C] (or [B, T, ...])"
            )
        if a.ndim == 4:
            return measure(a, b, *args, **options)
        each = measure(*(x.reshape(-1, *x.shape[2:]) for x in (a, b)), *args, **options)
        return each.reshape(a.shape[:2]).mean(1)

    return measured


@frame_by_frame
def mse(a: Array, b: Array) -> Array:
    """Mean squared error [B] of images [B, H, W, C], in units of the images."""
    return jnp.mean((a - b) ** 2, axis=(1, 2, 3))


@frame_by_frame
def l1(a: Array, b: Array) -> Array:
    """Mean absolute error [B] of images [B, H, W, C], in units of the images."""
    return jnp.mean(jnp.abs(a - b), axis=(1, 2, 3))


@frame_by_frame
def psnr(a: Array, b: Array, span: Span = BYTES, quantise: bool = False) -> Array:
    """Peak signal-to-noise ratio [B] in dB; infinite where both images are the same: means take it as PERFECT at most."""
    return 10.0 * jnp.log10(255.0**2 / mse(levels(a, span, quantise), levels(b, span, quantise)))


def luma(x: Array, span: Span = BYTES) -> Array:
    """RGB [..., H, W, 3] -> luma of BT.601 [..., H, W, 1] from 16 to 235, unrounded: MATLAB's rgb2ycbcr for floats."""
    x = levels(x, span)
    if x.shape[-1] != 3:
        raise UserError(f"images of shape {x.shape} have no luma; it needs RGB [..., H, W, 3]")
    weights = jnp.asarray([65.481, 128.553, 24.966], x.dtype) / 255.0
    return 16.0 + (x * weights).sum(-1, keepdims=True)  # a product and a sum: no matrix unit may round it


def shave(x: Array, border: int) -> Array:
    """[..., H, W, C] without `border` pixels on every side."""
    height, width = x.shape[-3:-1]
    if border < 0 or 2 * border >= min(height, width):
        raise UserError(
            f"a border of {border} pixels leaves nothing of pictures of {x.shape[-2]}x{x.shape[-3]}; take less"
        )
    return x[..., border : height - border, border : width - border, :]

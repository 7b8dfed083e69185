"""Pixel ranges, grids and files: uint8 [0, 255] on the host, float32 [-1, 1] on the device."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxgen.errors import NotFinite

Array = jax.Array


def to_float(x: Array) -> Array:
    """uint8 levels -> float32 in [-1, 1] (x / 127.5 - 1); floats pass, so it may be applied twice."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(x: Array | np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] -> uint8 by rounding to the nearest level (the inverse of `to_float`); uint8 passes.

    What is not finite has no level: a NotFinite.
    """
    x = np.asarray(x)
    if x.dtype == np.uint8:
        return x
    if not np.isfinite(x).all():
        raise NotFinite("pictures hold NaN or infinity")
    return np.clip(np.rint((x.astype(np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def within(x: Array) -> Array:
    """Floats cut off at [-1, 1]. Infinity is not taken for black or white: it becomes NaN."""
    return jnp.where(jnp.isfinite(x), jnp.clip(x, -1.0, 1.0), jnp.nan)


def grid(images: np.ndarray, columns: int = 0, pad: int = 1) -> np.ndarray:
    """[N, H, W, C] images (uint8 or floats in [-1, 1]) -> one uint8 picture [H', W', 3]; near square by default.

    Clips [N, T, H, W, C] are rows of their frames.
    """
    images = to_uint8(images)
    if images.ndim == 5:
        columns, images = images.shape[1], images.reshape(-1, *images.shape[2:])
    num, height, width, channels = images.shape
    images = np.repeat(images, 3, axis=-1) if channels == 1 else images[..., :3]
    columns = columns or int(np.ceil(np.sqrt(num)))
    rows = -(-num // columns)
    canvas = np.full((rows * (height + pad) - pad, columns * (width + pad) - pad, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + pad), (i % columns) * (width + pad)
        canvas[y : y + height, x : x + width] = image
    return canvas


def save_png(path: str | os.PathLike, image: np.ndarray, min_side: int = 0) -> None:
    """Write [H, W, 3 | 1] uint8 beside the target and rename it there; small pictures grow by whole factors."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)
    factor = -(-min_side // max(1, min(picture.size)))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    part = path.with_name(path.name + ".part")
    picture.save(part, format="PNG")
    part.replace(path)


def save_grid(path: str | os.PathLike, images: np.ndarray, columns: int = 0) -> None:
    """`grid` + `save_png`, enlarged so that thumbnails can be looked at."""
    save_png(path, grid(images, columns), min_side=320)


def beside(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Interleave image sets of equal length: a0 b0 a1 b1 ... (inputs next to reconstructions) -> [N * len(rows), ...]."""
    stacked = np.stack([to_uint8(r) for r in rows], axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])

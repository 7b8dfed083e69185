"""Pixel ranges, grids and files: uint8 [0, 255] on the host, float32 [-1, 1] on the device."""

import contextlib
import itertools
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxgen.errors import NotFinite, UserError

Array = jax.Array
LUMA = (0.299, 0.587, 0.114)  # BT.601


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


def luma(x: Array) -> Array:
    """[..., 3] -> [..., 1]: a product and a sum, which no matrix unit rounds; of other numbers of channels their mean."""
    return (x * jnp.asarray(LUMA)).sum(-1, keepdims=True) if x.shape[-1] == 3 else x.mean(-1, keepdims=True)


def to_levels(x: Array, levels: int) -> Array:
    """Pixels (uint8, or floats in [-1, 1]) -> the numbers 0 .. levels - 1 of the nearest of so many even levels, int32."""
    return jnp.clip(jnp.rint((to_float(x) + 1.0) * (0.5 * (levels - 1))), 0, levels - 1).astype(jnp.int32)


def from_levels(k: Array, levels: int) -> Array:
    """Numbers of levels (or between them) -> floats in [-1, 1]: of 256 levels as `to_float` has them."""
    return k / (0.5 * (levels - 1)) - 1.0


def within(x: Array) -> Array:
    """Floats cut off at [-1, 1]. Infinity is not taken for black or white: it becomes NaN."""
    return jnp.where(jnp.isfinite(x), jnp.clip(x, -1.0, 1.0), jnp.nan)


class Octave(NamedTuple):
    """One level of a Laplacian pyramid: the picture is `coarse + detail`."""

    coarse: Array  # the next coarser picture, expanded to this level's size
    detail: Array  # what that lacks


def laplacian(x: Array, levels: int) -> tuple[list[Octave], Array]:
    """Floats [..., H, W, C] -> (octaves, finest first; the coarsest picture), each side halved and rounded up at a level.

    Burt & Adelson 1983. From the coarsest upwards `expand(x, size) + detail` undoes it: pictures of uint8 come back exactly.
    """
    octaves = []
    for _ in range(levels):
        small = reduce(x)
        coarse = expand(small, x.shape[-3:-1])
        octaves.append(Octave(coarse, x - coarse))
        x = small
    return octaves, x


def reduce(x: Array) -> Array:
    """[..., H, W, C] blurred by 1-2-1 along both sides, and every other pixel of it; the border goes on as its last pixel."""
    for axis in (x.ndim - 3, x.ndim - 2):
        side = x.shape[axis]
        x = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)], "edge")
        left, centre, right = (jax.lax.slice_in_dim(x, i, i + side, 2, axis) for i in range(3))
        x = 0.25 * left + 0.5 * centre + 0.25 * right
    return x


def expand(x: Array, size: tuple[int, int]) -> Array:
    """The way back to `size`, of pictures that `reduce` made of it: between two pixels stands their mean (1-2-1 again)."""
    for axis, side in zip((x.ndim - 3, x.ndim - 2), size, strict=True):
        last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), last], axis)
        both = jnp.stack([x, 0.5 * x + 0.5 * after], axis + 1)
        shape = (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
        x = jax.lax.slice_in_dim(both.reshape(shape), 0, side, axis=axis)
    return x


def grid(images: np.ndarray, columns: int = 0, pad: int = 1) -> np.ndarray:
    """[N, H, W, C] images (uint8 or floats in [-1, 1]) -> one uint8 picture [H', W', 3]; near square by default.

    Clips [N, T, H, W, C] are rows of their frames. Points of the plane [N, 1, 1, 2] are one picture: a dot each.
    """
    images = to_uint8(images)
    if images.shape[1:] == (1, 1, 2):
        return scatter(images.reshape(-1, 2))
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


def scatter(points: np.ndarray) -> np.ndarray:
    """uint8 points [N, 2] of the plane [-1, 1]^2, x and y -> black dots on white, uint8 [256, 256, 3]; y points upwards."""
    canvas = np.full((256, 256, 3), 255, np.uint8)
    canvas[255 - points[:, 1].astype(int), points[:, 0]] = 0
    return canvas


def save_png(path: str | os.PathLike, image: np.ndarray, min_side: int = 0) -> None:
    """Write [H, W, 3 | 1] uint8 beside the target and rename it there; small pictures grow by whole factors."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = _grown(image, min_side)
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)
    part = path.with_name(path.name + ".part")
    picture.save(part, format="PNG")
    part.replace(path)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """bool [H, W] of a picture's file: where it is white, or nearer to white than to black. A UserError for what is none."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L")) > 127
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as a mask ({error}); name a picture, such as a PNG") from error


def save_grid(path: str | os.PathLike, images: np.ndarray, columns: int = 0, captions: Sequence[str] = ()) -> None:
    """`grid` + `save_png`, enlarged so that thumbnails can be looked at; `captions`, one a column, stand above."""
    canvas = _grown(grid(images, columns), 320)
    save_png(path, np.concatenate([_strip(captions, canvas.shape[1]), canvas]) if captions else canvas)


def save_captioned(path: str | os.PathLike, images: np.ndarray, texts: Sequence[str], columns: int = 0) -> None:
    """Pictures [N, H, W, C], each above its text, which is broken into lines; small ones grow by whole factors."""
    images = np.stack([_grown(x, 144) for x in images])
    font, side, line = ImageFont.load_default(size=13), images.shape[2], 16
    broken = []
    for text in texts:
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            lines = [*lines[:-1], longer] if font.getlength(longer) <= side - 4 or not lines[-1] else [*lines, word]
        broken.append(lines)
    below = np.full((len(images), line * max(map(len, broken)) + 4, side, images.shape[3]), 255, np.uint8)
    for strip, lines in zip(below, broken, strict=True):
        drawn = Image.fromarray(strip[..., 0])
        for i, text in enumerate(lines):
            ImageDraw.Draw(drawn).text((1, line * i + 1), text, 0, font)
        strip[:] = np.asarray(drawn)[..., None]
    save_png(path, grid(np.concatenate([images, below], 1), columns, pad=6))


def save_gif(path: str | os.PathLike, frames: np.ndarray, seconds: float = 0.08, min_side: int = 160) -> None:
    """Write uint8 frames [T, H, W, 3] as a film that repeats, each so many seconds; small ones grow by whole factors."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [Image.fromarray(_grown(frame, min_side)) for frame in frames]
    part = path.with_name(path.name + ".part")
    first.save(part, format="GIF", save_all=True, append_images=rest, duration=round(1000 * seconds), loop=0)
    part.replace(path)


def _grown(image: np.ndarray, side: int) -> np.ndarray:
    """A picture whose shorter side is at least so long, by a whole factor."""
    factor = max(1, -(-side // max(1, min(image.shape[:2]))))
    return image.repeat(factor, 0).repeat(factor, 1)


def _strip(captions: Sequence[str], width: int) -> np.ndarray:
    """Texts side by side above the columns of a grid: uint8 [H, width, 3]; what is too long is cut."""
    font = ImageFont.load_default(size=13)
    strip = Image.new("RGB", (width, 18), "white")
    for i, text in enumerate(captions):
        cell = width / len(captions)
        while text and font.getlength(text) > cell - 2:
            text = text.removesuffix("…")[:-1] + "…" if len(text) > 2 else text[:-1]
        ImageDraw.Draw(strip).text((cell * (i + 0.5), 9), text, "black", font, anchor="mm")
    return np.asarray(strip)


def write_npz(
    path: str | os.PathLike, num: int, batches: Iterable[Mapping[str, np.ndarray]], **small: np.ndarray
) -> None:
    """Batches of arrays [n, ...] by name, `num` rows in all, as one .npz, in the memory of one batch; and small arrays besides.

    What is half written has another name, and goes where the batches end early.
    """
    path, batches = Path(path), iter(batches)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(part, "w") as archive, contextlib.ExitStack() as stack:
            head = next(batches)
            main, *others = head
            spools = {name: stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for name in others}
            with archive.open(f"{main}.npy", "w", force_zip64=True) as file:  # the others wait: one file at a time
                _npy_header(file, num, head[main])
                for batch in itertools.chain([head], batches):
                    for name, rows in batch.items():
                        spools.get(name, file).write(np.ascontiguousarray(rows).data)
            for name, spool in spools.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    _npy_header(file, num, head[name])
                    spool.seek(0)
                    shutil.copyfileobj(spool, file, 1 << 20)
            for name, array in small.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _npy_header(file: IO[bytes], num: int, like: np.ndarray) -> None:
    facts = {"descr": like.dtype.str, "fortran_order": False, "shape": (num, *like.shape[1:])}
    np.lib.format.write_array_header_1_0(file, facts)


def map_npz(path: str | os.PathLike, name: str) -> np.ndarray:
    """An array of a file that `write_npz` wrote, mapped from it rather than read."""
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo(f"{name}.npy").header_offset
    with open(path, "rb") as file:
        file.seek(at + 26)  # of a zip's local header: the lengths of its name and of what is extra, then these
        file.seek(at + 30 + sum(struct.unpack("<HH", file.read(4))))
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.memmap(path, dtype, "r", file.tell(), shape)


def beside(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Interleave image sets of equal length: a0 b0 a1 b1 ... (inputs next to reconstructions) -> [N * len(rows), ...]."""
    stacked = np.stack([to_uint8(r) for r in rows], axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])

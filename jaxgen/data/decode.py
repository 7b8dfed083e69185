"""Encoded images -> uint8 [H, W, C]: any mode Pillow reads, upright, without alpha, resized by a named policy."""

import struct
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # naming them spares Pillow from trying every plugin: twice as fast
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# what Pillow raises on damaged files
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)
BICUBIC = Image.Resampling.BICUBIC  # antialiased in Pillow when it shrinks; the filter of published FID code
GREY_MODES = ("1", "L", "LA", "I", "I;16")


def _cover(image: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(image, (size, size), BICUBIC)


def _contain(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    w, h = (max(1, round(side * scale)) for side in image.size)
    frame = Image.new(image.mode, (size, size))
    frame.paste(image.resize((w, h), BICUBIC), ((size - w) // 2, (size - h) // 2))
    return frame


def _stretch(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), BICUBIC)


def _none(image: Image.Image, size: int) -> Image.Image:
    return image


# cover: the shorter side fits, the centre is kept; contain: the longer side fits, black bars; stretch: sides are forced
RESIZE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "cover": _cover,
    "contain": _contain,
    "stretch": _stretch,
    "none": _none,
}


def open_image(file: str | BinaryIO) -> Image.Image:
    """A lazy image: only the header is read. Damaged input raises one of BROKEN, now or when pixels are asked for."""
    return Image.open(file, formats=FORMATS)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) after the EXIF orientation is applied; reads the header only."""
    w, h = image.size
    if (
        image.format == "PNG" and "exif" not in image.info
    ):  # Pillow would decode the whole file to look behind the pixels
        return w, h
    return (h, w) if image.getexif().get(ExifTags.Base.Orientation, 1) >= 5 else (w, h)


def is_colour(image: Image.Image) -> bool:
    """Whether the image needs three channels: a palette counts as grey if all its entries are."""
    if image.mode in ("P", "PA"):
        palette = np.reshape(image.getpalette(), (-1, 3))
        return bool((palette != palette[:, :1]).any())
    return image.mode not in GREY_MODES


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Any mode -> 8 bits in 1 or 3 channels; transparency is composited on white, 16 bits are scaled (not clipped)."""
    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image, np.int64), 0, 65_535)
        image = Image.fromarray(((wide * 255 + 32_767) // 65_535).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def photo(file: str | BinaryIO, channels: int, size: int = 0, resize: str = "none") -> np.ndarray:
    """A file a person made -> uint8 [H, W, channels], upright; size=0 or resize="none" keeps its size."""
    with open_image(file) as image:
        if size and resize != "none":
            image.draft(None, (2 * size, 2 * size))  # large JPEGs: decode at 1/2, 1/4, 1/8, still twice the target
        image = flatten(ImageOps.exif_transpose(image), channels)
        image = RESIZE[resize](image, size) if size else image
        return np.asarray(image).reshape(image.height, image.width, channels)


def record(data: BinaryIO, channels: int, size: int = 0, resize: str = "none") -> np.ndarray:
    """An image a data set stored -> uint8 [H, W, channels]: pixels as they are, as TFDS would decode them."""
    image = open_image(data)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    image = image if image.mode == mode else image.convert(mode)
    image = RESIZE[resize](image, size) if size else image
    return np.asarray(image).reshape(image.height, image.width, channels)

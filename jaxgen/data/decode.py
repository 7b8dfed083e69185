"""Encoded images -> uint8 [H, W, C]: any mode that Pillow reads, upright, without alpha, resized by a named policy.

The rules: of an animation the first frame, of several pages the first; 16 bits are scaled to 8; palettes and CMYK become
RGB; what is transparent lies on white; EXIF's turn is applied. What has no agreed range (floats, 32 bits) is not guessed at.
"""

import os
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from jaxgen.errors import line

# Pillow's remarks on what is odd in a file do not name it; what cannot be read is told with its name
for remark in (UserWarning, Image.DecompressionBombWarning):
    warnings.filterwarnings("ignore", category=remark, module=r"PIL\.")
# Naming them spares Pillow from trying every plugin: twice as fast
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
SUFFIXES = (
    *(".png", ".apng", *JPEG, ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
)
BICUBIC = Image.Resampling.BICUBIC  # antialiased in Pillow when it shrinks; the filter of published FID code
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
Turn = Image.Transpose
TURNS = {2: Turn.FLIP_LEFT_RIGHT, 3: Turn.ROTATE_180, 4: Turn.FLIP_TOP_BOTTOM, 5: Turn.TRANSPOSE, 6: Turn.ROTATE_270,
         7: Turn.TRANSVERSE, 8: Turn.ROTATE_90}  # EXIF's orientation -> what makes it upright  # fmt: skip


class Unreadable(ValueError):
    """What is wrong with a file that cannot be decoded, in one line."""


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever a damaged file raises in Pillow is Unreadable."""
    try:
        yield
    except UnidentifiedImageError as e:  # its own words name the file, or an object in memory
        raise Unreadable("it is no picture of a known format, or its beginning is damaged") from e
    except OSError as e:
        raise Unreadable(e.strerror or line(e)) from e
    except Exception as e:
        raise Unreadable(line(e)) from e


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


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 .. 8; 1 (upright) where there is none, or none that can be read. Asks for no pixels if it can."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info and not _told_behind(image)):
        return 1  # Pillow turns TIFFs itself, and would decode the whole PNG to look behind its pixels
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF is no reason to lose the picture
        return 1
    return found if found in TURNS else 1


def _told_behind(image: Image.Image) -> bool:
    """Whether a PNG has a chunk that may speak of its orientation after the pixels, or in another form than eXIf."""
    if {"Raw profile type exif", "XML:com.adobe.xmp"} & image.info.keys():
        return True
    file, position = image.fp, image.fp.tell()
    file.seek(8)
    pixels = False
    try:
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            pixels = pixels or kind == b"IDAT"
            file.seek(size + 4, 1)
    finally:
        file.seek(position)
    return False


class Head(NamedTuple):
    """What the header of a file says of its picture."""

    size: tuple[int, int]  # (width, height), upright
    colour: bool  # it needs three channels
    converted: tuple[str, ...]  # what of it is lost when it becomes 8 bits in 1 or 3 channels


def head(file: str) -> Head:
    """Reads no pixels. A file that has no picture is Unreadable."""
    with decoding(), opened(file) as image:
        w, h = image.size if orientation(image) < 5 else image.size[::-1]
        if not w or not h:
            raise Unreadable(f"the image is {w}x{h}")
        refuse_unsaid(image)
        return Head((w, h), is_colour(image), tuple(_conversions(image)))


def opened(file: str | BinaryIO) -> Image.Image:
    """A lazy image: only the header is read."""
    if isinstance(file, str) and os.path.getsize(file) == 0:
        raise Unreadable("the file is empty")
    return Image.open(file, formats=FORMATS)


def has_frames(image: Image.Image) -> bool:
    """Whether it is one of several: an animation's first, a page."""
    try:
        return image.format not in ("JPEG", "MPO") and getattr(image, "is_animated", False)
    except Exception:  # broken from the second frame on
        return True


def _conversions(image: Image.Image) -> Iterator[str]:
    """The rules that take something from this image."""
    if has_frames(image):
        yield "the first of several frames or pages"
    if image.mode.startswith("I"):
        yield "16 bits scaled to 8"
    if image.mode == "CMYK":
        yield "CMYK made RGB"
    if image.has_transparency_data:
        yield "transparency laid on white"


def refuse_unsaid(image: Image.Image) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise Unreadable(f"its pixels are {kind}, which have no agreed range")
    if image.mode == "LAB":
        raise Unreadable("its pixels are CIELAB; save it as RGB")


def is_colour(image: Image.Image) -> bool:
    """Whether the image needs three channels: a palette counts as grey if all its entries are."""
    if image.mode in ("P", "PA"):
        palette = np.reshape(image.getpalette(), (-1, 3))
        return bool((palette != palette[:, :1]).any())
    return image.mode not in GREY_MODES


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Any mode -> 8 bits in 1 or 3 channels; transparency is composited on white, 16 bits are scaled (not clipped)."""
    image = narrow(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def narrow(image: Image.Image) -> Image.Image:
    """16 bits a channel -> 8, rounded; others pass."""
    refuse_unsaid(image)
    if not image.mode.startswith("I"):
        return image
    wide = np.clip(np.asarray(image).astype(np.int64), 0, 65_535)
    return Image.fromarray(((wide * 255 + 32_767) // 65_535).astype(np.uint8))


def photo(file: str | BinaryIO, channels: int, size: int = 0, resize: str = "none") -> np.ndarray:
    """A file a person made -> uint8 [H, W, channels], upright; size=0 or resize="none" keeps its size. Or Unreadable.

    channels=0: 1 or 3, as the picture has.
    """
    with decoding(), opened(file) as image:
        channels = channels or (3 if is_colour(image) else 1)
        turn = TURNS.get(orientation(image))
        if size and resize != "none":
            image.draft(None, (2 * size, 2 * size))  # large JPEGs: decode at 1/2, 1/4, 1/8, still twice the target
        image = flatten(image, channels)
        image = image.transpose(turn) if turn is not None else image
        image = RESIZE[resize](image, size) if size else image
        return np.asarray(image).reshape(image.height, image.width, channels)


def record(data: BinaryIO, channels: int, size: int = 0, resize: str = "none") -> np.ndarray:
    """An image a data set stored -> uint8 [H, W, channels]: pixels as they are, 16 bits scaled to 8. Or Unreadable."""
    with decoding():
        image = narrow(opened(data))
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        image = image if image.mode == mode else image.convert(mode)
        image = RESIZE[resize](image, size) if size else image
        return np.asarray(image).reshape(image.height, image.width, channels)

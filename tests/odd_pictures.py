"""A folder as people have them: one picture in every kind of file, turned, of every mode, and much that is no picture.

Every sound picture shows the same: red above, dark blue below, in whatever way its file says so.
"""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
ABOVE, BELOW = (250, 60, 30), (20, 20, 60)


class Odd(NamedTuple):
    """Names relative to the folder."""

    shown: list[str]  # pictures that show what all show, in colour or grey
    thin: list[str]  # sound pictures of which a square shows something else
    broken: list[str]  # with a picture's suffix, and no picture that can be decoded
    others: list[str]  # without


def scene(w: int = WIDTH, h: int = HEIGHT) -> Image.Image:
    """What all show."""
    image = Image.new("RGB", (w, h), ABOVE)
    image.paste(BELOW, (0, h // 2, w, h))
    return image


def exif(orientation: int) -> Image.Exif:
    """EXIF that says how the camera was held."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def stored(orientation: int) -> Image.Image:
    """The scene as a camera held that way stores it."""
    turn = Image.Transpose
    ways = {1: None, 2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
            6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270}  # fmt: skip
    return scene() if ways[orientation] is None else scene().transpose(ways[orientation])


def grey16() -> Image.Image:
    """The scene in 16 bits of grey."""
    return Image.fromarray((np.asarray(scene().convert("L")).astype(np.uint16) * 257).astype(np.uint16))


def with_alpha(mode: str = "RGBA") -> Image.Image:
    """The scene, with a hole in a corner, which is black below its transparency."""
    image = scene().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 3, 3))
    return image.convert(mode)


def _frames(path: Path, **options) -> None:
    others = [Image.new("RGB", (WIDTH, HEIGHT), level) for level in ((0, 255, 0), (255, 255, 255))]
    scene().save(path, save_all=True, append_images=others, **options)


def _turned_behind(path: Path) -> None:
    """A PNG whose orientation stands behind its pixels."""
    stored(6).save(path)
    whole, body = path.read_bytes(), b"eXIf" + exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(whole[:-12] + chunk + whole[-12:])


def _cut(image: Callable[[Path], None], share: float) -> Callable[[Path], None]:
    """A file that ends early."""

    def write(path: Path) -> None:
        image(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return write


def _noise(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)


SHOWN: dict[str, Callable[[Path], None]] = {
    "colour.png": lambda p: scene().save(p),
    "grey.png": lambda p: scene().convert("L").save(p),
    "alpha.png": lambda p: with_alpha().save(p),
    "grey and alpha.png": lambda p: with_alpha("LA").save(p),
    "palette.png": lambda p: scene().quantize(4).save(p),
    "palette and alpha.png": lambda p: scene().quantize(4).save(p, transparency=3),
    "sixteen.png": lambda p: grey16().save(p),
    "many.apng": lambda p: _frames(p, format="PNG"),
    "big.PNG": lambda p: scene(480, 320).save(p),
    "really a jpeg.png": lambda p: scene().save(p, "JPEG", quality=95),
    "photo.jpg": lambda p: scene().save(p, quality=95),
    "photo.jpeg": lambda p: scene().save(p, quality=95, progressive=True),
    "photo.jpe": lambda p: scene().save(p, "JPEG", quality=95),
    "photo.jfif": lambda p: scene().save(p, "JPEG", quality=95),
    "grey.JPG": lambda p: scene().convert("L").save(p, quality=95),
    "cmyk.jpg": lambda p: scene().convert("CMYK").save(p, quality=95),
    "two.jpg": lambda p: scene().save(p, "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))]),
    "photo.webp": lambda p: scene().save(p, quality=95),
    "alpha.webp": lambda p: with_alpha().save(p, lossless=True),
    "many.webp": lambda p: _frames(p, quality=95),
    "colour.bmp": lambda p: scene().save(p),
    "palette.bmp": lambda p: scene().quantize(4).save(p),
    "colour.dib": lambda p: scene().save(p, "BMP"),
    "palette.gif": lambda p: scene().save(p),
    "many.gif": _frames,
    "grey.gif": lambda p: scene().convert("L").save(p),
    "colour.tif": lambda p: scene().save(p),
    "packed.tiff": lambda p: scene().save(p, compression="tiff_lzw"),
    "cmyk.tif": lambda p: scene().convert("CMYK").save(p),
    "sixteen.tif": lambda p: grey16().save(p),
    "pages.tif": _frames,
    "alpha.tif": lambda p: with_alpha().save(p),
    "photo.avif": lambda p: scene().save(p, quality=95),
    "alpha.avif": lambda p: with_alpha().save(p, quality=95),
    "colour.ppm": lambda p: scene().save(p),
    "grey.pgm": lambda p: scene().convert("L").save(p),
    "sixteen.pgm": lambda p: grey16().convert("I").save(p),
    "any.pnm": lambda p: scene().save(p, "PPM"),
    "behind.png": _turned_behind,
    **{f"turned {n}.png": lambda p, n=n: stored(n).save(p, exif=exif(n)) for n in (3, 6)},
    **{f"turned {n}.jpg": lambda p, n=n: stored(n).save(p, quality=95, exif=exif(n)) for n in (2, 5, 8)},
    "turned.tif": lambda p: stored(6).save(p, exif=exif(6)),
    "turned.webp": lambda p: stored(7).save(p, lossless=True, exif=exif(7)),
    "turned.avif": lambda p: stored(8).save(p, quality=95, exif=exif(8)),
    "caf\udce9.png": lambda p: scene().save(p),  # Latin-1, as old archives unpack
    "写真.png": lambda p: scene().save(p),
}
THIN = {
    "dot.png": lambda p: Image.new("RGB", (1, 1), ABOVE).save(p),
    "tall.png": lambda p: scene(1, 300).save(p),
    "wide.png": lambda p: scene(300, 2).save(p),
    "black and white.png": lambda p: scene().convert("1").save(p),
    "black and white.pbm": lambda p: scene().convert("1").save(p),
}
BROKEN = {
    "empty.png": lambda p: p.write_bytes(b""),
    "words.jpg": lambda p: p.write_text("not a picture"),
    "head.gif": _cut(_frames, 0.01),
    "half.png": _cut(_noise, 0.5),
    "half.jpg": _cut(_noise, 0.5),
    "floats.tif": lambda p: Image.new("F", (8, 8)).save(p),
}
OTHERS = ("notes.txt", "film.mp4", "IMG_0001.HEIC", "drawing.svg", "Thumbs.db", "README")


def write(root: Path) -> Odd:
    """The folder; beside it one that a link leads to, and inside it a link to its own parent, and one to nothing."""
    root.mkdir(parents=True)
    for table in (SHOWN, THIN, BROKEN):
        for name, draw in table.items():
            draw(root / name)
    for name in OTHERS:
        (root / name).write_text("x")
    elsewhere = root.parent / f"{root.name} elsewhere"
    elsewhere.mkdir()
    scene().save(elsewhere / "far.png")
    os.symlink(elsewhere, root / "linked")
    os.symlink("..", root / "up")
    os.symlink(".", root / "here")
    os.symlink("nowhere.png", root / "gone.png")
    os.symlink("colour.png", root / "again.png")
    shown = [*SHOWN, "again.png", "linked/far.png"]
    return Odd(shown, [*THIN], [*BROKEN], [*OTHERS, "up", "here", "gone.png"])

"""One picture read and written with all that its file holds: bits, grey, alpha, EXIF, colour profile, resolution.

The rules: EXIF's turn is applied and then told no more; of several frames or pages the first; a palette becomes grey or RGB; CMYK
becomes RGB by its profile; 8 and 16 bits stay; below what is wholly transparent lies the colour of the nearest opaque pixel. A file
is written in the format it came in, where that holds what there is without a palette; only JPEG and AVIF lose something.
"""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms
from scipy.ndimage import distance_transform_edt

from jaxgen.data import decode
from jaxgen.data.decode import Unreadable
from jaxgen.data.files import readable
from jaxgen.errors import UserError

Options = dict[str, Any]
# format -> how it is written: as good as without loss, or without. GIF and the like hold no picture that is not of a palette
WRITTEN: dict[str, Options] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "PPM": {},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
SAME = {"MPO": "JPEG", "DIB": "BMP"}  # other names of these
LOSSY = ("JPEG", "AVIF")
OPAQUE = ("JPEG", "PPM", "BMP")  # hold no alpha
DEEP = ("PNG", "TIFF", "PPM")  # hold 16 bits of grey; of colour PNG alone, by the writer below
ENDS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "tif": "TIFF",
    "tiff": "TIFF",
    "bmp": "BMP",
    "avif": "AVIF",
}
TURNS = {  # EXIF's orientation -> what makes pixels [H, W, C] upright
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 3),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
STRUCTURE = {  # tags of a TIFF that say how its pixels lie, not what they show
    *range(254, 260), 262, 266, *range(273, 275), *range(277, 285), 296, *range(317, 326), 338, 339, 347, 530, 531, 532, 34675,
}  # fmt: skip


@dataclass(frozen=True)
class Head:
    """What the beginning of a file says."""

    size: tuple[int, int]  # (height, width), upright
    channels: int  # 1 or 3, without alpha
    alpha: bool
    deep: bool  # 16 bits
    format: str  # Pillow's name
    notes: tuple[str, ...] = ()  # what of it is not kept

    def written(self, name: str, wanted: str = "same") -> tuple[str, str, str]:
        """(the name of what is written of a file of this name, its format, what is lost or changed by that, or "").

        wanted: one of ENDS, or "same": the file's own, or PNG where that cannot hold what there is.
        """
        stem = os.path.splitext(name)[0]
        if wanted != "same":
            form, several = ENDS[wanted], self.channels > 1 or self.alpha
            lost = ["transparency is laid on white"] * (self.alpha and form in OPAQUE)
            lost += ["16 bits become 8"] * (self.deep and (form not in DEEP or (several and form != "PNG")))
            return f"{stem}.{wanted}", form, "; ".join(lost)
        own, why = SAME.get(self.format, self.format), ""
        if own not in WRITTEN:
            why = f"{own} holds no more than 256 colours"
        elif self.alpha and own in OPAQUE:
            why = f"{own} holds no transparency"
        elif self.deep and own != "PNG" and (self.channels > 1 or self.alpha):
            why = f"16 bits in several channels are not written as {own}"
        return (f"{stem}.png", "PNG", f"{why}: PNG") if why else (name, own, "")


@dataclass(frozen=True)
class Picture:
    """Its pixels, upright, and what else is kept."""

    pixels: np.ndarray  # uint8 or uint16 [H, W, 1 | 3]
    alpha: np.ndarray | None = None  # of the same type, [H, W, 1]; of what is 0 the pixels are the nearest opaque one's
    kept: Options = field(default_factory=dict)  # exif, icc_profile, dpi

    @property
    def most(self) -> int:
        """White."""
        return int(np.iinfo(self.pixels.dtype).max)


def head(file: str) -> Head:
    """Reads no pixels. A file that has no picture is Unreadable."""
    with decode.decoding(), decode.opened(file) as image:
        decode.refuse_unsaid(image)
        wide = _wide_as(image)
        height, width = image.size[::-1] if _turn(image, wide) < 5 else image.size
        if not height or not width:
            raise Unreadable(f"the image is {width}x{height}")
        channels, deep = 3 if decode.is_colour(image) and wide != "LA" else 1, image.mode.startswith("I") or bool(wide)
        return Head((height, width), channels, _has_alpha(image), deep, image.format, tuple(_notes(image)))


def read(file: str) -> Picture:
    """The whole of it. A file that cannot be decoded is Unreadable."""
    with decode.decoding(), decode.opened(file) as image:
        decode.refuse_unsaid(image)
        wide = _wide_as(image)  # first: to look for EXIF may take the pixels, and what is known of them
        turn = TURNS.get(_turn(image, wide), lambda x: x)
        kept = dict(_kept(image))
        if wide:
            pixels = _wide(file, wide)
        elif image.mode.startswith("I"):
            pixels = np.clip(np.asarray(image), 0, 65_535).astype(np.uint16)[..., None]
        else:
            pixels = _narrow(image)
    solid = pixels.shape[-1] % 2
    alpha = None if solid else turn(pixels[..., -1:])
    pixels = turn(pixels if solid else pixels[..., :-1])
    return Picture(pixels if alpha is None else under(pixels, alpha), alpha, kept)


def under(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels [H, W, C] whose wholly transparent ones have the colour of the nearest one that is not; all transparent: as they are.

    What stands there says nothing, and a net would mix it into the border.
    """
    clear = alpha[..., 0] == 0
    if not clear.any() or clear.all():
        return pixels
    rows, columns = distance_transform_edt(clear, return_distances=False, return_indices=True)
    filled = np.array(pixels)
    filled[clear] = pixels[rows[clear], columns[clear]]
    return filled


def on_white(picture: Picture) -> Picture:
    """Without alpha: what was transparent lies on white."""
    if picture.alpha is None:
        return picture
    share = picture.alpha.astype(np.float32) / picture.most
    mixed = np.rint(picture.pixels * share + picture.most * (1 - share)).astype(picture.pixels.dtype)
    return replace(picture, pixels=mixed, alpha=None)


def write(path: Path, picture: Picture, form: str) -> None:
    """As a file of that format, which never is there in part; what the format cannot hold goes: alpha onto white, 16 bits to 8."""
    if form in OPAQUE:
        picture = on_white(picture)
    deep = picture.pixels.dtype == np.uint16
    alone = picture.pixels.shape[-1] == 1 and picture.alpha is None
    if deep and form != "PNG" and not (alone and form in DEEP):
        picture = replace(picture, pixels=_eight(picture.pixels), alpha=_eight(picture.alpha))
        deep = False
    kept = dict(picture.kept)
    if kept.get("icc_profile", b"")[16:20] not in (b"", b"GRAY" if picture.pixels.shape[-1] == 1 else b"RGB "):
        kept.pop("icc_profile")  # of inks, or of grey where there is colour now
    if "exif" in kept:
        kept["exif"] = _resized(kept["exif"], picture.pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        if deep and not alone:
            _write_png16(part, _joined(picture), kept)
        else:
            pixels = picture.pixels[..., 0] if alone else _joined(picture)
            pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
            image = Image.fromarray(np.ascontiguousarray(pixels))
            how = {} if form == "TIFF" and "exif" in kept else WRITTEN[form]  # libtiff takes no EXIF
            image.save(part, format=form, **how, **kept)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _turn(image: Image.Image, wide: str) -> int:
    """EXIF's orientation that is still to be applied."""
    if image.format == "TIFF" and wide:  # read past Pillow, which turns others
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    return decode.orientation(image)


def _wide_as(image: Image.Image) -> str:
    """LA, RGB or RGBA where there are 16 bits in several channels, of which Pillow gives 8; else ""."""
    if image.mode.startswith("I") or not getattr(image, "tile", None):
        return ""
    told = image.tile[0][3]
    if image.format == "PPM":
        return image.mode if isinstance(told, tuple) and told[-1] > 255 and image.mode == "RGB" else ""
    return ("LA" if "LA;" in str(told) else image.mode) if ";16" in str(told) else ""


def _has_alpha(image: Image.Image) -> bool:
    return not image.mode.startswith("I") and image.has_transparency_data


def _notes(image: Image.Image) -> Iterator[str]:
    if decode.has_frames(image):
        yield "of several frames the first is taken"
    if image.mode == "CMYK":
        yield "CMYK becomes RGB"


def _narrow(image: Image.Image) -> np.ndarray:
    """8 bits, uint8 [H, W, 1 | 3], and one channel more where there is alpha."""
    colour = decode.is_colour(image)
    if _has_alpha(image):
        found = np.asarray(image if image.mode in ("RGBA", "LA") else image.convert("RGBA"))
        return found if colour or found.shape[-1] == 2 else found[..., [0, 3]]
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    wanted = "RGB" if colour else "L"
    found = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return found.reshape(*found.shape[:2], -1)


def _from_cmyk(image: Image.Image) -> Image.Image:
    """By the profile of its inks, where there is one that can be read."""
    try:
        inks = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (KeyError, OSError, ImageCms.PyCMSError):
        return image.convert("RGB")


def _wide(file: str, mode: str) -> np.ndarray:
    """16 bits in several channels, uint16 [H, W, C], as the file has them, unturned."""
    try:
        import av
    except ImportError:
        raise Unreadable(
            "it has 16 bits in several channels, which Pillow cannot read; pip install 'jaxgen[media]', or save it with 8 bits"
        ) from None
    with av.open(file) as container:
        frame = next(container.decode(video=0))
    found = frame.reformat(format="rgba64le").to_ndarray()
    return found[..., {"RGB": [0, 1, 2], "RGBA": [0, 1, 2, 3], "LA": [0, 3]}[mode]]


def _kept(image: Image.Image) -> Iterator[tuple[str, Any]]:
    """What is handed to the writer."""
    if profile := image.info.get("icc_profile"):
        yield "icc_profile", profile
    if (dpi := image.info.get("dpi")) and all(float(x) > 0 for x in dpi):
        yield "dpi", tuple(float(x) for x in dpi)
    try:
        found = Image.Exif()
        found.load(image.getexif().tobytes())  # a copy: by a TIFF's own tags its pixels are read
        for tag in STRUCTURE & {*found}:
            del found[tag]
        if len(found):
            yield "exif", found.tobytes()
    except Exception:  # broken EXIF is no reason to lose the picture
        return


def _resized(exif: bytes, shape: tuple[int, ...]) -> bytes:
    """EXIF that tells a picture's size tells the new one."""
    found = Image.Exif()
    found.load(exif)
    inner = found.get_ifd(ExifTags.IFD.Exif)
    for tag, side in ((ExifTags.Base.ExifImageWidth, shape[1]), (ExifTags.Base.ExifImageHeight, shape[0])):
        if tag in inner:
            inner[tag] = side
    return found.tobytes()


def _eight(x: np.ndarray | None) -> np.ndarray | None:
    return x if x is None else ((x.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)


def _joined(picture: Picture) -> np.ndarray:
    return picture.pixels if picture.alpha is None else np.concatenate([picture.pixels, picture.alpha], -1)


def _write_png16(path: Path, pixels: np.ndarray, kept: Options) -> None:
    """uint16 [H, W, 2 | 3 | 4] as PNG (W3C, third edition), which Pillow does not write: every row less the one above it."""
    height, width, channels = pixels.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)))
        if profile := kept.get("icc_profile"):
            file.write(chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
        if dpi := kept.get("dpi"):
            file.write(chunk(b"pHYs", struct.pack(">IIB", *(round(x / 0.0254) for x in dpi), 1)))
        if exif := kept.get("exif"):
            file.write(chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
        packer, above = zlib.compressobj(), np.zeros((1, width * channels * 2), np.uint8)
        for top in range(0, height, 64):
            band = pixels[top : top + 64]
            rows = np.ascontiguousarray(band.astype(">u2")).view(np.uint8).reshape(len(band), -1)
            less = rows - np.concatenate([above, rows[:-1]])
            filtered = np.concatenate([np.full((len(band), 1), 2, np.uint8), less], 1)
            above = rows[-1:]
            if body := packer.compress(filtered.tobytes()):
                file.write(chunk(b"IDAT", body))
        file.write(chunk(b"IDAT", packer.flush()) + chunk(b"IEND", b""))


def refuse_end(target: Path, form: str, end: str) -> None:
    """A UserError for a file whose name says another format than what is written; end: one of that."""
    said = Image.registered_extensions().get(target.suffix.lower(), "")
    if SAME.get(said, said) != form:
        raise UserError(
            f"OUT={readable(str(target))} would hold {form}, which its end does not say; name it {readable(target.stem + end)}"
        )


def refuse_format(wanted: str) -> None:
    """A UserError unless pictures can be written so."""
    if wanted != "same" and wanted not in ENDS:
        raise UserError(f"--format={wanted} is unknown; there are: same, {', '.join(ENDS)}")

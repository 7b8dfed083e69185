"""What a file holds besides its pixels stays, and what must change is told."""

import struct
from pathlib import Path

import numpy as np
import odd_pictures
import pytest
from PIL import Image, ImageCms

from jaxgen.apply import files
from jaxgen.data.decode import Unreadable

RNG = np.random.default_rng(0)


def deep(channels: int) -> np.ndarray:
    """16 bits of which the lower eight count."""
    return RNG.integers(1, 65_536, (19, 23, channels)).astype(np.uint16)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd") / "set"
    return root, odd_pictures.write(root)


def test_every_picture_comes_back_as_it_was(odd, tmp_path):
    """Size, channels, bits, alpha; bit for bit, but for JPEG and AVIF."""
    root, found = odd
    changed = []
    for name in found.shown + found.thin:
        head, picture = files.head(str(root / name)), files.read(str(root / name))
        assert head.size == picture.pixels.shape[:2] and head.channels == picture.pixels.shape[2], name
        assert head.deep == (picture.pixels.dtype == np.uint16) and head.alpha == (picture.alpha is not None), name
        to, form, why = head.written(name)
        files.write(tmp_path / to, picture, form)
        again = files.read(str(tmp_path / to))
        assert again.pixels.shape == picture.pixels.shape and again.pixels.dtype == picture.pixels.dtype, name
        far = np.abs(again.pixels.astype(int) - picture.pixels).max()
        assert far <= 6 if form in files.LOSSY else far == 0, name
        if head.alpha:
            np.testing.assert_array_equal(again.alpha, picture.alpha)
        changed += [name] * (to != name)
        assert bool(why) == (to != name)
    assert changed == ["palette.gif", "many.gif", "grey.gif"]
    for name in found.broken:
        with pytest.raises(Unreadable):
            files.read(str(root / name))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("end", ["png", "jpg", "tif", "webp"])
def test_a_camera_that_was_turned(turn, end, tmp_path):
    """The pixels are turned, once; the rest of EXIF stays, and tells the new size."""
    exif = odd_pictures.exif(turn)
    exif[0x010F], inner = "Maker", exif.get_ifd(0x8769)
    inner[0xA002], inner[0xA003], inner[0x829D] = 48, 32, 2.5
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(end, {})
    odd_pictures.stored(turn).save(tmp_path / f"a.{end}", exif=exif.tobytes(), **options)
    picture = files.read(str(tmp_path / f"a.{end}"))
    want = np.asarray(odd_pictures.scene())
    assert np.abs(picture.pixels.astype(int) - want).max() <= (8 if end == "jpg" else 0)
    large = files.replace(picture, pixels=picture.pixels.repeat(2, 0).repeat(2, 1))
    files.write(tmp_path / f"b.{end}", large, files.head(str(tmp_path / f"a.{end}")).format)
    with Image.open(tmp_path / f"b.{end}") as image:
        image.load()
        kept = image.getexif()
        assert image.size == (96, 64) and kept.get(0x0112, 1) == 1 and kept[0x010F] == "Maker"
        assert (kept.get_ifd(0x8769)[0xA002], kept.get_ifd(0x8769)[0xA003]) == (96, 64)
        assert float(kept.get_ifd(0x8769)[0x829D]) == 2.5


@pytest.mark.parametrize("end", ["png", "jpg", "tif", "webp", "avif"])
def test_the_profile_and_the_resolution_stay(end, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    odd_pictures.scene().save(tmp_path / f"a.{end}", icc_profile=profile, dpi=(300, 300))
    files.write(
        tmp_path / f"b.{end}", files.read(str(tmp_path / f"a.{end}")), files.head(str(tmp_path / f"a.{end}")).format
    )
    with Image.open(tmp_path / f"b.{end}") as image:
        assert image.info["icc_profile"] == profile
        if end not in ("webp", "avif"):  # which tell none
            np.testing.assert_allclose([float(x) for x in image.info["dpi"]], 300, atol=0.1)


def test_a_profile_of_grey_is_not_told_of_colour(tmp_path):
    """A picture that was given its colour is written without the profile that it came with."""
    profile = b"\0" * 16 + b"GRAY" + b"\0" * 108
    Image.new("L", (4, 3)).save(tmp_path / "a.png", icc_profile=profile)
    grey = files.read(str(tmp_path / "a.png"))
    for name, pixels in (("b.png", grey.pixels), ("c.png", grey.pixels.repeat(3, -1))):
        files.write(tmp_path / name, files.replace(grey, pixels=pixels), "PNG")
        assert ("icc_profile" in Image.open(tmp_path / name).info) == (name == "b.png")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_in_several_channels(channels, tmp_path):
    """PNG, read by PyAV: all 16 bits, with the profile; Pillow finds the upper eight in what was written."""
    pytest.importorskip("av")
    x = deep(channels)
    alpha = x[..., -1:] if channels % 2 == 0 else None
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if channels > 2 else b""
    kept = {
        "dpi": (300.0, 300.0),
        "exif": odd_pictures.exif(1).tobytes(),
        **({"icc_profile": profile} if profile else {}),
    }
    files.write(tmp_path / "a.png", files.Picture(x[..., : channels - (channels % 2 == 0)], alpha, kept), "PNG")
    head, found = files.head(str(tmp_path / "a.png")), files.read(str(tmp_path / "a.png"))
    assert head.deep and head.alpha == (alpha is not None)
    np.testing.assert_array_equal(files._joined(found), x)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.info.get("icc_profile", b"") == profile and round(image.info["dpi"][0]) == 300
        upper = np.asarray(image).astype(int)[..., [0, 3] if channels == 2 else slice(None)]
        assert np.abs(upper - (x >> 8)).max() <= 1


def test_sixteen_bits_of_colour_in_other_formats(tmp_path):
    pytest.importorskip("av")
    x = deep(3)
    (tmp_path / "a.ppm").write_bytes(b"P6 23 19 65535\n" + x.astype(">u2").tobytes())
    strips = struct.pack("<2sHI", b"II", 42, 8)
    tags = [(256, 4, 1, 23), (257, 4, 1, 19), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 128),
            (277, 3, 1, 3), (278, 4, 1, 19), (279, 4, 1, x.nbytes)]  # fmt: skip
    body = strips + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    body = body.ljust(122, b"\0") + struct.pack("<3H", 16, 16, 16)
    (tmp_path / "a.tif").write_bytes(body + x.tobytes())
    for name in ("a.ppm", "a.tif"):
        head = files.head(str(tmp_path / name))
        assert head.deep and head.written(name)[:2] == ("a.png", "PNG"), name
        np.testing.assert_array_equal(files.read(str(tmp_path / name)).pixels, x)


def test_without_pyav_it_is_one_line(tmp_path, monkeypatch):
    files.write(tmp_path / "a.png", files.Picture(deep(3)), "PNG")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(Unreadable, match=r"^it has 16 bits in several channels.*pip install 'jaxgen\[media\]'"):
        files.read(str(tmp_path / "a.png"))


def test_below_transparency_lies_the_nearest_opaque_colour():
    x, alpha = RNG.integers(0, 256, (9, 11, 3), np.uint8), np.zeros((9, 11, 1), np.uint8)
    seen = [(2, 3), (7, 9)]
    for place in seen:
        alpha[place] = 255
    filled = files.under(x, alpha)
    for row in range(9):
        for column in range(11):
            far = [(row - r) ** 2 + (column - c) ** 2 for r, c in seen]
            near = [x[place] for place, d in zip(seen, far, strict=True) if d == min(far)]
            assert any((filled[row, column] == colour).all() for colour in near)
    assert files.under(x, np.zeros_like(alpha)) is x and files.under(x, np.full_like(alpha, 1)) is x


def test_formats_that_cannot_hold_it(tmp_path):
    """Asked for, it is told and done."""
    odd_pictures.with_alpha().save(tmp_path / "a.png")
    head = files.head(str(tmp_path / "a.png"))
    assert head.written("x/a.png", "jpg") == ("x/a.jpg", "JPEG", "transparency is laid on white")
    files.write(tmp_path / "a.jpg", files.read(str(tmp_path / "a.png")), "JPEG")
    assert np.asarray(Image.open(tmp_path / "a.jpg"))[0, 0].min() > 240
    odd_pictures.grey16().save(tmp_path / "b.png")
    assert files.head(str(tmp_path / "b.png")).written("b.png", "webp") == ("b.webp", "WEBP", "16 bits become 8")
    files.write(tmp_path / "b.webp", files.read(str(tmp_path / "b.png")), "WEBP")
    assert np.asarray(Image.open(tmp_path / "b.webp"))[0, 0, 0] == np.asarray(odd_pictures.scene().convert("L"))[0, 0]


def test_half_a_file_is_never_there(tmp_path, monkeypatch):
    picture = files.Picture(np.zeros((8, 8, 3), np.uint8))
    files.write(tmp_path / "a.png", picture, "PNG")
    before = (tmp_path / "a.png").read_bytes()

    def fail(self, file, **_):
        Path(file).write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError):
        files.write(tmp_path / "a.png", picture, "PNG")
    assert (tmp_path / "a.png").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]

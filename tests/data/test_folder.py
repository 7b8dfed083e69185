"""Image folders: every kind of file a person may have, and every way one may be broken."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import Folder, eval_batches, load_all, train_stream
from jaxgen.errors import UserError

RNG = np.random.default_rng(0)


def _noise(h: int, w: int, c: int = 3) -> np.ndarray:
    return (
        np.squeeze(RNG.integers(0, 256, (h, w, c), np.uint8), -1)
        if c == 1
        else RNG.integers(0, 256, (h, w, c), np.uint8)
    )


def _only(path: Path, **spec) -> np.ndarray:
    """The single image of a folder, as the source gives it."""
    source = Folder(str(path), **spec).open("train")
    assert len(source) == 1
    return source[0]["image"]


def _broken(path: Path) -> None:
    """A PNG whose header is sound and whose pixels end early."""
    Image.fromarray(_noise(40, 40)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


# --- what is in the files


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "PNG"])
def test_lossless_colour_comes_through_exactly(tmp_path: Path, suffix: str):
    image = _noise(9, 7)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(_only(tmp_path), image)
    assert not Folder(str(tmp_path), eval_fraction=0.0).open("train").lossy


def test_jpeg_comes_through_nearly(tmp_path: Path):
    image = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (1, 48, 3))
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(_only(tmp_path).astype(int) - image).max() < 8
    assert Folder(str(tmp_path), eval_fraction=0.0).open("train").lossy  # whose bits mean little


def test_grey_stays_grey_and_becomes_colour_on_request(tmp_path: Path):
    image = _noise(8, 8, 1)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_only(tmp_path), image[..., None])
    np.testing.assert_array_equal(_only(tmp_path, channels=3), np.repeat(image[..., None], 3, -1))


def test_one_colour_image_makes_the_set_colour(tmp_path: Path):
    Image.fromarray(_noise(8, 8, 1)).save(tmp_path / "a.png")
    Image.fromarray(_noise(8, 8)).save(tmp_path / "b.png")
    assert Folder(str(tmp_path)).open("train").spec.shape == (8, 8, 3)
    assert Folder(str(tmp_path), channels=1).open("train").spec.shape == (8, 8, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path: Path, mode: str):
    image = np.zeros((4, 4, 4), np.uint8)
    image[:2, :, 3], image[2:, :, 3] = 255, 0  # opaque black above, transparent below
    Image.fromarray(image).convert("LA" if mode == "LA" else "RGBA").convert(mode).save(tmp_path / "a.png")
    got = _only(tmp_path, channels=3)
    assert (got[:2] == 0).all() and (got[2:] == 255).all()


def test_half_transparent_is_half_way_to_white(tmp_path: Path):
    Image.fromarray(np.full((4, 4, 4), (200, 100, 0, 128), np.uint8)).save(tmp_path / "a.png")
    expected = 255 + (np.array([200, 100, 0]) - 255) * (128 / 255)
    assert np.abs(_only(tmp_path)[0, 0] - expected).max() <= 1


def test_palettes_are_resolved_and_a_grey_palette_is_grey(tmp_path: Path):
    (tmp_path / "colour").mkdir()
    (tmp_path / "grey").mkdir()
    image = np.array([[[255, 0, 0], [0, 0, 255]]] * 2, np.uint8)
    Image.fromarray(image).quantize(2).save(tmp_path / "colour/a.png")
    np.testing.assert_array_equal(_only(tmp_path / "colour"), image)
    grey = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    grey.putpalette([10, 10, 10, 200, 200, 200])
    grey.save(tmp_path / "grey/a.png")
    np.testing.assert_array_equal(_only(tmp_path / "grey")[..., 0], [[10, 200], [200, 10]])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path):
    wide = np.array([[0, 257, 32_768], [40_000, 65_278, 65_535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "a.png")
    np.testing.assert_array_equal(_only(tmp_path)[..., 0], np.rint(wide / 257).astype(np.uint8))


def test_bilevel_is_black_and_white(tmp_path: Path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert _only(tmp_path).ravel().tolist() == [0, 255]


def test_cmyk_becomes_rgb(tmp_path: Path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = _only(tmp_path)
    assert red.shape == (16, 16, 3) and red[..., 0].min() > 240 and red[..., 1:].max() < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path: Path, orientation: int):
    upright = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [90, 90, 90]]], np.uint8)
    # how a camera stores each orientation (Exif 2.32, tag 0x0112)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(_only(tmp_path), upright)


# --- sizes


@pytest.mark.parametrize("policy", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("h, w", [(1, 1), (1, 300), (300, 1), (17, 90), (64, 64), (5, 4)])
def test_any_size_becomes_the_asked_one(tmp_path: Path, policy: str, h: int, w: int):
    Image.fromarray(np.full((h, w, 3), 200, np.uint8)).save(tmp_path / "a.png")
    image = _only(tmp_path, size=16, resize=policy)
    assert image.shape == (16, 16, 3)
    if policy != "contain":
        assert (image == 200).all()


def test_policies_keep_what_their_names_say(tmp_path: Path):
    image = np.zeros((32, 64, 1), np.uint8)
    image[:, :16], image[:, 16:48], image[:, 48:] = 50, 150, 250
    Image.fromarray(image[..., 0]).save(tmp_path / "a.png")
    cover, contain, stretch = (_only(tmp_path, size=32, resize=p)[..., 0] for p in ("cover", "contain", "stretch"))
    assert (cover == 150).all()  # the centre square
    assert (contain[:8] == 0).all() and (contain[24:] == 0).all() and (contain[9:23, 3:5] == 50).all()
    assert (
        abs(int(stretch[16, 2]) - 50) <= 2
        and abs(int(stretch[16, 16]) - 150) <= 2
        and abs(int(stretch[16, 30]) - 250) <= 2
    )


def test_shrinking_is_antialiased(tmp_path: Path):
    Image.fromarray(np.indices((256, 256)).sum(0).astype(np.uint8) % 2 * 255).save(tmp_path / "a.png")
    assert np.abs(_only(tmp_path, size=32).astype(float) - 127.5).max() < 3  # picking pixels would give 0 or 255


def test_the_fast_jpeg_path_changes_nothing_visible(tmp_path: Path):
    smooth = Image.fromarray(RNG.integers(0, 256, (24, 32, 3), np.uint8)).resize((1024, 768), Image.Resampling.BICUBIC)
    (tmp_path / "jpg").mkdir()
    (tmp_path / "png").mkdir()
    smooth.save(tmp_path / "jpg/a.jpg", quality=98)
    Image.open(tmp_path / "jpg/a.jpg").save(tmp_path / "png/a.png")
    fast, full = (_only(tmp_path / kind, size=48).astype(float) for kind in ("jpg", "png"))
    assert np.abs(fast - full).mean() < 1.0 and np.abs(fast - full).max() < 10


def test_unequal_sizes_without_a_size_are_told(tmp_path: Path):
    Image.fromarray(_noise(8, 8)).save(tmp_path / "a.png")
    Image.fromarray(_noise(8, 9)).save(tmp_path / "b.png")
    _one_line(Folder(str(tmp_path)), "8x8", "9x8", "size=64")
    _one_line(Folder(str(tmp_path), size=8, resize="none"), "differ in size")
    (tmp_path / "b.png").unlink()
    _one_line(Folder(str(tmp_path), size=16, resize="none"), "differ in size")
    assert _only(tmp_path, size=8, resize="none").shape == (8, 8, 3)


# --- layout and splits


def test_class_folders_are_labels_in_natural_order(tmp_path: Path):
    for name, level in (("zebra", 1), ("10", 2), ("emu", 3), ("2", 4)):
        (tmp_path / name / "deep").mkdir(parents=True)
        for i in range(4):
            Image.new("L", (4, 4), level).save(tmp_path / name / ("deep" if i % 2 else "") / f"{i}.png")
    label = Folder(str(tmp_path)).open("train").spec["label"]
    assert label.names == ("2", "10", "emu", "zebra") and label.values == 4
    parts = [load_all(Folder(str(tmp_path)).open(split), 1 << 20) for split in ("train", "eval")]
    assert sum(len(part["label"]) for part in parts) == 16
    for part in parts:
        assert [(4, 2, 3, 1)[label] for label in part["label"].tolist()] == part["image"][:, 0, 0, 0].tolist()
    Image.new("L", (4, 4)).save(tmp_path / "beside.png")
    flat = Folder(str(tmp_path)).open("train")
    assert "label" not in flat.spec and "label" not in flat[0] and flat.labels is None
    assert "labels: none, since pictures ('beside.png') lie beside folders ('2')" in flat.notes


def test_the_split_is_by_name_and_stable(tmp_path: Path):
    for i in range(60):
        Image.new("L", (2, 2), i).save(tmp_path / f"{i}.png")
    held = set(Folder(str(tmp_path), eval_fraction=0.2).open("eval").names)
    train = set(Folder(str(tmp_path), eval_fraction=0.2).open("train").names)
    assert not held & train and len(held | train) == 60 and 4 <= len(held) <= 22
    for i in range(60, 90):
        Image.new("L", (2, 2), i).save(tmp_path / f"{i}.png")
    assert held <= set(Folder(str(tmp_path), eval_fraction=0.2).open("eval").names)


def test_few_images_still_leave_one_to_evaluate(tmp_path: Path):
    for i in range(3):
        Image.new("L", (2, 2), i).save(tmp_path / f"{i}.png")
    spec = Folder(str(tmp_path), eval_fraction=0.001)
    assert len(spec.open("eval")) == 1 and len(spec.open("train")) == 2


def test_an_own_evaluation_folder(tmp_path: Path):
    for part, names in (("train", "ab"), ("eval", "b")):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / part / name / "0.png")
    spec = Folder(str(tmp_path / "train"), str(tmp_path / "eval"))
    assert len(spec.open("train")) == 2 and len(spec.open("eval")) == 1
    assert spec.open("eval")[0]["label"] == 1 and spec.open("eval").spec.classes == 2
    (tmp_path / "eval/c").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "eval/c/0.png")
    _one_line(spec, "'c/0.png'", split="eval")


def test_hidden_and_other_files_are_left_alone(tmp_path: Path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    (tmp_path / ".thumbs").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / ".thumbs/a.png")
    assert len(Folder(str(tmp_path)).open("train")) == 1


# --- broken files


def test_broken_headers_are_left_out_with_one_warning_for_each_reason(tmp_path: Path, recwarn):
    for i in range(20):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i:02}.png")
    (tmp_path / "zero.png").write_bytes(b"")
    for name in ("text.jpg", "words.jpg"):
        (tmp_path / name).write_text("not a picture")
    parts = [load_all(Folder(str(tmp_path)).open(split), 1 << 20)["image"] for split in ("train", "eval")]
    assert sorted(np.concatenate(parts)[:, 0, 0, 0].tolist()) == list(range(20))
    told = [str(w.message) for w in recwarn]
    assert len(told) == 2 and all(str(tmp_path) in line for line in told)
    for line, words in zip(
        sorted(told), (("1 of 23", "zero.png", "empty"), ("2 of 23", "text.jpg", "no picture")), strict=True
    ):
        assert all(word in line for word in words)


def test_broken_pixels_give_way_to_the_next_image(tmp_path: Path, recwarn):
    for i in range(4):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i}.png")
    _broken(tmp_path / "2.png")
    source = Folder(str(tmp_path), str(tmp_path)).open("train")
    for _ in range(3):
        assert [int(source[i]["image"][0, 0, 0]) for i in range(4)] == [0, 1, 3, 3]
    train_stream(source, 16, 0, workers=3).batch_at(0)
    assert sum("2.png" in str(w.message) for w in recwarn) == 1


def test_what_cannot_be_decoded_is_counted_in_no_measure(tmp_path: Path):
    for i in range(7):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i}.png")
    for i in (2, 6):
        _broken(tmp_path / f"{i}.png")
    source = Folder(str(tmp_path), eval_fraction=0.0).open("train")
    for _ in range(2):
        batches = list(eval_batches(source, 3, workers=2))
        valid = np.concatenate([batch["valid"] for batch in batches]) > 0
        images = np.concatenate([batch["image"] for batch in batches])
        assert images[valid][:, 0, 0, 0].tolist() == [0, 1, 3, 4, 5]


def test_a_broken_file_stops_the_run_if_asked_to(tmp_path: Path):
    Image.new("RGB", (40, 40)).save(tmp_path / "0.png")
    _broken(tmp_path / "1.png")
    source = Folder(str(tmp_path), str(tmp_path), on_broken="stop").open("train")
    with pytest.raises(UserError, match=r"1\.png"):
        source[1]
    with pytest.raises(UserError, match=r"1\.png"):  # through Grain's threads too
        next(train_stream(source, 8, 0).start(0))
    (tmp_path / "2.png").write_bytes(b"")
    _one_line(Folder(str(tmp_path), on_broken="stop"), "2.png", "empty")


def test_given_size_and_channels_spare_the_first_look(tmp_path: Path):
    Image.new("RGB", (40, 40), (7, 0, 0)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"")
    source = Folder(str(tmp_path), str(tmp_path), size=8, channels=3).open("train")
    assert len(source) == 2 and source[1]["image"][0, 0, 0] == 7


def test_unfit_folders_are_told(tmp_path: Path):
    _one_line(Folder(str(tmp_path / "none")), "does not exist", "none", "--config.data.path=")
    Image.new("L", (4, 4)).save(tmp_path / "sound.png")
    _one_line(Folder(str(tmp_path), str(tmp_path / "none")), "does not exist", "none", "--config.data.eval_path=")
    (tmp_path / "file").write_text("")
    _one_line(Folder(str(tmp_path / "file")), "not a folder", "file")
    (tmp_path / "empty").mkdir()
    _one_line(Folder(str(tmp_path / "empty")), "no image", "empty")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero/a.png").write_bytes(b"")
    _one_line(Folder(str(tmp_path / "zero")), "none of the 1", "a.png", "empty")
    (tmp_path / "mixed/cats").mkdir(parents=True)
    Image.new("L", (2, 2)).save(tmp_path / "mixed/a.png")
    Image.new("L", (2, 2)).save(tmp_path / "mixed/cats/b.png")
    (tmp_path / "mixed/cats/deep").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "mixed/cats/deep/b.png")
    assert len(Folder(str(tmp_path / "mixed"), eval_fraction=0.0).open("train")) == 3
    (tmp_path / "classes/cats").mkdir(parents=True)
    Image.new("L", (2, 2)).save(tmp_path / "classes/cats/b.png")
    _one_line(Folder(str(tmp_path / "classes"), str(tmp_path / "mixed")), "'a.png'", "none of the 1 class folders")
    good = str(tmp_path / "mixed/cats")
    _one_line(Folder(good, resize="cower"), "did you mean 'cover'")
    _one_line(Folder(good, on_broken="ignore"), "skip, stop")
    _one_line(Folder(good, eval_fraction=0.0), "no picture", "--config.data.eval_path", split="eval")


def test_a_folder_with_no_readable_pixels_is_told(tmp_path: Path):
    _broken(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png"):
        Folder(str(tmp_path)).open("train")[0]


def _one_line(spec: Folder, *says: str, split: str = "train") -> None:
    with pytest.raises(UserError) as error:
        spec.open(split)
    assert "\n" not in str(error.value)
    for text in says:
        assert text in str(error.value)

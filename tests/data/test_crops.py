"""Squares out of pictures of any size: where they lie, which pictures are left out, and whose pictures are the same."""

import numpy as np
import pytest
from PIL import Image

from jaxgen.data.sources import Crops
from jaxgen.errors import UserError
from jaxgen.images import save_png

SIZES = {"a": (50, 70), "b": (40, 33), "small": (31, 90)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(its path, name -> picture): three of colour and of different sizes."""
    path, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    found = {f"{k}.png": rng.integers(0, 256, (*size, 3), np.uint8) for k, size in SIZES.items()}
    for name, picture in found.items():
        save_png(path / name, picture)
    return path, found


def test_every_square_is_its_part_of_a_picture(folder):
    """In order, file by file; the smaller picture is left out, and said to be."""
    path, found = folder
    with pytest.warns(UserWarning, match=r"1 of 3 pictures .* are smaller than 32 pixels"):
        source = Crops(str(path), eval_fraction=0.0, size=32, stride=16).open("train")
    assert source.spec.shape == (32, 32, 3) and source.names == ("a.png", "b.png")
    want = [found["a.png"][r : r + 32, c : c + 32] for r in (0, 16) for c in (0, 16, 32)] + [found["b.png"][:32, :32]]
    assert len(source) == len(want)
    for i, square in enumerate(want):
        np.testing.assert_array_equal(source[i]["image"], square)
    with pytest.raises(IndexError):
        source[len(want)]


def test_smaller_forms_of_the_pictures_are_cut_too(folder):
    path, found = folder
    source = Crops(str(path), eval_fraction=0.0, size=20, scales=(1.0, 0.5), channels=1).open("train")
    grey = Image.fromarray(found["a.png"]).convert("L")
    half = np.asarray(grey.resize((35, 25), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(source[6]["image"][..., 0], half[:20, :20])  # behind 2 x 3 of the whole
    assert source.place(6).scale == 0.5 and source.place(7).file == 1


def test_a_picture_is_known_again_in_grey_and_cut(folder):
    """As BSD68 holds those of BSD100; another is not."""
    path, found = folder
    source = Crops(str(path), eval_fraction=0.0, size=32).open("train")
    grey = np.asarray(Image.fromarray(found["a.png"]).convert("L"))[:48, :68, None]
    assert source.holds([found["b.png"], grey, 255 - grey]) == ["b.png", "a.png", ""]


def test_what_is_wrong_is_one_line_and_parts_share_no_picture(folder):
    path, _ = folder
    with pytest.raises(UserError, match=r"no picture of .* has 64 pixels a side; set config\.data\.size=50"):
        Crops(str(path), eval_fraction=0.0, size=64).open("train")
    parts = [Crops(str(path), eval_fraction=0.4, size=20).open(split) for split in ("train", "eval")]
    assert not {*parts[0].names} & {*parts[1].names} and sum(len(p.names) for p in parts) == 3
    assert parts[0].fingerprint() != Crops(str(path), eval_fraction=0.4, size=20, stride=10).open("train").fingerprint()

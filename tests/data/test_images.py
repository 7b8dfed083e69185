"""Pixel ranges, grids and files."""

import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.images import (
    beside,
    from_levels,
    grid,
    map_npz,
    save_grid,
    save_png,
    to_float,
    to_levels,
    to_uint8,
    write_npz,
)

LEVELS = np.arange(256, dtype=np.uint8)


def test_levels_survive_the_way_there_and_back():
    floats = to_float(jnp.asarray(LEVELS))
    assert floats[0] == -1.0 and floats[-1] == 1.0
    np.testing.assert_array_equal(to_uint8(floats), LEVELS)
    np.testing.assert_array_equal(to_float(floats), floats)
    np.testing.assert_array_equal(to_uint8(LEVELS), LEVELS)
    near = np.asarray(floats) + np.random.default_rng(0).uniform(-0.49, 0.49, 256) / 127.5
    np.testing.assert_array_equal(to_uint8(near), LEVELS)
    assert to_uint8(np.array([-7.0, 1.2])).tolist() == [0, 255]


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_numbers_of_levels_survive_floats_and_uint8(levels):
    floats = from_levels(jnp.arange(levels), levels)
    assert floats[0] == -1.0 and floats[-1] == 1.0
    for pixels in (floats, to_uint8(floats)):
        np.testing.assert_array_equal(to_levels(pixels, levels), np.arange(levels))
    if levels == 256:
        np.testing.assert_array_equal(floats, to_float(jnp.asarray(LEVELS)))


def test_a_grid_holds_every_image_at_its_place():
    images = np.random.default_rng(0).integers(0, 255, (7, 4, 5, 3), np.uint8)  # no white
    for columns, rows in ((3, 3), (7, 1), (1, 7), (0, 3)):
        picture, across = grid(images, columns), columns or 3
        assert picture.shape == (rows * 5 - 1, across * 6 - 1, 3)
        for i, image in enumerate(images):
            y, x = i // across * 5, i % across * 6
            np.testing.assert_array_equal(picture[y : y + 4, x : x + 5], image)
        assert (picture == 255).all(-1).sum() == picture.shape[0] * picture.shape[1] - 7 * 20
    np.testing.assert_array_equal(grid(images[..., :1]), np.repeat(grid(images)[..., :1], 3, -1))


@pytest.mark.parametrize("columns", [0, 2])
def test_a_clip_is_a_row_of_its_frames(columns):
    clips = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 4, 1), np.uint8)
    np.testing.assert_array_equal(grid(clips, columns), grid(clips.reshape(15, 4, 4, 1), columns=5))
    both = beside([clips, 255 - clips])
    assert both.shape == (6, 5, 4, 4, 1)
    np.testing.assert_array_equal(both[2], clips[1])
    np.testing.assert_array_equal(both[3], 255 - clips[1])


def test_points_of_the_plane_are_one_picture():
    """Dots where they belong, y upwards."""
    points = np.array([[0, 0], [255, 0], [10, 200]], np.uint8).reshape(3, 1, 1, 2)
    picture = grid(points)
    assert picture.shape == (256, 256, 3)
    assert sorted(zip(*np.nonzero((picture == 0).all(-1)), strict=True)) == [(55, 10), (255, 0), (255, 255)]


def test_files_hold_the_picture_enlarged_by_a_whole_factor(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    save_png(tmp_path / "new" / "a.png", image, min_side=20)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), image.repeat(4, 0).repeat(4, 1))
    save_grid(tmp_path / "b.png", np.stack([image] * 4))
    assert min(Image.open(tmp_path / "b.png").size) >= 320
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["a.png", "b.png"]  # nothing is left beside them


def test_captions_stand_above_their_columns_and_are_cut_to_fit(tmp_path):
    images = np.zeros((6, 8, 8, 1), np.uint8)
    save_grid(tmp_path / "plain.png", images, 3)
    save_grid(tmp_path / "told.png", images, 3, ["a", "a name far too long for its column to hold", ""])
    plain, told = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "told"))
    strip, rest = told[: len(told) - len(plain)], told[len(told) - len(plain) :]
    np.testing.assert_array_equal(rest, plain)
    ink = [(strip[:, part] < 128).any() for part in np.array_split(np.arange(strip.shape[1]), 3)]
    assert ink == [True, True, False]


def test_arrays_are_streamed_to_a_whole_file_or_none(tmp_path):
    """Batches of any size make the file that NumPy reads; where they end early nothing is left."""
    whole = {"images": np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3), "labels": np.arange(7, dtype=np.int32)}
    cuts = [{k: v[a:b] for k, v in whole.items()} for a, b in ((0, 3), (3, 6), (6, 7))]
    write_npz(tmp_path / "new" / "a.npz", 7, iter(cuts), names=np.array(["cat", "dög"]))
    with np.load(tmp_path / "new" / "a.npz") as stored:
        assert set(stored) == {"images", "labels", "names"} and stored["names"].tolist() == ["cat", "dög"]
        for name, array in whole.items():
            np.testing.assert_array_equal(stored[name], array)
            mapped = map_npz(tmp_path / "new" / "a.npz", name)
            assert isinstance(mapped, np.memmap) and mapped.dtype == array.dtype
            np.testing.assert_array_equal(mapped, array)

    alive = []

    def many():
        for _ in range(20):
            rows = np.zeros((4, 2, 2, 3), np.uint8)
            alive.append(weakref.ref(rows))
            yield {"images": rows, "also": rows}
            del rows
            assert sum(ref() is not None for ref in alive) <= 2  # the first tells the shapes

    write_npz(tmp_path / "many.npz", 80, many())
    assert len(alive) == 20

    def broken():
        yield cuts[0]
        raise KeyboardInterrupt

    for name in ("a", "b"):  # what was there stays
        with pytest.raises(KeyboardInterrupt):
            write_npz(tmp_path / "new" / f"{name}.npz", 7, broken())
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.npz"] and len(
        np.load(tmp_path / "new/a.npz")["images"]
    ) == 7

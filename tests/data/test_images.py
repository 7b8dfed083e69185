"""Pixel ranges, grids and files."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.images import beside, grid, save_grid, save_png, to_float, to_uint8

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


def test_files_hold_the_picture_enlarged_by_a_whole_factor(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    save_png(tmp_path / "new" / "a.png", image, min_side=20)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), image.repeat(4, 0).repeat(4, 1))
    save_grid(tmp_path / "b.png", np.stack([image] * 4))
    assert min(Image.open(tmp_path / "b.png").size) >= 320
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["a.png", "b.png"]  # nothing is left beside them

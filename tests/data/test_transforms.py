"""Host augmentations: exact meaning, and nothing but the generator decides."""

import numpy as np
import pytest

from jaxgen.data import Crop, Flip


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("kind", [Flip, Crop])
def test_the_generator_decides_everything(kind):
    image = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    transform = kind()
    outs = [transform({"image": image}, _rng(seed)) for seed in range(40)]
    again = [transform({"image": image}, _rng(seed)) for seed in range(40)]
    for a, b in zip(outs, again, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        assert a["image"].shape == image.shape and a["image"].dtype == np.uint8
    assert len({out["image"].tobytes() for out in outs}) > 1


def test_flip_mirrors_left_and_right_with_its_probability():
    image = np.arange(12, dtype=np.uint8).reshape(2, 6, 1)
    never, always = (Flip(p)({"image": image}, _rng(0))["image"] for p in (0.0, 1.0))
    np.testing.assert_array_equal(never, image)
    np.testing.assert_array_equal(always[:, ::-1], image)
    flipped = sum(bool((Flip(0.3)({"image": image}, _rng(s))["image"] != image).any()) for s in range(1000))
    assert 240 < flipped < 360  # four standard deviations around 300


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_crop_cuts_from_the_reflected_image(pad: int):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 2), np.uint8)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    cuts = {padded[y : y + 5, x : x + 7].tobytes() for y in range(2 * pad + 1) for x in range(2 * pad + 1)}
    seen = {Crop(pad)({"image": image}, _rng(seed))["image"].tobytes() for seed in range(1500)}
    assert seen == cuts


def test_crop_survives_a_single_pixel():
    assert Crop(4)({"image": np.full((1, 1, 1), 9, np.uint8)}, _rng(0))["image"].item() == 9

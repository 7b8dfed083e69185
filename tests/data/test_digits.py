"""The embedded digits are what they claim to be."""

import numpy as np
import pytest

from jaxgen.core.spec import pictures
from jaxgen.data import Digits, load_all


def _all(size: int = 8) -> tuple[dict, dict]:
    return tuple(load_all(Digits(size).open(split), 1 << 30) for split in ("train", "eval"))


def test_counts_shapes_and_range():
    train, held = _all()
    assert train["image"].shape == (1500, 8, 8, 1) and held["image"].shape == (297, 8, 8, 1)
    assert train["image"].min() == 0 and train["image"].max() == 255
    assert len(np.unique(train["image"])) == 17  # the scanner's levels 0 .. 16
    assert Digits().open("train").spec == pictures((8, 8, 1), 10, tuple("0123456789"), levels=17)


def test_the_histogram_of_labels_and_its_share_held_out():
    train, held = _all()
    total = np.bincount(train["label"]) + np.bincount(held["label"])
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (np.abs(np.bincount(held["label"]) - total * 297 / 1797) < 1).all()


def test_the_same_images_as_scikit_learn():
    reference = pytest.importorskip("sklearn.datasets").load_digits()
    train, held = _all()

    def key(image: np.ndarray, label: int) -> tuple[bytes, int]:
        return np.rint(np.squeeze(image)).astype(np.uint8).tobytes(), int(label)

    ours = [key(i, y) for part in (train, held) for i, y in zip(part["image"] * (16 / 255), part["label"], strict=True)]
    theirs = [key(i, y) for i, y in zip(reference.images, reference.target, strict=True)]
    assert sorted(ours) == sorted(theirs)
    part = Digits().open("train")  # in the order of the original
    assert [key(reference.images[row], 0) for row in part.rows] == [key(i * (16 / 255), 0) for i in train["image"]]


@pytest.mark.parametrize("size", [16, 32])
def test_larger_digits_show_the_same_picture(size: int):
    small, large = _all()[1]["image"], _all(size)[1]["image"]
    assert large.shape == (297, size, size, 1)
    k = size // 8
    shrunk = large.reshape(297, 8, k, 8, k).astype(float).mean((2, 4))
    correlation = np.corrcoef(shrunk.ravel(), small.astype(float).ravel())[0, 1]
    assert correlation > 0.97

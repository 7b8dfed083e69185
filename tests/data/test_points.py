"""Gaussians in the plane: where they are said to be, different in every split, and known by what they are."""

from dataclasses import replace

import numpy as np
import pytest

from jaxgen.data import Lattice, Ring, load_all
from jaxgen.errors import UserError
from jaxgen.evaluation.modes import count_modes


@pytest.mark.parametrize(
    "mixture, modes", [(Ring(num=8_000), 8), (Ring(num=9_000, modes=3), 3), (Lattice(num=25_000), 25)]
)
def test_points_lie_evenly_around_their_centres(mixture, modes):
    train, held = (load_all(mixture.open(split), 1 << 30)["image"] for split in ("train", "eval"))
    assert train.shape == (mixture.num, 1, 1, 2) and train.dtype == np.float32 and np.abs(train).max() < 1
    assert held.shape == (10_000, 1, 1, 2) and not {p.tobytes() for p in held} & {p.tobytes() for p in train}
    centres = mixture.centres()
    assert centres.shape == (modes, 2)
    found = count_modes(train.reshape(-1, 2), centres, 4 * mixture.sigma, 0.25)
    assert found["modes"] == modes and found["near"] > 0.999 and found["least_share"] > 0.85
    off = train.reshape(-1, 2) - centres[np.linalg.norm(train.reshape(-1, 1, 2) - centres, axis=-1).argmin(1)]
    np.testing.assert_allclose(off.std(0), mixture.sigma, rtol=0.05)


def test_the_centres_are_those_of_the_papers_up_to_scale():
    ring, grid = Ring().centres() / 0.8, Lattice().centres() / 0.4
    np.testing.assert_allclose(ring[:3], [[1, 0], [0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(grid[:6], [[-2, -2], [-1, -2], [0, -2], [1, -2], [2, -2], [-2, -1]], atol=1e-12)


def test_another_mixture_is_other_data():
    source = Ring(num=50).open("train")
    assert source.fingerprint() == Ring(num=50).open("train").fingerprint()
    for change in ({"sigma": 0.1}, {"modes": 7}, {"radius": 0.5}, {"seed": 1}, {"num": 51}):
        assert replace(Ring(num=50), **change).open("train").fingerprint() != source.fingerprint(), change
    with pytest.raises(UserError, match="train"):
        Ring().open("trian")


def test_modes_are_counted_by_their_share():
    """Of four modes one has its share, one a quarter of it, one less, one nothing; the rest is near none."""
    centres = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    points = np.repeat([[0.0, 0.05], [1, 0], [0, 1], [0.5, 0.5]], [100, 25, 24, 251], 0)
    found = count_modes(points, centres, 0.1, 0.25)
    assert found == {"modes": 2.0, "near": 149 / 400, "least_share": 0.0}

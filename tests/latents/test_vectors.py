"""Lines, directions and measures of latents against their definitions."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.latents import vectors

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 5, 16))
T = np.linspace(0, 1, 9)


@pytest.mark.parametrize("line", vectors.PATHS.values(), ids=vectors.PATHS)
def test_a_line_ends_in_its_ends_bit_for_bit(line):
    a, b = A.astype(np.float32), B.astype(np.float32)
    made = line(a, b, T)
    assert made.shape == (9, 5, 16)
    assert (made[0] == a).all() and (made[-1] == b).all()
    assert (line(a, a, T)[[0, -1]] == a).all() and np.allclose(line(a, a, T), a, atol=1e-12)


def test_an_arc_keeps_the_norm_and_turns_evenly():
    b = B / np.linalg.norm(B, axis=-1, keepdims=True) * np.linalg.norm(A, axis=-1, keepdims=True)
    norms = np.linalg.norm(vectors.slerp(A, b, T), axis=-1)
    assert np.allclose(norms, np.linalg.norm(A, axis=-1))
    assert (np.linalg.norm(vectors.lerp(A, b, T), axis=-1)[1:-1] < norms[1:-1]).all()

    arc = vectors.slerp(A, 3 * b, T)  # where norms differ, they go evenly from one to the other
    norms = np.linalg.norm(arc, axis=-1)
    assert np.allclose(norms, norms[0] * (1 + 2 * T[:, None]))
    unit = arc / norms[..., None]
    steps = np.arccos((unit[1:] * unit[:-1]).sum(-1))
    assert np.allclose(steps, steps[0])


def test_where_there_is_no_arc_the_line_is_straight():
    for b in (2 * A, -A, np.zeros_like(A)):
        assert np.isfinite(vectors.slerp(A, b, T)).all()
    assert np.allclose(vectors.slerp(A, 2 * A, T), vectors.lerp(A, 2 * A, T))


@pytest.mark.parametrize("penalty", [0.0, 1.0, 100.0])
def test_ridge_is_least_squares_with_rows_for_the_penalty(penalty):
    x = RNG.normal(size=(200, 7)) + 3
    y = x @ np.arange(7.0) + 2 + RNG.normal(size=200)
    v, constant = vectors.ridge(x, y, penalty)
    rows = np.concatenate([np.c_[x, np.ones(200)], np.c_[np.sqrt(penalty) * np.eye(7), np.zeros(7)]])
    wanted = np.linalg.lstsq(rows, np.r_[y, np.zeros(7)], rcond=None)[0]
    assert np.allclose([*v, constant], wanted)
    assert vectors.r_squared(y, x @ v + constant) > (0.95 if penalty < 10 else 0.5)


def test_r_squared_and_ranks():
    y = np.arange(6.0)
    assert vectors.r_squared(y, y) == 1 and vectors.r_squared(y, np.full(6, y.mean())) == 0
    assert vectors.r_squared(y, -y) < 0
    assert vectors.rank_correlation(y, np.exp(y)) == pytest.approx(1) == -vectors.rank_correlation(y, -(y**3))
    assert vectors.rank_correlation(y, np.zeros(6)) == 0
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5
    assert vectors.rank_correlation(np.arange(4), np.array([0, 7, 7, 9])) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_within_groups_nothing_is_left_of_their_means():
    groups = np.array([3, 1, 3, 1, 1])
    x = RNG.normal(size=(5, 2))
    found = vectors.within(x, groups)
    assert np.allclose(found[groups == 1].mean(0), 0) and np.allclose(found[[0, 2]], x[[0, 2]] - x[[0, 2]].mean(0))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_ink_and_slant_are_what_a_stroke_has(channels):
    images = np.zeros((3, 16, 16, channels), np.uint8)
    for row in range(2, 12):
        for i, column in enumerate((8, row, 14 - row)):
            images[i, row, column] = 255
    assert np.allclose(vectors.ink(images), 10)
    assert np.allclose(vectors.slant(images), [0, 1, -1], atol=1e-4)
    assert np.isfinite(vectors.slant(np.zeros_like(images))).all()


def test_places():
    assert vectors.places("0-1,4", 6, "layers").tolist() == [True, True, False, False, True, False]
    for wrong in ("", "6", "a", "3-1", "-1", "0-9"):
        with pytest.raises(UserError, match=r"^layers=.* must be layers of 0 to 5, such as layers=0-2$"):
            vectors.places(wrong, 6, "layers")

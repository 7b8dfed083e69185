"""Precision, recall, density, coverage: definitions in float64, which set is which, blocks that do not show."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.manifold import density_coverage, precision_recall, squared_distances


def reference(generated, real, k):
    """The definitions, all pairs at once in float64."""

    def distances(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def reach(x):
        return np.sort(distances(x, x), axis=1)[:, k]  # column 0 is the point itself

    across = distances(generated, real)
    in_real = across <= reach(real)
    in_generated = across <= reach(generated)[:, None]
    return (
        in_real.any(1).mean(),
        in_generated.any(0).mean(),
        in_real.sum() / (k * len(generated)),
        in_real.any(0).mean(),
    )


@pytest.fixture
def sets():
    rng = np.random.default_rng(3)
    return rng.standard_normal((230, 12)) * 0.8 + 5.0, rng.standard_normal((170, 12)) + 5.0


@pytest.mark.parametrize(("k", "block"), [(1, 64), (3, 7), (3, 64), (3, 170), (5, 170), (5, 4096)])
def test_the_definitions_in_any_block(sets, k, block):
    precision, recall, density, coverage = reference(*sets, k)
    shares = precision_recall(*sets, k=k, block=block)
    assert (shares.precision, shares.recall) == pytest.approx((precision, recall), abs=1e-12)
    others = density_coverage(*sets, k=k, block=block)
    assert (others.density, others.coverage) == pytest.approx((density, coverage), abs=1e-12)


def test_swapping_the_sets_swaps_precision_and_recall(sets):
    ours, theirs = precision_recall(*sets), precision_recall(sets[1], sets[0])
    assert ours.precision != ours.recall
    assert (ours.precision, ours.recall) == (theirs.recall, theirs.precision)
    assert ours.f_score == pytest.approx(2 * ours.precision * ours.recall / (ours.precision + ours.recall))


def test_one_mode_of_two_is_precise_but_recalls_half():
    """The generator knows one of two real modes: all it makes is real, half of what is real it cannot make."""
    rng = np.random.default_rng(0)
    mode = rng.standard_normal((200, 4))
    real = np.concatenate([mode, mode + 100.0])
    shares = precision_recall(mode[::2].copy(), real)
    assert shares.precision == 1.0
    assert shares.recall == pytest.approx(0.5, abs=0.05)
    others = density_coverage(mode[::2].copy(), real)
    assert others.coverage == pytest.approx(0.5, abs=0.05)
    shares = precision_recall(real, mode)  # and the other way: half of what is made is nonsense
    assert shares.precision == pytest.approx(0.5, abs=0.05)
    assert shares.recall == 1.0


def test_one_outlier_ruins_recall_but_not_coverage():
    """Naeem et al., figure 2: a lone generated point far away has a ball that swallows everything real."""
    rng = np.random.default_rng(0)
    real = rng.standard_normal((100, 4))
    made = np.concatenate([50.0 + rng.standard_normal((96, 4)), -1000.0 * np.arange(1, 5)[:, None] * np.ones(4)])
    assert precision_recall(made, real).recall == 1.0
    assert density_coverage(made, real).coverage == 0.0


def test_the_same_set_holds_itself_even_in_2048_dimensions(sets):
    features = np.abs(np.random.default_rng(0).standard_normal((300, 2048))) * 0.3 + 0.4
    assert precision_recall(features, features.copy(), block=128).precision == 1.0
    assert density_coverage(features, features.copy(), block=128).coverage == 1.0


def test_equal_images_are_at_distance_zero():
    """More copies than neighbours: balls without extent, in which only the copies lie."""
    copies = np.full((50, 64), 0.7)
    assert precision_recall(copies, copies.copy()).precision == 1.0
    assert precision_recall(copies + 0.1, copies).precision == 0.0


def test_distances_are_zero_to_oneself_and_true_to_others():
    """Products are rounded, in float32 by more than the squares of equal rows differ."""
    rows = np.abs(np.random.default_rng(0).standard_normal((200, 2048))) * 0.3 + 0.4
    got = np.asarray(squared_distances(*[rows.astype(np.float32)] * 2))
    want = np.stack([((rows - row) ** 2).sum(-1) for row in rows])
    assert (got.diagonal() == 0.0).all()
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_order_does_not_matter(sets):
    rng = np.random.default_rng(0)
    shuffled = [x[rng.permutation(len(x))] for x in sets]
    assert precision_recall(*sets) == precision_recall(*shuffled)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: precision_recall(x[:3], y), "generated features: 3 image.*at least 4"),
        (lambda x, y: density_coverage(x, y[:5]), "real features: 5 image.*at least 6"),
        (lambda x, y: precision_recall(x[:, :5], y), "5 and 12 features"),
        (lambda x, y: precision_recall(x, y, k=0), "k=0"),
        (lambda x, y: precision_recall(x * np.nan, y), "not finite"),
    ],
)
def test_mistakes_are_named(sets, call, message):
    with pytest.raises(UserError, match=message):
        call(*sets)

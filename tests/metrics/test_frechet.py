"""Fréchet distance: closed forms, degenerate covariances, and moments that do not care how they were gathered."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics import frechet as module
from jaxgen.metrics.frechet import Moments, frechet, frechet_infinity, frechet_intra, frechet_of


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def decaying(rng, num, width, offset=100.0):
    """Features with a covariance of many sizes, far from 0: hard for sums of squares."""
    mixing = np.linalg.qr(rng.standard_normal((width, width)))[0] * np.exp(-np.linspace(0, 6, width))
    return (rng.standard_normal((num, width)) @ mixing.T + offset).astype(np.float32)


def same(a: Moments, b: Moments) -> None:
    assert a.seen == b.seen
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12)
    np.testing.assert_allclose(a.cov, b.cov, rtol=0, atol=1e-12 * np.abs(b.cov).max())


def test_moments_are_numpys(rng):
    x = decaying(rng, 500, 24)
    moments = Moments.of(x)
    np.testing.assert_allclose(moments.mean, x.mean(0, dtype=np.float64), rtol=1e-12)
    want = np.cov(x.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(moments.cov, want, rtol=0, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
@pytest.mark.parametrize("block", [1, 50, 1024])
def test_batch_and_block_size_do_not_matter(rng, monkeypatch, batch, block):
    x = decaying(rng, 500, 12)
    whole = Moments.of(x)
    monkeypatch.setattr(module, "BLOCK", block)
    state = Moments.empty(12)
    for start in range(0, len(x), batch):
        state = state.update(x[start : start + batch])
        assert state.seen == min(start + batch, len(x))
        assert sum(map(len, state.pending)) < block
    same(state, whole)


def test_order_does_not_matter(rng):
    x = decaying(rng, 300, 12)
    same(Moments.of(x[rng.permutation(300)]), Moments.of(x))


def test_merging_is_commutative_associative_and_complete(rng):
    x = decaying(rng, 600, 12)
    whole = Moments.of(x)
    a, b, c = (Moments.empty(12).update(part) for part in np.split(x, [100, 350]))
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b), Moments.empty(12).merge(whole)):
        same(merged, whole)
    same(whole.merge(Moments.empty(12)), whole)


def test_updating_leaves_the_old_state_alone(rng):
    x = decaying(rng, 40, 5)
    before = Moments.of(x)
    kept = before.mean.copy(), before.cov.copy()
    before.update(x + 1.0).settled()
    np.testing.assert_array_equal(before.mean, kept[0])
    np.testing.assert_array_equal(before.cov, kept[1])


def test_padding_is_masked_out_even_where_it_is_nan(rng):
    x = decaying(rng, 50, 8)
    padded = np.concatenate([x, np.full((14, 8), np.nan, np.float32)])
    same(Moments.empty(8).update(padded, np.arange(64) < 50), Moments.of(x))
    assert Moments.empty(8).update(padded, np.zeros(64, bool)).seen == 0


def test_identical_is_zero_and_never_below(rng):
    for num in (2, 9, 40, 4000):  # fewer images than features, and more
        moments = Moments.of(decaying(rng, num, 40))
        assert 0.0 <= frechet_of(moments, moments) < 1e-9


def test_equal_images_have_a_singular_covariance():
    flat, other = Moments.of(np.ones((10, 6))), Moments.of(np.full((10, 6), 3.0))
    assert frechet_of(flat, flat) == 0.0
    assert frechet_of(flat, other) == pytest.approx(24.0, rel=1e-12)  # only the means are left


def test_a_shift_costs_its_square(rng):
    x = decaying(rng, 400, 16).astype(np.float64)
    delta = rng.standard_normal(16)
    assert frechet_of(Moments.of(x), Moments.of(x + delta)) == pytest.approx(delta @ delta, rel=1e-9)


def test_scaling_in_closed_form(rng):
    """Covariances C and s^2 C: (1 - s)^2 tr C."""
    moments = Moments.of(decaying(rng, 400, 16))
    got = frechet(moments.mean, moments.cov, moments.mean, 9.0 * moments.cov)
    assert got == pytest.approx(4.0 * np.trace(moments.cov), rel=1e-10)


def test_commuting_covariances_in_closed_form(rng):
    """Same eigenvectors: the distance of the standard deviations."""
    vectors = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    a, b = rng.uniform(0, 3, 20), rng.uniform(0, 3, 20)
    a[:5], b[3:9] = 0.0, 0.0  # of different rank
    zero = np.zeros(20)
    got = frechet(zero, (vectors * a**2) @ vectors.T, zero, (vectors * b**2) @ vectors.T)
    assert got == pytest.approx(np.sum((a - b) ** 2), rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(10, 500), (500, 10), (10, 12), (500, 500)])
def test_rank_deficiency_against_singular_values(rng, n, m):
    """tr (C1 C2)^(1/2) is the nuclear norm of the product of both centred factors, whatever their rank."""
    x, y = decaying(rng, n, 256), decaying(rng, m, 256) * np.float32(1.5)
    a, b = ((z - z.mean(0, dtype=np.float64)) / np.sqrt(len(z) - 1) for z in (x, y))
    shift = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    want = np.sum(a**2) + np.sum(b**2) - 2 * nuclear
    a, b = Moments.of(x), Moments.of(y)
    assert frechet_of(a, b) == pytest.approx(shift @ shift + want, rel=1e-10)
    for one, two in ((a, b), (b, a)):
        assert frechet(a.mean, one.cov, a.mean, two.cov) == pytest.approx(want, rel=1e-8)


def test_small_variances_are_not_lost(rng):
    """A spectrum over nine decades: what the smallest eigenvalues add is found to a precision of its own."""
    scale = np.sqrt(np.logspace(1, -9, 200))
    x, y = (rng.standard_normal((800, 200)) * scale for _ in range(2))
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    want = np.sum(a**2) + np.sum(b**2) - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()
    a, b = Moments.of(x), Moments.of(y)
    assert frechet(a.mean, a.cov, a.mean, b.cov) == pytest.approx(want, abs=1e-11)


def test_infinity_removes_the_bias_of_small_samples(rng):
    width = 32
    x = rng.standard_normal((6000, width))
    line = frechet_infinity(x, np.zeros(width), np.eye(width), points=8)
    assert line.sizes[0] == 600
    assert line.sizes[-1] == 6000
    assert line.slope > 0
    assert line.distances[0] > 5 * line.distances[-1]
    assert abs(line.value) < 0.2 * line.distances[-1]  # the truth is 0
    assert line == frechet_infinity(x, np.zeros(width), np.eye(width), points=8)


def test_intra_class_is_the_mean_over_classes(rng):
    x, y = decaying(rng, 90, 6), decaying(rng, 120, 6)
    labels, known = np.arange(90) % 3, np.arange(120) % 3
    result = frechet_intra(x, labels, y, known)
    for c in range(3):
        want = frechet_of(Moments.of(x[labels == c]), Moments.of(y[known == c]))
        assert result.classes[c] == pytest.approx(want, rel=1e-12)
    assert result.value == pytest.approx(np.mean(list(result.classes.values())), rel=1e-12)
    shuffled = rng.permutation(90)
    assert frechet_intra(x[shuffled], labels[shuffled], y, known).value == pytest.approx(result.value, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet(np.zeros(3), np.eye(3), np.zeros(4), np.eye(4)), "3 and 4 features"),
        (lambda: frechet(np.zeros(3), np.eye(4), np.zeros(3), np.eye(3)), "statistics 1"),
        (lambda: frechet(np.zeros(3), np.eye(3), np.zeros(3), np.full((3, 3), np.nan)), "statistics 2.*not finite"),
        (lambda: frechet(np.zeros(3), -np.eye(3), np.zeros(3), np.eye(3)), "statistics 1.*variances"),
        (lambda: frechet(np.zeros(2), np.array([[1.0, 2], [0, 1]]), np.zeros(2), np.eye(2)), "symmetric"),
        (lambda: Moments.of(np.ones((1, 4))).cov, "at least 2 images, but 1"),
        (lambda: Moments.empty(4).cov, "at least 2 images, but 0"),
        (lambda: Moments.of(np.ones((5, 4))).update(np.ones((5, 3))), "3 and 4 features"),
        (lambda: Moments.of(np.ones((5, 4))).merge(Moments.empty(3)), "4 and 3 features"),
        (lambda: Moments.of(np.ones((5, 4, 2))), "shape"),
        (lambda: Moments.of(np.array([[1.0, 2], [np.inf, 0], [0, 1]])), "image 1 of 3.*not finite"),
        (lambda: frechet_infinity(np.ones((5, 2)), np.zeros(2), np.eye(2)), "at least 20"),
        (lambda: frechet_intra(np.ones((4, 2)), [0, 0, 1, 1], np.ones((4, 2)), [0, 0, 2, 2]), r"\[1, 2\]"),
        (lambda: frechet_intra(np.ones((4, 2)), [0, 0, 0, 1], np.ones((4, 2)), [0, 0, 1, 1]), r"\[1\].*fewer than 2"),
        (lambda: frechet_intra(np.ones((4, 2)), [0, 0], np.ones((4, 2)), [0, 0, 1, 1]), "one label"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.slow
def test_the_size_of_inception(rng):
    """D = 2048: identical sets are at 0 and the bias falls as 1/N."""
    sets = [Moments.of(rng.standard_normal((n, 2048)).astype(np.float32)) for n in (3000, 3000, 6000)]
    assert frechet_of(sets[0], sets[0]) < 1e-6
    small, large = frechet_of(sets[0], sets[1]), frechet_of(sets[0], sets[2])
    assert large < small

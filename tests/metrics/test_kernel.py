"""KID: its definition by loops, the draws of other programs, no bias."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.kernel import kid, mmd2


@pytest.fixture
def sets():
    rng = np.random.RandomState(7)  # a frozen stream: the numbers below were computed from it
    return rng.standard_normal((150, 16)), 1.2 * rng.standard_normal((130, 16)) + 0.3


def test_the_definition(sets):
    x, y = sets[0][:9], sets[1][:7]

    def kernel(a, b):
        return (a @ b / 16 + 1) ** 3

    want = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    want += np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    want -= 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert mmd2(x, y) == pytest.approx(want, rel=1e-10)
    assert mmd2(x, y) == pytest.approx(mmd2(y, x), rel=1e-10)


def test_the_draws_of_torch_fidelity(sets):
    """What torch-fidelity 0.4.0 prints for the same features (float64, kid_subsets=20, kid_subset_size=50)."""
    result = kid(*sets, subsets=20, size=50)
    assert result.mean == pytest.approx(0.38341131578947907, rel=1e-9)
    assert result.std == pytest.approx(0.11594544254246318, rel=1e-9)


def test_the_order_of_images_does_not_bias_and_subsets_of_all_have_no_spread(sets):
    x, y = sets[0][:130], sets[1]
    result = kid(x, y, subsets=3, size=130)
    assert result.mean == pytest.approx(mmd2(x, y), rel=1e-9)
    assert result.std == pytest.approx(0.0, abs=1e-12)


def test_without_bias_on_one_distribution():
    rng = np.random.default_rng(1)
    values = [mmd2(rng.standard_normal((20, 8)), rng.standard_normal((20, 8))) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20  # also negative ones
    assert min(values) < 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: kid(x, y), "1000.*150 generated and 130 reference.*size=130"),
        (lambda x, y: kid(x, y[:, :4], size=10), "16 and 4 features"),
        (lambda x, y: kid(x, y * np.nan, size=10), "reference features: image 0.*not finite"),
        (lambda x, y: kid(x, y, size=1), "size >= 2"),
        (lambda x, y: mmd2(x[:1], y), "at least 2"),
    ],
)
def test_mistakes_are_named(sets, call, message):
    with pytest.raises(UserError, match=message):
        call(*sets)

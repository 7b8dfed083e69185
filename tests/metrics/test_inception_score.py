"""Inception Score: closed forms and the conventions of other programs."""

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.inception_score import inception_score, inception_score_of


@pytest.fixture
def logits():
    return np.random.RandomState(7).standard_normal((150, 16))  # a frozen stream: numbers below were computed from it


def test_sure_and_various_is_the_number_of_classes():
    result = inception_score_of(np.tile(np.eye(7), (4, 1)), splits=4, order="given")
    assert result.mean == pytest.approx(7.0, rel=1e-12)
    assert result.std == pytest.approx(0.0, abs=1e-12)


def test_one_answer_for_all_is_one(logits):
    assert inception_score(np.tile(logits[:1], (50, 1))).mean == pytest.approx(1.0, rel=1e-12)


def test_as_torch_fidelity(logits):
    """What torch-fidelity 0.4.0 prints for the same logits (shuffled with seed 2020)."""
    result = inception_score(logits)
    assert result.mean == pytest.approx(1.4526099179898864, rel=1e-12)
    assert result.std == pytest.approx(0.056765011316644076, rel=1e-10)


def test_probabilities_and_logits_agree(logits):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    a, b = inception_score(logits + 1000.0), inception_score_of(p)  # a constant changes nothing, nor does it overflow
    assert a.mean == pytest.approx(b.mean, rel=1e-10)
    assert a.std == pytest.approx(b.std, rel=1e-8)


def test_splits_in_the_given_order(logits):
    parts = [inception_score(logits[i : i + 50], splits=1, order="given").mean for i in (0, 50, 100)]
    result = inception_score(logits, splits=3, order="given")
    assert result.mean == pytest.approx(np.mean(parts), rel=1e-12)
    assert result.std == pytest.approx(np.std(parts), rel=1e-10)
    assert inception_score(logits, splits=3).mean != pytest.approx(result.mean, rel=1e-6)


def test_imagenet_leaves_out_what_stands_for_no_class():
    rows = np.random.default_rng(0).standard_normal((30, 1008)) * 3
    want = inception_score(rows[:, 1:1001], splits=1).mean
    assert inception_score(rows, splits=1, classes="imagenet").mean == pytest.approx(want, rel=1e-12)
    rows[:, 0] += 50
    assert inception_score(rows, splits=1, classes="imagenet").mean == pytest.approx(want, rel=1e-12)
    assert inception_score(rows, splits=1).mean < 1.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: inception_score(x, order="sorted"), "given, shuffled"),
        (lambda x: inception_score(x[:5]), "splits=10 of 5 images"),
        (lambda x: inception_score(x, classes="imagenet"), "16 logits"),
        (lambda x: inception_score(x, classes="birds"), "birds"),
        (lambda x: inception_score_of(x), "sum to 1"),
        (lambda x: inception_score(x[0]), "shape"),
    ],
)
def test_mistakes_are_named(logits, call, message):
    with pytest.raises(UserError, match=message):
        call(logits)

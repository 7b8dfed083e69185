"""Inception Score (Salimans et al. 2016, arXiv:1606.03498, section 4): sure about each image, various over all.

    IS = exp E_x KL(p(y | x) || p(y)),   p(y) = E_x p(y | x)      mean and population deviation over `splits` parts

Published numbers differ in the order of the images and in the classes: torch-fidelity shuffles them with seed 2020;
OpenAI's own code and ADM take them as they come (ADM in parts of 5,000, so splits = N / 5,000). The graph of 2015 has
1,008 logits, of which number 0 and the last seven stand for no class; all of them are used by convention, and the
standard logits are those *without* the bias of the last layer.
"""

from dataclasses import dataclass

import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.features import feature_matrix

CLASSES = {"all": slice(None), "imagenet": slice(1, 1001)}  # columns by name; "imagenet" is for the 1,008 logits


@dataclass(frozen=True)
class InceptionScore:
    """Mean and (population) standard deviation over the splits."""

    mean: float
    std: float


def inception_score(
    logits: np.ndarray, splits: int = 10, order: str = "shuffled", classes: str = "all", seed: int = 2020
) -> InceptionScore:
    """IS of logits [N, classes], natural logarithms, float64.

    order: "shuffled" (torch-fidelity) | "given" (OpenAI, ADM). classes: "all" columns | "imagenet", the 1,000 of 1,008.
    """
    rows = feature_matrix(logits, "logits").astype(np.float64)
    if classes not in CLASSES or (classes == "imagenet" and rows.shape[1] != 1008):
        raise UserError(
            f"classes={classes!r} of {rows.shape[1]} logits; there are: all, and imagenet for the graph's 1,008"
        )
    rows = rows[:, CLASSES[classes]]
    rows = rows - rows.max(axis=1, keepdims=True)
    return _score(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)), splits, order, seed)


def inception_score_of(
    probabilities: np.ndarray, splits: int = 10, order: str = "shuffled", seed: int = 2020
) -> InceptionScore:
    """IS of probabilities [N, classes] whose rows sum to 1; classes that an image excludes count nothing."""
    rows = feature_matrix(probabilities, "probabilities").astype(np.float64)
    if rows.min() < 0 or np.abs(rows.sum(axis=1) - 1).max() > 1e-3:
        raise UserError("probabilities must be >= 0 and sum to 1 in every row; logits go to inception_score")
    with np.errstate(divide="ignore"):
        return _score(np.log(rows), splits, order, seed)


def _score(log_p: np.ndarray, splits: int, order: str, seed: int) -> InceptionScore:
    num = len(log_p)
    if order not in ("shuffled", "given"):
        raise UserError(f"order={order!r} is unknown; there are: given, shuffled")
    if not 1 <= splits <= num:
        raise UserError(
            f"splits={splits} of {num} images; every split needs an image: give more images or fewer splits"
        )
    if order == "shuffled":
        log_p = log_p[np.random.RandomState(seed).permutation(num)]
    scores = []
    for i in range(splits):
        part = log_p[i * num // splits : (i + 1) * num // splits]
        p = np.exp(part)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = p * (part - np.log(p.mean(axis=0)))
        scores.append(np.exp(np.where(p > 0, terms, 0.0).sum(axis=1).mean()))  # 0 log 0 = 0
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))

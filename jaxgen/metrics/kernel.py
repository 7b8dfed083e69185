"""Kernel distance of features: KID (Bińkowski et al. 2018, arXiv:1801.01401, section 4).

    k(x, y) = (x . y / D + 1)^3
    MMD^2   = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)         (unbiased)

KID is the mean of MMD^2 over random subsets; it has no bias in N, and may be slightly negative. Products are float64
on the host. Published numbers are often multiplied by 1,000; these are not.
"""

from dataclasses import dataclass

import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.features import feature_matrix, same_width


@dataclass(frozen=True)
class Kid:
    """Mean and (population) standard deviation of MMD^2 over the subsets."""

    mean: float
    std: float


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 under the cubic kernel: x [N, D], y [M, D] -> float."""
    x, y = (feature_matrix(rows, "features", least=2).astype(np.float64) for rows in (x, y))
    same_width(x, y, "the two sets")
    return _within(x) + _within(y) - 2.0 * float(_cubic(x, y).mean())


def kid(features: np.ndarray, reference: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020) -> Kid:
    """KID of generated features [N, D] against the reference [M, D].

    Subsets are drawn without replacement from one legacy stream, generated first: with the defaults torch-fidelity's
    very indices, with seed=0 and size=min(N, M, 1000) those of clean-fid.
    """
    x, y = feature_matrix(features, "generated features"), feature_matrix(reference, "reference features")
    same_width(x, y, "generated and reference features")
    least = min(len(x), len(y))
    if least < size:
        raise UserError(
            f"KID draws subsets of {size} images, but there are {len(x)} generated and {len(y)} reference ones; "
            f"give more images, or subsets of at most size={least}"
        )
    if size < 2 or subsets < 1:
        raise UserError(f"KID with size={size} and subsets={subsets}: it needs size >= 2 and subsets >= 1")
    rng = np.random.RandomState(seed)  # the stream of the published numbers
    values = [mmd2(x[rng.choice(len(x), size, False)], y[rng.choice(len(y), size, False)]) for _ in range(subsets)]
    return Kid(float(np.mean(values)), float(np.std(values)))


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _within(x: np.ndarray) -> float:
    gram = _cubic(x, x)
    return float((gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1)))

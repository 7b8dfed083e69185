"""Fréchet distance between normals fitted to features: FID (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    d^2 = |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)

With C1 = R^T R the product C1 C2 has the eigenvalues of the symmetric R C2 R^T (Dowson & Landau 1982), so the trace of
the root is a sum of square roots of real numbers >= 0: no matrix root, nothing complex, any rank. The rows of R are
ordered by falling norm, which lets LAPACK find small eigenvalues to a precision relative to themselves.

Covariances are unbiased (N - 1), moments float64 on the host: they stream in batches, in any order, over any number
of hosts (Chan et al. 1979, eq. 2.1), and never hold more than a block of features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.features import feature_matrix, same_width

BLOCK = 1024  # rows folded in at once: the product of fewer would only wait for memory


@dataclass(frozen=True)
class Moments:
    """How many features [D] were seen, their mean `centre`, and the scatter sum (x - mean)(x - mean)^T, all in float64.

    `pending` rows wait until there is a block of them. Every method returns a new state; `settled` folds the rest in,
    after which `count`, `centre` and `scatter` are the whole state (what travels between hosts).
    """

    count: int
    centre: np.ndarray  # [D]
    scatter: np.ndarray  # [D, D]
    pending: tuple[np.ndarray, ...] = ()  # [B, D] each

    @classmethod
    def empty(cls, width: int) -> "Moments":
        """Nothing seen yet of features [width]."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """The state after all rows of features [N, D]."""
        rows = feature_matrix(features, "features")
        return cls.empty(rows.shape[1]).update(rows).settled()

    @property
    def seen(self) -> int:
        """Images seen so far, pending ones included."""
        return self.count + sum(len(rows) for rows in self.pending)

    def update(self, features: np.ndarray, mask: np.ndarray | None = None) -> "Moments":
        """Add the rows of features [B, D] whose mask [B] is true (all of them without a mask)."""
        rows = np.asarray(features)
        rows = feature_matrix(rows if mask is None else rows[np.asarray(mask, bool)], "features", least=0)
        same_width(rows, self.centre, "a batch of features and the moments")
        state = replace(self, pending=(*self.pending, rows))
        return state if state.seen - state.count < BLOCK else state.settled()

    def settled(self) -> "Moments":
        """The same state without pending rows."""
        if self.seen == self.count:
            return replace(self, pending=())
        rows = np.concatenate(self.pending).astype(np.float64)
        mean = rows.mean(axis=0)
        return self._joined(len(rows), mean, rows - mean, 0.0)

    def merge(self, other: "Moments") -> "Moments":
        """The state after what either has seen."""
        same_width(self.centre, other.centre, "two moments to be merged")
        mine, theirs = self.settled(), other.settled()
        return mine._joined(theirs.count, theirs.centre, np.zeros((0, len(mine.centre))), theirs.scatter)

    def _joined(self, count: int, mean: np.ndarray, centred: np.ndarray, scatter: np.ndarray | float) -> "Moments":
        """Chan's rule: both scatters, and sqrt(n m / (n + m)) (mean' - mean) as one more centred row."""
        total = self.count + count
        if total == 0:
            return self
        shift = mean - self.centre
        rows = np.vstack([centred, np.sqrt(self.count * count / total) * shift])
        return Moments(total, self.centre + count / total * shift, self.scatter + scatter + rows.T @ rows)

    @property
    def mean(self) -> np.ndarray:
        """Mean [D] of everything seen."""
        return self.settled().centre

    @property
    def cov(self) -> np.ndarray:
        """Unbiased covariance [D, D] of everything seen, which must be two images at least."""
        if self.seen < 2:
            raise UserError(f"a covariance needs at least 2 images, but {self.seen} were seen; give more images")
        whole = self.settled()
        return whole.scatter / (whole.count - 1)


def frechet(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared Fréchet distance of N(mean1, cov1) and N(mean2, cov2): means [D], covariances [D, D] of any rank -> float."""
    first, second = (_checked(m, c, i) for i, (m, c) in enumerate([(mean1, cov1), (mean2, cov2)], 1))
    same_width(first[0], second[0], "the statistics to be compared")
    return _distance(first[0], first[1], second[0], np.trace(second[1]), _factor(second[1]))


def frechet_of(a: Moments, b: Moments) -> float:
    """`frechet` of two streamed states."""
    a, b = a.settled(), b.settled()
    return frechet(a.mean, a.cov, b.mean, b.cov)


@dataclass(frozen=True)
class Extrapolation:
    """FID at several N and the line value + slope / N through them; `value` is FID-infinity."""

    value: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(
    features: np.ndarray, mean: np.ndarray, cov: np.ndarray, points: int = 15, seed: int = 0
) -> Extrapolation:
    """FID without its bias in N (Chong & Forsyth 2020, arXiv:1911.07023, section 3): a line in 1/N, read at 1/N = 0.

    The distance of `points` random subsets of features [N, D] to N(mean, cov), of evenly spaced sizes from N/10 (5,000
    of the paper's 50,000) to N, fitted by least squares.
    """
    rows = feature_matrix(features, "features", least=20)
    if points < 2:
        raise UserError(f"points={points}: a line needs at least 2")
    mean, cov = _checked(mean, cov, 2)
    same_width(rows, mean, "the features and the statistics")
    trace, factor = np.trace(cov), _factor(cov)
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(len(rows) // 10, len(rows), points).astype(int))
    distances = []
    for size in sizes:
        part = Moments.of(rows[rng.permutation(len(rows))[:size]])
        distances.append(_distance(part.mean, part.cov, mean, trace, factor))
    slope, value = np.polyfit(1.0 / sizes, distances, 1)
    return Extrapolation(float(value), float(slope), tuple(map(int, sizes)), tuple(distances))


@dataclass(frozen=True)
class IntraClass:
    """Fréchet distance within every class, and their mean."""

    value: float
    classes: dict[int, float]


def frechet_intra(
    features: np.ndarray, labels: Sequence[int], reference: np.ndarray, reference_labels: Sequence[int]
) -> IntraClass:
    """Intra-class FID (Miyato & Koyama 2018, arXiv:1802.05637, section 4): the mean over classes of the FID within each.

    features [N, D] asked for by labels [N], and reference [M, D] with its labels [M]; both must know the same classes.
    """
    sets = []
    for rows, given, name in [(features, labels, "features"), (reference, reference_labels, "reference features")]:
        rows, given = feature_matrix(rows, name), np.asarray(given)
        if given.shape != rows.shape[:1]:
            raise UserError(
                f"{name}: {len(rows)} images, but labels of shape {given.shape}; every image needs one label"
            )
        sets.append((rows, given, {int(c) for c in np.unique(given)}))
    (rows, given, mine), (real, known, theirs) = sets
    if mine != theirs:
        raise UserError(f"classes {sorted(mine ^ theirs)[:8]} are in one set only; intra-class FID needs them in both")
    if lone := [c for c in sorted(mine) if min(np.sum(given == c), np.sum(known == c)) < 2]:
        raise UserError(
            f"classes {lone[:8]} have fewer than 2 images; intra-class FID needs 2 of each, better thousands"
        )
    each = {c: frechet_of(Moments.of(rows[given == c]), Moments.of(real[known == c])) for c in sorted(mine)}
    return IntraClass(float(np.mean(list(each.values()))), each)


def _checked(mean: np.ndarray, cov: np.ndarray, which: int) -> tuple[np.ndarray, np.ndarray]:
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise UserError(
            f"statistics {which} have a mean of shape {mean.shape} and a covariance of shape {cov.shape}; "
            f"they must be [D] and [D, D] of one feature net"
        )
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise UserError(f"statistics {which} hold numbers that are not finite; compute them anew")
    slack = 1e-6 * np.abs(cov).max(initial=0.0)  # statistics of others may have been summed in float32
    if cov.diagonal().min(initial=0.0) < 0 or np.abs(cov - cov.T).max(initial=0.0) > slack:
        raise UserError(f"statistics {which}: the covariance is not symmetric with variances >= 0; compute them anew")
    return mean, cov


def _factor(cov: np.ndarray) -> np.ndarray:
    """R [rank, D] with cov = R^T R and rows of falling norm."""
    values, vectors = np.linalg.eigh(cov)
    keep = values > _noise(values)
    return (np.sqrt(values[keep]) * vectors[:, keep]).T[::-1]


def _noise(values: np.ndarray) -> float:
    """How far rounding moved eigenvalues >= 0: as far as the lowest fell below 0, but no further than float64 rounds."""
    limit = len(values) * np.finfo(np.float64).eps * values.max(initial=0.0)
    return float(np.clip(-values.min(initial=0.0), 0.0, limit))


def _distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, trace2: float, factor2: np.ndarray) -> float:
    values = np.linalg.eigvalsh(factor2 @ cov1 @ factor2.T, UPLO="L")  # of the product of both covariances
    root = np.sqrt(values[values > _noise(values)]).sum()
    shift = mean1 - mean2
    return float(max(0.0, shift @ shift + np.trace(cov1) + trace2 - 2.0 * root))

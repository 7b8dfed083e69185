"""Precision, recall, density and coverage: do two sets of features lie within each other's neighbourhoods?

The manifold of a set is the union of balls around its points, each reaching to its point's k-th nearest neighbour.

    precision  share of generated points within the manifold of the real ones      (Kynkäänniemi et al. 2019,
    recall     share of real points within the manifold of the generated ones       arXiv:1904.06991, eq. 2; k = 3)
    density    mean number of real balls that a generated point lies in, over k    (Naeem et al. 2020,
    coverage   share of real balls that hold a generated point                      arXiv:2002.09797, eq. 2-3; k = 5)

Borders belong to their balls (<=). Distances are computed on the device in float32 at the highest precision, block by
block: memory grows with the number of points, never with its square.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.errors import UserError
from jaxgen.metrics.features import feature_matrix, same_width

Array = jax.Array

BLOCK = 1024  # points met at once on either side
ROUNDING = 2.0**-18  # squared distances below this share of the squared norms are rounding, hence 0


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]."""

    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-5)


@dataclass(frozen=True)
class DensityCoverage:
    """Density may exceed 1; coverage is a share."""

    density: float
    coverage: float


def precision_recall(generated: np.ndarray, real: np.ndarray, k: int = 3, block: int = BLOCK) -> PrecisionRecall:
    """Improved precision and recall of features generated [N, D] and real [M, D]."""
    made, true = _blocks(generated, real, k, block)
    return PrecisionRecall(
        precision=float(np.mean(_balls(made, true, _reach(true, k)) > 0)),
        recall=float(np.mean(_balls(true, made, _reach(made, k)) > 0)),
    )


def density_coverage(generated: np.ndarray, real: np.ndarray, k: int = 5, block: int = BLOCK) -> DensityCoverage:
    """Density and coverage of features generated [N, D] and real [M, D]; only real points have balls."""
    made, true = _blocks(generated, real, k, block)
    reach = _reach(true, k)
    return DensityCoverage(
        density=float(_balls(made, true, reach).mean(dtype=np.float64) / k),
        coverage=float(np.mean(_neighbour(true, made, 1) <= reach)),
    )


@dataclass(frozen=True)
class _Points:
    rows: Array  # [blocks, block, D], padded with zeros
    count: int


def _blocks(generated: np.ndarray, real: np.ndarray, k: int, block: int) -> tuple[_Points, _Points]:
    if k < 1 or block < 1:
        raise UserError(f"k={k} and block={block} must be at least 1")
    sets = [feature_matrix(x, f"{n} features", least=k + 1) for x, n in [(generated, "generated"), (real, "real")]]
    same_width(*sets, "generated and real features")
    centre = sets[1].mean(axis=0, dtype=np.float64)  # near the points, so that float32 spends its digits on differences
    points = []
    for rows in sets:
        pad = -len(rows) % min(block, len(rows))
        rows = np.pad((rows - centre).astype(np.float32), ((0, pad), (0, 0)))
        points.append(
            _Points(jnp.asarray(rows.reshape(-1, min(block, len(rows) - pad), rows.shape[1])), len(rows) - pad)
        )
    return points[0], points[1]


def _reach(points: _Points, k: int) -> np.ndarray:
    """Squared distance of every point to its k-th nearest other point [N]."""
    return _neighbour(points, points, k, alone=True)


def _neighbour(points: _Points, others: _Points, k: int, alone: bool = False) -> np.ndarray:
    """Squared distance of every point to its k-th nearest one among the others [N]; `alone`: not to itself."""
    each = [
        np.asarray(_nearest(rows, i if alone else -1, others.rows, others.count, k))
        for i, rows in enumerate(points.rows)
    ]
    return np.concatenate(each)[: points.count]


def _balls(points: _Points, centres: _Points, reach: np.ndarray) -> np.ndarray:
    """In how many balls around the centres every point lies [N]."""
    padded = np.full(centres.rows.shape[:2], -1.0, np.float32)  # a ball of the padding holds nothing
    padded.reshape(-1)[: centres.count] = reach
    each = [np.asarray(_inside(rows, centres.rows, jnp.asarray(padded))) for rows in points.rows]
    return np.concatenate(each)[: points.count]


def squared_distances(x: Array, y: Array) -> Array:
    """[B, D], [C, D] -> |x - y|^2 [B, C], never below 0 and exactly 0 for equal rows."""
    xx, yy = (x * x).sum(-1)[:, None], (y * y).sum(-1)[None, :]
    d2 = xx + yy - 2.0 * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(d2 > ROUNDING * (xx + yy), d2, 0.0)


@partial(jax.jit, static_argnames=("count", "k"))
def _nearest(rows: Array, own: Array, blocks: Array, count: int, k: int) -> Array:
    """Squared distance [B] of rows [B, D] to the k-th nearest of the first `count` in blocks; `own` is the rows' block."""
    size = blocks.shape[1]

    def step(best: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        number, block = item
        column = jnp.arange(size)
        itself = (number == own) & (jnp.arange(len(rows))[:, None] == column)
        hidden = itself | (number * size + column >= count)
        d2 = jnp.where(hidden, jnp.inf, squared_distances(rows, block))
        return -jax.lax.top_k(-jnp.concatenate([best, d2], axis=1), k)[0], None

    start = jnp.full((len(rows), k), jnp.inf, jnp.float32)
    return jax.lax.scan(step, start, (jnp.arange(len(blocks)), blocks))[0][:, -1]


@jax.jit
def _inside(rows: Array, blocks: Array, reach: Array) -> Array:
    """How many of the balls [blocks, block] hold each of the rows [B, D] -> int32 [B]."""

    def step(count: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        block, limit = item
        return count + (squared_distances(rows, block) <= limit).sum(axis=1, dtype=jnp.int32), None

    return jax.lax.scan(step, jnp.zeros(len(rows), jnp.int32), (blocks, reach))[0]

"""Lines between latents and directions through them, in float64, and what is measured of pictures."""

import numpy as np

from jaxgen.errors import UserError

Vectors = np.ndarray  # [..., D]


def lerp(a: Vectors, b: Vectors, t: np.ndarray) -> np.ndarray:
    """The straight line from a to b [..., D] at t [T] -> [T, ..., D]; at 0 and 1 a and b themselves."""
    t = np.asarray(t, np.float64).reshape(-1, *[1] * np.ndim(a))
    return (1.0 - t) * a + t * b


def slerp(a: Vectors, b: Vectors, t: np.ndarray) -> np.ndarray:
    """The arc from a to b [..., D] at t [T] -> [T, ..., D]: the norm goes evenly from |a| to |b| (White 2016, arXiv:1609.04468).

    A normal latent of many numbers has nearly one norm, which a straight line between two leaves. Where both point the same
    way, or opposite ways, there is no arc, and the line is straight.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = [np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300) for x in (a, b)]
    angle = np.arccos(np.clip((a / norms[0] * b / norms[1]).sum(-1, keepdims=True), -1.0, 1.0))
    t = np.asarray(t, np.float64).reshape(-1, *[1] * a.ndim)
    norm, sine = (1.0 - t) * norms[0] + t * norms[1], np.sin(angle)
    flat = sine < 1e-7
    ways = [np.sin(s * angle) / np.where(flat, 1.0, sine) * (norm / n) for s, n in ((1.0 - t, norms[0]), (t, norms[1]))]
    return np.where(flat, lerp(a, b, t), ways[0] * a + ways[1] * b)


PATHS = {"lerp": lerp, "slerp": slerp}


def ridge(x: Vectors, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """argmin_{v, c} |x v + c - y|^2 + penalty |v|^2 for x [N, D], y [N] -> (v [D], c [])."""
    means = x.mean(0), y.mean()
    x, y = x - means[0], y - means[1]
    v = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    return v, means[1] - means[0] @ v


def r_squared(y: np.ndarray, told: np.ndarray) -> float:
    """The share of y's variance that `told` explains, [N] each: 1 all, 0 no more than the mean would, below 0 less."""
    return float(1.0 - ((y - told) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-300))


def within(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """x [N, ...] less the mean of its group [N]."""
    _, places, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *x.shape[1:]))
    np.add.at(sums, places, x)
    return x - (sums / counts.reshape(-1, *[1] * (x.ndim - 1)))[places]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of [N] and [N]: equal values share their mean rank; 0 where one is constant."""
    ranks = []
    for x in (a, b):
        _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
        rank = (np.cumsum(counts) - (counts + 1) / 2)[places]
        ranks.append(rank - rank.mean())
    scale = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / scale) if scale else 0.0


def ink(images: np.ndarray) -> np.ndarray:
    """How bright pictures are: the sum of their pixels, white being 1; uint8 [N, H, W, C] -> [N]."""
    return _grey(images).sum((1, 2))


def slant(images: np.ndarray) -> np.ndarray:
    """How far bright strokes lean: columns to the right for a row down, by second moments; uint8 [N, H, W, C] -> [N]."""
    mass = _grey(images) + 1e-9
    mass /= mass.sum((1, 2), keepdims=True)
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    down, right = [grid - (mass * grid).sum((1, 2))[:, None, None] for grid in (rows, columns)]
    return (mass * down * right).sum((1, 2)) / (mass * down * down).sum((1, 2))


def _grey(images: np.ndarray) -> np.ndarray:
    return images[..., : min(3, images.shape[-1])].mean(-1) / 255.0


MEASURES = {"ink": ink, "slant": slant}


def places(text: str, layers: int, key: str) -> np.ndarray:
    """`0-1,4` -> bool [layers]; what is no such text is a UserError that names `key`."""
    chosen = np.zeros(layers, bool)
    for word in text.split(","):
        first, _, last = word.partition("-")
        try:
            span = range(int(first), int(last or first) + 1)
        except ValueError:
            span = range(0)
        if not span or span[-1] >= layers:
            raise UserError(f"{key}={text} must be layers of 0 to {layers - 1}, such as {key}=0-{(layers - 1) // 2}")
        chosen[list(span)] = True
    return chosen

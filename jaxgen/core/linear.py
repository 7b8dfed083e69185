"""Linear maps of pictures, y = A x + noise n with n ~ N(0, I), by their singular values: A = U S V^T.

U and V are functions, so that nothing larger than a side of a picture is ever a matrix. A spectrum V^T x has the picture's shape;
U^T y has that shape too, and is 0 where A gives nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Map = Callable[[Array], Array]

NONE = 1e-4  # a singular value below this share of the largest is 0: it is lost in float32
AXES = ("oh,...hwc->...owc", "ow,...hwc->...hoc", "oc,...hwc->...hwo")  # rows, columns, channels


@dataclass(frozen=True)
class Linear:
    """A, and what was seen through it."""

    y: Array  # [B, ...]
    s: Array  # the singular values, of a shape that multiplies spectra [B, ..., H, W, C]
    to_spectrum: Map  # V^T
    from_spectrum: Map  # V
    seen_to_spectrum: Map  # U^T
    seen_from_spectrum: Map  # U
    noise: Array | float = 0.0  # standard deviation, of a shape that multiplies spectra

    def apply(self, x: Array) -> Array:
        """A x."""
        return self.seen_from_spectrum(self.s * self.to_spectrum(x))

    def adjoint(self, y: Array) -> Array:
        """A^T y."""
        return self.from_spectrum(self.s * self.seen_to_spectrum(y))

    @property
    def inverse(self) -> Array:
        """1 / s, and 0 where s is."""
        return jnp.where(self.s > 0, 1.0 / jnp.where(self.s > 0, self.s, 1.0), 0.0)

    def pseudo_inverse(self, y: Array) -> Array:
        """A^+ y: of all x with the least |A x - y| the smallest."""
        return self.from_spectrum(self.inverse * self.seen_to_spectrum(y))


def masked(y: Array, known: Array) -> Linear:
    """Of pixels [B, ..., H, W, C] those where `known` [B, ..., H, W, 1] is 1; y holds 0 elsewhere."""
    same = lambda x: x  # noqa: E731
    return Linear(y, known, same, same, same, same)


def separable(
    y: Array,
    rows: np.ndarray | None = None,
    columns: np.ndarray | None = None,
    channels: np.ndarray | None = None,
    gain: Array | float = 1.0,
    noise: Array | float = 0.0,
) -> Linear:
    """A matrix for each of the last three axes, [h, H], [w, W], [c, C]; None: the axis stays as it is.

    gain, noise: of every example, [B] or one for all; y = gain A x + noise n.
    """
    found = [None if table is None else _svd(table.tobytes(), table.shape) for table in (rows, columns, channels)]
    s = jnp.ones((1, 1, 1))
    for axis, one in enumerate(found):
        if one:
            s = s * jnp.asarray(one[1], jnp.float32).reshape([-1 if i == axis else 1 for i in range(3)])

    def along(which: Callable[[tuple], np.ndarray]) -> Map:
        tables = [(letters, which(one)) for letters, one in zip(AXES, found, strict=True) if one]

        def product(x: Array) -> Array:
            for letters, table in tables:
                x = jnp.einsum(letters, jnp.asarray(table, x.dtype), x, precision=jax.lax.Precision.HIGHEST)
            return x

        return product

    each = lambda v: jnp.reshape(jnp.asarray(v, jnp.float32), (-1, *[1] * (y.ndim - 1)))  # noqa: E731
    return Linear(
        y,
        each(gain) * jnp.where(s < NONE * s.max(), 0.0, s),
        along(lambda one: one[2]),
        along(lambda one: one[2].T),
        along(lambda one: one[0].T),
        along(lambda one: one[0]),
        each(noise),
    )


@lru_cache(maxsize=64)
def _svd(table: bytes, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A float64 [h, H] matrix -> U [h, H] (beyond h columns of 0), s [H], V^T [H, H]."""
    (h, size), matrix = shape, np.frombuffer(table).reshape(shape)
    u, s, vt = np.linalg.svd(matrix)
    rank = min(h, size)
    wide, values = np.zeros((h, size)), np.zeros(size)
    wide[:, :rank], values[:rank] = u[:, :rank], s
    return wide, values, vt

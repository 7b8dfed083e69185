"""What every measure asks of a matrix of features, one row per image."""

import numpy as np

from jaxgen.errors import UserError


def feature_matrix(features: np.ndarray, name: str, least: int = 1) -> np.ndarray:
    """Rows of finite numbers [N, D] with N >= least, on the host; `name` is what the messages call them."""
    rows = np.asarray(features)
    if rows.ndim != 2:
        raise UserError(f"{name} have shape {rows.shape}; a measure needs [images, features]: pool or flatten them")
    if len(rows) < least:
        raise UserError(f"{name}: {len(rows)} image(s), but at least {least} are needed; give more images")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise UserError(
            f"{name}: image {bad} of {len(rows)} has features that are not finite; look for NaN in its pixels "
            f"or in the weights of the feature net"
        )
    return rows


def same_width(a: np.ndarray, b: np.ndarray, names: str) -> None:
    """Refuse two feature matrices of different nets."""
    if a.shape[-1] != b.shape[-1]:
        raise UserError(
            f"{names} have {a.shape[-1]} and {b.shape[-1]} features; both must come from the same feature net"
        )

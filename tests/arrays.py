"""Random arrays, how near two of them are, and torch's arrays of golden cases: for the tests of layers."""

import json

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def close(got, want, tolerance=1e-5):
    """Largest error against the largest value wanted."""
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        assert np.abs(np.asarray(g) - np.asarray(w)).max() <= tolerance * max(np.abs(np.asarray(w)).max(), 1e-3)


def case_of(folder):
    """(case.json, its arrays, its tolerance) of a golden case."""
    case = json.loads((folder / "case.json").read_text())
    return case, dict(np.load(folder / "io.npz")), {k: case["tolerance"][k] for k in ("rtol", "atol")}


def images_last(x):
    """[B, C, ...] -> [B, ..., C]."""
    return jnp.asarray(np.moveaxis(x, 1, -1))


def images_first(x):
    """The way back, for numpy."""
    return np.moveaxis(np.asarray(x), -1, 1)

"""Random arrays, and how near two of them are: for the tests of layers."""

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

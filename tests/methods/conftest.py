"""Data that several methods learn from."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data.sources import Digits


@pytest.fixture(scope="session")
def digits():
    """Built-in digits: train, eval uint8 [N, 8, 8, 1]; train_label int32 [N]."""
    parts = {}
    for split in ("train", "eval"):
        source = Digits().open(split)
        rows = [source[i] for i in range(len(source))]
        parts[split] = jnp.asarray(np.stack([r["image"] for r in rows]))
        parts[split + "_label"] = jnp.asarray(np.stack([r["label"] for r in rows]))
    return parts

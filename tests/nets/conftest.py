"""For tests that compare with a definition in float32."""

import jax
import pytest


@pytest.fixture
def highest_precision():
    """float32 products everywhere."""
    with jax.default_matmul_precision("highest"):
        yield

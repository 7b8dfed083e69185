"""Coarse: means of pixels, a border around them, and samples back at the data's size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.images import to_float, to_uint8
from jaxgen.tasks.coarse import Coarse

KEY = jax.random.key(0)


@pytest.mark.parametrize("shape, factor, pad", [((28, 28, 1), 4, 2), ((8, 12, 3), 2, 0), ((3, 8, 8, 4), 2, 0)])
def test_means_are_learned_and_samples_have_the_size_of_the_data(shape, factor, pad):
    spec, task = pictures(shape, 3), Coarse(factor, pad)
    x = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    batch = task(spec, {}, {"image": jnp.asarray(x), "label": jnp.arange(2)}, KEY)
    after = task.spec(spec)
    *_, height, width, channels = shape
    assert after.shape[-3:] == ((height + 2 * pad) // factor, (width + 2 * pad) // factor, channels)
    assert {k: (v.shape[1:], v.dtype) for k, v in batch.items()} == {k: (f.shape, f.dtype) for k, f in after.items()}
    black = np.pad(to_float(x), [*[(0, 0)] * (x.ndim - 3), (pad, pad), (pad, pad), (0, 0)], constant_values=-1)
    corner = black[..., factor : 2 * factor, :factor, :].mean((-3, -2))
    np.testing.assert_allclose(batch["image"][..., 1, 0, :], corner, atol=1e-6)
    shown = task.undo({}, batch["image"])
    assert shown.shape == x.shape
    again = task(spec, {}, {"image": shown}, KEY)["image"]
    edge = -(-pad // factor)  # pixels that hold some of the border
    whole = (
        ...,
        slice(edge, batch["image"].shape[-3] - edge),
        slice(edge, batch["image"].shape[-2] - edge),
        slice(None),
    )
    np.testing.assert_allclose(again[whole], batch["image"][whole], atol=1e-6)


def test_without_a_factor_nothing_is_lost():
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    task = Coarse(pad=4)
    batch = task(pictures((8, 8, 3)), {}, {"image": jnp.asarray(x)}, KEY)
    assert batch["image"].shape == (2, 16, 16, 3) and batch["image"][0, 0, 0, 0] == -1
    np.testing.assert_array_equal(to_uint8(task.undo({}, batch["image"])), x)


def test_a_factor_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"factor=8 does not divide 28x28; set tasks.coarse.factor=4"):
        Coarse(8).spec(pictures((28, 28, 1)))

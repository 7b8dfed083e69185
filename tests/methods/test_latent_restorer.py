"""Latents are searched for what was seen of a picture: a picture that the model can make is found again, and known pixels stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import untrained

from jaxgen.config import files as configs
from jaxgen.core.linear import masked
from jaxgen.core.spec import pictures
from jaxgen.methods.latent_restorer import Latent
from jaxgen.runs.trained import Trained

KEY = jax.random.key(0)


def test_a_picture_that_can_be_made_is_found_from_a_part_of_it():
    matrix = jax.random.normal(jax.random.key(1), (3, 64)) / 3**0.5
    make = lambda z: jnp.tanh(z @ matrix).reshape(-1, 8, 8, 1)  # noqa: E731
    true = jax.random.normal(jax.random.key(2), (6, 3))
    x, known = make(true), jnp.ones((6, 8, 8, 1)).at[:, 3:].set(0.0)
    draw = lambda key: jax.random.normal(key, (6, 3))  # noqa: E731
    search = Latent(steps=300, draws=64)
    norms = lambda z: np.linalg.norm(z, axis=1)  # noqa: E731
    z = jax.jit(lambda key: search(make, draw, masked(x * known, known), key))(KEY)
    near = jax.jit(lambda key: Latent(steps=1, rate=1e-9, draws=64)(make, draw, masked(x * known, known), key))(KEY)
    np.testing.assert_allclose(norms(z), norms(near), rtol=1e-4)  # the search keeps the norm of where it begins
    error = np.abs(make(z) - x)[:, 3:].mean((1, 2, 3))
    assert np.median(error) < 0.12 and error.mean() < 0.6 * np.abs(make(near) - x)[:, 3:].mean()


@pytest.mark.parametrize("name", ["vae_digits", "dcgan_digits"])
def test_a_run_without_training_for_it_fills_what_is_hidden(name, tmp_path):
    config = configs.override(configs.load(f"{name}:tiny"), {"mesh": {"data": 1}, "data.batch": 8})
    classes = 10 if config.data.labels else 0
    spec = pictures((8, 8, 1), classes, tuple("0123456789")[:classes], levels=17)
    changes = {
        "method.restorer": "latent",
        "method.restorer.steps": 2,
        "method.restorer.draws": 2,
        "tasks.hide.shape": "lower",
    }
    run = Trained.open(untrained(config, spec, tmp_path, True), changes=changes)
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4
    mask = np.zeros((8, 8, 1), np.float32)
    mask[4:] = 1
    made = run.sample(2, shown=picture, mask=mask)
    np.testing.assert_array_equal(made[:, :4], np.broadcast_to(picture[:4], (2, 4, 8, 1)))
    assert (made[:, 4:] != picture[4:]).any()

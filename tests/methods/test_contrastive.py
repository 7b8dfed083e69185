"""A contrastive model: its loss by hand, the same text twice, pictures and texts that find each other after some steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.errors import UserError
from jaxgen.methods.contrastive import Contrastive
from jaxgen.nets.autoencoder import ConvEncoder
from jaxgen.nets.contrastive import TwoTowers
from jaxgen.nets.text import TextTransformer

SPEC = Spec(pictures((8, 8, 3)), caption=Field((4,), "int32", "tokens", values=9, empty=(1, 2, 0, 0), end=2))
BATCH = {
    "image": jax.random.randint(jax.random.key(1), (6, 8, 8, 3), 0, 256).astype(jnp.uint8),
    "caption": jnp.stack([jnp.array([1, n, 2, 0]) for n in (3, 4, 5, 6, 7, 8)]),
}


@pytest.fixture(scope="module")
def method():
    text = TextTransformer(values=9, length=4, depth=1, width=8, heads=2)
    module = TwoTowers(ConvEncoder(8, 8, 1, 1), text, dim=8)
    return Contrastive(net=Net(module, optax.adam(3e-3)), spec=SPEC)


@pytest.fixture(scope="module")
def state(method):
    return jax.jit(method.init)(jax.random.key(0), BATCH)


def test_the_loss_is_the_mean_of_both_ways(method, state):
    """Its factor begins at 1 / 0.07; a text that is there twice is none of the others."""
    w = state.view()
    embed = jax.jit(lambda w, b: (method.embed_pictures(w, b["image"]), method.embed_texts(w, b["caption"])))
    x, y = embed(w, BATCH)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1.0, rtol=1e-5)
    scores = np.asarray(x, np.float64) @ np.asarray(y, np.float64).T / 0.07
    by = lambda s: np.log(np.exp(s).sum(1)) - np.diagonal(s)  # noqa: E731
    lose = jax.jit(
        lambda w, b: (lambda found: (found.each, found.metrics))(method.loss(w, b, jax.random.key(2), False))
    )
    each, metrics = lose(w, BATCH)
    np.testing.assert_allclose(each, (by(scores) + by(scores.T)) / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["factor"], 1 / 0.07, rtol=1e-6)
    twice = {k: np.concatenate([v, v[:1]]) for k, v in BATCH.items()}
    np.testing.assert_allclose(lose(w, twice)[0][:1], each[:1], rtol=1e-5)


def test_pictures_and_texts_find_each_other(method, state):
    keys = jax.random.split(jax.random.key(3), 120)
    _, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, key: method.train_step(s, BATCH, key), s, keys))(state)
    assert metrics["accuracy"][-1] == 1.0 and metrics["loss"][-1] < 0.1 * metrics["loss"][0]


def test_without_texts_there_is_nothing_to_compare(method):
    with pytest.raises(UserError, match=r"is told none; set config.data.tokenizer=bytes"):
        Contrastive(net=method.net, spec=pictures((8, 8, 3)))

"""Pixels made one after the other: exact probabilities, completions, temperature."""

import itertools
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.config import files as configs
from jaxgen.core.conditions import nulls
from jaxgen.core.method import Samples, Scores
from jaxgen.core.net import Net
from jaxgen.core.spec import Spec, pictures
from jaxgen.errors import UserError
from jaxgen.losses.pixel_likelihood import Bernoulli, Categorical, LogisticMixture
from jaxgen.methods.autoregressive import Autoregressive
from jaxgen.nets.pixelcnn import GatedPixelCnn
from jaxgen.nets.pixelcnnpp import PixelCnnPP
from jaxgen.runs.directory import RunDir
from jaxgen.tasks.hide import Hide

KEY = jax.random.key(0)


def model(shape, likelihood, module=None, spec=None, **fields):
    """A method with random weights, its state and its program."""
    spec = spec or pictures(shape)
    module = module or GatedPixelCnn(spec.conditions, width=8, depth=1, hidden=8)
    method = Autoregressive(net=Net(module, optax.adam(1e-3)), spec=spec, likelihood=likelihood, **fields)
    state = jax.jit(method.init)(KEY, {"image": jnp.zeros((1, *shape))})
    weights = state.view()
    params = jax.tree.map(lambda p: p + 0.5 * jax.random.normal(KEY, p.shape), weights.nets["net"]["params"])
    return method, weights.training("net", params)


@pytest.mark.parametrize(
    "shape, likelihood, module",
    [
        ((2, 2, 1), Categorical(levels=4), None),
        ((1, 2, 3), Bernoulli("threshold"), None),
        ((1, 2, 3), LogisticMixture(levels=3, mixtures=2), PixelCnnPP(width=4, blocks=1, levels=1)),
    ],
)
def test_all_pictures_together_have_probability_one(shape, likelihood, module):
    method, w = model(shape, likelihood, module)
    values = np.linspace(-1.0, 1.0, likelihood.levels)
    every = np.array(list(itertools.product(values, repeat=int(np.prod(shape))))).reshape(-1, *shape)
    log_p = jax.jit(method.log_prob)(w, {"image": jnp.asarray(every, jnp.float32)}, KEY)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, rtol=1e-4)
    assert isinstance(method, Samples | Scores) and method.kind == "exact"


@pytest.fixture(scope="module")
def completing():
    """A model that is told half a picture, and its program (weights, key, conditions) -> 4 pictures."""
    spec = Hide("lower", 0.5).spec(pictures((6, 6, 1)))
    method, w = model((6, 6, 1), Categorical(levels=17), spec=spec)
    return spec, method, w, jax.jit(lambda w, key, cond: method.sample(w, key, 4, cond))


def test_a_completion_keeps_what_is_shown_and_no_sample_depends_on_another(completing):
    spec, method, w, sample = completing
    mask = jnp.ones((4, 6, 6, 1)).at[0, :3].set(0.0).at[0, 3, :2].set(0.0).at[1].set(0.0)
    shown = jax.random.uniform(KEY, (4, 6, 6, 1), minval=-1.0)
    free = sample(w, KEY, {"mask": jnp.ones_like(mask), "shown": shown})
    made = sample(w, KEY, {"mask": mask, "shown": shown})
    np.testing.assert_array_equal(made[mask == 0], shown[mask == 0])
    np.testing.assert_array_equal(made[2:], free[2:])
    assert (made[0, 3:] != free[0, 3:]).any()
    steps = (made[mask == 1] + 1.0) * 8.0
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5)  # on the levels
    few = jax.jit(lambda w, key: method.sample(w, key, 2, nulls(spec, 2) | {"mask": jnp.ones((2, 6, 6, 1))}))(w, KEY)
    np.testing.assert_array_equal(few, free[:2])


def test_what_is_shown_must_come_first(completing):
    _, method, _, _ = completing
    method.refuse({"mask": np.tile(np.arange(36) > 10, 2).reshape(2, 6, 6, 1)})
    with pytest.raises(UserError, match=r"mask: pixels are made in raster order.*tasks\.hide\.shape=lower"):
        method.refuse({"mask": np.tile(np.arange(36) < 10, 2).reshape(2, 6, 6, 1)})


def test_at_temperature_0_the_most_likely_value_is_taken():
    spec = Spec(pictures((3, 3, 1)))
    method, w = model((3, 3, 1), Categorical(levels=17), spec=spec, temperature=0.0)
    sample = jax.jit(lambda key: method.sample(w, key, 2, {}))
    one, other = sample(jax.random.key(1)), sample(jax.random.key(2))
    np.testing.assert_array_equal(one, other)
    values = jnp.linspace(-1.0, 1.0, 17)
    last = jnp.tile(one[:1], (17, 1, 1, 1)).at[:, 2, 2, 0].set(values)
    assert values[jnp.argmax(method.log_prob(w, {"image": last}, KEY))] == pytest.approx(float(one[0, 2, 2, 0]))


def test_a_run_that_was_trained_without_completes_all_the_same(tmp_path):
    """What is hidden may be said when samples are made, as their temperature may; of other runs it is another model."""
    for name, free in (("pixelcnn_digits", True), ("vae_digits", False)):
        run = RunDir(tmp_path / name)
        run.claim(configs.normalise(configs.load(f"{name}:tiny")))
        assert run.changed({"method.temperature": 0.5}).method.temperature == 0.5
        with nullcontext() if free else pytest.raises(UserError, match=r"another config.*tasks\.hide\.shape"):
            run.changed({"tasks.hide.shape": "lower"})

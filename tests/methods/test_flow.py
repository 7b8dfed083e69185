"""Flows as a method: samples on levels, exact inverses, what temperature and draws do, and its refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.method import Encodes, HasLatent, Reconstructs, Samples, Scores
from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.images import from_levels, to_levels
from jaxgen.losses.dequantise import Importance, NoNoise, Uniform
from jaxgen.methods.flow import Flow
from jaxgen.nets.flow import Glow

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
X = {"image": jnp.round(255 / 16 * jax.random.randint(KEY, (8, *SHAPE), 0, 17)).astype(jnp.uint8)}


@pytest.fixture(scope="module")
def run():
    """A method trained for a moment, and what it says of the data before and after."""
    net = Net(Glow(SHAPE, levels=1, depth=2, width=8), optax.adam(1e-2))
    method = Flow(net=net, spec=pictures(SHAPE, levels=17), dequantise=Importance(17, draws=8))
    state = jax.jit(method.init)(KEY, X)
    step = jax.jit(method.train_step)
    states, steps = [step(state, X, KEY)[0]], 30
    for i in range(steps):
        state, metrics = step(state, X, jax.random.key(i))
    one = replace(method, dequantise=Uniform(17))

    @jax.jit
    def said(w):
        scores = [jnp.stack([m.log_prob(w, X, jax.random.key(i)) for i in range(3)]) for m in (one, method)]
        again = method.reconstruct(w, X, KEY), method.decode(w, method.encode(w, X["image"], KEY))
        cold = replace(method, temperature=0.0).sample(w, KEY, 4, {})
        return scores, again, method.sample(w, KEY, 32, {}), cold

    return method, metrics, said(states[0].view()), said(state.view())


@pytest.mark.slow
def test_it_can_do_what_a_flow_can_and_learns(run):
    method, metrics, (before, *_), (after, *_) = run
    assert all(isinstance(method, can) for can in (Samples, HasLatent, Encodes, Reconstructs, Scores))
    assert (method.kind, method.levels) == ("bound", 17)
    assert after[0].shape == (3, 8) and after[0].mean() > before[0].mean() + 5
    assert after[0].mean() < after[1].mean()  # more draws tighten the bound
    np.testing.assert_allclose(metrics["bits_per_dim"], metrics["loss"] / (16 * np.log(2)), rtol=1e-5)


def test_the_first_layer_without_a_volume_has_a_name():
    """What comes before it is sound; log |det| as a whole is the layers' sum."""
    method = Flow(net=Net(Glow(SHAPE, levels=1, depth=2, width=8), optax.adam(1e-2)), spec=pictures(SHAPE, levels=17))
    state = jax.jit(method.init)(KEY, X)
    found = jax.jit(method.eval_step)(state.view(), X, KEY)
    layers = [found[f"logdet_{name}"] for name in ("0_entry", "1_1_steps", "2_top")]
    np.testing.assert_allclose(found["logdet"], sum(layers), rtol=1e-5)
    net = state.nets["net"]
    wild = net.replace(params=jax.tree.map(lambda x: x + 1e4, net.params))  # exp of a scale is infinite
    found = jax.jit(method.eval_step)(state.replace(nets={"net": wild}).view(), X, KEY)
    broken = sorted(k for k, v in found.items() if "logdet_" in k and not np.isfinite(v).all())
    assert broken[0] == "logdet_1_1_steps"


def test_pictures_survive_and_samples_lie_on_levels(run):
    *_, (_, again, drawn, cold) = run
    for x in again:
        np.testing.assert_allclose(x, from_levels(to_levels(X["image"], 17), 17), atol=1e-6)
    np.testing.assert_allclose(drawn, from_levels(to_levels(drawn, 17), 17), atol=1e-6)
    np.testing.assert_array_equal(cold, np.broadcast_to(cold[:1], cold.shape))
    assert np.asarray(drawn).std(0).mean() > 0.1


def test_levels_have_no_density_and_floats_have_no_levels():
    net = Net(Glow(SHAPE, levels=1), optax.adam(1e-2))
    with pytest.raises(UserError, match=r"17 levels have no density.*set method.dequantise=uniform"):
        Flow(net=net, spec=pictures(SHAPE, levels=17), dequantise=NoNoise())
    spec = pictures(SHAPE)
    floats = type(spec)(image=replace(spec["image"], dtype="float32"))
    method = Flow(net=net, spec=floats, dequantise=NoNoise())
    assert (method.kind, method.levels) == ("exact", 0)
    with pytest.raises(UserError, match=r"these are floats; set method.dequantise=none"):
        Uniform(floats.levels)

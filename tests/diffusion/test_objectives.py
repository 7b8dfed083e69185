"""The loss of `Diffusion` against direct NumPy: uncertainty, dropped conditions, adaptive times, and what a net must say."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.config.registry import TABLES, build
from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.diffusion.objective import Bound, Hybrid, Uncertainty
from jaxgen.diffusion.paths import VpSde
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers.chain import Ddim
from jaxgen.diffusion.times import Importance, Times
from jaxgen.diffusion.weight import MinSnr
from jaxgen.errors import UserError
from jaxgen.methods.diffusion import Diffusion

KEY, SHAPE = jax.random.key(0), (2, 3, 1)
SPEC = Spec(pictures(SHAPE, 5), text=Field((4,), "float32", "embedding"))


class Affine(nn.Module):
    """w x + what the conditions say; its uncertainty is v sin(clock)."""

    channels: int = 1

    @nn.compact
    def __call__(self, x, clock, cond, train=False):
        w, _ = self.param("w", nn.initializers.constant(0.3), ()), self.param("v", nn.initializers.constant(0.7), ())
        words = sum(v.reshape(len(v), -1).sum(1) for v in cond.values()) if cond else jnp.zeros(len(x))
        return jnp.repeat(w * x + 0.1 * words[:, None, None, None], self.channels, -1)

    def uncertainty(self, clock, train=False):
        return self.get_variable("params", "v") * jnp.sin(clock)


@dataclass(frozen=True)
class Recorded(Times):
    """Given times."""

    t: tuple[float, ...]

    def __call__(self, rng, num):
        return jnp.asarray(self.t)

    def at(self, process, raw):
        return raw


@dataclass(frozen=True, kw_only=True)
class Replayed(Diffusion):
    """Given noise."""

    noise: jax.Array

    def couple(self, w, batch, t, cond, rng):
        return self.target(batch), self.noise


def batch(num):
    rng = np.random.default_rng(1)
    pictures = jnp.asarray(rng.uniform(-1, 1, (num, *SHAPE)), jnp.float32)
    words = jnp.asarray(rng.standard_normal((num, 4)), jnp.float32)
    return {"image": pictures, "label": jnp.arange(num) % 5, "text": words}


def make(num, channels=1, **parts):
    noise = jax.random.normal(jax.random.key(9), (num, *SHAPE))
    parts = {"process": VP("cosine", 4), "spec": SPEC, "solver": Ddim(2), **parts}
    method = Replayed(net=Net(Affine(channels), optax.sgd(0.1)), noise=noise, **parts)
    return method, method.init(KEY, batch(num))


def squared_error(method, t, cond):
    """[B] in NumPy: eps predicted from x_t by `Affine`."""
    found, noise = batch(len(t)), np.asarray(method.noise)
    a, s = (np.reshape(f(np.asarray(t)), (-1, 1, 1, 1)) for f in (method.process.alpha, method.process.sigma))
    words = sum(np.asarray(v).reshape(len(t), -1).sum(1) for v in cond.values())
    out = 0.3 * (a * np.asarray(found["image"]) + s * noise) + 0.1 * words[:, None, None, None]
    return ((out - noise) ** 2).mean((1, 2, 3))


def told(num):
    return {k: batch(num)[k] for k in ("label", "text")}


def test_uncertainty_is_equation_21_and_follows_the_logarithm_of_the_error():
    t = (0.2, 0.5, 0.9)
    method, state = make(3, process=VpSde(), times=Recorded(t), objective=Uncertainty(), weight=MinSnr(1.0))
    snr = (method.process.alpha(np.array(t)) / method.process.sigma(np.array(t))) ** 2
    error = squared_error(method, t, told(3)) * np.minimum(snr, 1) / snr
    u = 0.7 * np.sin(999 * np.array(t))
    found = method.loss(state.view(), batch(3), KEY, True)
    np.testing.assert_allclose(found.each, error * np.exp(-u) + u, rtol=1e-4)
    np.testing.assert_allclose(found.metrics["weighted"], error, rtol=1e-5)

    def mean(params):
        return method.loss(state.view().training("net", params), batch(3), KEY, True).each.mean()

    slope = jax.grad(mean)(state.nets["net"].params)["v"]
    np.testing.assert_allclose(slope, np.mean((1 - error * np.exp(-u)) * np.sin(999 * np.array(t))), rtol=1e-3)


def test_dropped_conditions_are_null_together_and_only_in_training():
    num = 400
    t = (0.5,) * num
    method, state = make(num, times=Recorded(t), condition_dropout=0.25)
    kept = squared_error(method, t, told(num))
    lost = squared_error(method, t, {"label": np.full(num, 5), "text": np.zeros((num, 4))})
    got = np.asarray(method.loss(state.view(), batch(num), KEY, True).each)
    gone = np.isclose(got, lost, rtol=1e-4)
    np.testing.assert_allclose(got, np.where(gone, lost, kept), rtol=1e-4)
    assert gone.mean() == pytest.approx(0.25, abs=0.07)
    np.testing.assert_allclose(method.eval_step(state.view(), batch(num), KEY)["loss"], kept, rtol=1e-4)


def test_importance_divides_by_the_probabilities_and_remembers_the_plain_losses():
    """Nichol & Dhariwal 2021, eq. 18: p_t in proportion to sqrt(E L_t^2), losses divided by T p_t."""
    method, state = make(8, times=Importance(history=2, uniform=0.1))
    assert set(state.extra) == {"times"} and set(state.nets["net"].vars) == set()
    losses = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 2.0], [5.0, 1.0]])
    memory = {"losses": jnp.asarray(losses, jnp.float32), "counts": jnp.full(4, 2)}
    w = state.replace(extra={"times": memory}).view()
    found = method.loss(w, batch(8), KEY, True)
    t, _ = method.when(w, jax.random.split(KEY, 4)[0], 8)
    step = np.round(np.asarray(t) * 4).astype(int) - 1
    p = np.sqrt((losses**2).mean(1))
    p = 0.9 * p / p.sum() + 0.1 / 4
    plain = squared_error(method, np.asarray(t, np.float64), told(8))
    np.testing.assert_allclose(found.each, plain / (4 * p[step]), rtol=1e-4)
    for i, loss in zip(step, plain, strict=True):
        losses[i] = [losses[i, 1], loss]
    np.testing.assert_allclose(found.extra["times"]["losses"], losses, rtol=1e-4)
    assert not method.loss(w, batch(8), KEY, False).extra


@pytest.mark.parametrize("microbatches", [1, 2])
def test_adaptive_times_live_in_the_states_extra(microbatches):
    method, state = make(8 // microbatches, times=Importance(history=20), microbatches=microbatches)
    assert not state.extra["times"]["counts"].any()
    for i in (1, 2):
        state, _ = jax.jit(method.train_step)(state, batch(8), jax.random.key(i))
        assert int(state.extra["times"]["counts"].sum()) == 8 * i


@pytest.mark.parametrize("name", TABLES["objective"])
def test_a_net_of_other_channels_is_refused(name):
    objective = build("objective", name)
    wrong = 1 if isinstance(objective, Hybrid | Bound) else 2
    method, state = make(4, wrong, objective=objective)
    with pytest.raises(UserError, match=f"gives {wrong} channels .* set method.net.out_channels={3 - wrong}"):
        method.loss(state.view(), batch(4), KEY, True)
    method, state = make(4, 3 - wrong, objective=objective)
    found = method.loss(state.view(), batch(4), KEY, True)
    assert found.each.shape == (4,) and np.isfinite(found.each).all()
    assert ("vlb" in found.metrics) == (wrong == 1)

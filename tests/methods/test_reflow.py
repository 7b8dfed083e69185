"""Reflow: the pairs are the teacher's, straightness is what it says, and the student's one step is the teacher's whole path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.lender import Frozen
from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.core.state import Weights
from jaxgen.diffusion.paths import Linear
from jaxgen.diffusion.predict import Flow
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers.ode import Euler
from jaxgen.errors import UserError
from jaxgen.methods.diffusion import Diffusion
from jaxgen.methods.reflow import Reflow, straightness

WIDE = 0.5  # the data are N(0, WIDE^2): the exact flow takes eps to WIDE eps


class Exact(nn.Module):
    """The velocity of the whole flow, t = clock / 1000."""

    @nn.compact
    def __call__(self, x, clock, cond, train=False):
        t = (clock / 1000).reshape(-1, 1, 1, 1)
        return x * (t - (1 - t) * WIDE**2) / ((1 - t) ** 2 * WIDE**2 + t**2)


class Cubic(nn.Module):
    """A velocity whose slope is a cubic in t."""

    @nn.compact
    def __call__(self, x, clock, cond, train=False):
        c = self.param("c", nn.initializers.zeros, (4,))
        t = (clock / 1000).reshape(-1, 1, 1, 1)
        return x * (c[0] + c[1] * t + c[2] * t**2 + c[3] * t**3)


def batch(num=64):
    return {"image": jnp.zeros((num, 1, 1, 1))}


def make(steps=64, **more):
    parts = {"process": Linear(), "predict": Flow(), "spec": pictures((1, 1, 1))}
    teacher = Diffusion(net=Net(Exact(), optax.identity()), **parts)
    net = Net(Cubic(), optax.with_extra_args_support(optax.adam(0.02)))
    method = Reflow(net=net, teacher="DIR", pairs=Euler(steps, space="time"), **{**parts, **more})
    frozen = {"teacher": Frozen(Weights(jnp.zeros((), jnp.int32), {"net": {"params": {}}}, {}, {}), teacher)}
    return method, method.init(jax.random.key(0), batch()).replace(frozen=frozen)


def flow_of(state):
    """The teacher's denoiser."""
    teacher = state.frozen["teacher"]
    return teacher.model.denoiser(teacher.weights, {})


def test_the_pairs_are_ends_of_the_teachers_paths():
    method, state = make(steps=400)
    x0, eps = method.couple(state.view(), batch(), jnp.ones(64), {}, jax.random.key(0))
    np.testing.assert_allclose(x0, WIDE * eps, rtol=2e-2)
    assert 0.7 < float(jnp.std(eps)) < 1.3


def test_straight_paths_have_straightness_zero_and_bent_ones_their_own():
    eps = jnp.linspace(-2.0, 2.0, 5).reshape(5, 1, 1, 1)
    np.testing.assert_allclose(straightness(lambda x, t: jnp.full_like(x, 0.3), eps, 8), 0.0, atol=1e-10)
    _, state = make()
    denoise = flow_of(state)
    t = (np.arange(20_000) + 0.5) / 20_000
    speed = (t - (1 - t) * WIDE**2) / np.sqrt((1 - t) ** 2 * WIDE**2 + t**2)  # d/dt of x(t) = sqrt(...) eps
    want = np.mean((1 - WIDE - speed) ** 2) * eps[:, 0, 0, 0] ** 2
    np.testing.assert_allclose(straightness(denoise, eps, 500), want, rtol=2e-2, atol=1e-6)


def test_one_step_of_the_student_is_the_whole_path_of_the_teacher():
    method, state = make(steps=16)
    keys = jax.random.split(jax.random.key(1), 800)
    train = jax.jit(lambda state: jax.lax.scan(lambda s, k: method.train_step(s, batch(), k), state, keys)[0])
    learnt = train(state).view()
    eps = jnp.linspace(-2.0, 2.0, 5).reshape(5, 1, 1, 1)

    def one_step(denoise):
        return Euler(1, space="time")(denoise, method.process, eps, jax.random.key(0))

    teacher, student = flow_of(state), method.denoiser(learnt, {})
    want = method.pairs(teacher, method.process, eps, jax.random.key(0))
    np.testing.assert_allclose(one_step(student), want, atol=0.02)
    assert np.abs(one_step(teacher) - want).max() > 0.5  # the teacher in one step lands on the mean
    figures = method.eval_step(learnt, batch(), jax.random.key(2))
    bent = straightness(teacher, jax.random.normal(jax.random.key(3), (64, 1, 1, 1)), 16)
    assert float(figures["straightness"].mean()) < 0.02 * float(bent.mean())
    assert {"loss", "mse", "straightness"} <= set(figures)


def test_only_straight_paths_are_straightened():
    with pytest.raises(UserError, match=r"method \(Reflow\) needs straight paths; set method.process.name=linear"):
        make(process=VP())

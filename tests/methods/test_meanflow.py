"""MeanFlow: flow matching where the two times are one, the identity on a Gaussian, one exact step, guidance in the target."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.net import Net
from jaxgen.core.spec import labels, pictures
from jaxgen.core.state import Weights
from jaxgen.diffusion.paths import Linear, Trigonometric
from jaxgen.diffusion.process import VP
from jaxgen.errors import UserError
from jaxgen.methods.meanflow import MeanFlow
from jaxgen.nets.dit import DiT
from jaxgen.nets.edm_unet import DdpmPP
from jaxgen.nets.layers import timestep_embedding
from jaxgen.nets.unet import UNet

KEY, SHAPE = jax.random.key(0), (2, 2, 1)
MEAN, STD = 0.1, 0.2
PROCESSES = [Linear(scale=1.0), Trigonometric(scale=1.0)]

Moments = namedtuple("Moments", "mean std mean_rate std_rate")


def moments(process, t):
    """Of z_t for data N(MEAN, STD^2), with their rates of change."""
    a, s, (da, ds) = process.alpha(t), process.sigma(t), process.rates(t)
    std = jnp.sqrt(a**2 * STD**2 + s**2)
    return Moments(a * MEAN, std, da * MEAN, (a * da * STD**2 + s * ds) / std)


def velocity(process, z, t):
    """dz/dt of the flow: z keeps its rank."""
    m = moments(process, t)
    return m.mean_rate + m.std_rate / m.std * (z - m.mean)


def average(process, z, r, t):
    """(z_t - z_r) / (t - r) with z_r on the same path; the velocity itself where r = t."""
    now, then = moments(process, t), moments(process, r)
    moved = z - then.mean - then.std / now.std * (z - now.mean)
    return jnp.where(t > r, moved / jnp.where(t > r, t - r, 1.0), velocity(process, z, t))


class Exact(nn.Module):
    """The average velocity, from the two clocks."""

    process: Linear | Trigonometric

    def __call__(self, z, clocks, cond=None, train=False):
        t, gap = (c.reshape(-1, *(1,) * (z.ndim - 1)) / self.process.scale for c in clocks.T)
        return average(self.process, z, t - gap, t)


class Small(nn.Module):
    """A net of both times and the label."""

    @nn.compact
    def __call__(self, z, clocks, cond, train=False):
        told = jnp.concatenate([clocks, *(v[:, None].astype(z.dtype) for v in cond.values())], -1)
        told = jnp.broadcast_to(told[:, None, None], (*z.shape[:-1], told.shape[-1]))
        return nn.Dense(z.shape[-1])(nn.tanh(nn.Dense(8)(jnp.concatenate([z, told], -1))))


def meanflow(module=None, classes=0, **fields):
    return MeanFlow(net=Net(module or Small(), optax.sgd(0.1)), spec=pictures(SHAPE, classes), **fields)


def images(num):
    return MEAN + STD * jax.random.normal(jax.random.key(7), (num, *SHAPE))


@pytest.mark.parametrize("process", PROCESSES, ids=["linear", "trigonometric"])
def test_the_identity_holds_for_the_exact_average_velocity(process):
    t_rng, z_rng = jax.random.split(KEY)
    r, t = jnp.sort(jax.random.uniform(t_rng, (2, 200), minval=0.05), axis=0)
    z, wide = jax.random.normal(z_rng, (200, *SHAPE)), t.reshape(-1, 1, 1, 1)

    def u(z, r, t):
        return average(process, z, r.reshape(-1, 1, 1, 1), t.reshape(-1, 1, 1, 1))

    far = t - r > 0.05  # nearer, the quotient of two small numbers is all rounding
    said, target = jax.jit(MeanFlow.identity, static_argnums=0)(u, z, r, t, velocity(process, z, wide))
    np.testing.assert_allclose(said[far], target[far], atol=2e-4)
    _, wrong = jax.jit(MeanFlow.identity, static_argnums=0)(u, z, r, t, 1.1 * velocity(process, z, wide))
    assert np.abs(said - wrong)[far].max() > 0.05


def test_with_equal_times_it_is_flow_matching():
    """Whatever the net: the target is the velocity, the loss |u - (e - x)|^2."""
    method = meanflow(share=0.0, power=0.0)
    batch = {"image": images(64)}
    w = jax.jit(method.init)(KEY, batch).view()
    found = method.loss(w, batch, KEY, True)
    times_rng, noise_rng, *_ = jax.random.split(KEY, 4)
    r, t = method.draw(times_rng, 64)
    np.testing.assert_array_equal(r, t)
    e = jax.random.normal(noise_rng, batch["image"].shape)
    wide = t.reshape(-1, 1, 1, 1)
    said = method.net.module.apply(w.nets["net"], (1 - wide) * batch["image"] + wide * e, method.clocks(t, t), {})
    plain = ((said - (e - batch["image"])) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(found.each, plain, rtol=1e-4)
    np.testing.assert_allclose(found.metrics["mse"], plain / 4, rtol=1e-4)
    weighted = meanflow(share=0.0, power=1.0).loss(w, batch, KEY, True).each
    np.testing.assert_allclose(weighted, plain / (plain + 1e-3), rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("process", PROCESSES, ids=["linear", "trigonometric"])
def test_any_number_of_steps_of_the_exact_average_velocity_is_exact(process, steps):
    method = meanflow(Exact(process), process=process, sample_steps=steps)
    noise = jax.random.normal(KEY, (100, *SHAPE))
    found = method.sample(Weights(jnp.int32(0), {"net": {}}, {}, {}), KEY, 100, {})
    assert method.nfe == steps
    np.testing.assert_allclose(found, jnp.clip(MEAN + STD * noise, -1, 1), atol=1e-5)


def test_times_are_ordered_and_a_quarter_differs():
    r, t = meanflow().draw(KEY, 100_000)
    assert (r <= t).all() and (t < 1).all() and (r > 0).all()
    assert np.mean(r < t) == pytest.approx(0.25, abs=0.01)
    # the later of two draws where they differ, one of them elsewhere: r = t keeps the later one
    assert np.mean(t) > np.mean(jax.nn.sigmoid(-0.4 + jax.random.normal(KEY, (100_000,))))


def test_guidance_is_built_into_the_target():
    """omega = 1, kappa = 0 is the velocity itself; else (19-21), but for dropped labels; sampling costs nothing more."""
    label, v = jnp.array([0, 3, 2]), jax.random.normal(KEY, (3, *SHAPE))
    own = jax.random.normal(jax.random.key(1), (4, *SHAPE))  # what the net says for each label; the last is null
    known = dict(classes=3, condition_dropout=0.1)
    own_of, cond = lambda cond: own[cond["label"]], {"label": label}
    np.testing.assert_allclose(meanflow(**known).guide(own_of, v, cond), v, rtol=1e-6)
    method = meanflow(**known, omega=1.5, kappa=0.25)
    expected = 1.5 * v + 0.25 * own[label] - 0.75 * own[3]
    found = method.guide(own_of, v, cond)
    np.testing.assert_allclose(found, expected.at[1].set(v[1]), rtol=1e-5)
    assert method.nfe == 1
    # the flow that it aims at is guided by omega / (1 - kappa): v' = omega v + kappa v' + (1 - omega - kappa) v_null
    fixed = expected.copy()
    for _ in range(60):
        fixed = 1.5 * v + 0.25 * fixed - 0.75 * own[3]
    np.testing.assert_allclose(fixed, own[3] + 2.0 * (v - own[3]), rtol=1e-4)


def test_guided_training_takes_a_finite_step():
    method = meanflow(classes=3, condition_dropout=0.5, omega=2.0, kappa=0.5, share=0.5)
    batch = {"image": images(16), "label": jnp.arange(16) % 3}
    state = jax.jit(method.init)(KEY, batch)
    after, metrics = jax.jit(method.train_step)(state, batch, KEY)
    assert np.isfinite(metrics["loss"]) and 0 < metrics["loss"] < 1 and metrics["grad_norm"] > 0
    assert int(after.step) == 1


def test_several_times_are_embedded_side_by_side():
    two = jnp.array([[0.3, 0.1], [0.7, 0.7]])
    one = timestep_embedding(two[:, 0], 7), timestep_embedding(two[:, 1], 7)
    np.testing.assert_array_equal(timestep_embedding(two, 7), jnp.concatenate(one, -1))
    np.testing.assert_array_equal(timestep_embedding(two[:, :1], 7), one[0])


@pytest.mark.parametrize("kind", ["dit", pytest.param("unet", marks=pytest.mark.slow), "ddpmpp"])
def test_nets_hear_the_second_time(kind):
    module = {
        "unet": UNet(
            (4, 4, 1), labels(3), width=8, mults=(1,), blocks=1, attend=(), attend_mid=False, groups=4, null_label=True
        ),
        "ddpmpp": DdpmPP((4, 4, 1), labels(3), width=8, mults=(1,), blocks=1, attend=()),
        "dit": DiT((4, 4, 1), labels(3), depth=1, width=16, heads=2),
    }[kind]
    x, two = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([[0.3, 0.1], [0.7, 0.7]])
    variables = jax.tree.map(lambda p: p + 0.1, jax.jit(module.init)(KEY, x, two))  # outputs start at zero
    run = jax.jit(module.apply)
    said = run(variables, x, two)
    assert said.shape == x.shape
    assert not np.allclose(said, run(variables, x, two.at[:, 1].set(0.0)))


def test_bad_fields_are_one_line():
    for fields, word in (
        (dict(process=VP()), "process"), (dict(omega=2.0), "method.condition_dropout=0.1"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=word):
            meanflow(**fields)

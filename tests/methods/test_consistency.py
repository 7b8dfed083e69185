"""Consistency models: the boundary, the schedules of the papers, what a perfect function loses, and distillation."""

import math
from dataclasses import replace

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
from jaxgen.diffusion.grid import Karras
from jaxgen.diffusion.paths import Sigma
from jaxgen.diffusion.predict import X0
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers.fewstep import Lcm
from jaxgen.diffusion.times import Importance, Uniform
from jaxgen.errors import UserError
from jaxgen.methods.consistency import Consistency, Doubling, Fixed, SquareRoot
from jaxgen.methods.consistency_distillation import ConsistencyDistillation
from jaxgen.methods.diffusion import Diffusion
from jaxgen.methods.vae import Vae
from jaxgen.nets.dit import DiT
from jaxgen.nets.edm_unet import DdpmPP
from jaxgen.nets.unet import UNet

KEY, SHAPE = jax.random.key(0), (2, 2, 1)
SPEC = pictures(SHAPE)
MEAN, STD, EPS, DATA = 0.3, 0.2, 0.002, 0.5


class Perfect(nn.Module):
    """F of f(x, sigma) = m + (x - m) sqrt((s^2 + eps^2) / (s^2 + a sigma^2)): the flow of N(m, s^2) where a = 1."""

    std: float = STD

    @nn.compact
    def __call__(self, x, clock, cond=None, train=False):
        a = self.param("a", nn.initializers.ones, ())
        sigma = jnp.exp(4 * clock).reshape(-1, *(1,) * (x.ndim - 1))
        size, gap = jnp.sqrt(sigma**2 + DATA**2), sigma - EPS
        x = x * size
        f = MEAN + (x - MEAN) * jnp.sqrt((self.std**2 + EPS**2) / (self.std**2 + a * sigma**2))
        return (f - DATA**2 / (gap**2 + DATA**2) * x) * size / (DATA * jnp.where(gap > 1e-6, gap, jnp.inf))


class Posterior(nn.Module):
    """E[x_0 | x_t] for N(m, s^2), on EDM's path or the chain's, from the clock that each process shows."""

    process: VP | Sigma

    def __call__(self, x, clock, cond=None, train=False):
        t = (clock + 1) / self.process.steps if isinstance(self.process, VP) else self.process.when(jnp.exp(4 * clock))
        a, s = (f(t).reshape(-1, *(1,) * (x.ndim - 1)) for f in (self.process.alpha, self.process.sigma))
        return MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)


class Small(nn.Module):
    """Something to train."""

    @nn.compact
    def __call__(self, x, clock, cond=None, train=False):
        return nn.Dense(x.shape[-1])(jnp.concatenate([x, jnp.broadcast_to(clock[:, None, None, None], x.shape)], -1))


def consistency(module=None, **fields):
    return Consistency(net=Net(module or Small(), optax.sgd(0.1)), spec=SPEC, **fields)


def gaussian(num, std=STD):
    return {"image": MEAN + std * jax.random.normal(jax.random.key(7), (num, *SHAPE))}


def loss(method, w, batch, rng=KEY):
    return method.loss(w, batch, rng, False).each


@pytest.mark.parametrize("kind", ["dit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("unet", "ddpmpp"))])
def test_f_is_the_identity_at_the_smallest_sigma_whatever_the_net(kind):
    module = {
        "unet": UNet((4, 4, 1), width=8, mults=(1,), blocks=1, attend=(), attend_mid=False, groups=4),
        "ddpmpp": DdpmPP((4, 4, 1), width=8, mults=(1,), blocks=1, attend=()),
        "dit": DiT((4, 4, 1), depth=1, width=16, heads=2),
    }[kind]
    x = jax.random.normal(KEY, (3, 4, 4, 1))
    method = Consistency(net=Net(module, optax.sgd(0.1)), spec=pictures((4, 4, 1)))
    variables = jax.jit(module.init)(KEY, x, jnp.zeros(3))
    variables = jax.tree.map(lambda p: p + 0.1, variables)  # outputs start at zero
    f = jax.jit(lambda x, t: method.function(variables)(x, t, {}))
    np.testing.assert_array_equal(f(x, jnp.full(3, method.process.first)), x)
    assert not np.allclose(f(x, jnp.full(3, 0.1)), x)


def test_the_doubling_schedule_is_the_papers():
    levels = Doubling(10, 1280, schedule_steps=400_000).levels
    at = [0, 49_999, 50_000, 100_000, 349_999, 350_000, 399_999]
    assert [int(levels(jnp.int32(k))) for k in at] == [11, 11, 21, 41, 641, 1281, 1281]
    odd = Doubling(10, 100, schedule_steps=17)  # K' = floor(17 / (log2(10) + 1)) = 3
    assert [int(odd.levels(jnp.int32(k))) for k in (0, 3, 6, 9, 12, 100)] == [11, 21, 41, 81, 101, 101]


def test_the_square_root_schedule_is_the_papers():
    total, low, high = 1000, 2, 150
    levels = SquareRoot(low, high, schedule_steps=total).levels
    for k in (0, 10, 333, 1000):
        root = math.sqrt(k / total * ((high + 1) ** 2 - low**2) + low**2)
        assert int(levels(jnp.int32(k))) == math.ceil(root - 1) + 1
    assert int(levels(jnp.int32(0))) == 2 and int(levels(jnp.int32(total))) == 151


def test_levels_are_those_of_karras_and_the_first_is_sigma_min():
    rungs = consistency().rung(jnp.arange(18), jnp.int32(18))
    assert rungs[0] == np.float32(EPS)
    np.testing.assert_allclose(rungs[::-1], Sigma().sigma(Sigma().grid(18)[:-1]), rtol=2e-5)


def test_noise_levels_follow_the_discretised_log_normal():
    """P(n) is in proportion to erf((log sigma_(n+1) + 1.1) / (2 sqrt 2)) - erf((log sigma_n + 1.1) / (2 sqrt 2))."""
    method, levels, num = consistency(), jnp.int32(11), 200_000
    found = np.bincount(method.draw(KEY, num, levels), minlength=10) / num
    edges = np.log(np.asarray(method.rung(jnp.arange(11), levels), np.float64))
    mass = np.diff([math.erf((e + 1.1) / (2 * math.sqrt(2))) for e in edges])
    np.testing.assert_allclose(found, mass / mass.sum(), atol=4 * math.sqrt(0.25 / num))
    even = np.bincount(replace(method, times=Uniform()).draw(KEY, num, levels), minlength=10) / num
    np.testing.assert_allclose(even, 0.1, atol=0.004)


def test_a_perfect_function_of_a_single_image_loses_nothing():
    method = consistency(Perfect(0.0), curriculum=Fixed(20))
    w = jax.jit(method.init)(KEY, gaussian(4)).view()
    assert loss(method, w, gaussian(512, std=0.0)).max() < 2e-3  # of distances of order 1, over gaps down to 1e-3
    other = consistency(Perfect(STD), curriculum=Fixed(20))
    assert loss(other, w, gaussian(512, std=0.0)).mean() > 0.1


def test_the_gradient_of_training_vanishes_at_the_perfect_function_as_levels_grow():
    """Neighbours with the same noise are not on one path; only their average over the noise is (Song et al., theorem 2)."""
    batch = gaussian(40_000)

    def slope(levels, a):
        method = consistency(Perfect(), curriculum=Fixed(levels), distance="l2", gap_weight=False, times=Uniform())
        w = Weights(jnp.int32(0), {"net": {}}, {}, {})
        params = {"a": jnp.float32(a)}
        return jax.jit(jax.grad(lambda p: method.loss(w.training("net", p), batch, KEY, False).each.mean() * levels))(
            params
        )["a"]

    coarse, fine = slope(6, 1.0), slope(80, 1.0)
    assert abs(fine) < 0.25 * abs(coarse)
    assert slope(80, 0.5) < -3 * abs(fine) and slope(80, 2.0) > 3 * abs(fine)


@pytest.mark.parametrize("process", [Sigma(), VP("cosine")], ids=["edm", "vp"])
def test_a_perfect_function_agrees_with_a_perfect_teacher_up_to_heuns_error(process):
    teacher = Diffusion(net=Net(Posterior(process), optax.sgd(0.1)), spec=SPEC, process=process, predict=X0())
    lent = Frozen(Weights(jnp.int32(0), {"net": {}}, {}, {}), teacher)

    def lost(levels):
        method = ConsistencyDistillation(
            net=Net(Perfect(), optax.sgd(0.1)), spec=SPEC, teacher="DIR",
            curriculum=Fixed(levels), distance="l1", process=Sigma(sigma_max=10.0),
        )  # fmt: skip
        assert method.loans() == method.inherits() and method.loans()["teacher"].lender == "DIR"
        w = Weights(jnp.int32(0), {"net": {"params": {"a": jnp.ones(())}}}, {"teacher": lent}, {})
        return jax.jit(lambda b: loss(method, w, b))(gaussian(2_000)).mean()

    coarse, fine = lost(8), lost(32)
    assert fine < coarse / 20 and fine < 2e-3  # third order a step: 1 / 64 in the limit


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_k_steps_evaluate_the_net_k_times_and_end_in_the_data(steps):
    calls = []

    class Counted(Perfect):
        @nn.compact
        def __call__(self, x, clock, cond=None, train=False):
            jax.debug.callback(lambda c: calls.append(float(c)), clock[0])
            return Perfect.__call__(self, x, clock, cond, train)

    solver = Lcm(steps=steps, scale=0.0, grid=Karras(spare=True))
    method = consistency(Counted(), solver=solver)
    images = method.sample(Weights(jnp.int32(0), {"net": {"params": {"a": jnp.ones(())}}}, {}, {}), KEY, 20_000, {})
    jax.effects_barrier()
    assert method.nfe == len(calls) == steps
    assert max(calls) == pytest.approx(math.log(80) / 4) and min(calls) > math.log(EPS) / 4 + 0.1
    np.testing.assert_allclose((images.mean(), images.std()), (MEAN, STD), atol=0.01)


def test_the_original_keeps_an_average_behind_the_stop():
    """mu(k) = mu_0^(s_0 / N(k)) (appendix C)."""
    method = consistency(
        curriculum=SquareRoot(2, 150, schedule_steps=10), times=Uniform(), distance="l2", gap_weight=False, decay=0.9
    )
    batch, step = gaussian(8), jax.jit(method.train_step)
    state = jax.jit(method.init)(KEY, batch)
    for _ in range(3):
        after, _ = step(state, batch, KEY)
        mu = 0.9 ** (2 / int(method.curriculum.levels(state.step)))
        expected = jax.tree.map(
            lambda old, new, mu=mu: mu * old + (1 - mu) * new, state.extra["target"], after.nets["net"].params
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after.extra["target"], expected)
        state = after
    assert not consistency().init(KEY, batch).extra


def test_bad_fields_are_one_line():
    for fields, word in (
        (dict(process=VP()), "process"), (dict(distance="lpips"), "distance"),
        (dict(times=Importance()), "times"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=word):
            consistency(**fields)
    with pytest.raises(UserError, match="low"):
        Doubling(20, 10)
    with pytest.raises(UserError, match="no diffusion model"):
        distilled = ConsistencyDistillation(net=Net(Small(), optax.sgd(0.1)), spec=SPEC, teacher="DIR")
        role = distilled.loans()["teacher"].role
        role.refuse("teacher", "DIR", Vae.__new__(Vae), SPEC, SPEC, distilled)

"""Penalties against closed forms and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.regularize import R1, GradientPenalty, NoAugment, NoGenPenalty, NoPenalty, lazily
from jaxgen.nets.convolution import conv2d, dense
from jaxgen.nets.gan import DcganDiscriminator, ResnetDiscriminator

KEY = jax.random.key(0)
SHAPE = (4, 8, 8, 1)
REAL, FAKE = jax.random.normal(KEY, SHAPE), jax.random.normal(jax.random.key(1), SHAPE)


def test_linear_critic():
    """D(x) = <w, x> has slope |w| everywhere."""
    w = jax.random.normal(jax.random.key(2), SHAPE[1:])
    norm = float(jnp.linalg.norm(w))

    def critic(x):
        return (x * w).sum((1, 2, 3))

    gp = GradientPenalty(strength=10.0)(critic, REAL, FAKE, KEY)
    np.testing.assert_allclose(gp, jnp.full(4, 10 * (norm - 1) ** 2), rtol=1e-5)
    np.testing.assert_allclose(R1(strength=3.0)(critic, REAL, FAKE, KEY), jnp.full(4, 1.5 * norm**2), rtol=1e-5)
    assert (NoPenalty()(critic, REAL, FAKE, KEY) == 0).all()


def bowl(x):
    """D(x) = |x|^2 / 2: its slope is |x|."""
    return 0.5 * (x**2).sum((1, 2, 3))


def test_interpolates_lie_between():
    """Between 0 and 1 the slope of the bowl gives each example's mixing weight away."""
    real, fake = jnp.zeros((64, 2, 2, 1)), jnp.ones((64, 2, 2, 1))
    share = jnp.sqrt(GradientPenalty(strength=1.0, target=0.0)(bowl, real, fake, KEY)) / 2.0
    assert (share >= 0).all() and (share <= 1).all() and share.std() > 0.2


def test_r1_looks_at_the_data_only():
    np.testing.assert_allclose(R1(strength=2.0)(bowl, REAL, FAKE, KEY), (REAL**2).sum((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("penalty", [GradientPenalty(), R1()], ids=lambda v: type(v).__name__)
def test_gradient_against_finite_differences(penalty):
    """The gradient of a gradient, through the convolutions' own rules, in a critic without kinks."""
    with jax.enable_x64(True):
        real, fake = REAL.astype(jnp.float64), FAKE.astype(jnp.float64)
        keys = jax.random.split(jax.random.key(3), 8)
        shapes = [(4, 4, 1, 3), (3, 3, 3, 4), (1, 1, 4, 4), (64, 1)]
        params = [0.5 * jax.random.normal(k, s, jnp.float64) for k, s in zip(keys, shapes, strict=False)]
        step = [jax.random.normal(k, s, jnp.float64) for k, s in zip(keys[4:], shapes, strict=True)]

        def critic(params, x):
            x = jnp.tanh(conv2d(x, params[0], 2, 1))
            x = jnp.tanh(conv2d(x, params[1]))
            x = jnp.tanh(conv2d(x, params[2]))
            return dense(x.reshape(x.shape[0], -1), params[3])[:, 0]

        def along(h):
            moved = [p + h * s for p, s in zip(params, step, strict=True)]
            return penalty(lambda x: critic(moved, x), real, fake, KEY).mean()

        numeric = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), numeric, rtol=1e-5)


@pytest.mark.parametrize("disc", [DcganDiscriminator(width=4, norm="none"), ResnetDiscriminator(width=4)], ids=type)
def test_penalty_moves_every_layer_of_a_critic(disc):
    params = disc.init(KEY, REAL)["params"]

    def loss(params):
        critic = partial(disc.apply, {"params": params})
        return GradientPenalty()(critic, REAL, FAKE, KEY).mean()

    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    assert all(jnp.abs(g).max() > 0 for path, g in grads if path[-1].key == "kernel")


def test_lazy_penalty_keeps_its_mean():
    penalty, zeros = R1(), jnp.zeros(4)
    got = [lazily(4, jnp.int32(i), lambda: 4 * penalty(bowl, REAL, FAKE, KEY), zeros).mean() for i in range(8)]
    assert [g > 0 for g in got] == [i % 4 == 0 for i in range(8)]
    np.testing.assert_allclose(np.mean(got), penalty(bowl, REAL, FAKE, KEY).mean(), rtol=1e-5)


def test_no_penalty_and_no_augmentation_change_nothing():
    z = jnp.ones((4, 3))
    assert NoGenPenalty().start() == {}
    penalty, memory = NoGenPenalty()(None, (z, {}), {}, KEY)
    assert penalty.shape == (4,) and not penalty.any() and memory == {}
    assert NoAugment()(REAL, KEY, 0.0) is REAL and not NoAugment().adapts

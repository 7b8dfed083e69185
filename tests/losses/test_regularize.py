"""Penalties against closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.regularize import R1, GradientPenalty, NoPenalty, lazily
from jaxgen.nets.gan import DcganDiscriminator, MlpDiscriminator, ResnetDiscriminator

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


def test_interpolates_lie_between_and_r1_looks_at_the_data():
    seen = []

    def critic(x):
        seen.append(x)
        return x.sum((1, 2, 3))

    with jax.disable_jit():
        GradientPenalty()(critic, jnp.zeros(SHAPE), jnp.ones(SHAPE), KEY)
    between = np.asarray(jax.lax.stop_gradient(seen[0].aval.val if hasattr(seen[0].aval, "val") else 0.5))
    assert ((between >= 0) & (between <= 1)).all()
    slopes = jax.grad(lambda f: R1()(lambda x: (x**2).sum((1, 2, 3)), REAL, f, KEY).sum())(FAKE)
    assert (slopes == 0).all()


@pytest.mark.parametrize("penalty", [GradientPenalty(), R1()], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize(
    "disc",
    [DcganDiscriminator(width=4, base=2, norm="none"), ResnetDiscriminator(width=4), MlpDiscriminator(width=4)],
    ids=lambda v: type(v).__name__,
)
def test_gradient_against_finite_differences(disc, penalty):
    """The gradient of a gradient, through every convolution's own rules."""
    with jax.enable_x64(True):
        real, fake, label = REAL.astype(jnp.float64), FAKE.astype(jnp.float64), jnp.zeros(4, jnp.int32)
        params = disc.init(jax.random.key(3), real, label)["params"]
        disc = disc.clone(dtype="float64")
        flat, restore = jax.flatten_util.ravel_pytree(params)
        flat = 3.0 * flat.astype(jnp.float64)  # slopes worth measuring

        def loss(p):
            return penalty(lambda x: disc.apply({"params": restore(p)}, x, label), real, fake, KEY).mean()

        direction = jax.random.normal(jax.random.key(4), flat.shape, jnp.float64)
        slope = jax.jit(jax.grad(loss))(flat) @ direction
        h = 1e-5
        numeric = jax.jit(lambda p: (loss(p + h * direction) - loss(p - h * direction)) / (2 * h))(flat)
        np.testing.assert_allclose(slope, numeric, rtol=2e-2)


def test_lazy_penalty_keeps_its_mean():
    penalty = R1(every=4)
    got = [lazily(penalty, jnp.int32(i), lambda x: (x**2).sum((1, 2, 3)), REAL, FAKE, KEY).mean() for i in range(8)]
    full = R1()(lambda x: (x**2).sum((1, 2, 3)), REAL, FAKE, KEY).mean()
    assert [g > 0 for g in got] == [i % 4 == 0 for i in range(8)]
    np.testing.assert_allclose(np.mean(got), full, rtol=1e-5)

"""Every game has the optimum that its paper proves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.gan import (
    Hinge,
    LeastSquares,
    NonSaturating,
    Relativistic,
    RelativisticAverage,
    Saturating,
    Wasserstein,
)

ALL = [Saturating(), NonSaturating(), LeastSquares(), Hinge(), Wasserstein(), Relativistic(), RelativisticAverage()]
DATA, MODEL = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])  # p_data and p_g over three points


def value(loss, logits):
    """D's expected loss when it answers `logits` at the three points."""
    zero = jnp.zeros_like(logits)
    base = loss.disc(zero[:1], zero[:1])[0]
    real, fake = loss.disc(logits, zero) - base, loss.disc(zero, logits) - base
    return (DATA * real + MODEL * fake).sum() + base


def best(loss):
    """The logits that minimise it, by gradient descent."""
    step = jax.jit(lambda d, _: (d - 0.5 * jax.grad(lambda d: value(loss, d))(d), None))
    return jax.lax.scan(step, jnp.zeros(3), None, length=2000)[0]


@pytest.mark.parametrize("loss", ALL, ids=lambda v: type(v).__name__)
def test_signs(loss):
    """D rises on real and falls on fake images; G wants its images to rise."""
    unsure = jnp.full(1, 0.5)
    assert jax.grad(lambda r: loss.disc(r, unsure).sum())(unsure) < 0
    assert jax.grad(lambda f: loss.disc(unsure, f).sum())(unsure) > 0
    assert jax.grad(lambda f: loss.gen(f, unsure).sum())(unsure) < 0


@pytest.mark.parametrize("loss", [Saturating(), NonSaturating()], ids=lambda v: type(v).__name__)
def test_best_discriminator_is_the_ratio(loss):
    """Proposition 1: D* = p_data / (p_data + p_g); theorem 1: its value is log 4 - 2 JS."""
    logits = best(loss)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), DATA / (DATA + MODEL), atol=1e-3)
    middle = (DATA + MODEL) / 2
    js = 0.5 * (DATA * np.log(DATA / middle)).sum() + 0.5 * (MODEL * np.log(MODEL / middle)).sum()
    np.testing.assert_allclose(value(loss, logits), np.log(4) - 2 * js, atol=1e-4)


def test_least_squares_best_discriminator():
    """Eq. 5 of the paper: D* = (b p_data + a p_g) / (p_data + p_g)."""
    loss = LeastSquares(a=-1.0, b=1.0, c=0.0)
    np.testing.assert_allclose(best(loss), (DATA - MODEL) / (DATA + MODEL), atol=1e-3)


def test_hinge_best_discriminator_is_the_sign():
    np.testing.assert_allclose(best(Hinge()), np.sign(DATA - MODEL), atol=0.5)


def test_saturating_game_is_zero_sum():
    fake = jnp.linspace(-3, 3, 7)
    real = jnp.ones(7)
    constant = Saturating().disc(real, fake) + Saturating().gen(fake, None)
    np.testing.assert_allclose(constant, jax.nn.softplus(-real), rtol=1e-5)
    losing = jnp.array([-8.0])  # where D is sure: the non-saturating loss still has a slope
    slopes = [
        abs(float(jax.grad(lambda f, g=g: g.gen(f, None).sum())(losing)[0])) for g in (Saturating(), NonSaturating())
    ]
    assert slopes[0] < 1e-3 and slopes[1] > 0.99


def test_wasserstein_is_the_difference_of_means():
    real, fake = jnp.array([1.0, 3.0]), jnp.array([0.5, -0.5])
    assert float(Wasserstein().disc(real, fake).mean()) == -2.0


@pytest.mark.parametrize("loss", ALL, ids=lambda v: type(v).__name__)
def test_parts_are_the_whole_and_patches_are_judged_one_by_one(loss):
    """D minimises the sum of its parts; the losses of patches are those of as many images."""
    real, fake = jax.random.normal(jax.random.key(0), (2, 3, 2, 2))
    np.testing.assert_allclose(sum(loss.parts(real, fake)), loss.disc(real, fake), rtol=1e-6)
    flat = real.ravel(), fake.ravel()
    np.testing.assert_allclose(loss.disc(real, fake).ravel(), loss.disc(*flat), rtol=1e-5)
    np.testing.assert_allclose(loss.gen(fake, real).ravel(), loss.gen(*flat[::-1]), rtol=1e-5)


@pytest.mark.parametrize("loss", ALL, ids=lambda v: type(v).__name__)
def test_only_relative_games_need_real_logits(loss):
    slope = jax.grad(lambda r: loss.gen(jnp.ones(3), r).sum())(jnp.zeros(3))
    assert bool((slope != 0).any()) == loss.relative


@pytest.mark.parametrize("loss", [Relativistic(), RelativisticAverage()], ids=lambda v: type(v).__name__)
def test_relativistic_games_do_not_mind_a_constant(loss):
    """Only differences count; G's game is D's with the roles swapped (Jolicoeur-Martineau 2018, sections 3 and 4)."""
    real, fake = jnp.array([1.0, 3.0]), jnp.array([0.5, -0.5])
    np.testing.assert_allclose(loss.disc(real + 7, fake + 7), loss.disc(real, fake), rtol=1e-5)
    np.testing.assert_allclose(loss.gen(fake, real), loss.disc(fake, real), rtol=1e-5)
    np.testing.assert_allclose(Relativistic().disc(real, fake), np.log1p(np.exp([-0.5, -3.5])), rtol=1e-5)

"""Dequantised levels: what a uniform model costs, where the noise lies, how the bound grows with its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.images import from_levels, to_levels
from jaxgen.losses.dequantise import Importance, NoNoise, Uniform
from jaxgen.metrics.bits_per_dim import bits_per_dim

KEY = jax.random.key(0)


def pixels(levels, num=64):
    return from_levels(jax.random.randint(KEY, (num, 4, 4, 3), 0, levels), levels)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("rule", [Uniform, Importance])
def test_a_uniform_density_costs_exactly_log2_levels(rule, levels):
    nats = rule(levels).log_prob(lambda u: jnp.zeros(len(u)), pixels(levels), KEY)
    np.testing.assert_allclose(bits_per_dim(nats, 48), np.log2(levels), rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_noise_fills_a_level_and_comes_back_to_it(levels):
    rule, x = Uniform(levels), pixels(levels)
    u = rule.spread(x, KEY)
    noise = np.asarray(u * levels - to_levels(x, levels))
    assert u.min() >= 0 and u.max() < 1 and noise.min() < 0.01 and noise.max() > 0.99 and abs(noise.mean() - 0.5) < 0.02
    np.testing.assert_array_equal(rule.pixels(u), x)


def test_more_draws_tighten_the_bound_up_to_the_level_s_own_mass():
    """Under the density 2u the level k of 4 has the mass (2k + 1) / 16."""
    x = pixels(4, 4000)[:, :1, :1, :1]
    density = lambda u: jnp.log(2 * u[:, 0, 0, 0])  # noqa: E731
    exact = float(jnp.log((2 * to_levels(x, 4) + 1) / 16).mean())
    found = [float(Importance(4, draws=n).log_prob(density, x, KEY).mean()) for n in (1, 4, 64)]
    assert found[0] < found[1] < found[2] < exact + 0.01 and exact - found[2] < 0.02


def test_without_noise_a_density_is_one_on_the_floats_own_range():
    x = jnp.linspace(-1, 1, 2001)[:, None]
    nats = NoNoise().log_prob(lambda u: jnp.log(2 * u[:, 0] + 1e-9), x, KEY)  # 2u integrates to 1 on [0, 1]
    np.testing.assert_allclose(np.trapezoid(np.exp(nats), x[:, 0]), 1.0, rtol=1e-5)
    np.testing.assert_allclose(NoNoise().pixels(NoNoise().spread(x, KEY)), x, atol=1e-6)

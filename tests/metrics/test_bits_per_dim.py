"""Bits per dimension: uniform models cost 8 bits, to the last digit; scaling data costs nothing in the end."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.metrics.bits_per_dim import bits_per_dim, density_bits_per_dim, level_width


@pytest.mark.parametrize("dims", [1, 784, 3072, 3 * 256 * 256])
def test_a_uniform_model_of_levels_costs_exactly_8_bits(dims):
    assert bits_per_dim(-dims * np.log(256.0), dims) == 8.0
    assert (bits_per_dim(np.full(5, -dims * np.log(256.0)), dims) == 8.0).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (0.0, 256.0), (-0.5, 0.5)])
def test_a_uniform_density_costs_exactly_8_bits_on_any_scale(low, high):
    dims = 3072
    log_density = -dims * np.log(high - low)
    assert density_bits_per_dim(log_density, dims, level_width(low, high)) == 8.0


def test_five_bit_images():
    assert density_bits_per_dim(0.0, 12, level_width(0.0, 1.0, levels=32)) == 5.0


def test_the_jacobian_undoes_a_scaling():
    """y -> s y divides the density by s^D and multiplies the width of a level by s."""
    log_density, dims = -1234.5, 768
    before = density_bits_per_dim(log_density, dims, level_width(0.0, 1.0))
    after = density_bits_per_dim(log_density - dims * np.log(2.0), dims, level_width(-1.0, 1.0))
    assert after == pytest.approx(before, rel=1e-12)


def test_a_fair_coin_is_a_bit_and_arrays_keep_their_type():
    bits = bits_per_dim(jnp.asarray([-4 * np.log(2.0), 0.0], jnp.float32), 4)
    assert bits.dtype == jnp.float32
    np.testing.assert_allclose(bits, [1.0, 0.0], rtol=1e-6)


def test_a_discretised_logistic_sums_to_one_and_its_bits_are_its_entropy():
    """256 bins open at both ends: the model's mean cost of its own samples is its entropy in bits."""
    edges = np.arange(1, 256) - 0.5
    below = np.concatenate([[0.0], 1 / (1 + np.exp(-(edges - 100) / 12)), [1.0]])
    p = np.diff(below)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    cost = np.sum(p * bits_per_dim(np.log(p), 1))
    assert cost == pytest.approx(-np.sum(p * np.log2(p)), rel=1e-12)
    assert cost < 8.0


def test_a_flows_log_determinant_is_the_jacobians():
    """y = z + tanh(W z) / 2 in 4 dimensions: the density of y counted on another scale gives the same bits."""
    import jax

    rng = np.random.default_rng(0)
    mix = jnp.asarray(np.linalg.qr(rng.standard_normal((4, 4)))[0] * 0.9, jnp.float32)

    def forward(z, scale):
        return scale * (z + 0.5 * jnp.tanh(mix @ z))

    z = jnp.asarray(rng.standard_normal(4), jnp.float32)
    log_base = float(-0.5 * jnp.sum(z**2) - 2 * jnp.log(2 * jnp.pi))
    bits = []
    for scale in (1.0, 1 / 128):
        jacobian = jax.jacfwd(lambda v, s=scale: forward(v, s))(z)
        log_density = log_base - float(jnp.linalg.slogdet(jacobian)[1])
        bits.append(density_bits_per_dim(log_density, 4, scale))
    assert bits[0] == pytest.approx(bits[1], rel=1e-5)

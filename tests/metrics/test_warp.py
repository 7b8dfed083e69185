"""The wavelet's warp: nothing is lost, the border mirrors, and it is linear, so differentiable as often as one likes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.metrics.warp import SYM6, coarser, mirror, rotation, warp

STILL = jnp.eye(2, 3)[None]


def _smooth(side: int, channels: int = 1) -> jnp.ndarray:
    """[1, side, side, channels]: a few low frequencies without symmetry, in [-1, 1]."""
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    waves = [np.sin(0.3 * y + 0.1 * k) * np.cos(0.2 * x - 0.4) + 0.3 * np.sin(0.15 * (x + y)) for k in range(channels)]
    return jnp.asarray(np.stack(waves, -1)[None] / 1.3, jnp.float32)


def test_the_wavelet_is_orthonormal_so_that_there_and_back_is_nothing():
    shifts = [float(np.dot(SYM6[2 * k :], SYM6[: len(SYM6) - 2 * k])) for k in range(6)]
    np.testing.assert_allclose(shifts, [1, 0, 0, 0, 0, 0], atol=1e-10)
    up = coarser(9)
    np.testing.assert_allclose(up @ up.T, np.eye(9), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (9, 14)])
def test_the_identity_changes_nothing(shape):
    x = jax.random.uniform(jax.random.key(0), (1, *shape, 2), minval=-1.0)  # white noise: every frequency there is
    np.testing.assert_allclose(warp(x, STILL), x, atol=2e-5)


def test_whole_pixels_are_shifted_exactly():
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 1), minval=-1.0)
    moved = warp(x, STILL.at[0, :, 2].set(jnp.array([-3.0, 2.0])))  # the inverse: down by 3, left by 2
    np.testing.assert_allclose(moved[0, 6:13, 3:11], x[0, 3:10, 5:13], atol=2e-5)


def test_what_comes_in_at_the_border_is_mirrored():
    x = _smooth(24)
    moved = warp(x, STILL.at[0, 0, 2].set(-6.0))  # down by 6
    expected = jnp.concatenate([x[0, 6:0:-1], x[0, :18]])
    np.testing.assert_allclose(moved[0], expected, atol=0.02)


def test_a_quarter_turn_is_rot90_and_scales_compose():
    x = _smooth(32, 2)
    turned = warp(x, jnp.concatenate([rotation(jnp.array([jnp.pi / 2])), jnp.zeros((1, 2, 1))], -1))
    np.testing.assert_allclose(turned[0, 4:-4, 4:-4], np.rot90(x[0], -1)[4:-4, 4:-4], atol=0.03)
    half = warp(warp(x, STILL * 2.0), STILL / 2.0)  # smaller, then larger
    np.testing.assert_allclose(half[0, 10:-10, 10:-10], x[0, 10:-10, 10:-10], atol=0.05)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_the_border_mirrors_for_ever(side):
    line = np.arange(side)
    expected = np.pad(line, 3 * side + 2, "reflect") if side > 1 else np.zeros(11, int)
    places = np.arange(len(expected)) - (len(expected) - side) // 2
    np.testing.assert_array_equal(mirror(places, side), expected)


def test_far_beyond_the_border_is_the_mirrored_image():
    """Shifted by three sides or one: the line repeats after two sides less two."""
    x = jax.random.uniform(jax.random.key(0), (1, 9, 6, 1), minval=-1.0)
    near, far = (
        warp(x, STILL.at[0, :, 2].set(jnp.array([a, b]))) for a, b in ((5.5, -3.25), (5.5 - 3 * 16, -3.25 + 2 * 10))
    )
    np.testing.assert_allclose(near, far, atol=2e-5)
    np.testing.assert_allclose(warp(x, STILL.at[0, 0, 2].set(16.0)), x, atol=2e-5)


def test_gradients_of_gradients_are_those_of_finite_differences():
    """R1 goes through it: the slope of D(warp x) with respect to x, squared, has a gradient."""
    with jax.enable_x64(True):
        x, weights = jax.random.normal(jax.random.key(0), (2, 1, 5, 7, 2), jnp.float64)
        inverse = jnp.concatenate([rotation(jnp.array([0.4])) * 1.1, jnp.array([[[0.3], [-1.2]]])], -1)

        def slope(x):
            critic = lambda x: jnp.tanh(warp(x, inverse) * weights).sum()  # noqa: E731
            return (jax.grad(critic)(x) ** 2).sum()

        step = jax.random.normal(jax.random.key(1), x.shape, jnp.float64)
        along = lambda h: slope(x + h * step)  # noqa: E731
        numeric = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(along)(0.0), numeric, rtol=1e-6)

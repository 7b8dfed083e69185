"""Errors per pixel, PSNR and the protocol of super-resolution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.pixel import l1, levels, luma, mse, psnr, shave
from jaxgen.metrics.ssim import ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 12, 10, 3)).astype(np.uint8)
    return a, np.clip(a + rng.integers(-9, 10, a.shape), 0, 255).astype(np.uint8)


def test_against_numpy(pair):
    a, b = pair
    difference = a.astype(np.float64) - b
    np.testing.assert_allclose(mse(a, b), (difference**2).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(l1(a, b), np.abs(difference).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(psnr(a, b), 10 * np.log10(255**2 / (difference**2).mean((1, 2, 3))), rtol=1e-6)


def test_black_against_white_is_zero_and_the_same_is_infinite(pair):
    black, white = np.zeros((1, 4, 4, 1), np.uint8), np.full((1, 4, 4, 1), 255, np.uint8)
    assert float(psnr(black, white)[0]) == 0.0
    assert np.isinf(psnr(pair[0], pair[0])).all()
    np.testing.assert_allclose(psnr(black, black + 1), 20 * np.log10(255), rtol=1e-6)  # one level: 48.13 dB


@pytest.mark.parametrize("span", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_the_declared_range_does_not_matter(pair, span):
    low, high = span
    a, b = (x.astype(np.float32) / 255 * (high - low) + low for x in pair)
    np.testing.assert_allclose(psnr(a, b, span), psnr(*pair), rtol=1e-5)
    np.testing.assert_array_equal(levels(a, span, quantise=True), pair[0].astype(np.float32))
    np.testing.assert_allclose(luma(a, span), luma(pair[0]), atol=1e-3)


def test_quantising_rounds_and_clips(pair):
    a = jnp.asarray([-0.4, 0.49, 0.51, 99.6, 255.3, 300.0]).reshape(1, 1, 6, 1)
    np.testing.assert_array_equal(levels(a, quantise=True).ravel(), [0, 0, 1, 100, 255, 255])
    near = pair[0] + 0.3
    assert np.isfinite(psnr(near, pair[0])).all()
    assert np.isinf(psnr(near, pair[0], quantise=True)).all()


def test_luma_of_matlab():
    """rgb2ycbcr: black 16, white 235, red 81.481, green 144.553, blue 40.966."""
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    got = luma(colours.reshape(1, 1, 5, 3))
    assert got.shape == (1, 1, 5, 1)
    np.testing.assert_allclose(got.ravel(), [16.0, 235.0, 81.481, 144.553, 40.966], rtol=1e-6)


def test_a_border_does_not_count(pair):
    a, b = pair
    spoilt = b.copy()
    spoilt[:, :2], spoilt[:, -2:], spoilt[:, :, :2], spoilt[:, :, -2:] = 0, 0, 0, 0
    np.testing.assert_array_equal(mse(shave(a, 2), shave(spoilt, 2)), mse(shave(a, 2), shave(b, 2)))
    np.testing.assert_array_equal(shave(a, 0), a)
    assert shave(a, 3).shape == (3, 6, 4, 3)


def test_each_image_by_itself(pair):
    a, b = pair
    alone = jnp.concatenate([psnr(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(alone, psnr(a, b), rtol=1e-6)


@pytest.mark.parametrize(
    "measure", [mse, l1, psnr, partial(psnr, quantise=True), ssim, partial(ssim, convention="uniform")]
)
def test_a_clip_is_the_mean_over_its_frames(measure):
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (2, 3, 16, 14, 3)).astype(np.uint8)
    b = np.clip(a + np.array([3, 20, 60])[:, None, None, None] * rng.standard_normal(a.shape), 0, 255)
    frames = [measure(a[:, t], b[:, t]) for t in range(3)]
    assert np.ptp(frames, axis=0).min() > 0.1  # the frames are unlike
    np.testing.assert_allclose(measure(a, b), np.mean(frames, axis=0), rtol=1e-5)


def test_luma_and_borders_of_clips_are_those_of_their_frames(pair):
    clip = np.stack(pair, 1)  # [3, 2, 12, 10, 3]
    for function in (luma, lambda x: shave(x, 2)):
        np.testing.assert_array_equal(function(clip), jnp.stack([function(x) for x in pair], 1))


def test_precision_follows_jax(pair):
    assert psnr(*pair).dtype == jnp.float32
    assert mse(*(jnp.asarray(x, jnp.bfloat16) for x in pair)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert psnr(*pair).dtype == jnp.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: mse(a, b[:2]), "cannot be compared"),
        (lambda a, b: psnr(a[0], b[0]), "cannot be compared"),
        (lambda a, b: psnr(a[None, None], b[None, None]), "cannot be compared"),
        (lambda a, b: psnr(a, b, (1.0, 0.0)), "white, must exceed"),
        (lambda a, b: luma(a[..., :1]), "RGB"),
        (lambda a, b: shave(a, 5), "leaves nothing"),
    ],
)
def test_mistakes_are_named(pair, call, message):
    with pytest.raises(UserError, match=message):
        call(*pair)

"""SSIM and MS-SSIM: the definition by explicit windows, invariances, precision where it is hard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics.ssim import ms_ssim, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 24, 20, 3)).astype(np.uint8)
    return a, np.clip(a + rng.integers(-40, 41, a.shape), 0, 255).astype(np.uint8)


def by_windows(a, b, convention):
    """Every window by itself, in float64."""
    size = 7 if convention == "uniform" else 11
    taps = np.ones(7) if convention == "uniform" else np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    a, b = (x.astype(np.float64) for x in (a, b))
    if convention == "padded":
        a, b = (np.pad(x, ((5, 5), (5, 5), (0, 0)), mode="reflect") for x in (a, b))
    c1, c2 = 2.55**2, 7.65**2
    sample = 49 / 48 if convention == "uniform" else 1.0
    values = []
    for i in range(a.shape[0] - size + 1):
        for j in range(a.shape[1] - size + 1):
            for c in range(a.shape[2]):
                p, q = (x[i : i + size, j : j + size, c] for x in (a, b))
                m, n = (weights * p).sum(), (weights * q).sum()
                v, w = sample * (weights * (p - m) ** 2).sum(), sample * (weights * (q - n) ** 2).sum()
                cov = sample * (weights * (p - m) * (q - n)).sum()
                values.append((2 * m * n + c1) * (2 * cov + c2) / ((m * m + n * n + c1) * (v + w + c2)))
    return np.mean(values)


@pytest.mark.parametrize("convention", ["gaussian", "uniform", "padded"])
def test_the_definition(pair, convention):
    want = [by_windows(a, b, convention) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(ssim(*pair, convention=convention), want, atol=2e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(ssim(*pair, convention=convention), want, atol=1e-12)


def test_conventions_differ(pair):
    values = [float(ssim(*pair, convention=c)[0]) for c in ("gaussian", "uniform", "padded")]
    assert min(abs(p - q) for i, p in enumerate(values) for q in values[:i]) > 1e-4


@pytest.mark.parametrize("convention", ["gaussian", "uniform", "padded"])
def test_the_same_image_is_one_and_the_order_does_not_matter(pair, convention):
    a, b = pair
    np.testing.assert_allclose(ssim(a, a, convention=convention), 1.0, atol=1e-6)
    np.testing.assert_allclose(ssim(a, b, convention=convention), ssim(b, a, convention=convention), atol=1e-6)


def test_the_declared_range_does_not_matter(pair):
    a, b = (x / np.float32(127.5) - 1 for x in pair)
    np.testing.assert_allclose(ssim(a, b, (-1.0, 1.0)), ssim(*pair), atol=1e-5)


def test_float32_survives_faint_contrast_in_bright_regions():
    """A variance of 0.02 on a level of 250: E[x^2] - E[x]^2 alone would be rounding."""
    rng = np.random.default_rng(0)
    a, b = (250.0 + rng.uniform(-0.25, 0.25, (1, 40, 40, 1)) for _ in range(2))
    with jax.enable_x64(True):
        want = np.asarray(ssim(a, b))
    np.testing.assert_allclose(ssim(a.astype(np.float32), b.astype(np.float32)), want, atol=1e-6)


def smooth(rng, height, width):
    x = rng.standard_normal((1, height, width, 3)).cumsum(1).cumsum(2)
    return 255 * (x - x.min()) / (x.max() - x.min())


@pytest.mark.parametrize("convention", ["gaussian", "padded"])
def test_multi_scale(convention):
    rng = np.random.default_rng(0)
    a = smooth(rng, 176, 192)
    noisy = a + rng.normal(0, 8, a.shape)
    np.testing.assert_allclose(ms_ssim(a, a, convention=convention), 1.0, atol=1e-5)
    little, much = ms_ssim(a, noisy, convention=convention), ms_ssim(a, a + 4 * (noisy - a), convention=convention)
    assert ssim(a, noisy) < little < 1.0  # noise vanishes at coarse scales
    assert much < little
    np.testing.assert_array_equal(ms_ssim(a, 255.0 - a, convention=convention), 0.0)  # contrast against contrast


def ms_by_definition(a, b, joined):
    """Wang et al. 2003, eq. 7, one image [H, W, C] in float64; `joined`: as torchmetrics, channels before the product."""
    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)

    def blur(x):
        for axis in (0, 1):
            x = np.apply_along_axis(np.convolve, axis, x, taps / taps.sum(), mode="valid")
        return x

    def maps(a, b):
        m, n = blur(a), blur(b)
        contrast = (2 * (blur(a * b) - m * n) + 7.65**2) / (blur(a * a) - m * m + blur(b * b) - n * n + 7.65**2)
        return (2 * m * n + 2.55**2) / (m * m + n * n + 2.55**2) * contrast, contrast

    axes = (0, 1, 2) if joined else (0, 1)
    product = 1.0
    for level, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if level == 4:
            if joined:
                a, b = (np.pad(x, ((5, 5), (5, 5), (0, 0)), mode="reflect") for x in (a, b))
            factor = maps(a, b)[0]
        else:
            factor = maps(a, b)[1]
        product = product * np.maximum(factor.mean(axes), 0) ** weight
        height, width = (n // 2 if joined else (n + 1) // 2 for n in a.shape[:2])
        rows, columns = (
            np.minimum(np.arange(2 * n), size - 1) for n, size in zip((height, width), a.shape, strict=False)
        )
        a, b = (x[rows][:, columns].reshape(height, 2, width, 2, -1).mean((1, 3)) for x in (a, b))
    return np.mean(product)


@pytest.mark.parametrize(("convention", "joined"), [("gaussian", False), ("padded", True)])
def test_multi_scale_by_its_definition_and_odd_sizes(convention, joined):
    rng = np.random.default_rng(0)
    a, b = smooth(rng, 163, 178)[0], smooth(rng, 163, 178)[0]
    b = 0.7 * a + 0.3 * b
    want = ms_by_definition(a, b, joined)
    np.testing.assert_allclose(ms_ssim(a[None], b[None], convention=convention), want, atol=1e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(ms_ssim(a[None], b[None], convention=convention), want, atol=1e-12)


def test_the_differentiable_form_compiles(pair):
    a, b = (jnp.asarray(x, jnp.float32) for x in pair)
    grads = jax.jit(jax.grad(lambda x: ssim(x, b).sum()))(a)
    assert np.isfinite(grads).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: ssim(a, b, convention="matlab"), "gaussian, uniform, padded"),
        (lambda a, b: ms_ssim(a, b, convention="uniform"), "gaussian, padded"),
        (lambda a, b: ssim(a[:, :9], b[:, :9]), "9 x 20 .* at least 11"),
        (lambda a, b: ms_ssim(a, b), "at least 161"),
        (lambda a, b: ssim(a, b[:1]), "cannot be compared"),
    ],
)
def test_mistakes_are_named(pair, call, message):
    with pytest.raises(UserError, match=message):
        call(*pair)

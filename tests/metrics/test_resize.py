"""Resizing: Pillow to the last bit, the definitions pixel by pixel, and laws that all ways share."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from PIL import Image

from jaxgen.errors import UserError
from jaxgen.metrics.resize import RESIZES, matrix, resize

FILTERS = {
    name: getattr(Image.Resampling, name.upper()) for name in ("nearest", "box", "bilinear", "bicubic", "lanczos")
}
SIZES = [((32, 32), (75, 75)), ((64, 40), (40, 20)), ((61, 83), (30, 100)), ((20, 20), (20, 33)), ((50, 50), (7, 7))]


def noise(height, width, seed=0):
    """Full contrast in every pixel: filters overshoot, roundings matter."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("size", "out"), SIZES)
def test_pillow_on_bytes_is_equal(name, size, out):
    x = noise(*size)
    want = np.asarray(Image.fromarray(x).resize(out[::-1], FILTERS[name]))
    np.testing.assert_array_equal(resize(x[None], out, f"pil_{name}_uint8")[0], want)


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow before 13 always begins along rows")
@pytest.mark.parametrize("out", [(79, 90), (80, 90), (97, 99), (98, 99), (50, 120), (110, 50)])
def test_the_order_of_pillows_passes(out):
    x = noise(100, 100)
    want = np.asarray(Image.fromarray(x).resize(out[::-1], Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(resize(x[None], out, "pil_lanczos_uint8")[0], want)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("size", "out"), SIZES)
def test_pillow_on_floats(name, size, out):
    x = noise(*size).astype(np.float32)
    bands = [np.asarray(Image.fromarray(x[..., c]).resize(out[::-1], FILTERS[name])) for c in range(3)]
    np.testing.assert_allclose(resize(x[None], out, f"pil_{name}")[0], np.stack(bands, -1), atol=2e-4)


def test_clean_is_pillows_bicubic_within_the_levels():
    x = noise(32, 32)[None]
    raw = np.asarray(resize(x, (99, 99), "pil_bicubic"))
    assert raw.min() < 0
    assert raw.max() > 255
    np.testing.assert_array_equal(resize(x, (99, 99), "clean"), np.clip(raw, 0, 255))


@pytest.mark.parametrize(("how", "half"), [("tf1", 0.0), ("torch_bilinear", 0.5)])
@pytest.mark.parametrize(("size", "out"), [(7, 20), (20, 7), (16, 32), (30, 29)])
def test_bilinear_by_its_definition(how, half, size, out):
    signal = np.random.default_rng(0).uniform(0, 255, size)
    for i in range(out):
        place = min(max((i + half) * size / out - half, 0.0), size - 1.0)
        left = int(place)
        want = signal[left] + (place - left) * (signal[min(left + 1, size - 1)] - signal[left])
        assert matrix(how, size, out)[i] @ signal == pytest.approx(want, abs=1e-3)


def test_tensorflow_1_keeps_the_first_pixel_and_repeats_the_last():
    """Doubling: even pixels are the old ones, odd ones the means; no half-pixel centres."""
    ramp = np.arange(5.0).reshape(1, 1, 5, 1)
    want = [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4]
    np.testing.assert_allclose(resize(ramp, (1, 10), "tf1").ravel(), want, atol=1e-6)
    half_pixel = [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]
    np.testing.assert_allclose(resize(ramp, (1, 10), "torch_bilinear").ravel(), half_pixel, atol=1e-6)


@pytest.mark.parametrize(("how", "a"), [("torch_bicubic", -0.75), ("pil_bicubic", -0.5)])
def test_the_slope_of_bicubic(how, a):
    """Pixel 33 of 64 sits a quarter behind pixel 16 of 32: Keys' polynomial with either slope."""
    near, far = 0.25, 1.25
    row = matrix(how, 32, 64)[33]
    assert row[16] == pytest.approx((a + 2) * near**3 - (a + 3) * near**2 + 1, abs=1e-6)
    assert row[15] == pytest.approx(a * (far**3 - 5 * far**2 + 8 * far - 4), abs=1e-6)
    assert np.count_nonzero(row) == 4


@pytest.mark.parametrize("how", sorted(RESIZES))
@pytest.mark.parametrize("out", [(40, 50), (7, 9), (20, 64)])
def test_a_flat_image_stays_flat_and_no_change_of_size_is_the_identity(how, out):
    flat = jnp.full((2, 24, 30, 3), 100, jnp.uint8)
    np.testing.assert_allclose(resize(flat, out, how), 100.0, atol=1e-4)
    x = noise(24, 30)[None]
    np.testing.assert_array_equal(resize(x, (24, 30), how), x)


# not so where halves are rounded, where the left of two equally near pixels wins, and in a grid that begins at a pixel
ONE_SIDED = {"pil_nearest", "pil_box", "tf1"}
SYMMETRIC = sorted(name for name in RESIZES if "uint8" not in name and name not in ONE_SIDED)


@pytest.mark.parametrize("how", SYMMETRIC)
def test_flipping_commutes_where_pixels_have_centres(how):
    x = noise(24, 30)[None]
    flipped = resize(x[:, ::-1, ::-1], (31, 17), how)
    np.testing.assert_allclose(flipped, resize(x, (31, 17), how)[:, ::-1, ::-1], atol=2e-3)


def test_antialias_matters_downwards_only():
    x = noise(64, 64)[None].astype(np.float32)
    up = [np.asarray(resize(x, (128, 128), h)) for h in ("torch_bilinear", "torch_antialias_bilinear")]
    np.testing.assert_allclose(up[0], up[1], atol=1e-2)
    down = [np.asarray(resize(x, (16, 16), h)) for h in ("torch_bilinear", "torch_antialias_bilinear")]
    assert np.abs(down[0] - down[1]).max() > 50


@pytest.mark.parametrize("how", sorted(RESIZES))
def test_leading_axes_are_so_many_images(how):
    x = np.stack([[noise(9, 12, seed), noise(9, 12, seed + 3)] for seed in range(3)])  # [3, 2, 9, 12, 3]
    whole = resize(x, (5, 20), how)
    assert whole.shape == (3, 2, 5, 20, 3)
    np.testing.assert_allclose(whole, resize(x.reshape(6, 9, 12, 3), (5, 20), how).reshape(whole.shape), atol=1e-4)
    np.testing.assert_allclose(whole[2, 1], resize(x[2, 1], (5, 20), how), atol=1e-4)


def test_it_compiles_batches_and_keeps_float64():
    x = np.stack([noise(16, 16, seed) for seed in range(3)])
    compiled = jax.jit(lambda x: resize(x, (29, 29), "clean"))(x)
    assert compiled.dtype == jnp.float32
    np.testing.assert_allclose(compiled[1], resize(x[1:2], (29, 29), "clean")[0], atol=1e-3)
    with jax.enable_x64(True):
        assert resize(jnp.asarray(x, jnp.float64), (29, 29), "clean").dtype == jnp.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: resize(x, (8, 8), "bicubic"), "'bicubic' is unknown; there are: clean, matlab_bicubic"),
        (lambda x: resize(x[0, 0], (8, 8), "clean"), r"\[..., H, W, C\]"),
        (lambda x: resize(x, (0, 8), "clean"), "cannot be resized"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call(noise(16, 16)[None])

"""Degradations: laws over their table, what each leaves, and how tasks and autoencoders use several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxgen.config import registry
from jaxgen.core.spec import pictures
from jaxgen.degradations import blur, film, jpeg, noise, second_order
from jaxgen.degradations.degradation import Degradation, called, degraded, refuse_smaller
from jaxgen.errors import UserError
from jaxgen.metrics import resize
from jaxgen.tasks.degrade import Degrade

KEY = jax.random.key(0)
TABLE = sorted(registry.TABLES["degradation"])
STEADY = (
    "blur",
    "defocus",
    "downsample",
    "jpeg",
    "grey",
    "dim",
    "fade",
    "sepia",
    "none",
)  # nothing is drawn but levels
LINEAR = {"none": {}, "gaussian": {"sigma": 0.0}, "blur": {}, "grey": {}}


def build(name, **options):
    return registry.build("degradation", {"name": name, **options})


def smooth(num=6, side=24):
    """[num, side, side, 3] in [-1, 1], different in all channels."""
    y, x = np.meshgrid(np.arange(side) / side, np.arange(side) / side, indexing="ij")
    a, b, c = np.random.default_rng(1).uniform(1, 3, (3, num, 1, 1, 3))
    return jnp.asarray(np.sin(a * y[..., None] + b) * np.cos(c * x[..., None] - a), jnp.float32)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "second_order"])  # which has tests of its own
def test_every_example_is_spoilt_by_itself_and_the_key_decides(name):
    """Shapes and finite values; frames are examples of one level; an example alone is what it is among others."""
    one, x = build(name), smooth()
    run = jax.jit(lambda x, key: degraded(one, x, key))
    y, level = run(x, KEY)
    assert y.shape == x.shape and level.shape == (6, 1) and np.isfinite(y).all() and y.dtype == jnp.float32
    np.testing.assert_array_equal(y, run(x, KEY)[0])
    assert name == "none" or (np.abs(y - x).max((1, 2, 3)) > 0.01).mean() > 0.6
    low, high = one.span
    assert name == "downsample" or ((low <= level) & (level <= high)).all()
    frames, levels = run(jnp.stack([x, x], 1), KEY)
    assert frames.shape == (6, 2, *y.shape[1:]) and levels.shape == (6, 1)
    if name in STEADY:
        np.testing.assert_allclose(frames[:, 1], y, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TABLE if build(name).strength])
def test_a_range_is_drawn_from_and_a_wrong_one_is_told(name):
    one = build(name)
    high = one.span[1]
    several = build(name, **{one.strength: (high if isinstance(high, int) else 0.5 * high, high)})
    level = several.level(KEY, 500)
    assert ((level >= several.span[0]) & (level <= high)).all()
    assert isinstance(high, int) or float(jnp.std(level)) > 0.1 * high
    with pytest.raises(
        UserError, match=f"degradation {called(one)}: {one.strength}=.* is no range; set {one.strength}="
    ):
        type(one)(**{one.strength: (high, high, high)})


@pytest.mark.parametrize("name", LINEAR)
def test_linear_ones_say_their_matrices(name):
    """What the maps give is what the degradation does; others refuse."""
    task, x = Degrade(build(name, **LINEAR[name])), smooth()
    want, _ = degraded(task.degradation, x, KEY)
    np.testing.assert_allclose(task.linear({"seen": x}).apply(x), want, atol=2e-5)
    with pytest.raises(UserError, match="jpeg is not linear"):
        Degrade((build(name, **LINEAR[name]), jpeg.Jpeg())).linear({"seen": x})


def test_noise_has_the_moments_that_it_says():
    x = jnp.full((64, 24, 24, 3), 0.2)
    off = lambda one: np.asarray(degraded(one, x, KEY)[0] - x, np.float64)  # noqa: E731
    for one, deviation in (
        (noise.Gaussian(sigma=0.5), 0.5),
        (noise.Correlated(sigma=0.3, scale=1.5), 0.3),
        (noise.Speckle(sigma=0.1), 0.12),
        (noise.Poisson(peak=40.0), 2 * (0.6 / 40) ** 0.5),
    ):
        found = off(one)
        np.testing.assert_allclose([found.mean(), found.std()], [0.0, deviation], atol=0.02 * max(deviation, 0.5))
    white, alike = (off(one) for one in (noise.Gaussian(sigma=0.3), noise.Correlated(sigma=0.3)))
    near = [np.corrcoef(v[:, 1:].ravel(), v[:, :-1].ravel())[0, 1] for v in (white, alike)]
    assert abs(near[0]) < 0.02 and near[1] > 0.8
    grey = off(noise.Gaussian(grey=True))
    np.testing.assert_array_equal(grey, np.broadcast_to(grey[..., :1], grey.shape))
    cut = degraded(noise.Gaussian(sigma=2.0, clip=True), x, KEY)[0]
    assert np.abs(cut).max() == 1.0 and np.abs(off(noise.Gaussian(sigma=2.0))).max() > 3.0


def test_shares_of_pixels_are_what_they_say():
    x = jnp.full((50, 20, 20, 3), 0.25)
    masked = degraded(noise.Mask(p=0.3, value=-1.0), x, KEY)[0]
    np.testing.assert_allclose((masked == -1.0).mean(), 0.3, atol=0.01)
    assert ((masked == x).all(-1) | (masked == -1.0).all(-1)).all()  # whole pixels
    spoilt = degraded(noise.Impulse(p=0.3), x, KEY)[0]
    np.testing.assert_allclose([(spoilt == 1.0).mean(), (spoilt == -1.0).mean()], 0.15, atol=0.01)
    coloured = degraded(noise.Impulse(p=0.3, random=True), x, KEY)[0]
    np.testing.assert_allclose((coloured != x).any(-1).mean(), 0.3, atol=0.01)
    both = degraded((noise.Impulse(p=1.0), noise.Gaussian(sigma=0.5)), x, KEY)[0]  # in turn: the noise comes last
    np.testing.assert_allclose(jnp.abs(both).mean(), 1.0, atol=0.05)
    assert len(jnp.unique(both)) > 1_000


@pytest.mark.parametrize(
    "one", [blur.Blur(sigma=(0.5, 2.0)), blur.Defocus(radius=(1.0, 4.0)), blur.Motion(length=(2.0, 12.0))]
)
def test_blur_keeps_a_constant_and_the_light_and_moves_nothing_on_the_average(one: Degradation):
    flat = jnp.full((8, 24, 24, 3), 0.3)
    run = jax.jit(lambda x: degraded(one, x, KEY)[0])
    np.testing.assert_allclose(run(flat), flat, atol=1e-5)
    point = jnp.zeros((8, 49, 49, 1)).at[:, 24, 24].set(1.0)
    kernels = np.asarray(degraded(one, point, KEY)[0][..., 0])
    np.testing.assert_allclose(kernels.sum((1, 2)), 1.0, atol=1e-5)
    assert kernels.min() > -1e-6
    for axis in (1, 2):
        mean = (kernels.sum(axis) * np.arange(49)).sum(1)
        np.testing.assert_allclose(mean, 24.0, atol=0.05)


def test_the_luma_that_is_given_comes_out_and_colours_stay_in_range():
    x, made = smooth(), 1.5 * smooth()[::-1]
    seen, _ = degraded(film.Grey(), x, KEY)
    out = Degrade(film.Grey()).finish({"seen": seen}, made)
    np.testing.assert_allclose(film.luma(out), film.luma(x), atol=1e-6)
    assert np.abs(out).max() <= 1.0 + 1e-6
    np.testing.assert_allclose(Degrade(film.Grey()).finish({"seen": seen}, x), x, atol=1e-6)


def test_the_second_draw_is_as_bad_and_another():
    """Noise2Noise: strengths are shared, noise is not."""
    spec = pictures((24, 24, 3))
    task = Degrade(noise.Gaussian(sigma=(0.0, 1.0)), told=True, again=True)
    x = jnp.zeros((12, 24, 24, 3))
    out = jax.jit(lambda x: task(spec, {}, {"image": x}, KEY))(x)
    deviations = [np.asarray(out[k]).std((1, 2, 3)) for k in ("seen", "other")]
    np.testing.assert_allclose(deviations[0], out["level"][:, 0], rtol=0.1)
    np.testing.assert_allclose(deviations[1], out["level"][:, 0], rtol=0.1)
    each = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(out["seen"], out["other"], strict=True)]
    assert np.abs(each).max() < 0.15


def test_a_resize_whose_sizes_are_drawn_is_torchs():
    """Matrices of a larger canvas hold those of the static ways; behind the picture its last row goes on."""
    build = jax.jit(second_order.matrix, static_argnums=(2, 3))
    for size, out in ((20, 13), (13, 20), (20, 20), (20, 5)):
        for way, how in ((1, "torch_bilinear"), (2, "torch_bicubic")):
            table = np.asarray(build(size, out, 24, 22, way))
            np.testing.assert_allclose(table[:out, :size], resize.matrix(how, size, out), atol=2e-5)
            np.testing.assert_array_equal(table[out:], np.broadcast_to(table[out - 1], (22 - out, 24)))
            assert (table[:, size:] == 0).all()
        area = np.asarray(build(size, out, 24, 22, 0))[:out, :size]
        if size % out == 0:
            np.testing.assert_allclose(area, resize.matrix("pil_box", size, out), atol=1e-6)
        np.testing.assert_allclose(area.sum(1), 1.0, atol=1e-6)


def test_a_sinc_is_scipys_bessel_function():
    half, cut = jnp.array([5, 10, 10]), jnp.array([1.2, 0.7, 3.0])
    got = np.asarray(second_order.sinc(half, cut), np.float64)
    axis = np.arange(-10, 11)
    r = np.sqrt(axis[:, None] ** 2 + axis**2)
    for one, h, w in zip(got, (5, 10, 10), (1.2, 0.7, 3.0), strict=True):
        want = np.where(r == 0, w / 2, special.j1(w * r) / np.where(r == 0, 1, r)) * w / (2 * np.pi)
        want = want * (np.maximum(np.abs(axis)[:, None], np.abs(axis)) <= h)
        np.testing.assert_allclose(one, want / want.sum(), atol=1e-6)


def test_where_rings_are_cut_off(monkeypatch):
    """As in the authors' program: from pi / 3, and wide kernels (13 pixels and more) from pi / 5, but not at the end."""
    drawn, rings, plain = [], second_order._rings, lambda x, *told: x
    monkeypatch.setattr(second_order, "_rings", lambda *told: drawn.append(rings(*told)) or drawn[-1])
    monkeypatch.setattr(second_order, "sinc", lambda half, cut: half)
    for name, do in {
        "kernels": lambda key, num, *told: second_order._rings(key, num),
        "blurred": plain,
        "resized": plain,
    }.items():
        monkeypatch.setattr(second_order, name, do)
    for name in ("noisy", "compressed"):
        monkeypatch.setattr(second_order.SecondOrder, name, lambda self, x, *told: x)
    told = jax.jit(lambda x: (second_order.SecondOrder()(x, None, KEY), drawn)[1])(jnp.zeros((2048, 4, 4, 1)))
    for (half, cut), wide in zip(told, (np.pi / 5, np.pi / 5, np.pi / 3), strict=True):
        half, cut = np.asarray(half), np.asarray(cut)
        assert abs(cut[half < 6].min() - np.pi / 3) < 0.02 and abs(cut[half >= 6].min() - wide) < 0.02


def test_the_second_order_makes_pictures_four_times_smaller_and_keeps_their_colour():
    flat = jnp.broadcast_to(jnp.array([0.4, -0.2, 0.1]), (16, 32, 40, 3))
    y, level = jax.jit(lambda x: degraded(second_order.SecondOrder(), x, KEY))(flat)
    assert y.shape == (16, 8, 10, 3) and level.shape == (16, 1)
    np.testing.assert_allclose(y.mean((0, 1, 2)), flat[0, 0, 0], atol=0.06)
    np.testing.assert_allclose(127.5 * (y + 1.0), np.rint(127.5 * (y + 1.0)), atol=1e-4)  # as a file holds it
    assert np.asarray(y).std((1, 2, 3)).std() > 0.01  # each is spoilt by itself
    with pytest.raises(UserError, match="makes pictures smaller"):
        refuse_smaller(second_order.SecondOrder(), "config.method.corrupt")


@pytest.mark.slow
def test_the_second_order_without_its_losses_is_the_picture():
    mild = dict(
        sigma=(0.1, 0.1), sigma2=(0.1, 0.1), size=(1.0, 1.0), size2=(1.0, 1.0), noise=(0.0, 0.0), noise2=(0.0, 0.0)
    )
    mild |= dict(shot=(0.0, 0.0), shot2=(0.0, 0.0), quality=(100, 100), rings=0.0, rings2=0.0)
    x = jnp.tile(smooth(16, 24), (1, 2, 2, 1))[:, :32, :40]
    y = jax.jit(lambda x: degraded(second_order.SecondOrder(factor=1, **mild), x, KEY)[0])(x)
    assert np.median(np.abs(y - x)) < 0.03

"""Tiles: every pixel comes from one of them that sees all it depends on, or from several whose weights sum to 1."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import convolve1d

from jaxgen.apply.files import Picture
from jaxgen.apply.maker import Maker, Tiling
from jaxgen.apply.pictures import Way, to_array
from jaxgen.apply.tiles import Axis, Canvas, Cut
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.images import luma
from jaxgen.metrics.resize import resize

SIZES = [(1, 1), (1, 40), (7, 3), (16, 16), (17, 33), (40, 61), (64, 15)]


def through(x: np.ndarray, function, tile: int, scale: int = 1, **how) -> Canvas:
    cut = Cut(*(Axis.cut(side, tile if how.get("overlap") else min(tile, side), **how) for side in x.shape[:2]))
    canvas = Canvas(cut, scale, x.shape[-1], np.dtype(np.uint8 if how.get("overlap") else np.uint16))
    for i in range(len(cut)):
        canvas.add(function(cut.take(x, i)))
    return canvas


def blurred(x: np.ndarray, scale: int = 1, reach: int = 3) -> np.ndarray:
    """Zeros beyond the border, as a net's convolutions have them."""
    taps = np.arange(1.0, 2 * reach + 2)
    for axis in (0, 1):
        x = convolve1d(x.astype(np.float64), taps, axis, mode="constant")
    return np.rint(x % 65_536).astype(np.uint16).repeat(scale, 0).repeat(scale, 1)


@pytest.mark.parametrize("size, tile, scale", [*itertools.product(SIZES, (8, 13, 32), (1, 2))])
def test_tiled_is_untiled(size, tile, scale):
    """At every size and tile, borders too."""
    x = np.random.default_rng(0).integers(0, 256, (*size, 2), np.uint8)
    canvas = through(x, lambda part: blurred(part, scale), tile, scale, halo=3)
    np.testing.assert_array_equal(canvas.pixels, blurred(x, scale))


@pytest.mark.parametrize("side", [1, 250, 290, 291, 320, 546, 547, 600, 900, 4000])
@pytest.mark.parametrize("multiple", [1, 4])
def test_few_tiles_share_the_work(side, multiple):
    """What goes through a run is little more than the picture and the halos, and no tile is larger than asked for."""
    axis = Tiling((292, 292), multiple, 16, whole=True, shared=True).cut(side, 8).rows
    assert (
        axis.tile <= 292
        and axis.tile % multiple == 0
        and axis.starts[-1] + axis.tile == -(-side // multiple) * multiple
    )
    count = len(axis.starts)
    assert count > 3 or count * axis.tile - 32 * (count - 1) - side < 32 * count + multiple
    assert [axis.owned(i)[0] for i in range(1, len(axis.starts))] == [
        axis.owned(i)[1] for i in range(len(axis.starts) - 1)
    ]


@pytest.mark.parametrize("side, tile, multiple", [*itertools.product((1, 5, 8, 23, 64, 100), (8, 24), (1, 4))])
def test_weights_sum_to_one_and_are_flat_at_the_border(side, tile, multiple):
    for overlap in (multiple, tile // 2):
        axis = Axis.cut(side, tile, multiple, overlap=overlap)
        assert all(start % multiple == 0 for start in axis.starts) and axis.starts[-1] + tile >= side
        total = np.zeros((axis.starts[-1] + tile) * 2)
        for start, weights in zip(axis.starts, axis.weights(2), strict=True):
            total[2 * start : 2 * (start + tile)] += weights
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert axis.weights(2)[0][0] == 1 and axis.weights(2)[-1][-1] == 1
        assert all(b - a <= tile - overlap + multiple for a, b in itertools.pairwise(axis.starts))


@pytest.mark.parametrize("size, scale", [*itertools.product(SIZES, (1, 3))])
def test_blended_tiles_that_agree_change_nothing(size, scale):
    x = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    whole = x.repeat(scale, 0).repeat(scale, 1)
    made = lambda part: (part / 127.5 - 1.0).astype(np.float32).repeat(scale, 0).repeat(scale, 1)  # noqa: E731
    canvas = through(x, made, 16, scale, overlap=6)
    np.testing.assert_array_equal(canvas.pixels, whole)
    assert canvas.seam == 0


def test_a_seam_is_told_and_spread_over_the_overlap():
    """Every tile is brighter by 10 levels than the one before: so is the seam, and neighbours differ by what a ramp says."""
    number = itertools.count()
    canvas = through(
        np.zeros((16, 64, 1)), lambda part: np.full(part.shape, next(number) / 12.75 - 0.9, np.float32), 16, overlap=8
    )
    assert canvas.seam == pytest.approx(10, abs=0.1)
    steps = np.diff(canvas.pixels[0, :, 0].astype(int))
    assert steps.min() >= 0 and steps.max() <= 2


def test_beyond_the_border_the_picture_is_reflected():
    x = np.arange(5)[:, None, None].repeat(3, 1)
    cut = Cut(Axis.cut(5, 12), Axis.cut(3, 4, 4))
    assert cut.take(x, 0)[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3] and cut.tile == (12, 4)


class Function(Maker):
    """A function in place of a run."""

    def __init__(self, function, scale=1, channels=1, colours=False):
        data = pictures((8 * scale, 8 * scale, channels))
        exp = SimpleNamespace(root=None, data=data, spec=data)
        names = {"function": function, "field": Field((8, 8, channels), "uint8", "image"), "w": None, "masked": False}
        names |= {"task": None, "seen": "", "trained": SimpleNamespace(exp=exp), "colours": colours}
        self.__dict__.update(names)

    colours = None

    def make(self, w, x, known, rng):
        return self.function(x)


def conv(x, taps=7, stride=1):
    kernel = jnp.ones((taps, taps, 1, 1)) / taps**2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("name, function, scale, multiple, halo", [
    ("point", lambda x: x**2, 1, 1, 0),
    ("convolution", lambda x: jax.nn.relu(conv(conv(x))), 1, 1, 6),
    ("strides", lambda x: conv(conv(x, 4, 4), 3).repeat(4, 1).repeat(4, 2), 1, 4, 4),
    ("resize", lambda x: resize(127.5 * x + 127.5, (2 * x.shape[1], 2 * x.shape[2]), "pil_bicubic") / 127.5 - 1, 2, 1, 2),
    ("codes", lambda x: jnp.rint(9 * conv(x)) / 9, 1, 1, 3),
    ("norm", lambda x: x - x.mean((1, 2), keepdims=True), 1, 1, -1),
    ("far", lambda x: jnp.cumsum(x, 1), 1, 1, -1),
])  # fmt: skip
def test_how_far_a_pixel_sees(name, function, scale, multiple, halo):
    """Also through products with 0, in which NaN lives on, and through the nearest of codes, in which it does not."""
    assert Function(function, scale)._halo(multiple) == halo


@pytest.mark.parametrize("own", [1, 3])
@pytest.mark.parametrize("scale", [1, 2])
def test_grey_stays_grey_and_colour_colour(own, scale):
    """Whatever the run's channels are: what it leaves as it is comes out as it was."""
    larger = lambda x: resize(127.5 * x + 127.5, (scale * x.shape[1], scale * x.shape[2]), "pil_bicubic") / 127.5 - 1  # noqa: E731
    for channels in (1, 3):
        x = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (2, 6, 7, channels)), jnp.float32)
        made = Function(larger, scale, own).coloured(None, x, None, None)
        np.testing.assert_allclose(made, larger(x), atol=1e-5)
        program = jax.jit(lambda x: Function(larger, scale, own).coloured(None, x, None, None)).lower(x)
        assert "DEFAULT" not in program.as_text()  # precision of a product that matrix units may round


def test_what_makes_colour_is_shown_none():
    """A run that colours gives colour, of grey and of the luma of colour."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 6, 7, 3)), jnp.float32)
    red = Function(lambda x: x + jnp.array([0.5, 0, 0]), 1, 3, colours=True)
    grey = luma(x)
    for picture in (x, grey):
        np.testing.assert_allclose(red.coloured(None, picture, None, None), red.function(grey.repeat(3, -1)), atol=1e-6)
    assert red.channels(1) == 3


def test_alpha_has_one_channel_whatever_the_run_makes():
    """A run that enlarges and colours makes no colour of alpha; where it does not colour, it enlarges alpha itself."""
    x = np.random.default_rng(0).integers(0, 256, (6, 7, 1), np.uint8)
    for colours, passes in ((True, 1), (False, 2)):
        maker = Function(lambda x: x.repeat(2, 1).repeat(2, 2), 2, 3, colours)
        maker.__dict__["through"] = lambda image, *rest, m=maker: SimpleNamespace(
            pixels=image.repeat(2, 0).repeat(2, 1).repeat(m.channels(1), 2)
        )
        way = Way(maker, None)
        ((made, _),) = way.results(Picture(x.repeat(3, 2), x), None)
        assert made.alpha.shape == (12, 14, 1) and way.passes(True) == passes


def test_an_array_of_grey_becomes_one_of_colour_where_the_run_makes_colour():
    made = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    for like in (made[..., 0], made[..., :1], made):
        np.testing.assert_array_equal(to_array(Picture(made), like), made)
    assert to_array(Picture(made[..., :1]), made[..., 0]).shape == (6, 7)


def test_a_run_that_makes_the_other_kind_fits_by_the_channels_of_that_kind(monkeypatch):
    """Of pairs in grey and in colour that are told the other way round, what is made has the channels of what is the target now."""
    maker, picture = Function(lambda x: x), Field((8, 8, 1), "uint8", "image")
    data = Spec(image=replace(picture, shape=(8, 8, 3), role="target"), seen=picture)
    spec = Spec(image=replace(data["image"], role="condition"), seen=replace(picture, role="target"))
    maker.trained.exp.data, maker.trained.exp.spec = data, spec
    monkeypatch.setattr(Function, "_shape", lambda self, height, width: (1, height, width, 1))
    assert maker.fits(8, 8) and maker.fits(16, 24)

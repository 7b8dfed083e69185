"""Nets of pixels see what comes before alone, and give the same values whole, row by row and pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.nets.causal import Around, raster
from jaxgen.nets.pixelcnn import GatedPixelCnn, PixelCnn
from jaxgen.nets.pixelcnnpp import PixelCnnPP
from jaxgen.nets.pixelrnn import DiagonalPixelRnn, RowPixelRnn, skew, unskew

SIZES = dict(conditions=labels(3), width=12, depth=2, hidden=24)
NETS = {
    "pixelcnn": PixelCnn(**SIZES),
    "gated_pixelcnn": GatedPixelCnn(**SIZES),
    "pixelcnnpp": PixelCnnPP(labels(3), width=4, blocks=1, levels=3),
    "pixelrnn_row": RowPixelRnn(**SIZES),
    "pixelrnn_diagonal": DiagonalPixelRnn(**SIZES),
}
SIDE = 8  # a picture of PixelCNN++ is halved twice
CASES = [*((name, 3) for name in NETS), ("pixelcnn", 1), ("pixelrnn_diagonal", 1)]


class Case:
    """A net with random weights, of pictures [4, 8, 8, channels] and as many outputs, each of one channel."""

    def __init__(self, name: str, channels: int) -> None:
        self.net, self.channels = NETS[name], channels
        self.order = channels if self.net.orders else 1
        keys = jax.random.split(jax.random.key(0))
        self.x = jax.random.normal(keys[0], (4, SIDE, SIDE, channels))
        self.cond = {"label": jnp.arange(4) % 3}
        fresh = jax.jit(lambda key, x: self.net.init(key, *self.args(x)))(keys[1], self.x)
        rng = np.random.default_rng(0)
        self.variables = jax.tree.map(lambda v: v + np.float32(0.1) * rng.standard_normal(v.shape, np.float32), fresh)

    def look(self, x):
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1) if self.net.border else x

    def args(self, x):
        return Around.of(self.look(x)), self.channels, self.order, {k: v[: len(x)] for k, v in self.cond.items()}

    def whole(self, x):
        return self.net.apply(self.variables, *self.args(x))

    def rastered(self, draw, given, shown):
        def apply(found, around, at, mutable):
            variables = {**self.variables, **found}
            return self.net.apply(variables, around, self.channels, self.order, self.cond, at=at, mutable=mutable)

        return jax.jit(lambda given: raster(apply, self.look, draw, given, shown, self.order))(given)


@pytest.mark.slow
@pytest.mark.parametrize("name, channels", CASES)
def test_a_value_depends_on_those_before_it_alone(name, channels):
    """By the Jacobian; the first value depends on nothing. PixelCNN's masks and the row LSTM's triangle leave blind spots."""
    case = Case(name, channels)
    jacobian = jax.jit(jax.jacrev(lambda x: case.whole(x[None])[0]))(case.x[0])
    n = SIDE * SIDE
    found = np.asarray(jacobian).reshape(n, channels, n, channels) != 0
    place, channel = np.arange(n), np.arange(channels)
    before = np.broadcast_to((place < place[:, None])[:, None, :, None], found.shape).copy()
    if case.order > 1:
        same = (place == place[:, None])[:, None, :, None]
        before |= same & (channel < channel[:, None])[None, :, None, :]
    assert not found[~before].any()
    assert not found[0, 0].any() and found[before].mean() > 0.5
    if name in ("gated_pixelcnn", "pixelcnnpp", "pixelrnn_diagonal"):
        near = np.abs(place % SIDE - (place % SIDE)[:, None]) <= 2
        near &= (place < place[:, None]) & (place // SIDE > (place // SIDE)[:, None] - 3)
        assert found.any((1, 3))[near].all()


@pytest.mark.parametrize("name, channels", CASES)
def test_cached_is_naive(name, channels):
    """Same noise, same pixels: a scan that computes nothing twice against a pass over the whole picture for every value."""
    case = Case(name, channels)
    shown = jnp.zeros((4, SIDE, SIDE, 1)).at[0, :3].set(1.0).at[1, 0, :5].set(1.0)
    noise = jax.random.normal(jax.random.key(5), (SIDE * SIDE * case.order, 4, 1, 1, channels))
    draw = lambda out, n: jnp.tanh(out) + 0.5 * noise[n]  # noqa: E731
    made = case.rastered(draw, case.x, shown > 0)

    def value(n, x):
        i, j = n // case.order // SIDE, n // case.order % SIDE
        at = (0, i, j, 0)
        out = jax.lax.dynamic_slice(case.whole(x), at, (4, 1, 1, channels))
        hidden = jax.lax.dynamic_slice(shown, at, (4, 1, 1, 1)) == 0
        mine = hidden & (jnp.arange(channels) % case.order == n % case.order)
        here = jax.lax.dynamic_slice(x, at, (4, 1, 1, channels))
        return jax.lax.dynamic_update_slice(x, jnp.where(mine, draw(out, n), here), at)

    start = jnp.where(shown > 0, case.x, 0.0)
    naive = jax.jit(lambda x: jax.lax.fori_loop(0, SIDE * SIDE * case.order, value, x))(start)
    np.testing.assert_allclose(made, naive, atol=1e-5)
    np.testing.assert_array_equal(jnp.where(shown > 0, made, 0.0), jnp.where(shown > 0, case.x, 0.0))


@pytest.mark.parametrize("height, width", [(5, 3), (3, 5), (1, 4)])
def test_skewing(height, width):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    diagonals = skew(x)
    assert diagonals.shape == (height + width - 1, 2, height, 3)
    for i in range(height):
        np.testing.assert_array_equal(jnp.moveaxis(diagonals[i : i + width, :, i], 0, 1), x[:, i])
    np.testing.assert_array_equal(unskew(diagonals, width), x)


def test_pictures_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match=r"3x3 is odd; set method\.net\.levels=1"):
        jax.eval_shape(lambda: NETS["pixelcnnpp"].init(jax.random.key(0), Around.of(jnp.zeros((1, 6, 6, 2))), 2))

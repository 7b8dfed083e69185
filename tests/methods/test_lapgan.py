"""LAPGAN: the pyramid loses nothing, every level is a game of its own, details are put on coarse pictures."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.method import Samples
from jaxgen.core.net import Decay, Net
from jaxgen.core.optim import Sgd
from jaxgen.core.spec import labels, pictures
from jaxgen.core.state import Weights
from jaxgen.errors import UserError
from jaxgen.images import expand, laplacian, reduce, to_float, to_uint8
from jaxgen.methods.lapgan import Lapgan
from jaxgen.nets.gan import MlpDiscriminator, MlpGenerator
from jaxgen.nets.lapgan import LevelDiscriminator, LevelGenerator

KEY = jax.random.key(0)


def lapgan(shape=(8, 12, 3), classes=0, levels=2, lr=1e-2):
    told, tx = labels(classes), optax.adam(lr)
    return Lapgan(
        gen=Net(LevelGenerator(conditions=told, width=4), tx, (Decay(0.9),)),
        disc=Net(LevelDiscriminator(conditions=told, width=4), tx),
        base_gen=Net(MlpGenerator(conditions=told, shape=shape, width=8), tx),
        base_disc=Net(MlpDiscriminator(conditions=told, width=8, pieces=2), tx),
        spec=pictures(shape, classes), levels=levels, z_dim=4,
    )  # fmt: skip


def batch_of(shape, num=4, classes=0):
    batch = {"image": jax.random.randint(KEY, (num, *shape), 0, 256).astype(jnp.uint8)}
    return {**batch, "label": jnp.arange(num) % classes} if classes else batch


def joined(octaves, x):
    for octave in reversed(octaves):
        x = expand(x, octave.detail.shape[-3:-1]) + octave.detail
    return x


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 20, 1), (7, 9, 4), (1, 5, 1)])
def test_the_pyramid_returns_uint8_pictures_exactly(shape):
    x = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    take_apart = jax.jit(lambda x: laplacian(x, 3))
    octaves, coarsest = take_apart(to_float(x))
    assert [o.detail.shape[1:3] for o in octaves[1:]] + [coarsest.shape[1:3]] == [
        (-(-shape[0] // n), -(-shape[1] // n)) for n in (2, 4, 8)
    ]
    np.testing.assert_array_equal(to_uint8(jax.jit(joined)(octaves, coarsest)), x)
    levels = x.astype(np.float32)  # sums of few powers of two: float32 has all of their bits
    np.testing.assert_array_equal(jax.jit(joined)(*take_apart(levels)), levels)


def test_reducing_blurs_by_1_2_1_and_flat_pictures_have_no_detail():
    x = np.zeros((1, 8, 8, 1), np.float32)
    x[0, 4, 3] = 16.0
    small = reduce(x)[0, ..., 0]
    assert small[2, 1] == small[2, 2] == 4.0 * 0.5 and small.sum() == 4.0
    octaves, coarsest = laplacian(jnp.full((1, 7, 6, 2), 0.3), 2)
    assert all((octave.detail == 0).all() for octave in octaves) and (coarsest == np.float32(0.3)).all()


@pytest.mark.parametrize(
    "shape, classes",
    [
        pytest.param((8, 12, 3), 0, marks=pytest.mark.slow),
        ((7, 5, 1), 3),
        pytest.param((8, 8, 4), 2, marks=pytest.mark.slow),
    ],
)
def test_every_level_learns_from_real_coarse_pictures_and_they_do_not_meet(shape, classes):
    method, batch = lapgan(shape, classes), batch_of(shape, 4, classes)
    assert isinstance(method, Samples) and method.takes == ("label",)
    state, step = jax.jit(method.init)(KEY, batch), jax.jit(method.train_step)
    after, metrics = step(state, batch, KEY)
    assert after.step == 1 and set(after.nets) == {f"{p}_{size}" for size in method.games for p in ("gen", "disc")}
    assert {f"{player}_loss_{size}" for size in method.games for player in "gd"} <= set(metrics)
    # another base, the same levels above it
    base = list(method.games)[-1]
    other = state.replace(
        nets={k: jax.tree.map(lambda v: 2 * np.asarray(v), n) if base in k else n for k, n in state.nets.items()}
    )
    changed, _ = step(other, batch, KEY)
    for name, net in after.nets.items():
        same = [
            np.array_equal(a, b)
            for a, b in zip(*map(jax.tree.leaves, (net.params, changed.nets[name].params)), strict=True)
        ]
        assert all(same) != (base in name), name
    figures = jax.eval_shape(method.eval_step, after.view(), batch, KEY)
    assert all(v.shape == (4,) for v in figures.values())


def test_a_sample_is_the_base_with_its_details_and_knows_no_batch_mates():
    method = lapgan((8, 12, 3), 3)
    w = jax.jit(method.init)(KEY, batch_of((8, 12, 3), 4, 3)).view()
    sample = jax.jit(lambda w, label: method.sample(w, KEY, 6, {"label": label}))
    made, told_otherwise = (np.asarray(sample(w, np.array([0, 1, 2, 0, 1, n]))) for n in (2, 0))
    assert made.shape == (6, 8, 12, 3) and np.abs(made).max() <= 1
    np.testing.assert_array_equal(made[:5], told_otherwise[:5])
    assert (made[5] != told_otherwise[5]).any()
    plain = lapgan((8, 12, 3), 0)
    nets = jax.jit(plain.init)(KEY, batch_of((8, 12, 3))).view().nets
    still = {k: jax.tree.map(np.zeros_like, v) if k in ("gen_4x6", "gen_8x12") else v for k, v in nets.items()}
    w = Weights(0, still, {}, {})
    of_base = w.replace(nets={"gen": nets["gen_2x3"]})
    base = jax.jit(lambda w: plain.games["2x3"].sample(w, jax.random.fold_in(KEY, 0), 2, {}))(of_base)
    whole = jax.jit(lambda w: plain.sample(w, KEY, 2, {}))(w)
    np.testing.assert_allclose(whole, expand(expand(base, (4, 6)), (8, 12)), atol=1e-6)


def test_levels_that_the_picture_does_not_have_are_refused():
    with pytest.raises(UserError, match=r"method.levels=4 is too deep for pictures of 8x12; set method.levels=3"):
        replace(lapgan(), levels=4)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_comes_up_with_the_steps_of_the_run(nesterov):
    params, ones = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    tx = Sgd(lr=1.0, momentum=0.5, nesterov=nesterov, rise=4).build()
    state, trace = tx.init(params), 0.0
    for step in range(7):
        move, state = tx.update(ones, state, params, step=jnp.int32(step))
        momentum = min(0.125 * step, 0.5)
        trace = 1.0 + momentum * trace
        assert float(-move["w"][0]) == pytest.approx(1.0 + momentum * trace if nesterov else trace, rel=1e-6)

"""Progressive growing: a grown net is the net it grew from while alpha is 0, and alpha is a function of the step alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.net import Decay, Net
from jaxgen.core.spec import labels, pictures
from jaxgen.core.state import adopt, path_name, renewed
from jaxgen.errors import UserError
from jaxgen.losses.gan import Wasserstein
from jaxgen.losses.regularize import Drift, GradientPenalty
from jaxgen.methods.gan import Gan
from jaxgen.methods.gan_fade import LinearFade
from jaxgen.nets.convolution import upsample2x
from jaxgen.nets.gan import mean_pool2x
from jaxgen.nets.progan import Equal, ProganDiscriminator, ProganGenerator

KEY = jax.random.key(0)
SMALL = dict(channels=32, most=8)
START, FADE, STOP = 100, 40, 200


def progan(shape, classes=0, start=START, **fields):
    told, tx = labels(classes), optax.adam(1e-3, b1=0.0, b2=0.99)
    return Gan(
        gen=Net(ProganGenerator(conditions=told, shape=shape, **SMALL), tx, (Decay(0.9),)),
        disc=Net(ProganDiscriminator(conditions=told, **SMALL), tx),
        spec=pictures(shape, classes), z_dim=4, loss=Wasserstein(), disc_penalties=(GradientPenalty(), Drift()),
        fade=LinearFade(FADE, (start, STOP)), **fields,
    )  # fmt: skip


def batch_of(shape, num=4, classes=0):
    batch = {"image": jax.random.randint(KEY, (num, *shape), 0, 256).astype(jnp.uint8)}
    return {**batch, "label": jnp.arange(num) % classes} if classes else batch


def grown(shape, classes=0, learn=False):
    """(method, state) of pictures of that shape, and (method, state, nets, what started afresh) of twice the size."""
    small, batch = progan(shape, classes, 0), batch_of(shape, 4, classes)
    state = jax.jit(small.init)(KEY, batch)
    if learn:
        state, _ = jax.jit(small.train_step)(state, batch, KEY)
    else:  # averages that are not the weights, and biases that are not zero
        apart = lambda tree, by: jax.tree.map(lambda v: np.asarray(v) + np.float32(by), tree)  # noqa: E731
        state = state.replace(
            nets={k: n.replace(params=apart(n.params, 0.1), ema=apart(n.ema, -0.1)) for k, n in state.nets.items()}
        )
    twice = (2 * shape[0], 2 * shape[1], shape[2])
    large = progan(twice, classes)
    fresh = jax.jit(large.init)(jax.random.key(1), batch_of(twice, 4, classes))
    adopted, stayed = adopt(fresh, state)
    return (small, state), (large, *renewed(fresh, adopted, stayed), stayed)


@pytest.mark.parametrize(
    "shape, classes",
    [
        pytest.param((4, 4, 1), 0, marks=pytest.mark.slow),
        pytest.param((8, 8, 3), 3, marks=pytest.mark.slow),
        pytest.param((8, 12, 4), 0, marks=pytest.mark.slow),
        ((7, 7, 1), 2),
    ],
)
def test_growth_changes_nothing_while_alpha_is_zero(shape, classes):
    (small, before), (large, after, players, _) = grown(shape, classes)
    assert players == ["disc", "gen"]
    cond = {"label": jnp.arange(4) % classes} if classes else {}
    z, x = jax.random.normal(KEY, (4, 4)), jax.random.normal(KEY, (4, 2 * shape[0], 2 * shape[1], shape[2]))

    @jax.jit
    def old(nets):
        made, _ = small.gen.apply(nets["gen"], z, cond)
        return upsample2x(made), small.disc.apply(nets["disc"], mean_pool2x(x), cond)[0]

    @jax.jit
    def new(nets, alpha):
        made, _ = large.gen.apply(nets["gen"], z, cond, alpha=alpha)
        return made, large.disc.apply(nets["disc"], x, cond, alpha=alpha)[0]

    for ema in (False, True):  # averages grow too
        want, got, later = old(before.view(ema).nets), *(new(after.view(ema).nets, alpha) for alpha in (0.0, 0.1))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert np.abs(later[0] - want[0]).max() > 1e-4


@pytest.mark.slow
def test_the_rest_of_both_nets_is_kept_and_their_optimizers_begin_anew():
    (_, before), (_, after, _, stayed) = grown((8, 8, 1), learn=True)
    own = {path for path in stayed if "/params/" in path}
    assert own and all("16x16" in path for path in own)
    for path, leaf in jax.tree_util.tree_leaves_with_path(after.nets["disc"].opt):
        assert not leaf.any(), path_name(path)
    assert any(leaf.any() for leaf in jax.tree.leaves(before.nets["disc"].opt))
    # with the old count new params would move by 1 / sqrt(1 - 0.99) = 10 times the rate
    method, batch = progan((16, 16, 1)), batch_of((16, 16, 1))
    state = after.replace(step=jnp.int32(START + FADE))
    moved, _ = jax.jit(method.train_step)(state, batch, KEY)
    for name in ("gen", "disc"):
        nets = jax.device_get((moved.nets[name].params, state.nets[name].params))
        steps = jax.tree.map(lambda a, b: np.abs(a - b).max(), *nets)
        assert 0.9e-3 < max(jax.tree.leaves(steps)) < 1.01e-3


def test_a_state_that_does_not_grow_keeps_its_optimizers():
    method, batch = progan((4, 4, 1), start=0), batch_of((4, 4, 1))
    old, fresh = (method.init(jax.random.key(i), batch) for i in (0, 1))
    old = old.replace(nets={k: n.replace(opt=jax.tree.map(lambda v: v + 1, n.opt)) for k, n in old.nets.items()})
    same, players = renewed(fresh, *adopt(fresh, old))
    assert players == [] and all((v == 1).all() for v in jax.tree.leaves(same.nets["gen"].opt))


def test_alpha_is_a_function_of_the_step():
    fade = LinearFade(FADE, (START, STOP))
    steps = (START, START + 1, START + FADE // 2, START + FADE, STOP)
    np.testing.assert_allclose([fade.alpha(jnp.int32(s)) for s in steps], [0, 1 / FADE, 0.5, 1, 1], rtol=1e-6)
    assert LinearFade(FADE, (0, START)).alpha(jnp.int32(3)) == LinearFade(0, (START, STOP)).alpha(jnp.int32(3)) == 1.0
    with pytest.raises(
        UserError, match=r"fade.steps=101 is longer than its phase, from step 100 to 200; set method.fade.steps=100"
    ):
        LinearFade(101, (START, STOP))


def test_real_images_and_both_nets_fade_alike():
    shape = (8, 8, 1)
    method, batch = progan(shape), batch_of(shape)
    x = method.target(batch)
    np.testing.assert_allclose(method.real(batch, jnp.int32(START)), upsample2x(mean_pool2x(x)), atol=1e-6)
    half = method.real(batch, jnp.int32(START + FADE // 2))
    np.testing.assert_allclose(half, (upsample2x(mean_pool2x(x)) + x) / 2, atol=1e-6)
    np.testing.assert_allclose(method.real(batch, jnp.int32(STOP)), x, atol=1e-6)
    w = method.init(KEY, batch).view()
    made = [method.sample(w.replace(step=jnp.int32(s)), KEY, 2, {}) for s in (START, START + FADE // 2, STOP)]
    np.testing.assert_allclose(made[0], upsample2x(mean_pool2x(made[0])), atol=1e-6)
    np.testing.assert_allclose(made[1], (made[0] + made[2]) / 2, atol=1e-5)


def test_no_sample_knows_its_batch_mates_and_d_sees_how_a_batch_differs():
    method = progan((8, 12, 3), 3)
    w = jax.jit(method.init)(KEY, batch_of((8, 12, 3), 4, 3)).view()
    z = jax.random.normal(KEY, (4, 4))
    run = jax.jit(lambda z, label: method.gen.apply(w.nets["gen"], z, {"label": label})[0])
    label = np.array([0, 1, 2, 0])
    np.testing.assert_allclose(run(z, label)[:2], run(z[:2], label[:2]), atol=1e-6)
    assert np.abs(run(z, label) - run(z, (label + 1) % 3)).min(0).max() > 1e-4
    judge = jax.jit(lambda x: method.disc.apply(w.nets["disc"], x, {"label": label})[0])
    x = jax.random.normal(KEY, (4, 8, 12, 3))
    alike = jnp.broadcast_to(x[:1], x.shape)
    assert abs(float(judge(x)[0] - judge(alike)[0])) > 1e-4


@pytest.mark.parametrize("size, shape", [(0, (512,)), (3, (8, 8, 32)), (1, (8, 8, 64))])
def test_layers_have_equal_rates_and_keep_the_scale(size, shape):
    x = jax.random.normal(KEY, (16, *shape))
    layer = Equal(64, size, gain=1.0)
    params = layer.init(KEY, x)
    assert float(params["params"]["kernel"].std()) == pytest.approx(1.0, rel=0.05)
    inside = layer.apply(params, x)[:, 1:-1, 1:-1] if size else layer.apply(params, x)
    assert float(inside.std()) == pytest.approx(1.0, rel=0.1)


def test_a_net_that_cannot_fade_is_not_called_with_alpha():
    method = replace(progan((4, 4, 1), start=0), fade=Gan.__dataclass_fields__["fade"].default_factory())
    assert method.fade.options(jnp.int32(1)) == {}

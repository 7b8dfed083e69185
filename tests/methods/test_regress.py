"""Regression: what it is told and refuses, its answers turned and of other sizes, and learning without clean pictures."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.degradations.noise import Gaussian
from jaxgen.errors import UserError
from jaxgen.losses.distance import L1, L2, Charbonnier, distance
from jaxgen.methods.regress import NEAR, Regress, blind_spots
from jaxgen.nets.dncnn import DnCnn, FfdNet
from jaxgen.nets.super_resolution import Edsr, Rrdb, Srcnn, SrResNet
from jaxgen.tasks.degrade import Degrade

KEY = jax.random.key(0)
SMALL = Spec(pictures((24, 16, 3)), small=Field((12, 8, 3), "float32", "image"))
SEEN = Spec(pictures((24, 16, 3)), seen=Field((24, 16, 3), "float32", "image"))
REACH = {  # net -> pixels of its input that an answer can depend on, to each side
    "srcnn": (Srcnn(scale=2, widths=(8, 4), kernels=(5, 1, 3), shape=(24, 16, 3), conditions=SMALL.conditions), 4),
    "edsr": (Edsr(scale=2, blocks=1, width=8, shape=(24, 16, 3), conditions=SMALL.conditions), 6),
    "srresnet": (SrResNet(scale=2, blocks=1, width=8, shape=(24, 16, 3), conditions=SMALL.conditions), 6),
    "rrdb": (Rrdb(scale=4, blocks=1, width=4, grow=4, shape=(24, 16, 3), conditions=SEEN.conditions), 20),
    "dncnn": (DnCnn(depth=3, width=8, shape=(24, 16, 3), conditions=SEEN.conditions), 3),
    "ffdnet": (FfdNet(depth=3, width=8, shape=(24, 16, 3), conditions=SEEN.conditions), 8),
}


def regress(module, spec=SEEN, **fields):
    return Regress(net=Net(module, optax.adam(1e-3)), spec=spec, **fields)


@pytest.mark.parametrize("name", REACH)
def test_a_tile_with_a_halo_is_the_pictures(name):
    """Weights of one size serve every other, and what is far away does not matter."""
    module, reach = REACH[name]
    (told,) = module.conditions
    x = jax.random.normal(KEY, (1, 46, 54, 3))
    variables = module.init(KEY, {told: x[:, :8, :8]})
    run = jax.jit(lambda x: module.apply(variables, {told: x}))
    whole, n = run(x), module.scale
    assert whole.shape == (1, 46 * n, 54 * n, 3)
    top, left = 2, 10  # even, as FFDNet's quarters
    tile = run(x[:, top : top + 42, left : left + 44])
    inside = slice(reach * n, -reach * n)
    want = whole[:, top * n : (top + 42) * n, left * n : (left + 44) * n]
    np.testing.assert_allclose(tile[:, inside, inside], want[:, inside, inside], atol=2e-5)
    odd = run(x[:, :7, :5])
    assert odd.shape == (1, 7 * n, 5 * n, 3)


def test_the_ensemble_commutes_with_mirrors_and_turns():
    method = regress(REACH["dncnn"][0], ensemble=True)
    batch = {"image": jnp.zeros((2, 24, 16, 3)), "seen": jax.random.normal(KEY, (2, 24, 16, 3))}
    w = method.init(KEY, batch).view()
    answer = jax.jit(lambda x: method.answer(w, {"seen": x}))
    x, y = batch["seen"], answer(batch["seen"])
    np.testing.assert_allclose(answer(x[:, ::-1]), y[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(answer(jnp.rot90(x, 1, (1, 2))), jnp.rot90(y, 1, (1, 2)), atol=1e-5)
    plain = regress(REACH["dncnn"][0]).answer(w, {"seen": x})
    assert np.abs(plain - y).max() > 1e-3 and np.abs(y).max() <= 1.0
    np.testing.assert_array_equal(regress(REACH["dncnn"][0]).restore(w, {"image": x}, KEY), plain)


def test_distances_are_means_and_count_where_they_are_told():
    x, y = jax.random.normal(KEY, (2, 3, 4, 5, 3))
    off = np.abs(np.asarray(x - y))
    np.testing.assert_allclose(distance(L1(), x, y), off.mean((1, 2, 3)), rtol=1e-5)
    both = (L2(strength=2.0), Charbonnier(strength=0.5, eps=0.1))
    want = 2 * (off**2).mean((1, 2, 3)) + 0.5 * np.sqrt(off**2 + 0.01).mean((1, 2, 3))
    np.testing.assert_allclose(distance(both, x, y), want, rtol=1e-5)
    where = jnp.zeros((3, 4, 5, 1)).at[:, 1, 2].set(1.0)
    np.testing.assert_allclose(distance(L1(), x, y, where), off[:, 1, 2].mean(-1), rtol=1e-5)


def test_what_pictures_look_like_counts_where_a_net_is_lent():
    method, batch = regress(REACH["dncnn"][0], perceptual_weight=3.0), {"image": jnp.zeros((2, 24, 16, 3))}
    batch["seen"] = jax.random.normal(KEY, (2, 24, 16, 3))
    w = method.init(KEY, batch).view()
    looks = SimpleNamespace(distance=lambda weights, y, x: weights * jnp.square(y - x).mean((1, 2, 3)))
    seen = w.replace(frozen={"perceptual": SimpleNamespace(model=looks, weights=2.0)})
    plain, both = method.loss(w, batch, KEY, False), method.loss(seen, batch, KEY, False)
    np.testing.assert_allclose(both.each - plain.each, 3.0 * both.metrics["perceptual"], rtol=1e-4)


def test_blind_spots_hold_a_neighbour_and_never_themselves():
    x = jnp.arange(40 * 40, dtype=jnp.float32).reshape(1, 40, 40, 1).repeat(8, 0)
    hidden, where = jax.jit(lambda x: blind_spots(x, 0.1, KEY))(x)
    changed = np.asarray(hidden != x)
    inner = (slice(None), slice(NEAR, -NEAR), slice(NEAR, -NEAR))  # at the border a mirror image may be itself
    np.testing.assert_array_equal(changed[inner], np.asarray(where > 0)[inner])
    assert abs(float(where.mean()) - 0.1) < 0.01
    rows, columns = np.divmod(np.asarray(hidden - x)[inner][changed[inner]].astype(int) + 2 * 40 + 2, 40)
    assert {*rows} == {*columns} == set(range(5))
    far = np.bincount(5 * rows + columns, minlength=25)
    assert far[12] == 0 and far[np.arange(25) != 12].min() > 0.5 * far.sum() / 24


@pytest.mark.parametrize("how", ["noise2noise", "noise2void"])
def test_learning_without_clean_pictures_sees_none(how):
    """The loss of training does not change with the clean picture; held out it is the distance to that."""
    method, task = regress(REACH["dncnn"][0], learn_from="clean"), Degrade(Gaussian(0.5), again=True)
    spec = task.spec(pictures((24, 16, 3)))
    method = regress(REACH["dncnn"][0], spec, learn_from=how, pixel_loss=L2())
    batch = task(pictures((24, 16, 3)), {}, {"image": jnp.full((2, 24, 16, 3), 0.25)}, KEY)
    w = method.init(KEY, batch).view()
    loss = jax.jit(lambda batch, train: method.loss(w, batch, KEY, train).each, static_argnums=1)
    other = {**batch, "image": -batch["image"]}
    np.testing.assert_array_equal(loss(batch, True), loss(other, True))
    assert np.abs(loss(batch, False) - loss(other, False)).max() > 0.01
    np.testing.assert_allclose(loss(batch, False), jnp.square(method.net.apply(w.nets["net"], {"seen": batch["seen"]})[0]
                                                              - batch["image"]).mean((1, 2, 3)), rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(spec=pictures((24, 16, 3), 10)), "regress answers pictures, and the run is told label"),
        (
            dict(module=Edsr(scale=4, shape=(24, 16, 3), conditions=SMALL.conditions), spec=SMALL),
            "set config.method.net.scale=2",
        ),
        (dict(learn_from="noise2noise"), "set config.tasks.degrade.again=True"),
        (
            dict(
                module=Edsr(scale=2, shape=(24, 16, 3), conditions=SMALL.conditions),
                spec=SMALL,
                learn_from="noise2void",
            ),
            "learns from the noisy picture alone",
        ),
    ],
)
def test_what_it_cannot_do_is_one_line_with_a_cure(fields, message):
    with pytest.raises(UserError, match=message) as error:
        regress(**{"module": REACH["dncnn"][0], **fields})
    assert "\n" not in str(error.value)

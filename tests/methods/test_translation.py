"""pix2pix and CycleGAN: the loss is the paper's sum, pictures reach both players, samples are made as fields say, both ways."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.errors import UserError
from jaxgen.losses.distance import L1, L2
from jaxgen.losses.gan import Relativistic
from jaxgen.methods.cyclegan import CycleGan, correlation, draws, empty_pool, query
from jaxgen.methods.gan import Gan
from jaxgen.methods.gan_augment import DiffAugment
from jaxgen.nets.gan import DcganGenerator
from jaxgen.nets.patchgan import PatchGan
from jaxgen.nets.translator import ResnetTranslator
from jaxgen.tasks.reverse import Reverse

KEY = jax.random.key(0)
SEEN = Field((8, 8, 1), "uint8", "image")
PAIRED = Spec(pictures((8, 8, 1)), seen=SEEN)
APART = Spec(pictures((8, 8, 1)), seen=replace(SEEN, order=1))
SGD = optax.with_extra_args_support(optax.sgd(0.1))


def batch(num=4):
    keys = jax.random.split(KEY)
    return {
        k: jax.random.randint(key, (num, 8, 8, 1), 0, 256).astype(jnp.uint8)
        for k, key in zip(PAIRED, keys, strict=True)
    }


def pix2pix(norm="instance", **fields):
    gen = ResnetTranslator(
        shape=(8, 8, 1), conditions=PAIRED.conditions, width=2, downs=1, blocks=1, dropout=0.5, norm=norm
    )
    disc = PatchGan(conditions=PAIRED.conditions, width=2, layers=1, norm="none")
    own = dict(gen=Net(gen, SGD), disc=Net(disc, SGD), spec=PAIRED, pixel_loss=L1(100.0))
    return Gan(**{**own, **fields})


def cyclegan(spec=APART, **fields):
    gen = ResnetTranslator(shape=(8, 8, 1), width=2, downs=1, blocks=1)
    disc = PatchGan(width=2, layers=1, norm="none")
    return CycleGan(**{**dict(gen=Net(gen, SGD), disc=Net(disc, SGD), spec=spec, pool=3), **fields})


@pytest.fixture(scope="module")
def trained():
    """A CycleGAN, its state after a step and after four, and the first step's figures."""
    method = cyclegan()
    step = jax.jit(method.train_step)
    states, figures = [jax.jit(method.init)(KEY, batch())], []
    for i in range(4):
        state, found = step(states[-1], batch(), jax.random.fold_in(KEY, i))
        states, figures = [*states, state], [*figures, found]
    return method, states, figures


# ----------------------------------------------------------------------------------------------------------------------
# pix2pix


def test_the_loss_of_g_is_the_game_and_a_hundred_l1():
    found = {}
    for name, pixel_loss in (("none", None), ("l1", L1(100.0)), ("both", (L1(100.0), L2(2.0)))):
        method = pix2pix(pixel_loss=pixel_loss)
        state = jax.jit(method.init)(KEY, batch())
        loss = jax.jit(lambda w, method=method: method.gen_loss(w, batch(), KEY))(state.view())
        found[name] = loss
    parts = {name: loss.metrics["pixel_loss"] for name, loss in found.items() if name != "none"}
    for name, value in parts.items():
        np.testing.assert_allclose(found[name].each, found["none"].each + value, rtol=1e-5)
    fake = found["l1"].metrics["pixel_loss"] / 100
    assert fake.shape == (4,) and (fake > 0.1).all() and (parts["both"] > parts["l1"]).all()


def test_both_players_see_the_picture_and_samples_drop_units_where_the_field_says():
    method = pix2pix()
    w = jax.jit(method.init)(KEY, batch())
    w = w.view()
    cond = method.conditions(batch())
    other = {"seen": cond["seen"].at[0].multiply(-1)}
    judge = jax.jit(lambda cond: method.disc.apply(w.nets["disc"], method.target(batch()), cond)[0])
    change = np.abs(np.asarray(judge(other) - judge(cond))).reshape(4, -1).max(1)
    assert change[0] > 0 and not change[1:].any()
    for dropout, varies in (("always", True), ("training", False)):
        own = replace(method, dropout=dropout)
        sample = jax.jit(lambda rng, cond, own=own: own.sample(w, rng, 4, cond))
        x = sample(KEY, cond)
        assert x.shape == (4, 8, 8, 1) and (np.asarray(sample(jax.random.key(1), cond) != x).any() == varies)
        if not varies:  # neither does it depend on others of its batch
            np.testing.assert_array_equal(sample(KEY, other)[1:], x[1:])


def test_samples_by_a_batch_s_own_statistics_are_those_of_training():
    """The paper's recipe: with batch norm a sample is made as in training; by running statistics it is another."""
    with pytest.warns(UserWarning, match=r"method.stats=batch: a sample of a net with batch norm depends on others"):
        method = pix2pix("batch", stats="batch", dropout="training")
    w = jax.jit(method.init)(KEY, batch()).view()
    cond = method.conditions(batch())
    run = lambda method: jax.jit(lambda w: method.sample(w, KEY, 4, cond))(w)  # noqa: E731
    trained, _ = method.gen.apply(w.nets["gen"], cond, train=True, dropping=False)
    np.testing.assert_allclose(run(method), trained, atol=1e-5)
    assert np.abs(run(replace(method, stats="running")) - trained).max() > 1e-2


@pytest.mark.parametrize(
    "fields, says",
    [
        (dict(spec=APART), r"'seen' and 'image' do not belong together .*set config.method.name=cyclegan"),
        (dict(fakes="data"), r"method.fakes='data' is about labels.*set method.fakes=batch"),
        (dict(augment=DiffAugment()), r"set method.augment=none"),
        (dict(gen=Net(DcganGenerator(shape=(8, 8, 1)), SGD)), r"makes them of a latent; set method.pixel_loss=None"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_pictures_of_pictures(fields, says):
    with pytest.raises(UserError, match=says):
        pix2pix(**fields)


# ----------------------------------------------------------------------------------------------------------------------
# CycleGAN


def test_the_loss_of_both_generators_is_the_paper_s_sum(trained):
    method, _, (first, *_) = trained
    game, cycle, same = (sum(first[f"{k}_{kind}"] for kind in method.kinds) for k in ("g_game", "cycle", "identity"))
    np.testing.assert_allclose(first["g_loss"], 2.0 * game + 10.0 * cycle + 5.0 * same, rtol=1e-5)
    for kind in method.kinds:
        both = first[f"d_loss_real_{kind}"] + first[f"d_loss_fake_{kind}"]
        np.testing.assert_allclose(first[f"d_loss_{kind}"], both, rtol=1e-5)


def test_four_nets_are_trained_and_pools_fill(trained):
    method, states, _ = trained
    assert set(states[0].nets) == {f"{player}_{kind}" for player in ("gen", "disc") for kind in method.kinds}
    for name in states[-1].nets:
        before, after = (jax.tree.leaves(state.nets[name].params) for state in (states[0], states[-1]))
        assert any((a != b).any() for a, b in zip(before, after, strict=True)), name
    assert int(states[-1].step) == 4
    for kind in method.kinds:
        pool = states[1].extra["pool"][kind]
        assert int(pool["count"]) == 3 and np.asarray(pool["pictures"]).any((1, 2, 3)).all()


def test_no_generator_learns_from_the_other_s_discriminator_and_both_from_the_cycle():
    """Without the cycle a generator's gradient knows its own discriminator alone."""
    method = cyclegan(cycle=0.0, pool=0)
    state = jax.jit(method.init)(KEY, batch())
    x = method.pictures(batch())

    def slope(disc):
        w = state.view()
        own = {**w.nets, disc: jax.tree.map(jnp.zeros_like, w.nets[disc])}
        loss = lambda p: method.gen_loss(w.replace(nets=own).training("gen_image", p), x, KEY)[0].each.mean()  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.grad(loss))(w.nets["gen_image"]["params"]))

    assert not any(np.asarray(g).any() for g in slope("disc_image"))
    assert any(np.asarray(g).any() for g in slope("disc_seen"))


def test_the_reverse_is_the_other_generator(trained):
    method, states, _ = trained
    w, back = states[-1].view(), replace(method, spec=Reverse().spec(APART))
    x = method.pictures(batch())
    assert back.kinds == method.kinds[::-1]
    run = jax.jit(lambda w: (method.sample(w, KEY, 4, {"seen": x["seen"]}), back.sample(w, KEY, 4, {"image": x["image"]}),
                             method.reconstruct(w, batch(), KEY)))  # fmt: skip
    made, seen, again = run(w)
    there, cycled = jax.jit(lambda w: method.there_and_back(w, "image", x["image"], KEY))(w)
    np.testing.assert_array_equal(seen, there)
    np.testing.assert_array_equal(again, cycled)
    assert np.abs(made - seen).max() > 1e-3
    with pytest.raises(UserError, match=r"task reverse exchanges .*config.tasks.reverse=None"):
        Reverse().spec(pictures((8, 8, 1)))


@pytest.mark.parametrize(
    "fields, says",
    [
        (dict(spec=pictures((8, 8, 1))), r"two kinds of pictures, and is told nothing; take a source of two"),
        (dict(spec=Spec(pictures((16, 8, 1)), seen=SEEN)), r"kinds are 16x8 and 8x8; set config.data.source_a.size=8 and config"),
        (dict(spec=Spec(pictures((8, 8, 3)), seen=SEEN)), r"have 3 and 1 channels; set method.identity=0.0"),
        (dict(gen=Net(DcganGenerator(shape=(8, 8, 1)), SGD)), r"set method.gen.name=resnet_translator"),
        (dict(loss=Relativistic()), r"set method.loss=least_squares"),
    ],
)  # fmt: skip
def test_what_no_cyclegan_learns_of(fields, says):
    with pytest.raises(UserError, match=says):
        cyclegan(**fields)


def test_pictures_with_other_channels_are_translated():
    method = cyclegan(spec=Spec(pictures((8, 8, 3)), seen=replace(SEEN, order=1)), identity=0.0)
    data = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "seen": jnp.zeros((2, 8, 8, 1), jnp.uint8)}
    state = jax.eval_shape(method.init, KEY, data)
    after, _ = jax.eval_shape(method.train_step, state, data, KEY)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.eval_shape(
        lambda w: method.sample(w, KEY, 2, {"seen": jnp.zeros((2, 8, 8, 1))}), state.view()
    ).shape == (2, 8, 8, 3)


# ----------------------------------------------------------------------------------------------------------------------
# The pool


def test_half_of_what_leaves_a_full_pool_is_old():
    pool, pictures = empty_pool(10, ()), jnp.arange(1.0, 2001.0)
    pool, out = jax.jit(query)(pool, pictures, *draws(KEY, 2000, 10))
    np.testing.assert_array_equal(out[:10], pictures[:10])
    assert abs((out[10:] != pictures[10:]).mean() - 0.5) < 0.05
    late = np.concatenate([out, pool["pictures"]])  # nothing is lost and nothing comes twice
    assert len(late) == 2010 and set(np.unique(late)) == set(pictures.tolist())
    assert len(np.unique(out[out != pictures])) == (out != pictures).sum()


def test_correlation_tells_a_negative_from_a_copy():
    x = jax.random.normal(KEY, (3, 8, 8, 3))
    np.testing.assert_allclose(correlation(x, x), 1.0, rtol=1e-5)
    np.testing.assert_allclose(correlation(x, 1 - x), -1.0, rtol=1e-5)
    assert not correlation(x, jnp.zeros_like(x)).any() and not correlation(x, x[:, :4]).any()

"""Adversarial training: the step is the algorithm box, labels arrive, batch statistics keep to their place."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.method import Samples, value_and_grads
from jaxgen.core.net import Decay, Net
from jaxgen.core.parallel import microbatches
from jaxgen.errors import UserError
from jaxgen.losses.gan import LeastSquares, NonSaturating, Wasserstein
from jaxgen.losses.regularize import R1, GradientPenalty
from jaxgen.methods.gan import Gan
from jaxgen.nets.gan import (
    DcganDiscriminator,
    DcganGenerator,
    MlpDiscriminator,
    MlpGenerator,
    ResnetDiscriminator,
    ResnetGenerator,
    pyramid,
)

KEY = jax.random.key(0)


def gan(gen, disc, lr=1e-3, **fields):
    tx = optax.adam(lr, b1=0.5)
    return Gan(gen=Net(gen, tx, (Decay(0.99),)), disc=Net(disc, tx), **{"z_dim": 4, **fields})


def mlp(shape=(2, 2, 1), classes=0, width=16, **fields):
    gen = MlpGenerator(shape=shape, classes=classes, width=width)
    disc = MlpDiscriminator(classes=classes, width=width, pieces=2, dropout=0.0)
    return gan(gen, disc, classes=classes, **fields)


def dcgan(shape=(8, 8, 1), classes=0, norm="batch", **fields):
    gen = DcganGenerator(shape=shape, classes=classes, width=4, base=2)
    return gan(gen, DcganDiscriminator(classes=classes, width=4, base=2, norm=norm), classes=classes, **fields)


def images(num, shape, labelled=0):
    batch = {"image": jax.random.randint(KEY, (num, *shape), 0, 256).astype(jnp.uint8)}
    return batch | ({"label": jnp.arange(num, dtype=jnp.int32) % labelled} if labelled else {})


@pytest.mark.parametrize(
    "shape, base, grid, halvings",
    [((64, 64, 3), 4, (4, 4), 4), ((28, 28, 1), 4, (7, 7), 2), ((8, 8, 1), 4, (4, 4), 1), ((48, 32, 3), 4, (6, 4), 3),
     ((15, 15, 3), 4, (15, 15), 0)],
)  # fmt: skip
def test_pyramid(shape, base, grid, halvings):
    assert pyramid(shape, base) == (grid, halvings)


@pytest.mark.parametrize("shape", [(28, 28, 1), (15, 10, 4), (16, 24, 3)])
@pytest.mark.parametrize("classes", [0, 3])
def test_shapes(shape, classes):
    label = jnp.zeros(2, jnp.int32)
    for gen, disc in (
        (DcganGenerator(shape=shape, classes=classes, width=4), DcganDiscriminator(classes=classes, width=4)),
        (ResnetGenerator(shape=shape, classes=classes, width=4), ResnetDiscriminator(classes=classes, width=4)),
        (MlpGenerator(shape=shape, classes=classes, width=4), MlpDiscriminator(classes=classes, width=4)),
    ):
        x = jax.eval_shape(lambda g=gen: g.init_with_output(KEY, jnp.zeros((2, 5)), label)[0])
        assert x.shape == (2, *shape) and x.dtype == jnp.float32
        logits = jax.eval_shape(lambda d=disc: d.init_with_output(KEY, jnp.zeros((2, *shape)), label)[0])
        assert logits.shape == (2,) and logits.dtype == jnp.float32


def test_published_sizes():
    """DCGAN's generator for 64x64 is 100-1024-512-256-128-3; WGAN-GP's CIFAR-10 nets have 128 channels."""
    label = jnp.zeros(1, jnp.int32)

    def count(module, *args):
        return sum(p.size for p in jax.tree.leaves(jax.eval_shape(module.init, KEY, *args)["params"]))

    dc = count(DcganGenerator(shape=(64, 64, 3), width=128), jnp.zeros((1, 100)), label)
    kernels = 100 * 4 * 4 * 1024 + 16 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    assert dc == kernels + 2 * (1024 + 512 + 256 + 128) + 3
    critic = count(ResnetDiscriminator(width=128), jnp.zeros((1, 32, 32, 3)), label)
    block = 2 * (9 * 128 * 128 + 128)
    first = (9 * 3 * 128 + 128) + (9 * 128 * 128 + 128) + (3 * 128 + 128)
    assert critic == first + 3 * block + (128 * 128 + 128) + 128 + 1


def test_n_critic_scan_equals_the_loop():
    method = mlp(loss=Wasserstein(), penalty=GradientPenalty(), n_critic=3)
    assert method.batches_per_step == 3
    batch = images(12, (2, 2, 1))
    state = jax.jit(method.init)(KEY, batch)
    got, metrics = jax.jit(method.train_step)(state, batch, KEY)

    @jax.jit
    def by_hand(state):
        disc_rng, gen_rng = jax.random.split(KEY)
        nets, parts, d_losses = dict(state.nets), microbatches(batch, 3), []
        for i, key in enumerate(jax.random.split(disc_rng, 3)):
            part = jax.tree.map(lambda v, i=i: v[i], parts)
            w = state.replace(nets=nets).view()
            (loss, (_, vars)), grads = value_and_grads(
                lambda p, w=w, part=part, key=key: method.disc_loss(p, w, part, key), nets["disc"].params
            )
            nets["disc"] = method.disc.update(nets["disc"], grads, vars["disc"], step=state.step)
            d_losses.append(loss)
        w = state.replace(nets=nets).view()
        (_, (_, vars)), grads = value_and_grads(lambda p: method.gen_loss(p, w, part, gen_rng), nets["gen"].params)
        nets["gen"] = method.gen.update(nets["gen"], grads, vars["gen"], step=state.step)
        return nets, jnp.stack(d_losses)

    nets, d_losses = by_hand(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got.nets, nets)
    np.testing.assert_allclose(metrics["d_loss"], d_losses.mean(), rtol=1e-5)
    assert int(got.step) == 1 and int(got.nets["disc"].opt[0].count) == 3 and int(got.nets["gen"].opt[0].count) == 1


def test_every_critic_update_sees_its_own_images():
    """Changing one image of any microbatch changes the step."""
    method = mlp(n_critic=2)
    batch = images(4, (2, 2, 1))
    state = jax.jit(method.init)(KEY, batch)
    step = jax.jit(method.train_step)
    base, _ = step(state, batch, KEY)
    for i in range(4):
        other = {"image": batch["image"].at[i].set(255 - batch["image"][i])}
        changed, _ = step(state, other, KEY)
        old, new = (jax.tree.leaves(s.nets["disc"].params) for s in (base, changed))
        assert any(bool((a != b).any()) for a, b in zip(old, new, strict=True)), i


@pytest.mark.parametrize("method", [dcgan(classes=3), mlp((8, 8, 1), classes=3)], ids=["dcgan", "mlp"])
def test_labels_reach_both_players(method):
    batch = images(6, (8, 8, 1), labelled=3)
    state, _ = jax.jit(lambda: method.train_step(method.init(KEY, batch), batch, KEY))()
    w = state.view(ema=True)
    draw = jax.jit(lambda label: method.sample(w, KEY, 6, {"label": label}))
    a, b = (draw(jnp.full(6, i, jnp.int32)) for i in (0, 1))
    assert float(jnp.abs(a - b).max()) > 1e-6
    judge = jax.jit(lambda label: method.disc.module.apply(w.nets["disc"], a, label))
    d = [judge(jnp.full(6, i, jnp.int32)) for i in (0, 1)]
    assert float(jnp.abs(d[0] - d[1]).max()) > 1e-7
    with pytest.raises(UserError, match="3 labels"):
        method.sample(w, KEY, 6, {})


def test_resnet_labels_act_once_trained():
    gen = ResnetGenerator(shape=(8, 8, 1), classes=3, width=4)
    disc = ResnetDiscriminator(classes=3, width=4, downs=1, plain=1)
    method = gan(gen, disc, classes=3, loss=Wasserstein())
    batch = images(6, (8, 8, 1), labelled=3)
    state, _ = jax.jit(lambda: method.train_step(method.init(KEY, batch), batch, KEY))()
    draw = jax.jit(lambda label: method.sample(state.view(), KEY, 6, {"label": label}))
    a, b = (draw(jnp.full(6, i, jnp.int32)) for i in (0, 1))
    assert float(jnp.abs(a - b).max()) > 1e-6


def test_batch_statistics_move_in_training_and_only_there():
    method = dcgan()
    batch = images(8, (8, 8, 1))
    state = jax.jit(method.init)(KEY, batch)
    after, _ = jax.jit(method.train_step)(state, batch, KEY)
    for name in ("gen", "disc"):
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.nets[name].vars, after.nets[name].vars)
        assert all(jax.tree.leaves(moved)), name
    w = after.view(ema=True)
    evaluate = jax.jit(method.eval_step)
    first, second = (evaluate(w, batch, KEY) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert set(first) == {"loss", "d_loss", "g_loss", "d_real", "d_fake"} and first["loss"].shape == (8,)
    alone = method.sample(w, KEY, 1, {})  # running averages: a sample does not depend on its companions
    z = method.latents(KEY, 1)
    pair = method.gen.module.apply(w.nets["gen"], jnp.concatenate([z, -z]), jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(alone[0], pair[0], atol=1e-5)


def test_samples_come_from_the_average():
    method = mlp()
    batch = images(4, (2, 2, 1))
    state = jax.jit(method.init)(KEY, batch)
    step = jax.jit(method.train_step)
    for i in range(3):
        state, _ = step(state, batch, jax.random.fold_in(KEY, i))
    assert isinstance(method, Samples)
    raw, ema = (method.sample(state.view(ema=e), KEY, 3, {}) for e in (False, True))
    assert float(jnp.abs(raw - ema).max()) > 0


def test_lazy_r1_is_zero_between():
    method = mlp(penalty=R1(every=2))
    batch = images(4, (2, 2, 1))
    state, seen = jax.jit(method.init)(KEY, batch), []
    step = jax.jit(method.train_step)
    for i in range(4):
        state, metrics = step(state, batch, jax.random.fold_in(KEY, i))
        seen.append(float(metrics["penalty"]) > 0)
    assert seen == [True, False, True, False]


def test_bad_options_are_named():
    with pytest.raises(UserError, match="normal, uniform"):
        mlp(prior="gauss")
    with pytest.raises(UserError, match="n_critic"):
        mlp(n_critic=0)


RING = 0.7 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], -1).astype(np.float32)


@pytest.mark.parametrize(
    "fields, steps",
    [
        ({"loss": NonSaturating(), "penalty": R1(strength=0.3)}, 3000),
        ({"loss": LeastSquares(), "penalty": R1(strength=0.3)}, 3000),
        ({"loss": Wasserstein(), "penalty": GradientPenalty(strength=1.0), "n_critic": 3}, 1000),
    ],
    ids=["nonsaturating", "least_squares", "wgan_gp"],
)
def test_covers_the_modes_of_a_ring(fields, steps):
    """Eight Gaussians in the plane as images of 1x1 pixels and two channels: all modes, few stray points."""
    gen = MlpGenerator(shape=(1, 1, 2), width=64)
    disc = MlpDiscriminator(width=64, pieces=2, dropout=0.0)
    tx = optax.adam(1e-3, b1=0.0, b2=0.9)
    method = Gan(gen=Net(gen, tx, (Decay(0.995),)), disc=Net(disc, tx), z_dim=4, **fields)
    size = 64 * method.batches_per_step

    def draw(rng):
        which, noise = jax.random.split(rng)
        centre = jnp.asarray(RING)[jax.random.randint(which, (size,), 0, 8)]
        return {"image": (centre + 0.03 * jax.random.normal(noise, (size, 2))).reshape(size, 1, 1, 2)}

    @jax.jit
    def run(state):
        def step(state, i):
            data, rng = jax.random.split(jax.random.fold_in(KEY, i))
            return method.train_step(state, draw(data), rng)

        return jax.lax.scan(step, state, jnp.arange(steps))[0]

    state = run(jax.jit(method.init)(KEY, draw(KEY)))
    x = np.asarray(method.sample(state.view(ema=True), KEY, 1000, {})).reshape(-1, 2)
    distance = np.linalg.norm(x[:, None] - RING[None], axis=-1)
    near = distance.min(1) < 0.2
    share = np.bincount(distance.argmin(1)[near], minlength=8) / 1000
    assert near.mean() > 0.7 and (share > 0.02).all(), (near.mean(), share)


def test_a_method_is_its_fields():
    """WGAN-GP is the GAN with other parts."""
    method = replace(mlp(), loss=Wasserstein(), penalty=GradientPenalty(), n_critic=5)
    assert method.batches_per_step == 5 and method.z_dim == mlp().z_dim

"""Adversarial training: the step is the algorithm box, labels arrive, batch statistics keep to their place."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.method import Samples, value_and_grads
from jaxgen.core.net import Decay, Net
from jaxgen.core.parallel import microbatches
from jaxgen.core.spec import Field, Spec, labels, pictures
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
    spec = pictures(gen.shape, gen.conditions.classes)
    return Gan(gen=Net(gen, tx, (Decay(0.99),)), disc=Net(disc, tx), **{"spec": spec, "z_dim": 4, **fields})


def mlp(shape=(2, 2, 1), classes=0, width=16, **fields):
    gen = MlpGenerator(shape=shape, conditions=labels(classes), width=width)
    return gan(gen, MlpDiscriminator(conditions=labels(classes), width=width, pieces=2, dropout=0.0), **fields)


def dcgan(shape=(8, 8, 1), classes=0, norm="batch", **fields):
    gen = DcganGenerator(shape=shape, conditions=labels(classes), width=4, base=2)
    return gan(gen, DcganDiscriminator(conditions=labels(classes), width=4, base=2, norm=norm), **fields)


def resnet(shape=(8, 8, 1), classes=0, **fields):
    gen = ResnetGenerator(shape=shape, conditions=labels(classes), width=4)
    return gan(gen, ResnetDiscriminator(conditions=labels(classes), width=4, downs=1, plain=1), **fields)


def moved(state, amount=0.3):
    """The state with all parameters away from where they start: tables of labels may start at zero."""

    def move(path, a):
        return a + amount * jax.random.normal(jax.random.fold_in(KEY, hash(jax.tree_util.keystr(path)) % 1000), a.shape)

    nets = {k: n.replace(params=jax.tree_util.tree_map_with_path(move, n.params)) for k, n in state.nets.items()}
    return state.replace(nets=nets)


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
    cond, told = {"label": jnp.zeros(2, jnp.int32)}, dict(conditions=labels(classes), width=4)
    for gen, disc in (
        (DcganGenerator(shape=shape, **told), DcganDiscriminator(**told)),
        (ResnetGenerator(shape=shape, **told), ResnetDiscriminator(**told)),
        (MlpGenerator(shape=shape, **told), MlpDiscriminator(**told)),
    ):
        x = jax.eval_shape(lambda g=gen: g.init_with_output(KEY, jnp.zeros((2, 5)), cond)[0])
        assert x.shape == (2, *shape) and x.dtype == jnp.float32
        logits = jax.eval_shape(lambda d=disc: d.init_with_output(KEY, jnp.zeros((2, *shape)), cond)[0])
        assert logits.shape == (2,) and logits.dtype == jnp.float32
        if classes:
            with pytest.raises(UserError, match=r"no null for 'label'.*3 labels"):
                gen.init(KEY, jnp.zeros((2, 5)))


@pytest.mark.parametrize("kind", [DcganGenerator, ResnetGenerator, DcganDiscriminator, ResnetDiscriminator])
def test_clips_need_other_nets(kind):
    gen = hasattr(kind, "shape")
    with pytest.raises(UserError, match=rf"{kind.__name__} needs images of shape \[H, W, C\], not \[2, 8, 8, 1\]"):
        (kind(shape=(2, 8, 8, 1)) if gen else kind()).init(KEY, jnp.zeros((2, 5) if gen else (2, 2, 8, 8, 1)))


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
            loss, _, grads = value_and_grads(lambda w, part=part, key=key: method.disc_loss(w, part, key), w, "disc")
            nets["disc"] = method.disc.update(nets["disc"], grads, step=state.step)
            d_losses.append(loss)
        w = state.replace(nets=nets).view()
        loss, _, grads = value_and_grads(lambda w: method.gen_loss(w, part, gen_rng), w, "gen")
        nets["gen"] = method.gen.update(nets["gen"], grads, step=state.step)
        return nets, jnp.stack(d_losses), loss

    nets, d_losses, g_loss = by_hand(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got.nets, nets)
    np.testing.assert_allclose(metrics["d_loss"], d_losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["g_loss"], g_loss, rtol=1e-5)
    assert int(got.step) == 1 and int(got.nets["disc"].opt[0].count) == 3 and int(got.nets["gen"].opt[0].count) == 1
    assert not got.extra and "loss" not in metrics  # the sum of two players' losses means nothing


@dataclass(frozen=True)
class Flip:
    """Mirrors an image with probability p, which follows the mean sign of D's logits."""

    p: float = 0.25
    adapts: bool = True

    def __call__(self, x, rng, p):
        return jnp.where(jax.random.bernoulli(rng, p, (len(x), 1, 1, 1)), x[:, :, ::-1], x)

    def adapt(self, p, overfit, images):
        return p + 0.01 * images * jnp.sign(overfit - 0.6)


@dataclass(frozen=True)
class SlopeOfG:
    """The length of G's slope against its running mean, as the lengths of paths of StyleGAN2 (its equation 4)."""

    strength: float = 2.0
    every: int = 2

    def start(self):
        return {"mean": jnp.zeros(())}

    def __call__(self, generate, inputs, memory, rng):
        z, cond = inputs
        y = jax.random.normal(rng, jax.eval_shape(generate, z, cond).shape)
        slope = jax.grad(lambda z: (generate(z, cond) * y).sum())(z)
        length = jnp.linalg.norm(slope, axis=-1)
        mean = memory["mean"] + 0.1 * (jax.lax.stop_gradient(length).mean() - memory["mean"])
        return self.strength * (length - mean) ** 2, {"mean": mean}


def test_augmentation_and_a_penalty_of_the_generator_need_no_fork():
    """What StyleGAN2-ADA asks for: p and the mean length live in `extra`, D sees both kinds of image through the augment."""
    seen = []

    @dataclass(frozen=True)
    class Watched(Flip):
        def __call__(self, x, rng, p):
            seen.append(x.shape)
            return super().__call__(x, rng, p)

    batch = images(6, (8, 8, 1), labelled=3)
    parts = dict(classes=3, norm="none", penalty=R1(strength=0.3), augment=Watched(), gen_penalty=SlopeOfG())
    method = dcgan(**parts)
    state = jax.jit(method.init)(KEY, batch)
    start = {"augment_p": 0.25, "gen_penalty": {"mean": 0.0}}
    jax.tree.map(np.testing.assert_allclose, state.extra, start)
    step = jax.jit(method.train_step)
    found = []
    for i in range(4):
        state, metrics = step(state, batch, jax.random.fold_in(KEY, i))
        found.append({k: float(v) for k, v in metrics.items()} | {"p": float(state.extra["augment_p"])})
    assert set(seen) == {(6, 8, 8, 1)} and len(seen) == 4  # real, fake, the critic of R1; then G's images
    assert [f["gen_penalty"] > 0 for f in found] == [True, False, True, False]
    steps = np.sign([f["r_t"] - 0.6 for f in found])
    np.testing.assert_allclose([f["p"] for f in found], 0.25 + 0.06 * np.cumsum(steps), rtol=1e-5)
    assert float(state.extra["gen_penalty"]["mean"]) > 0


def test_the_generators_penalty_moves_the_generator_by_its_own_gradient():
    """At D's loss zero only the penalty is left: its gradient is the one of its definition, times `every`."""
    penalty = SlopeOfG(every=3)
    method = mlp(loss=Wasserstein(), gen_penalty=penalty)
    batch = images(4, (2, 2, 1))
    state = jax.jit(method.init)(KEY, batch)
    nets = {
        **state.nets,
        "disc": state.nets["disc"].replace(params=jax.tree.map(jnp.zeros_like, state.nets["disc"].params)),
    }
    w = state.replace(nets=nets).view()
    _, loss, got = jax.jit(lambda w: value_and_grads(lambda w: method.gen_loss(w, batch, KEY), w, "gen"))(w)
    z_rng, _, _, rng = jax.random.split(KEY, 4)
    z = method.latents(z_rng, 4)

    def alone(params):
        def generate(z, cond):
            return method.gen.module.apply({"params": params}, z, cond)

        return 3 * penalty(generate, (z, {}), {"mean": jnp.zeros(())}, rng)[0].mean()

    value, want = jax.value_and_grad(alone)(w.nets["gen"]["params"])
    np.testing.assert_allclose(loss.each.mean(), value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), got, want)


def test_an_augmentation_that_always_mirrors_is_a_mirrored_critic():
    batch = images(6, (4, 4, 1))
    plain, mirrored = mlp((4, 4, 1)), mlp((4, 4, 1), augment=Flip(p=1.0, adapts=False))
    w = jax.jit(plain.init)(KEY, batch).view()
    flipped = {"image": batch["image"][:, :, ::-1]}
    a, b = (jax.jit(m.disc_loss)(w, x, KEY).metrics for m, x in ((plain, flipped), (mirrored, batch)))
    np.testing.assert_allclose(a["d_real"], b["d_real"], rtol=1e-5)
    assert np.abs(np.asarray(a["d_fake"] - b["d_fake"])).max() > 1e-4


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


@pytest.mark.parametrize("kind", [dcgan, mlp, resnet])
def test_labels_reach_both_players(kind):
    """Each example hears its own label and no other's."""
    method = kind((8, 8, 1), classes=3)
    batch = images(6, (8, 8, 1), labelled=3)
    w = moved(jax.jit(method.init)(KEY, batch)).view()
    x = method.target(batch)
    runs = (
        jax.jit(lambda label: method.sample(w, KEY, 6, {"label": label})),
        jax.jit(lambda label: method.disc.module.apply(w.nets["disc"], x, {"label": label})),
    )
    zeros = jnp.zeros(6, jnp.int32)
    for run in runs:
        base, other = run(zeros), run(zeros.at[2].set(1))
        changed = np.abs(np.asarray(other - base)).reshape(6, -1).max(1)
        scale = float(jnp.std(base))
        assert changed[2] > 0.01 * scale and np.delete(changed, 2).max() <= 1e-5 * scale, changed
    with pytest.raises(UserError, match=r"no null for 'label'.*3 labels"):
        method.sample(w, KEY, 6, {})
    with pytest.raises(UserError, match="no null for 'label'"):
        method.disc_loss(w, {"image": batch["image"]}, KEY)


def test_several_labels_at_once():
    label, size = (Field((), "int32", "label", values=n) for n in (3, 2))
    told = Spec(label=label, size=size)
    spec = Spec(pictures((8, 8, 1)), **told)
    method = gan(
        ResnetGenerator(shape=(8, 8, 1), conditions=told, width=4), DcganDiscriminator(conditions=told, width=4, base=2),
        spec=spec,
    )  # fmt: skip
    assert method.takes == ("label",)
    batch = images(6, (8, 8, 1), labelled=3) | {"size": jnp.arange(6) % 2}
    w = moved(jax.jit(method.init)(KEY, batch)).view()
    tables = w.nets["gen"]["params"]["Norm_0"]
    assert tables["label"].shape == (3, 8) and tables["size"].shape == (2, 8)
    draw = jax.jit(lambda cond: method.sample(w, KEY, 1, cond))
    made = [draw({"label": jnp.full(1, i), "size": jnp.full(1, j)}) for i, j in ((0, 0), (0, 1), (1, 0))]
    assert min(float(jnp.abs(a - b).max()) for a, b in zip(made, made[1:] + made[:1], strict=True)) > 1e-3


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
    assert set(first) == {"d_loss", "g_loss", "d_real", "d_fake"} and first["d_loss"].shape == (8,)
    alone = method.sample(w, KEY, 1, {})  # running averages: a sample does not depend on its companions
    z = method.latents(KEY, 1)
    pair = method.gen.module.apply(w.nets["gen"], jnp.concatenate([z, -z]))
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
    spec = Spec(image=Field((1, 1, 2), "float32", "image", "target"))
    method = Gan(gen=Net(gen, tx, (Decay(0.995),)), disc=Net(disc, tx), spec=spec, z_dim=4, **fields)
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

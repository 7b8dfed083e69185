"""Adversarial training: the step is the algorithm box, labels arrive, batch statistics keep to their place."""

from dataclasses import dataclass, replace
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from jaxgen.core.method import Samples, value_and_grads
from jaxgen.core.net import Decay, Net
from jaxgen.core.optim import Adam
from jaxgen.core.parallel import microbatches
from jaxgen.core.spec import Field, Spec, labels, pictures
from jaxgen.errors import UserError
from jaxgen.losses.gan import LeastSquares, NonSaturating, RelativisticAverage, Wasserstein
from jaxgen.losses.regularize import R1, Drift, GenPenalty, GradientPenalty
from jaxgen.methods.gan import Gan, any_labels, label_loss
from jaxgen.methods.gan_augment import Ada
from jaxgen.methods.gan_prior import TruncatedLatent
from jaxgen.nets.gan import (
    DcganDiscriminator,
    DcganGenerator,
    Judged,
    MlpDiscriminator,
    MlpGenerator,
    pyramid,
)
from jaxgen.nets.gan_resnet import ResnetDiscriminator, ResnetGenerator
from jaxgen.nets.spectral import power_iteration, settled
from jaxgen.nets.stylegan2 import StyleGan2Generator

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
        number = crc32(jax.tree_util.keystr(path).encode())  # the same in every process, as `hash` is not
        return a + np.float32(amount) * np.random.default_rng(number).standard_normal(a.shape, np.float32)

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
    method = mlp(loss=Wasserstein(), disc_penalties=GradientPenalty(), n_critic=3)
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

    def start(self):
        return {"p": jnp.float32(self.p)} if self.adapts else {}

    def probability(self, memory):
        return memory.get("p", self.p)

    def __call__(self, x, rng, memory):
        return jnp.where(jax.random.bernoulli(rng, self.probability(memory), (len(x), 1, 1, 1)), x[:, :, ::-1], x)

    def adapt(self, memory, real_logits, step):
        return {"p": memory["p"] + 0.01 * len(real_logits) * jnp.sign(jnp.sign(real_logits).mean() - 0.6)}


@dataclass(frozen=True)
class SlopeOfG(GenPenalty):
    """The length of G's slope against its running mean, as the lengths of paths of StyleGAN2 (its equation 4)."""

    strength: float = 2.0
    every: int = 2
    label = "slope"

    def start(self):
        return {"mean": jnp.zeros(())}

    def __call__(self, generate, inputs, params, memory, rng):
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
        def __call__(self, x, rng, memory):
            seen.append(x.shape)
            return super().__call__(x, rng, memory)

    batch = images(6, (8, 8, 1), labelled=3)
    parts = dict(classes=3, norm="none", disc_penalties=R1(strength=0.3), augment=Watched(), gen_penalties=SlopeOfG())
    method = dcgan(**parts)
    state = jax.jit(method.init)(KEY, batch)
    start = {"augment": {"p": 0.25}, "slope": {"mean": 0.0}}
    jax.tree.map(np.testing.assert_allclose, state.extra, start)
    step = jax.jit(method.train_step)
    found = []
    for i in range(4):
        state, metrics = step(state, batch, jax.random.fold_in(KEY, i))
        found.append({k: float(v) for k, v in metrics.items()} | {"p": float(state.extra["augment"]["p"])})
    assert set(seen) == {(6, 8, 8, 1)} and len(seen) == 4  # real, fake, the critic of R1; then G's images
    assert [f["slope"] > 0 for f in found] == [True, False, True, False]
    steps = np.sign([f["r_t"] - 0.6 for f in found])
    np.testing.assert_allclose([f["p"] for f in found], 0.25 + 0.06 * np.cumsum(steps), rtol=1e-5)
    assert float(state.extra["slope"]["mean"]) > 0


def test_the_generators_penalty_moves_the_generator_by_its_own_gradient():
    """At D's loss zero only the penalty is left: its gradient is the one of its definition, times `every`."""
    penalty = SlopeOfG(every=3)
    method = mlp(loss=Wasserstein(), gen_penalties=penalty)
    batch = images(4, (2, 2, 1))
    state = jax.jit(method.init)(KEY, batch)
    nets = {
        **state.nets,
        "disc": state.nets["disc"].replace(params=jax.tree.map(jnp.zeros_like, state.nets["disc"].params)),
    }
    w = state.replace(nets=nets).view()
    _, loss, got = jax.jit(lambda w: value_and_grads(lambda w: method.gen_loss(w, batch, KEY), w, "gen"))(w)
    fake_rng, _, _, rng = jax.random.split(KEY, 4)
    z = method.latents(jax.random.split(fake_rng, 3)[1], 4)

    def alone(params):
        def generate(z, cond):
            return method.gen.module.apply({"params": params}, z, cond)

        return 3 * penalty(generate, (z, {}), params, {"mean": jnp.zeros(())}, rng)[0].mean()

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


@pytest.mark.slow
def test_spectral_vectors_move_once_in_an_update_of_their_own_net():
    """One power iteration with the kernel of before; none in the other's update, by a penalty, an evaluation or a sample."""
    told = dict(conditions=labels(3), width=4, spectral=True)
    disc = ResnetDiscriminator(downs=1, plain=1, attend=(4,), **told)
    method = gan(ResnetGenerator(shape=(8, 8, 1), attend=(8,), **told), disc, disc_penalties=R1())
    batch = images(4, (8, 8, 1), labelled=3)
    state = moved(jax.jit(method.init)(KEY, batch), 0.1)
    for own, other, update in (("disc", "gen", method.update_disc), ("gen", "disc", method.update_gen)):
        after, _ = jax.jit(update)(state, batch, KEY)
        same = jax.tree.map(np.testing.assert_array_equal, *(s.nets[other].vars["spectral"] for s in (state, after)))
        assert jax.tree.leaves(same, is_leaf=lambda v: v is None)
        before, now = (traverse_util.flatten_dict(s.nets[own].vars["spectral"]) for s in (state, after))
        kernels = traverse_util.flatten_dict(state.nets[own].params)
        assert {path[:-1] for path in now} >= {path for path in kernels if path[-1] == "kernel"}
        for path in now:
            kernel = kernels[path[:-1]]
            u, v = jax.jit(power_iteration)(kernel.reshape(-1, kernel.shape[-1]), before[(*path[:-1], "u")])
            np.testing.assert_allclose(now[path], {"u": u, "v": v}[path[-1]], atol=1e-5)
    assert ("label", "u") in traverse_util.flatten_dict(state.nets["disc"].vars["spectral"])  # the table of projections


def test_samples_of_an_average_are_divided_by_its_own_sigma():
    told = dict(conditions=labels(3), width=4, spectral=True)
    method = gan(ResnetGenerator(shape=(8, 8, 1), **told), ResnetDiscriminator(downs=1, plain=1, **told))
    batch = images(4, (8, 8, 1), labelled=3)
    state = jax.jit(method.init)(KEY, batch)
    far = moved(state, 0.5).nets["gen"].params
    gen = state.nets["gen"].replace(ema={name: far for name in state.nets["gen"].ema})
    w = state.replace(nets={**state.nets, "gen": gen}).view(gen.default)
    cond = {"label": jnp.arange(4) % 3}
    got = jax.jit(lambda w: method.sample(w, KEY, 4, cond))(w)
    draw = jax.jit(lambda gen: method.gen.apply(gen, method.draw_latents(KEY, 4), cond)[0])
    np.testing.assert_allclose(got, draw(jax.jit(settled)(w.nets["gen"])), atol=1e-6)
    assert np.abs(got - draw(w.nets["gen"])).max() > 0.01


@pytest.mark.slow
def test_what_attention_and_spectral_norm_do_is_logged():
    told = dict(width=4, spectral=True)
    gen = ResnetGenerator(shape=(8, 8, 1), base=2, attend=(4, 8), **told)
    method = gan(gen, ResnetDiscriminator(downs=1, plain=1, attend=(4,), **told), log_sigma=True, n_critic=2)
    batch = images(4, (8, 8, 1))
    state = jax.jit(method.init)(KEY, batch)
    after, metrics = jax.jit(method.train_step)(state, batch, KEY)
    for i in (0, 1):
        assert metrics[f"gen_Attention_{i}_gamma"] == after.nets["gen"].params[f"Attention_{i}"]["gamma"] != 0
    assert metrics["disc_gamma"] != 0
    for net in ("gen", "disc"):
        kernels = {k for k in traverse_util.flatten_dict(after.nets[net].params, sep="_") if k.endswith("kernel")}
        logged = {k for k in metrics if k.startswith(f"{net}_sigma_")}
        assert logged == {f"{net}_sigma_{k}" for k in kernels}
    pair, kernel = (after.nets["gen"].vars["spectral"], after.nets["gen"].params)
    u, v = (pair["Dense_0"]["kernel"][name] for name in "uv")
    np.testing.assert_allclose(metrics["gen_sigma_Dense_0_kernel"], v @ kernel["Dense_0"]["kernel"] @ u, rtol=1e-5)
    _, plain = jax.eval_shape(replace(method, log_sigma=False).train_step, state, batch, KEY)
    assert not any("sigma" in name for name in plain)


def test_a_discriminator_reads_the_labels_of_real_images():
    """AC-GAN with the residual pair: a few steps on pictures whose brightness is their label."""
    told = dict(conditions=labels(3), width=8)
    disc = ResnetDiscriminator(downs=1, plain=0, labels="classes", **told)
    method = gan(
        ResnetGenerator(shape=(4, 4, 1), base=2, **told), disc, lr=1e-2, label_weight=1.0, gen_label_weight=0.1
    )
    label = jnp.arange(24, dtype=jnp.int32) % 3
    batch = {
        "image": jnp.broadcast_to(100 * label[:, None, None, None], (24, 4, 4, 1)).astype(jnp.uint8),
        "label": label,
    }
    state, step = jax.jit(method.init)(KEY, batch), jax.jit(method.train_step)
    for i in range(40):
        state, metrics = step(state, batch, jax.random.fold_in(KEY, i))
    assert float(metrics["label_accuracy"]) == 1


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
    method = mlp(disc_penalties=R1(every=2))
    batch = images(4, (2, 2, 1))
    state, seen = jax.jit(method.init)(KEY, batch), []
    step = jax.jit(method.train_step)
    for i in range(4):
        state, metrics = step(state, batch, jax.random.fold_in(KEY, i))
        seen.append(float(metrics["r1"]) > 0)
    assert seen == [True, False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("net", ["disc", "gen"])
def test_a_penalty_apart_is_an_update_of_its_own(net):
    """Adam by hand: the game's gradient, then the penalty's times `every` from the same moments, all at k / (k + 1)."""
    every, lr = 2, 1e-2
    penalty = {"disc": R1(strength=3.0, every=every, apart=True), "gen": SlopeOfG(every=every, apart=True)}[net]
    adam = Adam(lr=lr, b1=0.5, b2=0.9)
    plain = mlp()
    nets = {k: replace(getattr(plain, k), optimizer=adam, tx=adam.build()) for k in ("gen", "disc")}
    method = replace(plain, **nets, **{f"{net}_penalties": penalty})
    batch, share = images(4, (2, 2, 1)), every / (every + 1)
    tx = optax.adam(lr * share, b1=0.5**share, b2=0.9**share)
    state = jax.jit(method.init)(KEY, batch)
    update, loss, alone = (
        (getattr(method, f"{what}{net}{end}")) for what, end in (("update_", ""), ("", "_loss"), ("", "_penalty"))
    )
    opt, hand = tx.init(state.nets[net].params), state
    for i in range(3):
        rng = jax.random.fold_in(KEY, i)
        state, metrics = jax.jit(update)(state, batch, rng)
        losses = [lambda w, rng=rng: loss(w, batch, rng)]
        if i % every == 0:
            losses.append(lambda w, rng=rng: alone(penalty, w, batch, jax.random.fold_in(rng, 1)))
        for of in losses:
            _, found, grads = value_and_grads(of, hand.view(), net)
            change, opt = tx.update(grads, opt)
            params = optax.apply_updates(hand.nets[net].params, change)
            own = hand.nets[net].replace(params=params, vars=found.vars.get(net, hand.nets[net].vars))
            hand = hand.replace(nets={**hand.nets, net: own}, extra={**hand.extra, **found.extra})
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), state.nets[net].params, own.params
        )
        assert (float(metrics[penalty.label]) > 0) == (i % every == 0)
        state, hand = state.replace(step=state.step + 1), hand.replace(step=hand.step + 1)
    for rule, ema in zip(method.gen.ema, state.nets[net].ema.values(), strict=net == "gen"):  # it follows once a step
        assert rule.label in state.nets[net].ema and jax.tree.structure(ema) == jax.tree.structure(own.params)


def test_penalties_apart_share_one_pace():
    with pytest.raises(UserError, match=r"disc_penalties.*every=\[2, 4\]"):
        mlp(disc_penalties=(R1(every=2, apart=True), GradientPenalty(every=4, apart=True)))


def test_several_penalties_are_a_sum():
    batch = images(4, (2, 2, 1))
    alone = [mlp(disc_penalties=p) for p in (R1(), Drift(strength=1.0))]
    both = mlp(disc_penalties=(R1(), Drift(strength=1.0)))
    w = jax.jit(both.init)(KEY, batch).view()
    none, *ones, sum_ = (jax.jit(m.disc_loss)(w, batch, KEY).each for m in (mlp(), *alone, both))
    np.testing.assert_allclose(sum_ - none, ones[0] - none + ones[1] - none, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("penalty", [R1(), GradientPenalty()], ids=lambda v: type(v).__name__)
def test_a_critic_with_batch_norm_has_no_slope_of_one_example(penalty):
    with pytest.raises(UserError, match=r"method\.disc has batch norm.*method\.disc\.norm=layer"):
        dcgan(disc_penalties=penalty).init(KEY, images(4, (8, 8, 1)))
    jax.eval_shape(dcgan(disc_penalties=Drift()).init, KEY, images(4, (8, 8, 1)))


def test_orders_differ_in_what_the_second_player_meets():
    """gen_first: G's update meets the D of before; disc_first: the one of after."""
    batch = images(4, (2, 2, 1))
    first, second = mlp(order="gen_first"), mlp()
    state = jax.jit(first.init)(KEY, batch)
    disc_rng, gen_rng = jax.random.split(KEY)
    got, _ = jax.jit(first.train_step)(state, batch, KEY)
    by_hand, _ = jax.jit(first.update_gen)(state, batch, gen_rng)
    by_hand, _ = jax.jit(first.update_disc)(by_hand, batch, jax.random.split(disc_rng, 1)[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got.nets, by_hand.nets)
    other, _ = jax.jit(second.train_step)(state, batch, KEY)
    assert any(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (got.nets, other.nets)), strict=True))


@pytest.mark.parametrize("loss", [NonSaturating(), RelativisticAverage()], ids=lambda v: type(v).__name__)
def test_gs_batch_may_be_larger(loss):
    """Three times D's batch: all parts where there are as many, the last ones again where there are fewer."""
    sizes = []

    class Counting(MlpGenerator):
        def __call__(self, z, cond=None, train=False):
            sizes.append(len(z))
            return super().__call__(z, cond, train)

    for n_critic in (1, 4):
        gen = Counting(shape=(2, 2, 1), conditions=labels(3), width=8)
        disc = MlpDiscriminator(conditions=labels(3), width=8, pieces=2, dropout=0.0)
        method = gan(gen, disc, n_critic=n_critic, gen_batch=3, loss=loss)
        batch = images(4 * n_critic, (2, 2, 1), labelled=3)
        state = jax.eval_shape(method.init, KEY, batch)
        sizes.clear()
        jax.eval_shape(method.train_step, state, batch, KEY)
        assert sizes == [4, 12] or set(sizes) == {4, 12}


def test_labels_of_generated_images():
    spec = Spec(pictures((2, 2, 1)), label=Field((), "int32", "label", values=3))
    batch = images(300, (2, 2, 1), labelled=3) | {"label": jnp.zeros(300, jnp.int32).at[:100].set(1)}
    told = {how: mlp(classes=3, spec=spec, fakes=how).told(batch, KEY)["label"] for how in ("batch", "data", "uniform")}
    np.testing.assert_array_equal(told["batch"], batch["label"])
    assert (told["data"] != batch["label"]).any() and (jnp.sort(told["data"]) == jnp.sort(batch["label"])).all()
    assert min(np.bincount(told["uniform"], minlength=3)) > 60
    masked = Spec(pictures((2, 2, 1)), mask=Field((2, 2, 1), "float32", "mask"))
    with pytest.raises(UserError, match="'mask' is a mask"):
        mlp(spec=masked, fakes="uniform")


def leaves(stats):
    """The statistics of every norm."""
    return jax.tree.leaves(stats, is_leaf=lambda v: "mean" in v)


def test_standing_statistics_are_those_of_the_weights_that_sample():
    """G's statistics are found for the average, whatever the raw weights left: those of one large batch of its own."""
    method = dcgan(standing=64, batch=32)
    batch = images(8, (8, 8, 1))
    state = moved(jax.jit(method.init)(KEY, batch), 0.5)
    gen = state.nets["gen"]
    gen = gen.replace(ema=jax.tree.map(lambda v: 0.5 * v, gen.ema), vars=jax.tree.map(lambda v: v + 9.0, gen.vars))
    w = state.replace(nets={**state.nets, "gen": gen}).view(ema=True)
    found = jax.jit(method.settle)(w)["gen"]
    z = method.latents(jax.random.key(5), 4096)
    start = {**w.nets["gen"], "batch_stats": jax.tree.map(jnp.zeros_like, found["batch_stats"])}
    _, vars = method.gen.apply(start, z, {}, train=True)
    for got, new in zip(*(leaves(v["batch_stats"]) for v in (found, vars)), strict=True):
        mean, var = 10 * new["mean"], 10 * new["var"]  # of a training pass a tenth is kept
        np.testing.assert_allclose(got["mean"], mean, atol=0.1 * float(jnp.sqrt(var).max()))
        np.testing.assert_allclose(got["var"], var, rtol=0.2)
    w = w.replace(nets={**w.nets, "gen": {**w.nets["gen"], **found}})
    one, three = (method.sample(w, KEY, n, {}) for n in (1, 3))
    np.testing.assert_allclose(one[0], three[0], atol=1e-5)  # no sample depends on its companions
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, jax.jit(method.settle)(w)["gen"], found)
    )  # nor on what was found before
    masked = Spec(method.spec, mask=Field((8, 8, 1), "float32", "mask"))  # which only data can give
    assert replace(method, stats="running").settle(w) == replace(method, spec=masked).settle(w) == {}
    assert mlp().settle(mlp().init(KEY, batch).view()) == {}
    with pytest.warns(UserWarning, match="stats=batch: a sample .* depends on others"):
        by_batch = replace(method, stats="batch")
    alone, pair = (by_batch.sample(state.view(), KEY, n, {}) for n in (2, 4))
    assert float(jnp.abs(alone - pair[:2]).max()) > 1e-3  # unless asked for


def test_truncated_latents_keep_within_the_threshold():
    for prior in ("normal", "uniform"):
        z = TruncatedLatent(threshold=0.5).latents(KEY, (1000, 3), prior)
        assert 0.45 < float(jnp.abs(z).max()) <= 0.5
    near = TruncatedLatent(threshold=0.01).latents(KEY, (100, 3), "normal")
    assert float(jnp.abs(near).max()) <= 0.01


class Reader(MlpDiscriminator):
    """Says which label an image has, too."""

    def __call__(self, x, cond=None, train=False):
        logit = super().__call__(x, {"label": jnp.zeros(len(x), jnp.int32)}, train)
        return Judged(logit, {"label": jnp.stack([x.mean((1, 2, 3)) * k for k in (1.0, 2.0, 3.0)], -1)})


def test_styles_that_are_mixed_come_of_the_methods_own_prior():
    gen = StyleGan2Generator(shape=(4, 4, 1), channel_base=16, channel_max=4, w_dim=4, layers=1)
    method = gan(gen, MlpDiscriminator(), prior="uniform")
    z = method.drawn(KEY, 500)
    assert z.shape == (500, 2, 4) and 0.95 < jnp.abs(z).max(axis=(0, 2)).min() <= jnp.abs(z).max() <= 1.0
    assert jnp.abs(jnp.corrcoef(z[:, 0].ravel(), z[:, 1].ravel())[0, 1]) < 0.1
    assert mlp().drawn(KEY, 3).shape == (3, 4)


def test_a_discriminator_that_reads_labels_is_paid_for_it():
    """AC-GAN: cross entropy of real labels for D, of those that G was told for G, with weights of their own."""
    batch = images(6, (2, 2, 1), labelled=3)
    gen = MlpGenerator(shape=(2, 2, 1), conditions=labels(3), width=8)
    disc = Reader(conditions=labels(3), width=8, pieces=2, dropout=0.0)
    paid, free = (gan(gen, disc, label_weight=d, gen_label_weight=g) for d, g in ((2.0, 0.5), (0.0, 0.0)))
    w = jax.jit(paid.init)(KEY, batch).view()
    x = paid.target(batch)
    logits = Reader.__call__(disc.bind(w.nets["disc"]), x)
    want = label_loss(logits, {"label": batch["label"]})
    got, without = (m.disc_loss(w, batch, KEY) for m in (paid, free))
    np.testing.assert_allclose(got.each - without.each, 2 * want, rtol=1e-4, atol=1e-6)
    assert 0 <= float(got.metrics["label_accuracy"].mean()) <= 1
    gains = [jnp.mean(m.gen_loss(w, batch, KEY).each) for m in (paid, free)]
    assert float(gains[0]) > float(gains[1])


def test_spread_sees_a_generator_that_knows_one_image_of_each_label():
    method = mlp(classes=3)
    label = jnp.arange(24) % 3
    images = jax.random.normal(KEY, (24, 2, 2, 1))
    same = images[:3][label]
    np.testing.assert_allclose(method.spread(same, {"label": label}), 0.0, atol=1e-6)
    within = np.concatenate([np.asarray(images[label == k]) - np.asarray(images[label == k]).mean(0) for k in range(3)])
    np.testing.assert_allclose(method.spread(images, {"label": label}), np.sqrt((within**2).mean()), rtol=1e-5)
    for few in (
        mlp().spread(same, {}),
        method.spread(same[:6], {"label": label[:6]}),
    ):  # no label, or hardly any of each
        assert float(few) > 0.3


def test_any_labels_covers_every_condition():
    spec = Spec(pictures((2, 2, 1)), a=Field((), "int32", "label", values=2), b=Field((), "int32", "label", values=5))
    drawn = any_labels(spec, 200, KEY)
    assert {k: set(np.asarray(v).tolist()) for k, v in drawn.items()} == {"a": {0, 1}, "b": {0, 1, 2, 3, 4}}


def test_d_is_undecided_half_way_between_the_codes_of_least_squares():
    """All that D says of real images is 0.4: more like a generated one, though above 0; then ADA's p falls."""
    plain = mlp(loss=LeastSquares(), augment=Ada(p=0.5, ramp=100, every=1, pipe="bg", shape=(2, 2, 1)))
    batch = images(4, (2, 2, 1))
    state = jax.jit(plain.init)(KEY, batch)
    flat = jax.tree.map(lambda a: jnp.full_like(a, 0.4 if a.shape == (1,) else 0.0), state.nets["disc"].params)
    w = state.replace(nets={**state.nets, "disc": state.nets["disc"].replace(params=flat)}).view()
    for loss, accuracy, r_t, p in ((LeastSquares(), 0.5, -1, 0.46), (NonSaturating(), 0.5, 1, 0.54)):
        found = jax.jit(replace(plain, loss=loss).disc_loss)(w, batch, KEY)
        assert (found.metrics["accuracy"] == accuracy).all() and (found.metrics["r_t"] == r_t).all()
        np.testing.assert_allclose(found.extra["augment"]["p"], p, rtol=1e-5)


def test_bad_options_are_named():
    with pytest.raises(UserError, match="normal, uniform"):
        mlp(prior="gauss")


RING = 0.7 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], -1).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields, steps",
    [
        ({"loss": NonSaturating(), "disc_penalties": R1(strength=0.3)}, 3000),
        ({"loss": LeastSquares(), "disc_penalties": R1(strength=0.3)}, 3000),
        ({"loss": Wasserstein(), "disc_penalties": GradientPenalty(strength=1.0), "n_critic": 3}, 1000),
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
    method = replace(mlp(), loss=Wasserstein(), disc_penalties=GradientPenalty(), n_critic=5)
    assert method.batches_per_step == 5 and method.z_dim == mlp().z_dim

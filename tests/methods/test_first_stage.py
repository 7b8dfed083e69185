"""First stages: the discriminator's weight, when it begins and counts, the perceptual distance, and what does not fit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import ROOT, untrained

from jaxgen.config import files as configs
from jaxgen.core.method import Encodes, Quantizes, Reconstructs, Samples, Scores
from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.data.sources import Digits
from jaxgen.errors import UserError
from jaxgen.methods.first_stage import KlAutoencoder, NoPerceptual, VqGan
from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.nets.patchgan import PatchGan
from jaxgen.nets.quantize import FsqQuantizer, GradientQuantizer
from jaxgen.runs.frozen import FrozenRun
from jaxgen.runs.setup import configure

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)


def batch(num=4):
    return {"image": jax.random.randint(KEY, (num, *SHAPE), 0, 256).astype(jnp.uint8)}


def first_stage(cls=KlAutoencoder, regularizer=None, net=None, **options):
    own = NormalRegularizer(dim=2) if cls is KlAutoencoder else GradientQuantizer(codes=8, dim=2)
    sizes = {**dict(width=4, mults=(1,), blocks=1, attend_mid=False, z=2, groups=2), **(net or {})}
    ae = LdmAutoencoder(regularizer or own, SHAPE, **sizes)
    nets = {"ae": Net(ae, optax.adam(1e-3)), "disc": Net(PatchGan(width=4, layers=1), optax.adam(1e-3))}
    options = {"perceptual": NoPerceptual(), **options}
    return cls(**nets, spec=pictures(SHAPE), **options)


def run(method, steps):
    """States after each of so many steps, and their metrics."""
    step = jax.jit(method.train_step)
    states, told = [jax.jit(method.init)(KEY, batch())], []
    for i in range(steps):
        state, metrics = step(states[-1], batch(), jax.random.fold_in(KEY, i))
        states.append(state)
        told.append(metrics)
    return states, told


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_capabilities():
    vq, kl = first_stage(VqGan), first_stage()
    for method in (vq, kl):
        assert isinstance(method, Reconstructs) and isinstance(method, Encodes)
        assert not isinstance(method, Samples) and not isinstance(method, Scores)
    assert isinstance(vq, Quantizes) and not isinstance(kl, Quantizes)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [VqGan, KlAutoencoder])
def test_the_gradient_is_that_of_the_weighed_sum(cls):
    """Against the losses written down as they stand, with the weight by two gradients of the last kernel."""
    learned = cls is KlAutoencoder
    method = first_stage(cls, disc_weight=0.7, net={"learn_log_var": learned})
    state = jax.jit(method.init)(KEY, batch())
    w, x = state.view(), method.target(batch())
    code_rng, net_rng, disc_rng = jax.random.split(KEY, 3)
    rngs = {"codebook": code_rng, "dropout": net_rng}

    def parts(params):
        ae = {**w.nets["ae"], "params": params}
        (y, q), _ = method.ae.apply(ae, x, train=True, rngs=rngs)
        off, s = jnp.abs(x - y), params.get("log_var", 0.0)
        nll = (off * jnp.exp(-s) + s).reshape(len(x), -1).sum(-1).mean() if learned else off.mean()
        logits, _ = method.disc.apply(w.nets["disc"], y, {}, train=True, rngs={"dropout": disc_rng})
        return nll, -logits.mean(), q.loss.mean()

    @jax.jit
    def both(params):
        of = lambda i: jax.grad(lambda p: parts(p)[i])(params)["decoder"]["conv_out"]["kernel"]  # noqa: E731
        weight = 0.7 * jnp.linalg.norm(of(0).ravel()) / (jnp.linalg.norm(of(1).ravel()) + 1e-4)

        def whole(p):
            nll, gen, codes = parts(p)
            return nll + weight * gen + codes

        return weight, jax.grad(whole)(params)

    weight, want = both(w.nets["ae"]["params"])

    @jax.jit
    def ours(params):
        loss = lambda p: method.ae_loss(w.training("ae", p), x, KEY)  # noqa: E731
        return jax.grad(lambda p: (lambda found: (found.each.mean(), found.metrics))(loss(p)), has_aux=True)(params)

    grads, metrics = ours(w.nets["ae"]["params"])
    np.testing.assert_allclose(metrics["g_weight"], weight, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4 * float(jnp.abs(b).max()) + 1e-7)


def test_latents_are_draws_of_the_posterior():
    regularizer = NormalRegularizer(dim=2, kl_weight=0.5)
    h = jax.random.normal(KEY, (3, 2, 2, 4))
    mean, log_var = regularizer.apply({}, h, method="moments")
    still = regularizer.apply({}, h)
    np.testing.assert_array_equal(still.codes, mean)
    draw = lambda key: regularizer.apply({}, h, train=True, rngs={"codebook": key}).codes  # noqa: E731
    z = (jax.jit(jax.vmap(draw))(jax.random.split(KEY, 500)) - mean) / jnp.exp(0.5 * log_var)
    assert abs(float(z.mean())) < 0.05 and abs(float(z.std()) - 1.0) < 0.05
    log_p = lambda z, mean, log_var: -0.5 * (log_var + (z - mean) ** 2 / jnp.exp(log_var))  # noqa: E731
    draws = jax.vmap(draw)(jax.random.split(KEY, 4000))
    ratio = (log_p(draws, mean, log_var) - log_p(draws, 0.0, 0.0)).reshape(4000, 3, -1).sum(-1).mean(0)
    np.testing.assert_allclose(still.metrics["kl"], ratio, rtol=0.05)
    np.testing.assert_allclose(still.loss, 0.5 * still.metrics["kl"])


@pytest.mark.slow
def test_while_the_discriminator_warms_up_nothing_of_the_autoencoder_changes():
    """It is fresh until `disc_start`, learns from then on, and is heard after `disc_warmup`, by a ramp."""
    states, told = run(first_stage(disc_start=1, disc_warmup=2, disc_ramp=2), 5)
    alone, _ = run(first_stage(disc_weight=0.0), 5)
    assert equal(states[1].nets["disc"], states[0].nets["disc"])
    for a, b in itertools.pairwise(states[1:]):
        assert not equal(a.nets["disc"].params, b.nets["disc"].params)
    for i in (1, 2, 3):
        for a, b in zip(jax.tree.leaves(states[i].nets["ae"]), jax.tree.leaves(alone[i].nets["ae"]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert [bool(m["g_weight"] > 0) for m in told] == [False, False, False, True, True]
    assert not equal(states[4].nets["ae"].params, alone[4].nets["ae"].params)
    share = first_stage(disc_start=0.5, disc_warmup=0.1, disc_ramp=10, disc_weight=0.8, steps=100).share
    np.testing.assert_allclose([float(share(i)) for i in (59, 60, 64, 69, 99)], [0.0, 0.08, 0.4, 0.8, 0.8], atol=1e-6)


@pytest.mark.slow
def test_pictures_are_compared_by_a_classifier_of_the_data(tmp_path):
    configure()
    spec = Digits().open("train").spec
    config = configs.override(configs.load(f"{ROOT}/configs/classifier_digits.py:tiny"), {"mesh": {"data": 1}})
    lender = FrozenRun(untrained(config, spec, tmp_path, True))
    method = first_stage(perceptual=lender, perceptual_weight=2.0, disc_weight=0.0, reduce="mean")
    loan = method.loans()["perceptual"]
    loan.lender.check("config.method.perceptual", loan.role, spec, method)
    other = FrozenRun(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"config.method.perceptual.path=.*holds no run"):
        other.check("config.method.perceptual", loan.role, spec, method)
    mesh = jax.make_mesh((1,), ("data",))
    places = jax.tree.map(lambda _: jax.NamedSharding(mesh, jax.P()), lender.abstract)
    state = jax.jit(method.init)(KEY, batch()).replace(frozen={"perceptual": lender.load(places)})
    w, x = state.view(), method.target(batch())
    same, _ = jax.jit(method.distances)(w, x, x)
    off, told = jax.jit(method.distances)(w, x, -x)
    np.testing.assert_allclose(same, 0.0, atol=1e-6)
    np.testing.assert_allclose(off, told["distance"] + 2.0 * told["perceptual"], rtol=1e-5)
    assert (told["perceptual"] > 0.01).all()
    _, metrics = jax.jit(method.train_step)(state, batch(), KEY)
    assert metrics["perceptual"] > 0


def test_codes_without_a_codebook():
    method = first_stage(VqGan, FsqQuantizer(levels=(3, 3)))
    w = jax.jit(method.init)(KEY, batch()).view()
    ids = jax.jit(method.encode)(w, batch()["image"], KEY)
    assert ids.shape == (4, 8, 8) and method.codes == 9
    np.testing.assert_allclose(jax.jit(method.decode)(w, ids), jax.jit(method.reconstruct)(w, batch(), KEY), atol=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: first_stage(VqGan, NormalRegularizer(dim=2)), "no quantiser.*kl_autoencoder.*set method.ae.regularizer=grad"),
        (lambda: first_stage(KlAutoencoder, GradientQuantizer()), "quantises.*vqgan.*set method.ae.regularizer=normal"),
        (lambda: first_stage(disc_start=100, steps=100), "is step 100, and the run ends at 100; set method.disc_start=0.33"),
        (lambda: first_stage(net={"project": 0, "z": 3}).init(KEY, batch()), "set method.ae.z=2"),
        (lambda: first_stage(net={"mults": (1,) * 5}).init(KEY, batch()), r"by 16, which 8x8 .*set method.ae.mults=\(1, 1, 1, 1\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_perceptual_distance_is_never_left_to_a_default():
    config = configs.load(f"{ROOT}/configs/vqgan_mnist.py")
    with config.unlocked():
        del config.method.perceptual
    with pytest.raises(UserError, match=r"config.method.perceptual is missing: vqgan needs it"):
        configs.normalise(config)

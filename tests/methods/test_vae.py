"""The VAE's bound: above by the exact likelihood, tighter with more draws, and learned in seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.method import Encodes, Infers, Reconstructs, Samples, Scores
from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.losses.pixel_likelihood import Bernoulli, DiscretisedLogistic, Gaussian
from jaxgen.methods.vae import Vae
from jaxgen.nets.autoencoder import ConvDecoder, ConvEncoder, MlpDecoder, MlpEncoder, VaeNet
from jaxgen.nets.vdvae import Vdvae

KEY = jax.random.key(0)


def vae(shape, latent=3, width=32, depth=1, lr=1e-3, **fields):
    module = VaeNet(MlpEncoder(width, depth), MlpDecoder(shape, width, depth), latent)
    return Vae(net=Net(module, optax.adam(lr)), spec=pictures(shape), **fields)


def train(method, images, steps, batch=64):
    """A run on random batches of an array, all in one scan."""

    @jax.jit
    def run(state):
        def step(state, i):
            rng = jax.random.fold_in(KEY, i)
            rows = jax.random.randint(rng, (batch,), 0, len(images))
            return method.train_step(state, {"image": images[rows]}, rng)

        return jax.lax.scan(step, state, jnp.arange(steps))

    return run(jax.jit(method.init)(KEY, {"image": images[:batch]}))


def test_capabilities():
    method = vae((4, 4, 1))
    assert all(isinstance(method, c) for c in (Samples, Reconstructs, Encodes, Scores, Infers)) and method.takes == (
        "label",
    )


def test_bounds_under_the_exact_likelihood():
    """A linear decoder with Gaussian noise has log p(x) = log N(x; b, W W' + s^2 I): L_1 < L_10 < L_1000 ~ log p."""
    shape, sigma = (2, 3, 1), 0.5
    method = vae(shape, latent=2, depth=0, likelihood=Gaussian(sigma=sigma))
    x = jax.random.normal(KEY, (32, *shape))
    batch = {"image": x}
    state = jax.jit(method.init)(KEY, batch)
    params = jax.tree.map(lambda p: p, state.nets["net"].params)
    kernel = 0.7 * jax.random.normal(jax.random.key(1), (2, 6))
    params["decoder"]["Dense_0"]["kernel"] = kernel
    state = state.replace(nets={"net": state.nets["net"].replace(params=params)})
    bias = params["decoder"]["Dense_0"]["bias"]
    covariance = kernel.T @ kernel + sigma**2 * jnp.eye(6)
    exact = jax.scipy.stats.multivariate_normal.logpdf(x.reshape(32, 6), bias, covariance)

    w = state.view()
    step = jax.jit(method.eval_step)
    elbo = np.mean([step(w, batch, k)["elbo"].mean() for k in jax.random.split(KEY, 20)])
    bounds = []
    for samples in (1, 10, 1000):
        scored = vae(shape, latent=2, depth=0, likelihood=Gaussian(sigma=sigma), iwae_samples=samples, iwae_chunk=10)
        keys = jax.random.split(KEY, 20 if samples < 1000 else 1)
        score = jax.jit(scored.log_prob)
        bounds.append(np.mean([score(w, batch, k).mean() for k in keys]))
    np.testing.assert_allclose(bounds[0], elbo, rtol=0.05)  # one draw is the ELBO
    assert bounds[0] < bounds[1] < bounds[2] < exact.mean() + 0.05
    np.testing.assert_allclose(bounds[2], exact.mean(), atol=0.15)


def test_chunks_do_not_change_the_bound():
    x = {"image": jax.random.normal(KEY, (5, 2, 2, 1)).clip(-1, 1)}
    fields = dict(shape=(2, 2, 1), iwae_samples=7)
    w = jax.jit(vae(**fields).init)(KEY, x).view()
    scores = [jax.jit(vae(**fields, iwae_chunk=c).log_prob)(w, x, KEY) for c in (1, 3, 7)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    np.testing.assert_allclose(scores[0], scores[2], rtol=1e-5)


def test_beta_and_its_warmup():
    x = {"image": jax.random.uniform(KEY, (6, 4, 4, 1), minval=-1.0)}
    method = vae((4, 4, 1), beta=4.0, beta_warmup=10)
    state = jax.jit(method.init)(KEY, x)
    evaluate = jax.jit(method.eval_step)
    for step, beta in ((0, 0.4), (4, 2.0), (9, 4.0), (100, 4.0)):
        out = evaluate(state.replace(step=jnp.int32(step)).view(), x, KEY)
        np.testing.assert_allclose(out["loss"], out["nll"] + beta * out["kl"], rtol=1e-5)
        np.testing.assert_allclose(out["elbo"], -out["nll"] - out["kl"], rtol=1e-5)


def test_prices_of_the_divergence():
    """Capacity costs what is above or below it; free nats of a channel cost as much as those that it uses up to there."""
    x = {"image": jax.random.uniform(KEY, (6, 4, 4, 1), minval=-1.0)}
    fields = dict(shape=(4, 4, 1), beta=2.0, likelihood=Gaussian())
    method = vae(**fields)
    state = jax.jit(method.init)(KEY, x)
    w = state.view()
    plain = jax.jit(method.eval_step)(w, x, KEY)
    for step, capacity in ((4, 10.0), (9, 20.0), (50, 20.0)):
        held = vae(**fields, capacity=20.0, capacity_steps=10)
        found = jax.jit(held.eval_step)(state.replace(step=jnp.int32(step)).view(), x, KEY)
        np.testing.assert_allclose(found["loss"], plain["nll"] + 2.0 * jnp.abs(plain["kl"] - capacity), rtol=1e-5)
    _, each = jax.jit(method.inferred)(w, x, KEY)
    free = float(each.mean())
    freed = vae(**fields, free=free)
    found = jax.jit(freed.eval_step)(w, x, KEY)
    np.testing.assert_allclose(found["loss"], plain["nll"] + 2.0 * jnp.maximum(each, free).sum(-1), rtol=1e-5)
    trained = jax.jit(lambda w: freed.loss(w, x, KEY, True).each.mean())(w)  # in training the batch's mean is compared
    np.testing.assert_allclose(trained, plain["nll"].mean() + 2.0 * jnp.maximum(each.mean(0), free).sum(), rtol=1e-5)


def test_a_label_is_told_to_both_sides():
    spec = pictures((4, 4, 1), 3)
    module = VaeNet(MlpEncoder(16), MlpDecoder((4, 4, 1), 16), 2, conditions=spec.conditions)
    method = Vae(net=Net(module, optax.adam(1e-3)), spec=spec)
    x = {"image": jax.random.uniform(KEY, (3, 4, 4, 1), minval=-1.0), "label": jnp.array([0, 1, 2])}
    w = jax.jit(method.init)(KEY, x).view()
    z = jnp.zeros((4, 2))
    made = method.from_latents(w, z, {"label": jnp.array([0, 1, 2, 3])})  # the last is the null label
    assert len(jnp.unique(made.reshape(4, -1), axis=0)) == 4
    np.testing.assert_array_equal(method.decode(w, z[:1]), made[3:])
    still = {**x, "image": jnp.zeros((3, 4, 4, 1))}
    assert len(jnp.unique(method.inferred(w, still, KEY)[0], axis=0)) == 3


@pytest.mark.slow
def test_groups_of_a_hierarchical_one_have_the_divergence_of_their_densities():
    """The analytic KL of all groups, and the draws' log q(z | x) - log p(z) that the bound of K draws uses, agree."""
    module = Vdvae((4, 4, 1), width=4, z=1, enc="4d2", dec="2x1,4m2")
    method = Vae(net=Net(module, optax.adam(1e-3)), spec=pictures((4, 4, 1)), likelihood=Gaussian(), iwae_samples=1)
    assert module.sizes == method.sizes == (4, 16) and module.latent == 20
    x = {"image": jnp.repeat(jax.random.uniform(KEY, (1, 4, 4, 1), minval=-1.0), 1_000, 0)}

    @jax.jit
    def look(rng):
        w = method.init(rng, x).view()
        noisy = jax.tree.map(
            lambda p: p + 0.2 * jax.random.normal(rng, p.shape), w.nets["net"]
        )  # priors begin at N(0, I)
        w = w.replace(nets={"net": noisy})
        z, divergences = method.inferred(w, jax.tree.map(lambda v: v[:1], x), rng)
        return method.eval_step(w, x, rng), method.log_prob(w, x, rng), z, divergences

    found, one_draw, z, divergences = look(KEY)
    np.testing.assert_allclose(found["kl"], found["kl_2x2"] + found["kl_4x4"], rtol=1e-4)
    assert found["kl"].mean() > 0.5
    np.testing.assert_allclose(one_draw.mean(), found["elbo"].mean(), atol=6 * one_draw.std() / 1_000**0.5)
    assert z.shape == divergences.shape == (1, 20)


def test_bits_only_where_pixels_have_levels():
    x = {"image": jax.random.randint(KEY, (3, 4, 4, 2), 0, 256).astype(jnp.uint8)}
    for likelihood, wanted in ((Gaussian(), False), (Bernoulli(), True), (DiscretisedLogistic(), True)):
        method = vae((4, 4, 2), likelihood=likelihood)
        out = jax.jit(method.eval_step)(jax.jit(method.init)(KEY, x).view(), x, KEY)
        assert ("bits_per_dim" in out) == wanted
        if wanted:
            np.testing.assert_allclose(out["bits_per_dim"], -out["elbo"] / (32 * np.log(2)), rtol=1e-5)


def test_convolutions_of_any_size():
    for shape in ((8, 8, 1), (7, 10, 4)):
        module = VaeNet(ConvEncoder(8, 4), ConvDecoder(shape, 8, 4), 3)
        method = Vae(net=Net(module, optax.adam(1e-3)), spec=pictures(shape), likelihood=DiscretisedLogistic())
        batch = {"image": jnp.zeros((2, *shape), jnp.uint8)}
        w = jax.eval_shape(method.init, KEY, batch).view()
        assert jax.eval_shape(lambda w, m=method: m.sample(w, KEY, 5, {}), w).shape == (5, *shape)
        assert jax.eval_shape(method.reconstruct, w, batch, KEY).shape == (2, *shape)
        z = jax.eval_shape(method.encode, w, batch["image"], KEY)
        assert z.shape == (2, 3) and jax.eval_shape(method.decode, w, z).shape == (2, *shape)


def test_learns_digits(digits):
    """Under 92 nats on held-out digits (17 grey levels: a uniform guess costs 181)."""
    likelihood = DiscretisedLogistic(levels=17)
    method = vae((8, 8, 1), latent=10, width=128, depth=2, lr=2e-3, likelihood=likelihood)
    state, metrics = train(method, digits["train"], 1000)
    held_out = {"image": digits["eval"]}
    elbo = float(jax.jit(method.eval_step)(state.view(), held_out, KEY)["elbo"].mean())
    bound = float(jax.jit(method.log_prob)(state.view(), held_out, KEY).mean())
    assert elbo > -92.0 and elbo < bound < -60.0
    assert metrics["kl"][-1] > 5.0  # the code is used
    error = (jax.jit(method.reconstruct)(state.view(), held_out, KEY) - (digits["eval"] / 127.5 - 1.0)) ** 2
    assert error.mean() < 0.1  # the variance of the pixels is 0.56

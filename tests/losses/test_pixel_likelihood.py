"""Likelihoods are distributions, and the KL divergence is the one of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.losses.pixel_likelihood import (
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    LearnedGaussian,
    LogisticMixture,
    kl_each,
    log_normal,
    per_example,
)

KEY = jax.random.key(0)
ALL = [Bernoulli(), Gaussian(sigma=0.3), LearnedGaussian(), DiscretisedLogistic(), LogisticMixture(mixtures=2)]
ALL.append(Categorical(levels=17))


def test_kl_equals_its_monte_carlo_estimate():
    mean, log_var = jnp.array([[0.5, -1.0], [2.0, 0.0]]), jnp.array([[0.3, -1.0], [-2.0, 0.7]])
    z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(KEY, (200_000, 2, 2))
    ratio = jax.vmap(lambda z: log_normal(z, mean, log_var) - log_normal(z, 0.0, 0.0))(z)
    np.testing.assert_allclose(ratio.mean(0), per_example(kl_each(mean, log_var)), rtol=0.01)
    np.testing.assert_allclose(kl_each(jnp.zeros((1, 3)), jnp.zeros((1, 3))), 0.0, atol=1e-7)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("mean, log_scale", [(0.0, -2.0), (0.3, -6.0), (-1.4, -1.0), (1.0, -30.0), (0.1, 4.0)])
def test_discretised_logistic_sums_to_one(levels, mean, log_scale):
    x = jnp.linspace(-1.0, 1.0, levels).reshape(levels, 1, 1, 1)
    out = jnp.broadcast_to(jnp.array([mean, log_scale]), (levels, 1, 1, 2))
    log_p = DiscretisedLogistic(levels=levels).log_prob(out, x)
    assert jnp.isfinite(log_p).all()
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, rtol=1e-4)


def test_discretised_logistic_has_finite_gradients_far_from_the_image():
    x = jnp.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    out = jnp.broadcast_to(jnp.array([50.0, -20.0]), (3, 1, 1, 2))
    grads = jax.grad(lambda o: DiscretisedLogistic().log_prob(o, x).sum())(out)
    assert jnp.isfinite(grads).all()
    assert grads[0, 0, 0, 0] < 0  # the mean is pulled back to the dark pixel


@pytest.mark.parametrize("channels, scale", [(1, 1.0), (2, 3.0), (3, 1.0), (3, 8.0)])
def test_logistic_mixture_sums_to_one_and_is_drawn_from(channels, scale):
    """Over every colour of 8 levels (4 are drawn: 64 colours have frequencies), also where components are far away."""
    for levels in (8, 4):
        likelihood = LogisticMixture(levels=levels, mixtures=3)
        out = scale * jax.random.normal(KEY, (likelihood.params(channels),))
        colours = jnp.stack(jnp.meshgrid(*[jnp.linspace(-1.0, 1.0, levels)] * channels), -1).reshape(-1, 1, 1, channels)
        log_p = likelihood.log_prob(jnp.broadcast_to(out, (len(colours), 1, 1, out.size)), colours)
        np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, rtol=1e-4)
    drawn = likelihood.sample(jnp.broadcast_to(out, (20_000, 1, 1, out.size)), KEY)
    found = jnp.abs(drawn - colours[:, 0, 0]).max(-1)[:, 0] < 1e-6  # [draws, colours]
    assert (found.sum(-1) == 1).all()
    np.testing.assert_allclose(found.mean(0), jnp.exp(log_p), atol=0.015)


@pytest.mark.parametrize("likelihood", [Categorical(levels=4), Bernoulli()], ids=lambda v: type(v).__name__)
def test_levels_have_the_probabilities_of_their_logits(likelihood):
    """Two channels, which know nothing of each other; at half the temperature probabilities are squared."""
    out = jax.random.normal(KEY, (likelihood.params(2),))
    levels = jnp.linspace(-1.0, 1.0, likelihood.levels)
    pairs = jnp.stack(jnp.meshgrid(levels, levels, indexing="ij"), -1).reshape(-1, 1, 1, 2)
    log_p = lambda o: likelihood.log_prob(jnp.broadcast_to(o, (len(pairs), 1, 1, o.size)), pairs)  # noqa: E731
    logits = out.reshape(-1, 2) if likelihood.levels > 2 else jnp.stack([jnp.zeros(2), out])
    shares = jax.nn.softmax(logits, 0)
    np.testing.assert_allclose(jnp.exp(log_p(out)).reshape(len(levels), -1), shares[:, :1] * shares[:, 1], rtol=1e-5)
    squared = jnp.exp(2 * log_p(out))
    np.testing.assert_allclose(jnp.exp(log_p(likelihood.tempered(out, 0.5))), squared / squared.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    "likelihood", [DiscretisedLogistic(), LogisticMixture(mixtures=3)], ids=lambda v: type(v).__name__
)
def test_a_lower_temperature_narrows_logistics(likelihood):
    """The spread of samples falls with it, and nothing is left of it at 0."""
    out = 0.3 * jax.random.normal(KEY, (2_000, 1, 1, likelihood.params(3))).at[1:].set(0.0)
    out = jnp.broadcast_to(out[:1], out.shape)
    spread = [float(likelihood.sample(likelihood.tempered(out, t), KEY).std(0).mean()) for t in (0.3, 0.1, 1e-4)]
    assert spread[0] > 1.5 * spread[1] and spread[2] < 0.01


@pytest.mark.parametrize("likelihood", [Gaussian(sigma=0.2), LearnedGaussian()])
def test_densities_integrate_to_one(likelihood):
    x = jnp.linspace(-4.0, 4.0, 4001).reshape(-1, 1, 1, 1)
    out = jnp.broadcast_to(jnp.array([0.1, -1.0])[: likelihood.params(1)], (4001, 1, 1, likelihood.params(1)))
    np.testing.assert_allclose(jnp.exp(likelihood.log_prob(out, x)).sum() * (8 / 4000), 1.0, rtol=1e-3)


@pytest.mark.parametrize("likelihood", ALL, ids=lambda v: type(v).__name__)
def test_samples_have_the_stated_mean_and_range(likelihood):
    out = 0.2 * jax.random.normal(KEY, (1, 3, 2, likelihood.params(2)))
    many = jax.vmap(lambda k: likelihood.sample(out, k))(jax.random.split(KEY, 20_000))
    assert many.shape == (20_000, 1, 3, 2, 2) and jnp.abs(many).max() <= 1.0
    assert likelihood.mean(out).shape == (1, 3, 2, 2)
    if not isinstance(
        likelihood, DiscretisedLogistic | LearnedGaussian | LogisticMixture
    ):  # wide noise is cut at -1 and 1
        np.testing.assert_allclose(many.mean(0), likelihood.mean(out), atol=0.03)


def test_bernoulli_is_the_cross_entropy_and_binarises():
    x = jnp.array([1.0, -1.0]).reshape(2, 1, 1, 1)
    logits = jnp.array([0.7, 0.7]).reshape(2, 1, 1, 1)
    p = jax.nn.sigmoid(0.7)
    np.testing.assert_allclose(Bernoulli().log_prob(logits, x), jnp.log(jnp.array([p, 1 - p])), rtol=1e-5)
    grey = jnp.full((100, 10, 10, 1), 0.5)
    drawn = Bernoulli().prepare(grey, KEY)
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.03)
    assert (Bernoulli(binarize="threshold").prepare(grey, KEY) == 1.0).all()
    assert (Bernoulli(binarize="none").prepare(grey, KEY) == grey).all()
    with pytest.raises(UserError, match="dynamic, threshold, none"):
        Bernoulli(binarize="sometimes")

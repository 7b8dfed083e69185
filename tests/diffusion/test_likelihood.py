"""Laws of likelihood: the bound and the flow of an analytic model equal the exact value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.bound import (
    ChainBound,
    chain,
    grey_level_log_prob,
    normal_kl,
    prior,
    term,
    variational_bound,
)  # fmt: skip
from jaxgen.diffusion.flow_likelihood import FlowLikelihood
from jaxgen.diffusion.paths import VE, Linear, Sigma, Trigonometric, VpSde
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers.table import Estimate
from jaxgen.errors import UserError
from jaxgen.metrics.bits_per_dim import bits_per_dim

MEAN, STD = 0.3, 0.2


def exact(process):
    def denoise(x, t):
        a, s = (f(t).reshape(-1, *(1,) * (x.ndim - 1)) for f in (process.alpha, process.sigma))
        return MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)

    return denoise


@pytest.mark.parametrize(
    "process", [VpSde(), Sigma(), Linear(), Trigonometric(), VE(0.01, 50.0), VP("cosine")], ids=str
)
def test_the_flows_likelihood_is_the_densitys(process):
    y = jnp.asarray(np.random.default_rng(0).standard_normal((16, 12)) * STD + MEAN, jnp.float32)
    flow = FlowLikelihood(prior_variance=STD**2 + MEAN**2)
    got = jax.jit(lambda y: flow.log_density(exact(process), process, y, jax.random.key(0)))(y)
    low = max(
        flow.low, float(process.sigma(np.array([process.first]))[0] / process.alpha(np.array([process.first]))[0])
    )
    var = STD**2 + low**2
    want = (-0.5 * (y - MEAN) ** 2 / var - 0.5 * np.log(2 * np.pi * var)).sum(1)
    np.testing.assert_allclose(got, want, atol=0.05)  # nats of 12 dimensions: 0.006 bits each


def test_the_divergence_is_unbiased_when_pixels_depend_on_each_other():
    """A correlated Gaussian: one probe is noisy, many agree with log det."""
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((4, 4)) * 0.2 + 0.4 * np.eye(4)
    cov = jnp.asarray(mix @ mix.T, jnp.float32)
    process = Sigma()

    def denoise(x, t):
        s = process.sigma(t)[0]
        return jnp.linalg.solve(cov + s**2 * jnp.eye(4), x.T).T @ cov

    y = jnp.asarray(rng.standard_normal((3, 4)) @ mix.T, jnp.float32)
    flow = FlowLikelihood(steps=40, probes=400)
    got = jax.jit(lambda y: flow.log_density(denoise, process, y, jax.random.key(0)))(y)
    want = jax.scipy.stats.multivariate_normal.logpdf(y, jnp.zeros(4), cov)
    np.testing.assert_allclose(got, want, atol=0.25)


@pytest.mark.parametrize("levels", [256, 17])
def test_the_masses_of_all_levels_sum_to_one(levels):
    """Each from one draw within the level: the sum is 1 on average."""
    x = jnp.linspace(-1, 1, levels)[:, None]
    nats = FlowLikelihood(steps=60, levels=levels)(exact(Sigma()), Sigma(), x, jax.random.key(0))
    assert float(jnp.exp(-nats).sum()) == pytest.approx(1.0, abs=0.05)


def test_what_has_no_levels_has_its_density():
    process, x = Sigma(), jnp.full((2, 3), MEAN)
    flow = FlowLikelihood(steps=60, levels=0)
    np.testing.assert_allclose(
        flow(exact(process), process, x, jax.random.key(0)) / 3, np.log(STD * np.sqrt(2 * np.pi)), atol=0.05
    )
    assert flow.kind == "exact" and FlowLikelihood().kind == "bound"


def with_variance(process):
    """The exact reverse step of Gaussian data is Gaussian: its variance as a learned fraction between the bounds."""
    table = chain(process)

    def denoise(x, t):
        step = jnp.round(t * process.steps).astype(int)[:, None] - 1
        small, large, data = (jnp.asarray(v)[step] for v in (table.small, table.large, table.data))
        a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
        spread = STD**2 * s**2 / (a**2 * STD**2 + s**2)  # of x_0 given x_t
        log_var = jnp.log(jnp.where(step == 0, 0.0, jnp.exp(small)) + data**2 * spread)
        return Estimate(exact(process)(x, t), jnp.broadcast_to((log_var - small) / (large - small), x.shape))

    return denoise


@pytest.mark.parametrize(
    ("process", "levels"),
    [(VP("cosine", 400), 256), (VP("linear", 100), 256), (VP("linear", 100), 0)],
    ids=["cosine", "linear", "density"],
)
def test_the_bound_is_tight_for_an_exact_model(process, levels):
    """With the exact variance it is the entropy in levels, or of the density; with either fixed one it lies above."""
    x = np.random.default_rng(0).standard_normal((256, 8)) * STD + MEAN
    units = 0.5 * (levels - 1) if levels else 1.0  # levels in 1
    x = jnp.asarray(np.round((x + 1) * units) / units - 1 if levels else x, jnp.float32)
    got = {
        kind: variational_bound(with_variance(process), process, x, jax.random.key(0), kind, False, levels)
        for kind in ("learned", "small", "large")
    }
    bits = {kind: float(bits_per_dim(-bound.total, 8).mean()) for kind, bound in got.items()}
    assert bits["learned"] == pytest.approx(np.log2(STD * np.sqrt(2 * np.pi * np.e) * units), abs=0.06)
    assert bits["small"] > bits["learned"] + 0.02 and bits["large"] > bits["learned"] + 0.02
    assert got["small"].terms.shape == (256, process.steps) and (got["small"].terms[:, 1:].mean(0) > -1e-3).all()
    np.testing.assert_allclose(got["small"].prior, prior(process, x))


def test_one_term_is_the_kl_of_two_gaussians():
    process = VP("linear", 40)
    x0, x, guess = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5, 4)) * 0.4, jnp.float32)
    step = np.array([2, 5, 10, 39, 40])
    table = chain(process)
    got = term(process, x0, x, jnp.asarray(step / 40), guess, jnp.asarray(table.small)[step - 1][:, None])
    want = 0.5 * (table.data**2 / np.exp(table.small))[step - 1][:, None] * (guess - x0) ** 2
    np.testing.assert_allclose(got, want.sum(1), rtol=1e-3)


def test_kl_and_grey_levels():
    kl = normal_kl(jnp.array(0.3), jnp.log(0.5), jnp.array(-0.1), jnp.log(2.0))
    x = np.random.default_rng(0).standard_normal(200_000) * 0.5**0.5 + 0.3
    monte_carlo = (-0.5 * (x - 0.3) ** 2 / 0.5 - 0.5 * np.log(0.5) + 0.5 * (x + 0.1) ** 2 / 2 + 0.5 * np.log(2)).mean()
    assert float(kl) == pytest.approx(monte_carlo, abs=0.01)
    for levels in (2, 17, 256):
        each = jnp.linspace(-1, 1, levels)
        total = jnp.exp(grey_level_log_prob(each, jnp.float32(0.2), jnp.log(0.3), levels)).sum()
        assert float(total) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ChainBound()(None, Linear(), jnp.zeros((1, 2)), jax.random.key(0)), "process.name=vp"),
        (lambda: ChainBound("huge"), "nll.variance='huge'"),
        (lambda: FlowLikelihood(low=2.0, high=1.0), "nll.low=2.0 is not below high=1.0"),
    ],
)
def test_mistakes_name_the_field(make, words):
    with pytest.raises(UserError, match=words):
        make()

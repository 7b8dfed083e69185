"""Laws of guidance: scale 1 is the model, every solver takes every guide, learned variances pass through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import exponential, guide, ode, solve
from jaxgen.diffusion.paths import VpSde
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.table import Estimate
from jaxgen.errors import UserError


def model(x, t, label):
    return 0.5 * x * t[:, None] + jnp.sin(x) + 0.1 * label[:, None]


def weak(x, t, label):
    return 0.3 * x


X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6)), jnp.float32)
T, LABEL = jnp.array([0.1, 0.4, 0.5, 0.9]), jnp.array([0, 1, 2, 3])
ONE = [guide.ClassifierFree(1.0), guide.Interval(1.0), guide.Rescaled(1.0), guide.Autoguidance(1.0), guide.Negative(1.0, 2),
       guide.ByClassifier(1.0), guide.NoGuide()]  # fmt: skip
SHARP = [guide.ClassifierFree(3.0), guide.Interval(3.0, 0.0, 1.0), guide.Rescaled(3.0, 0.0), guide.Negative(3.0, 9)]


@pytest.mark.parametrize("rule", ONE, ids=lambda g: type(g).__name__)
def test_scale_one_is_the_identity(rule):
    got = rule(model, LABEL, 9, weak)(X, T)
    np.testing.assert_allclose(got, model(X, T, LABEL), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("rule", SHARP, ids=lambda g: type(g).__name__)
def test_all_forms_of_classifier_free_guidance_agree_where_they_must(rule):
    want = 3 * model(X, T, LABEL) - 2 * model(X, T, jnp.full(4, 9))
    np.testing.assert_allclose(rule(model, LABEL, 9, weak)(X, T), want, rtol=1e-5, atol=1e-6)


def test_the_interval_is_kept():
    rule = guide.Interval(3.0, 0.3, 0.7)
    for t, guided in ((0.1, False), (0.5, True), (0.9, False)):
        now = jnp.full(4, t)
        want = guide.ClassifierFree(3.0 if guided else 1.0)(model, LABEL, 9)(X, now)
        np.testing.assert_allclose(jax.jit(rule(model, LABEL, 9))(X, now), want, rtol=1e-5, atol=1e-6)


def test_rescaling_restores_the_contrast():
    got = guide.Rescaled(7.5, 1.0)(model, LABEL, 9)(X, T)
    np.testing.assert_allclose(jnp.std(got, axis=1), jnp.std(model(X, T, LABEL), axis=1), rtol=1e-4)


def test_autoguidance_goes_away_from_the_weak_model():
    got = guide.Autoguidance(2.0)(model, LABEL, 9, weak)(X, T)
    np.testing.assert_allclose(got, 2 * model(X, T, LABEL) - weak(X, T, LABEL), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="second model"):
        guide.Autoguidance(2.0)(model, LABEL, 9)(X, T)


def test_the_exact_classifier_turns_the_whole_density_into_one_class():
    """Bayes: grad log p(x_t) + grad log p(label | x_t) = grad log p(x_t | label), for two Gaussians."""
    process = VpSde()
    means, std = jnp.array([-0.5, 0.7]), 0.2

    def logits(x, t):
        a, s = (f(t).reshape(-1, 1, 1) for f in (process.alpha, process.sigma))
        return (-0.5 * (x[..., None] - a * means) ** 2 / (a**2 * std**2 + s**2)).sum(1)  # equal shares

    def each(x, t):
        a, s = (f(t).reshape(-1, 1, 1) for f in (process.alpha, process.sigma))
        return means + a * std**2 / (a**2 * std**2 + s**2) * (x[..., None] - a * means)  # [B, 1, 2]

    def all_of_them(x, t, label):
        return (jax.nn.softmax(logits(x, t))[:, None] * each(x, t)).sum(-1)

    def log_prob(x, t, label):
        return jnp.take_along_axis(jax.nn.log_softmax(logits(x, t)), label[:, None], 1)[:, 0]

    x, t, label = X[:, :1], T, jnp.array([0, 1, 0, 1])
    got = guide.ByClassifier(2.0)(all_of_them, label, 2, guide.uphill(log_prob, process))(x, t)
    want = jnp.take_along_axis(each(x, t)[:, 0], label[:, None], 1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_learned_variance_is_that_of_the_label():
    def learned(x, t, label):
        return Estimate(model(x, t, label), jax.nn.sigmoid(x + label[:, None]))

    for rule in (guide.ClassifierFree(2.0), guide.Rescaled(2.0), guide.Autoguidance(2.0), guide.Interval(2.0)):
        got = rule(learned, LABEL, 9, weak)(X, T)
        np.testing.assert_allclose(got.fraction, learned(X, T, LABEL).fraction, rtol=1e-6)
        x0 = rule(model, LABEL, 9, weak)(X, T)
        np.testing.assert_allclose(got.x0, x0, rtol=1e-6)


SOLVERS = [solve.Ancestral(5), solve.Ddim(5), ode.Heun(5), ode.Churn(5), ode.Pndm(5), exponential.DpmPlus(5, 3),
           exponential.UniPC(5)]  # fmt: skip


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_every_solver_takes_every_guide(solver):
    process = VP("cosine")
    plain = jax.jit(lambda x: solver(guide.NoGuide()(model, LABEL, 9), process, x, jax.random.key(0)))(X)
    for rule in ONE[:4]:
        got = jax.jit(lambda x, r=rule: solver(r(model, LABEL, 9, weak), process, x, jax.random.key(0)))(X)
        np.testing.assert_allclose(got, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: guide.Interval(2.0, 0.8, 0.2), "method.guide.low=0.8, high=0.2"),
        (lambda: guide.Negative(2.0, 11)(model, LABEL, 9), "method.guide.avoid=11"),
    ],
)
def test_mistakes_name_the_field(make, words):
    with pytest.raises(UserError, match=words):
        make()

"""Laws of guidance: scale 1 is the model, every solver takes every guide, learned variances pass through."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.config.registry import TABLES, build
from jaxgen.core.net import Net
from jaxgen.diffusion import guide, ode
from jaxgen.diffusion.grid import Exponential
from jaxgen.diffusion.paths import VpSde
from jaxgen.diffusion.predict import X0, Eps
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers.table import Estimate
from jaxgen.errors import UserError
from jaxgen.methods.classifier import NoisyClassifier
from jaxgen.methods.diffusion import Diffusion


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


def test_a_model_is_not_moved_by_itself():
    for scale in (0.0, 2.0, 5.0):
        got = guide.Autoguidance(scale)(model, LABEL, 9, model)(X, T)
        np.testing.assert_allclose(got, model(X, T, LABEL), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_a_gaussian_classifier_moves_the_mean_by_the_closed_form(scale):
    """Data N(0, 1) seen as y with noise N(0, tau^2), guided by g = scale - 1 times the slope of log p(y | x_t).

    x_t ~ N(0, 1) at all t of a VP process, y | x_t ~ N(alpha x_t, sigma^2 + tau^2), and with l = log alpha the flow is
    dx / dl = x + score, score = -x + g alpha (y - alpha x) / (sigma^2 + tau^2).
    """
    process, y, tau, g = VpSde(first=1e-4), 1.5, 0.7, scale - 1.0

    def denoise(x, t, label):
        return process.alpha(t)[:, None] * x

    def log_prob(x, t, label):
        a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return (-0.5 * (label[:, None] * y - a * x) ** 2 / (s**2 + tau**2)).sum(1)

    rule = guide.ByClassifier(scale)(denoise, jnp.ones(2, int), 1, guide.uphill(log_prob, process))
    x = jnp.array([[0.3], [-1.0]])
    got = ode.Heun(200, grid=Exponential())(rule, process, x, jax.random.key(0))
    log_alpha = np.linspace(*np.log(process.alpha(np.array([1.0, 1e-4]))), 20_001)
    point = np.array([0.3, -1.0])
    for here, step in zip(log_alpha, np.diff(log_alpha), strict=False):
        a = np.exp(here + 0.5 * step)
        score = -point + g * a * (y - a * point) / (1 - a**2 + tau**2)
        point = point + step * (point + score)
    np.testing.assert_allclose(got[:, 0], point, rtol=5e-3, atol=5e-3)
    if scale == 2.0:  # Bayes: the probability flow of the posterior N(y / (1 + tau^2), tau^2 / (1 + tau^2))
        np.testing.assert_allclose(got.mean(), y / (1 + tau**2) + np.sqrt(tau**2 / (1 + tau**2)) * x.mean(), atol=0.05)


SOLVERS = ("ancestral", "ddim", "heun", "churn", "pndm", "dpm_plus", "unipc")
ALL = [pytest.param(n, marks=[] if n in SOLVERS[:3] else pytest.mark.slow) for n in TABLES["solver"]]


@pytest.mark.parametrize("name", ALL)
def test_every_solver_takes_every_guide(name):
    """All guides at scale 1 give what the model alone gives."""
    process, solver = VP("cosine"), build("solver", {"name": name, "steps": 5})

    def everything(x):
        return [solver(rule(model, LABEL, 9, weak), process, x, jax.random.key(0)) for rule in ONE]

    *guided, plain = jax.jit(everything)(X)
    for rule, got in zip(ONE[:-1], guided, strict=True):
        np.testing.assert_allclose(got, plain, rtol=1e-3, atol=1e-3, err_msg=type(rule).__name__)


class Line(nn.Module):
    """A net of one number: says `start` times its input."""

    start: float

    @nn.compact
    def __call__(self, x, clock, label, train=False):
        return self.param("w", nn.initializers.constant(self.start), ()) * x


class Said(nn.Module):
    """Logits that are linear in the image."""

    @nn.compact
    def __call__(self, x, clock, train=False):
        flat = x.reshape(len(x), -1)
        return flat, nn.Dense(3)(flat)


def run_of(method):
    """What Experiment borrows, without a directory."""
    batch = {"image": jnp.zeros((1, 2, 2, 1)), "label": jnp.zeros(1, int)}
    return SimpleNamespace(method=method), method.init(jax.random.key(0), batch).view()


def diffusion(start, **more):
    net = Net(Line(start), optax.identity())
    return Diffusion(net=net, shape=(2, 2, 1), classes=3, process=VpSde(), predict=X0(), solver=ode.Heun(4), **more)


def test_a_method_is_guided_by_another_run():
    """D + (scale - 1) (D - D_weak) with the other run's own method and weights; with itself it is the model alone."""
    cond = {"label": jnp.array([0, 1, 2])}
    plain = diffusion(0.4)
    w = run_of(plain)[1]
    other, lent = run_of(diffusion(0.1))
    guided = diffusion(0.4, guide=guide.Autoguidance(3.0, weak=other))
    x, t = jnp.ones((3, 2, 2, 1)), jnp.full(3, 0.5)
    got = guided.denoiser(w.replace(frozen={"weak": lent}), cond["label"])(x, t)
    np.testing.assert_allclose(got, (0.4 + 2 * (0.4 - 0.1)) * x, rtol=1e-5)
    same = diffusion(0.4, guide=guide.Autoguidance(3.0, weak=run_of(plain)[0]))
    alone = plain.sample(w, jax.random.key(0), 3, cond)
    moved = same.sample(w.replace(frozen={"weak": w}), jax.random.key(0), 3, cond)
    np.testing.assert_allclose(moved, alone, rtol=1e-4, atol=1e-5)
    assert guided.borrows() == {"weak": other} and plain.borrows() == {}
    with pytest.raises(UserError, match="second model"):
        guided.denoiser(w, cond["label"])(x, t)


def test_a_method_is_guided_by_a_noisy_classifier():
    """The step is (scale - 1) sigma^2 / alpha grad log p(label | x_t), and images come nearer to their labels."""
    judge = NoisyClassifier(net=Net(Said(), optax.identity()), classes=3, process=VpSde())
    run, lent = run_of(judge)
    label, t = jnp.array([0, 1, 2]), jnp.array([0.2, 0.5, 0.8])
    x = jax.random.normal(jax.random.key(1), (3, 2, 2, 1))
    w = run_of(diffusion(0.4))[1].replace(frozen={"judge": lent})
    for scale in (1.0, 3.0):
        got = diffusion(0.4, guide=guide.ByClassifier(scale, judge=run)).denoiser(w, label)(x, t)
        a, s = (f(t).reshape(3, 1, 1, 1) for f in (judge.process.alpha, judge.process.sigma))
        said = lent.nets["net"]["params"]["Dense_0"]
        flat = (x / jnp.sqrt(a**2 + s**2)).reshape(3, -1)
        p = jax.nn.softmax(flat @ said["kernel"] + said["bias"])
        slope = ((jax.nn.one_hot(label, 3) - p) @ said["kernel"].T).reshape(x.shape) / jnp.sqrt(a**2 + s**2)
        np.testing.assert_allclose(got, 0.4 * x + (scale - 1) * s**2 / a * slope, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_a_second_model_is_refused():
    method, judge = diffusion(0.4), NoisyClassifier(net=Net(Said(), optax.identity()), classes=3, process=VP())
    with pytest.raises(
        UserError, match=r"weak\.path names a run of method NoisyClassifier, which is no diffusion model"
    ):
        method.accept("weak", judge)
    with pytest.raises(
        UserError, match=r"judge\.path names a run of method Diffusion, which is no classifier of noisy"
    ):
        method.accept("judge", method)
    with pytest.raises(UserError, match=r"judge\.path names a run with method.process VP\(.*let them agree"):
        method.accept("judge", judge)
    with pytest.raises(UserError, match=r"teacher\.path names a run with method.predict Eps\(.*let them agree"):
        method.accept("teacher", replace(method, predict=Eps()))


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

"""Laws of guidance, over the table of guides, kinds of conditions and outputs: scale 1 is the model, null as the condition too."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.config.registry import TABLES, build
from jaxgen.core.conditions import drop, nulls
from jaxgen.core.lender import Frozen
from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, labels, pictures
from jaxgen.diffusion import guide
from jaxgen.diffusion.grid import Exponential
from jaxgen.diffusion.paths import VpSde
from jaxgen.diffusion.predict import X0, Eps
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers import ode
from jaxgen.diffusion.solvers.table import Estimate, x0_of
from jaxgen.errors import UserError
from jaxgen.methods.classifier import NoisyClassifier
from jaxgen.methods.diffusion import Diffusion

RNG = np.random.default_rng(0)
B = 4


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


LABELS = labels(9)
TEXT = Spec(text=Field((5, 3), "float32", "embedding"))
PICTURE = Spec(small=Field((2, 2, 1), "float32", "image"))
MASK = Spec(mask=Field((2, 2, 1), "float32", "mask"))
VALUES = {"label": jnp.arange(B), "text": normal(B, 5, 3), "small": normal(B, 2, 2, 1), "mask": jnp.ones((B, 2, 2, 1))}
# kind of conditions -> Spec
TOLD = {"label": LABELS, "text": TEXT, "image": PICTURE, "several": Spec({**LABELS, **TEXT, **PICTURE, **MASK})}


def heard(cond, like):
    """A number for each example that depends on every condition, shaped to add to `like`."""
    parts = [(i + 1.0) * jnp.sin(cond[k].reshape(len(cond[k]), -1).astype(jnp.float32)).sum(1)
             for i, k in enumerate(sorted(cond))]  # fmt: skip
    return jnp.sin(sum(parts)).reshape(-1, *(1,) * (like.ndim - 1)) if parts else 0.0


def denoiser(x, t, cond):
    return 0.5 * x * t[:, None] + jnp.sin(x) + 0.3 * heard(cond, x) * jnp.cos(x)


def learned(x, t, cond):
    return Estimate(denoiser(x, t, cond), jax.nn.sigmoid(x + heard(cond, x)))


def logits(tokens, t, cond):
    """[B, L, V] of int tokens [B, L]."""
    table = jnp.asarray(np.random.default_rng(1).standard_normal((7, 6)), jnp.float32)
    out = table[tokens] * t[:, None, None]
    return out + heard(cond, out) * jnp.cos(out)


def weak(x, t, cond):
    return 0.3 * x0_of(denoiser(x, t, cond)) if jnp.issubdtype(x.dtype, jnp.floating) else 0.5 * logits(x, t, cond)


X, T, LABEL = normal(B, 6), jnp.array([0.1, 0.4, 0.5, 0.9]), VALUES["label"]
TOKENS = jnp.asarray(RNG.integers(0, 7, (B, 5)))
MODELS = {"denoiser": (denoiser, X), "estimate": (learned, X), "logits": (logits, TOKENS)}
# name in the table -> options at which a scale is all that it has
WHOLE = {"interval": {"low": 0.0, "high": 1.0}, "rescaled": {"share": 0.0}, "negative": {"avoid": {}}}
ALL = [n for n in TABLES["guide"] if n != "none"]
DROPPED = [n for n in ALL if "null" in getattr(type(build("guide", n)), "needs", ())]  # those against "any"


def rule(name, scale=1.0, **options):
    return build("guide", {"name": name, "scale": scale, **WHOLE.get(name, {}), **options})


def told(kind):
    spec = TOLD[kind]
    return {k: VALUES[k] for k in spec}, nulls(spec, B)


def close(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 2e-5, "atol": 2e-5, **tolerance}), got, want)


@pytest.mark.parametrize("output", MODELS)
@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("name", TABLES["guide"])
def test_scale_one_is_the_model_itself(name, kind, output):
    (model, x), (cond, null) = MODELS[output], told(kind)
    guided = (rule(name) if name != "none" else build("guide", name))(model, cond, null, weak)
    close(guided(x, T), model(x, T, cond), rtol=2e-6)


@pytest.mark.parametrize("output", MODELS)
@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("name", DROPPED)
def test_null_as_the_condition_is_the_model(name, kind, output):
    (model, x), (_, null) = MODELS[output], told(kind)
    close(rule(name, 4.0)(model, null, null)(x, T), model(x, T, null))


@pytest.mark.parametrize("output", MODELS)
@pytest.mark.parametrize("kind", TOLD)
@pytest.mark.parametrize("name", ALL)
def test_guidance_is_linear_in_its_scale(name, kind, output):
    """Through scale 1, the model, and scale 0, the worse one; the variance is that of the conditions throughout."""
    (model, x), (cond, null) = MODELS[output], told(kind)
    t = jnp.zeros_like(T) if name == "rising" else T  # which has its scale at the end alone
    at = {scale: rule(name, scale)(model, cond, null, weak)(x, t) for scale in (0.0, 1.0, 3.0)}
    close(x0_of(at[3.0]), 3 * x0_of(at[1.0]) - 2 * x0_of(at[0.0]), rtol=1e-4, atol=1e-4)
    if name in DROPPED:
        close(x0_of(at[0.0]), x0_of(model(x, t, null)))
        assert np.abs(x0_of(at[3.0]) - x0_of(at[1.0])).max() > 0.1  # and it says something
    if output == "estimate":
        close(at[3.0].fraction, model(x, t, cond).fraction)


@pytest.mark.parametrize("name", DROPPED)
def test_condition_and_null_are_one_call_of_twice_the_batch(name):
    calls, (cond, null) = [], told("several")

    def counted(x, t, cond):
        calls.append(len(x))
        return denoiser(x, t, cond)

    rule(name, 3.0)(counted, cond, null)(X, T)
    assert calls == ([2 * B, B] if name == "interval" else [2 * B])  # inside the interval, and outside


def test_guidance_rises_in_time():
    """None at t = 1, all of it at t = 0, half of what it adds in between."""
    (cond, null), t = told("several"), jnp.array([1.0, 0.5, 0.0, 0.25])
    found = rule("rising", 3.0)(denoiser, cond, null)(X, t)
    at = {scale: rule("cfg", scale)(denoiser, cond, null)(X, t) for scale in (1.0, 2.0, 3.0, 2.5)}
    for i, want in enumerate(at.values()):
        close(found[i], want[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("output", MODELS)
def test_the_interval_is_kept(output):
    (model, x), (cond, null) = MODELS[output], told("several")
    guided = jax.jit(rule("interval", 3.0, low=0.3, high=0.7)(model, cond, null))
    for t, inside in ((0.1, False), (0.5, True), (0.9, False)):
        now = jnp.full(B, t)
        close(guided(x, now), rule("cfg", 3.0 if inside else 1.0)(model, cond, null)(x, now))


@pytest.mark.parametrize("output", MODELS)
def test_rescaling_restores_the_contrast(output):
    (model, x), (cond, null) = MODELS[output], told("several")
    contrast = lambda out: jnp.std(x0_of(out).reshape(B, -1), axis=1)  # noqa: E731
    got = rule("rescaled", 7.5, share=1.0)(model, cond, null)(x, T)
    np.testing.assert_allclose(contrast(got), contrast(model(x, T, cond)), rtol=1e-4)


def test_the_contrast_of_the_output_is_that_of_diffusers():
    """guidance_rescale: 0.7 of two outputs, by diffusers 0.42.1's own `rescale_noise_cfg`; then x_0 of what that gives."""
    i = np.arange(12.0)
    said, without = (jnp.asarray(v.reshape(1, 2, 2, 3), jnp.float32) for v in (np.sin(1 + i), np.cos(2 * i)))
    theirs = [
        -0.07000934953858866, 3.528737000048416, 1.9661859657268737, -4.41509628390352, -2.314106203777465, 1.2442121868555995,
        -0.2066004849378873, 2.419772897513365, 3.451302326168954, -3.1017667504495368, -3.7613170985111375, 0.917112381038984,
    ]  # fmt: skip

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, clock, cond, train=False):
            self.param("w", nn.initializers.zeros, ())
            return jnp.where(cond["label"].reshape(-1, 1, 1, 1) == 0, said, without)

    process, spec = VP("scaled_linear", 1000, 0.00085, 0.012), pictures((2, 2, 3), 1)
    rescaled = guide.Rescaled(7.5, 0.7, of="output")
    method = Diffusion(
        net=Net(Two(), optax.identity()),
        spec=spec,
        process=process,
        predict=Eps(),
        guide=rescaled,
        condition_dropout=0.1,
    )
    w = method.init(jax.random.key(0), {"image": jnp.zeros((1, 2, 2, 3)), "label": jnp.zeros(1, int)}).view()
    x, t = jnp.ones((1, 2, 2, 3)), jnp.full(1, 0.5)
    got = method.denoiser(w, {"label": jnp.zeros(1, jnp.int32)})(x, t)
    eps = (x - process.alpha(t) * got) / process.sigma(t)
    np.testing.assert_allclose(eps.ravel(), theirs, rtol=1e-4, atol=1e-5)


def test_away_from_some_conditions_and_from_any_of_the_others():
    cond, null = told("several")
    spec = TOLD["several"]
    words = tuple(map(tuple, np.ones((5, 3)).tolist()))
    for avoid, worse in (
        ({"label": 2}, {"label": jnp.full(B, 2)}),
        (2, {"label": jnp.full(B, 2)}),
        ({"text": words, "label": 0}, {"text": jnp.ones((B, 5, 3)), "label": jnp.zeros(B, int)}),
    ):
        negative = guide.Negative(3.0, avoid, spec)
        want = 3 * denoiser(X, T, cond) - 2 * denoiser(X, T, {**null, **worse})
        close(negative(denoiser, cond, null)(X, T), want, rtol=1e-4, atol=1e-4)
        assert hash(negative) == hash(guide.Negative(3.0, avoid, spec))  # a lent method is part of a program's key


def test_autoguidance_goes_away_from_the_weak_model():
    cond, null = told("label")
    got = guide.Autoguidance(2.0)(denoiser, cond, null, weak)(X, T)
    np.testing.assert_allclose(got, 2 * denoiser(X, T, cond) - weak(X, T, cond), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="second model"):
        guide.Autoguidance(2.0)(denoiser, cond, null)(X, T)
    for scale in (0.0, 2.0, 5.0):  # a model is not moved by itself
        got = guide.Autoguidance(scale)(denoiser, cond, null, denoiser)(X, T)
        np.testing.assert_allclose(got, denoiser(X, T, cond), rtol=1e-4, atol=1e-5)


def test_an_unconditional_model_is_left_alone():
    plain = guide.NoGuide()(denoiser, {}, {})
    np.testing.assert_array_equal(plain(X, T), denoiser(X, T, {}))


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

    def all_of_them(x, t, cond):
        return (jax.nn.softmax(logits(x, t))[:, None] * each(x, t)).sum(-1)

    def log_prob(x, t, cond):
        return jnp.take_along_axis(jax.nn.log_softmax(logits(x, t)), cond["label"][:, None], 1)[:, 0]

    x, t, label = X[:, :1], T, jnp.array([0, 1, 0, 1])
    got = guide.ByClassifier(2.0)(all_of_them, {"label": label}, {}, guide.uphill(log_prob, process))(x, t)
    want = jnp.take_along_axis(each(x, t)[:, 0], label[:, None], 1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_a_gaussian_classifier_moves_the_mean_by_the_closed_form(scale):
    """Data N(0, 1) seen as y with noise N(0, tau^2), guided by g = scale - 1 times the slope of log p(y | x_t).

    x_t ~ N(0, 1) at all t of a VP process, y | x_t ~ N(alpha x_t, sigma^2 + tau^2), and with l = log alpha the flow is
    dx / dl = x + score, score = -x + g alpha (y - alpha x) / (sigma^2 + tau^2).
    """
    process, y, tau, g = VpSde(first=1e-4), 1.5, 0.7, scale - 1.0

    def denoise(x, t, cond):
        return process.alpha(t)[:, None] * x

    def log_prob(x, t, cond):
        a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return (-0.5 * (cond["label"][:, None] * y - a * x) ** 2 / (s**2 + tau**2)).sum(1)

    cond = {"label": jnp.ones(2, int)}
    guided = guide.ByClassifier(scale)(denoise, cond, {}, guide.uphill(log_prob, process))
    x = jnp.array([[0.3], [-1.0]])
    got = ode.Heun(200, grid=Exponential())(guided, process, x, jax.random.key(0))
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
EVERY = [pytest.param(n, marks=[] if n in SOLVERS[:3] else pytest.mark.slow) for n in TABLES["solver"]]


@pytest.mark.parametrize("name", EVERY)
def test_every_solver_takes_every_guide(name):
    """All guides at scale 1 give what the model alone gives."""
    process, solver, (cond, null) = VP("cosine"), build("solver", {"name": name, "steps": 5}), told("several")

    def everything(x):
        guides = [guide.NoGuide(), *(rule(n) for n in ALL)]
        return [solver(g(denoiser, cond, null, weak), process, x, jax.random.key(0)) for g in guides]

    plain, *guided = jax.jit(everything)(X)
    for kind, got in zip(ALL, guided, strict=True):
        np.testing.assert_allclose(got, plain, rtol=1e-3, atol=1e-3, err_msg=kind)


def test_an_example_loses_all_of_its_conditions_or_none():
    spec = TOLD["several"]
    cond = {k: jnp.concatenate([v] * 500) for k, v in told("several")[0].items()}
    null = nulls(spec, 4 * 500)
    found = drop(spec, cond, 0.3, jax.random.key(0))
    lost = {k: (found[k] == null[k]).reshape(2000, -1).all(1) for k in spec}
    kept = {k: (found[k] == cond[k]).reshape(2000, -1).all(1) for k in spec}
    for k in spec:
        np.testing.assert_array_equal(lost[k], lost["label"])
        np.testing.assert_array_equal(kept[k], ~lost[k])
    assert np.mean(lost["label"]) == pytest.approx(0.3, abs=0.03)


class Line(nn.Module):
    """A net of one number: its output is `start` times its input."""

    start: float

    @nn.compact
    def __call__(self, x, clock, cond, train=False):
        return self.param("w", nn.initializers.constant(self.start), ()) * x


class Logits(nn.Module):
    """Logits that are linear in the image."""

    @nn.compact
    def __call__(self, x, clock, train=False):
        flat = x.reshape(len(x), -1)
        return flat, nn.Dense(3)(flat)


SPEC = pictures((2, 2, 1), 3)


def weights_of(method):
    """Fresh ones."""
    batch = {"image": jnp.zeros((1, 2, 2, 1)), "label": jnp.zeros(1, int)}
    return method.init(jax.random.key(0), batch).view()


def diffusion(start, spec=SPEC, **more):
    net = Net(Line(start), optax.identity())
    return Diffusion(net=net, spec=spec, process=VpSde(), predict=X0(), solver=ode.Heun(4), **more)


def test_a_method_is_guided_by_another_run():
    """D + (scale - 1) (D - D_weak) with the other run's own method and weights; with itself it is the model alone."""
    cond = {"label": jnp.array([0, 1, 2])}
    plain, other = diffusion(0.4), diffusion(0.1)
    w = weights_of(plain)
    guided = diffusion(0.4, guide=guide.Autoguidance(3.0, weak="DIR"))
    x, t = jnp.ones((3, 2, 2, 1)), jnp.full(3, 0.5)
    lent = w.replace(frozen={"weak": Frozen(weights_of(other), other)})
    np.testing.assert_allclose(guided.denoiser(lent, cond)(x, t), (0.4 + 2 * (0.4 - 0.1)) * x, rtol=1e-5)
    alone = plain.sample(w, jax.random.key(0), 3, cond)
    moved = guided.sample(w.replace(frozen={"weak": Frozen(w, plain)}), jax.random.key(0), 3, cond)
    np.testing.assert_allclose(moved, alone, rtol=1e-4, atol=1e-5)
    assert {k: loan.lender for k, loan in guided.loans().items()} == {"weak": "DIR"} and plain.loans() == {}
    with pytest.raises(UserError, match="second model"):
        guided.denoiser(w, cond)(x, t)


def test_a_method_is_guided_by_a_noisy_classifier():
    """The step is (scale - 1) sigma^2 / alpha grad log p(label | x_t), and images come nearer to their labels."""
    judge = NoisyClassifier(net=Net(Logits(), optax.identity()), spec=SPEC, process=VpSde())
    lent = Frozen(weights_of(judge), judge)
    label, t = jnp.array([0, 1, 2]), jnp.array([0.2, 0.5, 0.8])
    x = jax.random.normal(jax.random.key(1), (3, 2, 2, 1))
    w = weights_of(diffusion(0.4)).replace(frozen={"judge": lent})
    for scale in (1.0, 3.0):
        got = diffusion(0.4, guide=guide.ByClassifier(scale, judge="DIR")).denoiser(w, {"label": label})(x, t)
        a, s = (f(t).reshape(3, 1, 1, 1) for f in (judge.process.alpha, judge.process.sigma))
        dense = lent.weights.nets["net"]["params"]["Dense_0"]
        flat = (x / jnp.sqrt(a**2 + s**2)).reshape(3, -1)
        p = jax.nn.softmax(flat @ dense["kernel"] + dense["bias"])
        slope = ((jax.nn.one_hot(label, 3) - p) @ dense["kernel"].T).reshape(x.shape) / jnp.sqrt(a**2 + s**2)
        np.testing.assert_allclose(got, 0.4 * x + (scale - 1) * s**2 / a * slope, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"method.guide \(ByClassifier\) needs labels .*data.labels=True"):
        diffusion(0.4, pictures((2, 2, 1)), guide=guide.ByClassifier(2.0, judge="DIR"))


def test_what_cannot_be_a_second_model_is_refused():
    judge = NoisyClassifier(net=Net(Logits(), optax.identity()), spec=SPEC, process=VP())

    def refuse(borrower, name, lent):
        borrower.loans()[name].role.refuse(name, "DIR", lent, lent.spec, borrower.spec, borrower)

    auto, by_classifier = (diffusion(0.4, guide=g) for g in (guide.Autoguidance(), guide.ByClassifier()))
    for borrower, name, lent, words in (
        (auto, "weak", judge, r"weak\.path names a run of method NoisyClassifier, which is no diffusion model"),
        (by_classifier, "judge", auto, r"judge\.path names a run of method Diffusion, which is no classifier of noisy"),
        (by_classifier, "judge", judge, r"judge\.path names a run with method.process VP\(.*let them agree"),
        (by_classifier, "judge", replace(judge, process=VpSde(), spec=pictures((2, 2, 1), 4)), "method.classes 4"),
        (auto, "weak", replace(auto, process=VP()), r"weak\.path names a run with method.process VP\(.*let them agree"),
        (auto, "weak", diffusion(0.4, pictures((4, 4, 1), 3)), r"weak.path=DIR is a run of images \(4, 4, 1\)"),
        (auto, "weak", diffusion(0.4, pictures((2, 2, 1))), r"weak.path=DIR is told nothing and this run label of 3"),
    ):
        with pytest.raises(UserError, match=words):
            refuse(borrower, name, lent)
    refuse(auto, "weak", replace(auto, predict=Eps()))
    refuse(by_classifier, "judge", replace(judge, process=VpSde()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: guide.Interval(2.0, 0.8, 0.2), "method.guide.low=0.8 is not below high=0.2"),
        (lambda: guide.Negative(2.0, 11, LABELS), "method.guide.avoid=11"),
        (lambda: guide.Negative(2.0, 1, TEXT), "method.guide.avoid=1 is a label, and the run is told none"),
        (lambda: guide.Negative(2.0, {"lable": 1}, LABELS), "no condition 'lable'.*label"),
        (lambda: guide.Negative(2.0, {"text": (1.0, 2.0)}, TEXT), r"avoid\['text'\] has shape \(2,\)"),
    ],
)
def test_mistakes_name_the_field(make, words):
    with pytest.raises(UserError, match=words):
        make()

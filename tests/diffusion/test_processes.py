"""Laws of processes, predictions, weights and times: one table of conversions, rates as derivatives, levels and back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.grid import Karras
from jaxgen.diffusion.paths import VE, Linear, Sigma, SubVp, Trigonometric, VpSde
from jaxgen.diffusion.predict import X0, Edm, Eps, Flow, Score, V, Velocity
from jaxgen.diffusion.process import VP, drift, level_at, ratio
from jaxgen.diffusion.times import Importance, LogitNormal, LogNormal, Mode
from jaxgen.diffusion.weight import P2, CosMap, EdmLambda, InverseVariance, MinSnr, Sigmoid, Simple, Snr, TruncatedSnr
from jaxgen.errors import UserError

PROCESSES = [VP(), VP("cosine"), VP("scaled_linear", 1000, 0.00085, 0.012), VP("sigmoid"), VP("squared_cosine", 50),
             VP("linear", zero_snr=True), VP("cosine", shift=4.0), VpSde(), SubVp(), VE(), Sigma(), Sigma(power=0.5),
             Linear(), Linear(3.0), Trigonometric()]  # fmt: skip
PREDICTIONS = [Eps(), X0(), V(), Flow(), Velocity(), Score(), Score(1.0), Edm()]
TIMES = np.array([0.05, 0.3, 0.5, 0.9])


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_numpy_and_jax_agree_and_the_data_are_at_zero(process):
    t = np.linspace(0, 1, 21)
    a, s = process.alpha(t), process.sigma(t)
    assert a.dtype == s.dtype == np.float64 and a[0] == pytest.approx(1) and s[0] == 0
    assert (np.diff(s / np.maximum(a, 1e-30)) > 0).all()
    for f in (process.alpha, process.sigma, process.clock):
        x = np.asarray(f(t[1:]))
        np.testing.assert_allclose(f(jnp.asarray(t[1:], jnp.float32)), x, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_rates_are_derivatives(process):
    t, h = TIMES + 0.00037, 1e-6  # inside a step of the chains
    for value, rate in zip((process.alpha, process.sigma), process.rates(t), strict=True):
        np.testing.assert_allclose(rate, (value(t + h) - value(t - h)) / (2 * h), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_a_level_knows_its_time(process):
    t = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(process.when(ratio(process, t)), t, rtol=1e-6)
    np.testing.assert_allclose(process.when(jnp.asarray(ratio(process, t), jnp.float32)), t, rtol=2e-3)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_training_times_and_grids_lie_on_the_path(process):
    t = np.asarray(process.time(jnp.linspace(0, 0.9999, 100)))
    assert t.min() > -1e-9 and t.max() <= 1 + 1e-6
    path = process.grid(7)
    assert path.shape == (8,) and path[0] == pytest.approx(1) and path[-1] == 0 and (np.diff(path) < 0).all()


@pytest.mark.parametrize("process", [VpSde(), SubVp(), VE(), Sigma(), Linear(), Trigonometric()], ids=str)
def test_the_forward_sde_has_these_marginals(process):
    """d var / dt = 2 f var + g^2 and d mean / dt = f mean, by small steps from t = 0.2 to 0.6."""
    t = np.linspace(0.2, 0.6, 20001)
    f, g = drift(process, t)
    dt = t[1] - t[0]
    log_mean = np.sum((f[1:] + f[:-1]) / 2) * dt
    np.testing.assert_allclose(np.exp(log_mean), process.alpha(t[-1:]) / process.alpha(t[:1]), rtol=1e-6)
    grown = process.alpha(t[-1:]) / process.alpha(t)
    var = process.sigma(t[:1]) ** 2 * grown[0] ** 2 + np.trapezoid((grown * g) ** 2, t)
    np.testing.assert_allclose(var, process.sigma(t[-1:]) ** 2, rtol=1e-6)


def test_the_clock_in_whole_steps_is_that_of_diffusers():
    """Karras's levels in 8 steps of Stable Diffusion's chain: the timesteps of diffusers 0.42.1's DPM-Solver, and of its Euler."""
    plain, whole = (VP("scaled_linear", 1000, 0.00085, 0.012, whole_clock=kind) for kind in (False, True))
    times = Karras()(plain, 8)[:-1]
    assert whole.clock(times).tolist() == [999, 890, 746, 549, 299, 90, 12, 0]
    euler = [
        999.0,
        889.54638671875,
        745.86767578125,
        549.0169067382812,
        298.657958984375,
        89.94245147705078,
        12.001065254211426,
        0,
    ]
    np.testing.assert_allclose(plain.clock(times), euler, atol=2e-3)


def test_zero_terminal_snr_leaves_no_signal_and_keeps_the_first_step():
    plain, rescaled = (
        VP("scaled_linear", 1000, 0.00085, 0.012),
        VP("scaled_linear", 1000, 0.00085, 0.012, zero_snr=True),
    )
    assert rescaled.alpha(np.ones(1))[0] < 1e-12 and plain.alpha(np.ones(1))[0] > 0.05
    assert rescaled.alpha(np.array([0.001]))[0] == pytest.approx(plain.alpha(np.array([0.001]))[0])


def test_shifts_multiply_the_noise_to_signal_ratio():
    t = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(ratio(VP("cosine", shift=4.0), t), 4 * ratio(VP("cosine"), t), rtol=1e-9)
    u = jnp.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(
        ratio(Linear(), np.asarray(Linear(3.0).time(u))), 3 * ratio(Linear(), np.asarray(u)), rtol=1e-5
    )


def test_the_sde_is_the_limit_of_the_chain():
    t = np.linspace(0.01, 1, 50)
    np.testing.assert_allclose(VP(steps=100_000).alpha(t), VpSde().alpha(t), atol=2e-4)


@pytest.mark.parametrize("process", [p for p in PROCESSES if not getattr(p, "zero_snr", False)], ids=str)
@pytest.mark.parametrize(("one", "other"), itertools.product(PREDICTIONS, PREDICTIONS), ids=lambda p: type(p).__name__)
def test_any_prediction_turns_into_any_other_and_back(one, other, process):
    x0, eps = np.random.default_rng(0).standard_normal((2, len(TIMES), 5))
    level = level_at(process, TIMES, x0)
    x = level.noised(x0, eps)
    back = one.denoised(one.target(x0, eps, level), x, level)
    np.testing.assert_allclose(back, x0, atol=1e-8)
    again = other.denoised(other.target(back, level.noise(x, back), level), x, level)
    np.testing.assert_allclose(again, x0, atol=1e-8)


@pytest.mark.parametrize("process", [VP("cosine"), VE(), SubVp(), Linear(), Trigonometric(), Sigma()], ids=str)
@pytest.mark.parametrize("predict", PREDICTIONS, ids=str)
def test_gain_is_the_ratio_of_squared_errors(predict, process):
    x0, eps, wrong = np.random.default_rng(0).standard_normal((3, len(TIMES), 7))
    level = level_at(process, TIMES, x0)
    out = predict.target(x0, eps, level) + wrong
    error = ((predict.denoised(out, level.noised(x0, eps), level) - x0) ** 2).sum(1)
    np.testing.assert_allclose((wrong**2).sum(1), predict.gain(level)[:, 0] * error, rtol=1e-6)


def test_edm_keeps_inputs_and_targets_at_unit_variance():
    """The reason for c_in and c_out (Karras et al. 2022, appendix B.6), for data of std sigma_data, on any process."""
    rng = np.random.default_rng(0)
    for process in (Sigma(), VpSde(), Linear()):
        x0, eps = 0.5 * rng.standard_normal((4, 20000)), rng.standard_normal((4, 20000))
        level, predict = level_at(process, TIMES, x0), Edm(0.5)
        np.testing.assert_allclose((predict.scale(level) * level.noised(x0, eps)).std(1), 1, rtol=0.03)
        np.testing.assert_allclose(predict.target(x0, eps, level).std(1), 1, rtol=0.03)


@pytest.mark.parametrize(
    ("weight", "on_image"),
    [(Snr(), lambda r: r), (TruncatedSnr(), lambda r: np.maximum(r, 1)), (MinSnr(5.0), lambda r: np.minimum(r, 5)),
     (EdmLambda(0.5), lambda r: r + 4), (Sigmoid(2.0), lambda r: r / (1 + np.exp(np.log(r) - 2))),
     (P2(1.0, 0.5), lambda r: r / (1 + r) ** 0.5)],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_a_weight_means_the_same_loss_whatever_is_predicted(weight, on_image):
    level = level_at(VP("cosine"), TIMES, TIMES)
    for predict in PREDICTIONS:
        gain = predict.gain(level)
        np.testing.assert_allclose(weight(level, gain) * gain, on_image(level.snr), rtol=1e-5)


def test_edm_lambda_is_one_on_edms_own_output():
    level = level_at(Sigma(), TIMES, TIMES)
    np.testing.assert_allclose(EdmLambda(0.5)(level, Edm(0.5).gain(level)), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(Simple()(level, 1.0), jnp.ones(4))
    np.testing.assert_allclose(InverseVariance()(level, 1.0), level.sigma**-2.0)
    half = np.array([0.5])
    assert CosMap()(level_at(Linear(), half, half), 1.0)[0] == pytest.approx(4 / np.pi)


def test_times_are_distributed_as_they_say():
    process = Sigma()
    draws = LogNormal(-1.2, 1.2)
    t = draws.at(process, draws(jax.random.key(0), 20_000))
    log = np.log(process.sigma(np.asarray(t, np.float64)))
    assert log.mean() == pytest.approx(-1.2, abs=0.03) and log.std() == pytest.approx(1.2, rel=0.03)
    draws = LogitNormal(0.5, 0.8)
    t = np.asarray(draws.at(Linear(), draws(jax.random.key(0), 20_000)), np.float64)
    logit = np.log(t / (1 - t))
    assert logit.mean() == pytest.approx(0.5, abs=0.03) and logit.std() == pytest.approx(0.8, rel=0.03)
    u = Mode(1.0).share(Mode()(jax.random.key(0), 20_000))
    assert u.min() >= 0 and u.max() <= 1 and np.histogram(u, 3, (0, 1))[0].argmax() == 1


def test_importance_sampling_draws_by_loss_and_keeps_the_mean():
    process, times = VP("cosine", 4), Importance(history=2, uniform=0.0)
    losses = np.array([1.0, 2.0, 3.0, 10.0])
    memory = times.start(process)
    t = jnp.tile(jnp.arange(1, 5) / 4, 2)
    half = times.learn(memory, t[:5], jnp.asarray(losses)[jnp.arange(5) % 4])
    np.testing.assert_allclose(times.probabilities(half), 0.25)  # not every step has its two losses yet
    memory = times.learn(half, t[1:5], jnp.asarray(losses)[jnp.array([1, 2, 3, 0])])
    memory = times.learn(memory, t[:4], jnp.asarray(losses))  # the oldest leave
    np.testing.assert_allclose(times.probabilities(memory), losses / losses.sum(), rtol=1e-5)
    drawn, share = times.draw(process, memory, jax.random.key(0), 4000)
    index = np.round(np.asarray(drawn) * 4).astype(int) - 1
    np.testing.assert_allclose(np.bincount(index) / 4000, losses / losses.sum(), atol=0.03)
    np.testing.assert_allclose(np.mean(np.asarray(share) * losses[index]), losses.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sigma(2.0, 1.0), "process.sigma_min=2.0 is not below sigma_max=1.0"),
        (lambda: VE(1.0, 1.0), "process.sigma_min=1.0 is not below sigma_max=1.0"),
        (lambda: VpSde(5.0, 1.0), "process.beta_min=5.0 is above beta_max=1.0"),
        (lambda: Importance().start(Linear()), "method.process.name=vp"),
    ],
)
def test_mistakes_name_the_field(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_a_fine_chain_can_be_told_on_the_scale_of_a_coarse_one():
    """Improved DDPM's 4,000 steps reach the net as 0, 0.25, ... 999.75."""
    t = np.arange(1, 4001) / 4000
    np.testing.assert_allclose(VP(steps=4000, clock_steps=1000).clock(t), np.arange(4000) / 4, atol=1e-9)
    np.testing.assert_allclose(VP(steps=4000).clock(t), np.arange(4000), atol=1e-9)

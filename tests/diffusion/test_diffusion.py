"""Law 5 for diffusion: the posterior is Bayes', solvers end in the right distribution, mistakes are met before training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers.chain import Ancestral, Ddim, posterior
from jaxgen.diffusion.times import Stratified, Uniform
from jaxgen.errors import UserError
from jaxgen.runs.experiment import Experiment, open_source

PROCESSES = [VP(), VP("cosine"), VP("linear", 100), VP("cosine", 50)]
MEAN, STD = 0.3, 0.2


def exact(process):
    """The denoiser of data ~ N(MEAN, STD^2): E[x_0 | x_t] by Bayes."""

    def denoise(x, t):
        a, s = (f(t).reshape(-1, *(1,) * (x.ndim - 1)) for f in (process.alpha, process.sigma))
        return MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)

    return denoise


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_the_process_preserves_variance_and_matches_its_betas(process):
    t = np.arange(process.steps + 1) / process.steps
    a, s = process.alpha(t), process.sigma(t)
    np.testing.assert_allclose(a**2 + s**2, 1, atol=1e-12)
    np.testing.assert_allclose(1 - (a[1:] / a[:-1]) ** 2, process.betas, rtol=1e-6)
    assert s[0] == 0 and (np.diff(s) > 0).all()
    np.testing.assert_allclose(process.alpha(jnp.asarray(t)), a, atol=2e-6)
    np.testing.assert_allclose(process.sigma(jnp.asarray(t)), s, atol=2e-6)


def test_the_ddpm_schedule_is_the_papers():
    process = VP()
    assert process.betas[0] == pytest.approx(1e-4) and process.betas[-1] == pytest.approx(0.02)
    assert process.alpha(np.array([1.0]))[0] ** 2 == pytest.approx(4.0358e-5, rel=1e-3)  # section 4: nearly N(0, I)
    np.testing.assert_allclose(process.clock(np.array([0.001, 1.0])), [0, 999], atol=1e-9)


def test_training_times_are_the_chains_steps():
    process = VP("cosine", steps=10)
    t = process.time(jnp.linspace(0, 0.9999, 1000))
    np.testing.assert_allclose(np.unique(t), np.arange(1, 11) / 10, rtol=1e-6)


@pytest.mark.parametrize("process", PROCESSES[:2], ids=str)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_the_posterior_is_bayes(process, steps):
    """q(x_s | x_t, x_0) ~ q(x_t | x_s) q(x_s | x_0): precisions add, in float64."""
    grid = process.grid(steps)[:-1]
    t, s = grid, np.maximum(grid - 1 / process.steps, 1 / process.steps)
    keep = t > s
    t, s = t[keep], s[keep]
    q = posterior(process, t, s)
    ratio = process.alpha(t) / process.alpha(s)
    prior, noise = process.sigma(s) ** 2, process.sigma(t) ** 2 - ratio**2 * process.sigma(s) ** 2
    precision = 1 / prior + ratio**2 / noise
    np.testing.assert_allclose(q["small"], 1 / precision, rtol=1e-6)
    np.testing.assert_allclose(q["keep"], ratio / noise / precision, rtol=1e-6)
    np.testing.assert_allclose(q["data"], process.alpha(s) / prior / precision, rtol=1e-6)
    np.testing.assert_allclose(q["large"], noise)


def test_neighbouring_steps_give_the_papers_betas():
    process = VP()
    t = np.arange(1, 1001) / 1000
    q = posterior(process, t, t - 0.001)
    np.testing.assert_allclose(q["large"], process.betas, rtol=1e-6)
    assert q["small"][0] == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [Ancestral(1000, "small", clip=False), Ancestral(1000, "large", clip=False), Ancestral(500, "small", clip=False),
     Ddim(200, 0.0, clip=False), Ddim(500, 1.0, clip=False), Ddim(1000, 0.5, clip=False)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("process", PROCESSES[:2], ids=str)
def test_every_solver_ends_in_the_data(process, solver):
    """With the exact denoiser of a Gaussian the samples are that Gaussian (Kolmogorov distance of 20,000 draws)."""
    x = jax.random.normal(jax.random.key(0), (20_000, 1))
    y = np.sort(np.asarray(jax.jit(lambda x: solver(exact(process), process, x, jax.random.key(1)))(x))[:, 0])
    assert y.mean() == pytest.approx(MEAN, abs=0.01)
    assert y.std() == pytest.approx(STD, rel=0.06)
    cdf = jax.scipy.stats.norm.cdf(y, y.mean(), y.std())
    assert np.abs(cdf - (np.arange(len(y)) + 0.5) / len(y)).max() < 0.015


def test_ddim_converges_to_the_exact_flow():
    """eta = 0 transports quantiles: x_0 = MEAN + STD (x_1 - a MEAN) / sqrt(a^2 STD^2 + s^2); the error falls with steps."""
    process, x = VP("cosine", 1000), jnp.linspace(-2, 2, 41)[:, None]
    a, s = process.alpha(np.ones(1)), process.sigma(np.ones(1))
    want = MEAN + STD * (np.asarray(x) - a * MEAN) / np.sqrt(a**2 * STD**2 + s**2)

    def error(steps):
        return np.abs(Ddim(steps, clip=False)(exact(process), process, x, jax.random.key(0)) - want).max()

    coarse, fine, finest = error(25), error(100), error(500)
    assert coarse > 2.5 * fine > 5 * finest and finest < 5e-3


def test_ddim_with_eta_one_is_ancestral_sampling_with_the_small_variance():
    process, x = VP(), jax.random.normal(jax.random.key(0), (64, 3))
    one = Ancestral(50, "small")(exact(process), process, x, jax.random.key(1))
    two = Ddim(50, 1.0)(exact(process), process, x, jax.random.key(1))
    np.testing.assert_allclose(one, two, atol=2e-4)


def test_clipping_keeps_the_denoised_image_in_range():
    def wild(x, t):
        return 3.0 * jnp.ones_like(x)

    for solver in (Ancestral(10), Ddim(10)):
        np.testing.assert_allclose(solver(wild, VP(), jnp.zeros((4, 2)), jax.random.key(0)), 1.0, atol=1e-5)


@pytest.mark.parametrize("times", [Uniform(), Stratified()], ids=str)
def test_times_are_uniform(times):
    u = np.concatenate([times(jax.random.key(i), 64) for i in range(64)])
    assert u.min() >= 0 and u.max() < 1
    assert np.histogram(u, 8, (0, 1))[0].min() > 0.8 * len(u) / 8


def test_stratified_times_fill_every_stratum():
    u = np.sort(Stratified()(jax.random.key(3), 16))
    np.testing.assert_allclose(np.diff(u), 1 / 16, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VP("square"), "process.schedule='square'"),
        (lambda: VP(beta_min=0.5, beta_max=0.1), "beta_min=0.5"),
        (lambda: VP().grid(0), "solver.steps=0"),
        (lambda: VP().grid(1001), "solver.steps=1001"),
        (lambda: Ancestral(variance="tiny"), "solver.variance='tiny'"),
    ],
)
def test_mistakes_name_the_field(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("ddpm_digits", {"method.solver.steps": "1001"}, r"solver\.steps=1001 .*process\.steps=1000"),
        ("ddpm_digits", {"method.process": "edm", "method.solver": "ddim", "method.solver.grid": "leading"},
         r"solver\.grid\.name=leading .*grid\.name=even"),
        ("edm_digits", {"method.nll": "bound"}, r"method\.nll \(ChainBound\) .*name=vp, or choose another method\.nll"),
        ("edm_digits", {"method.process.sigma_min": "90.0"}, r"process\.sigma_min=90\.0 is not below sigma_max=80\.0"),
        ("edm_digits", {"method.objective": "uncertainty"}, r"method\.objective \(Uncertainty\) .*edm2_unet"),
        ("ddpm_digits", {"data.labels": "False"}, r"method\.guide .*data\.labels=True"),
        ("ddpm_digits", {"method.guide": "negative", "method.guide.avoid": "10"}, r"method\.guide\.avoid=10 .* 0 \.\. 9"),
        ("ddpm_digits", {"method.guide": "negative", "method.guide.avoid": "{'text': 1}"}, r"no condition 'text'.*told: label"),
        ("ddpm_digits", {"method.condition_dropout": "0.0"}, r"method\.guide .*method\.condition_dropout=0\.1"),
        ("ddpm_digits", {"method.net.null_label": "False"}, r"method\.condition_dropout=0\.1 .*method\.net\.null_label=True"),
        ("ddpm_digits", {"method.process.zero_snr": "True"}, r"method\.predict \(Eps\) .*method\.predict=v"),
        ("ddpm_digits", {"method.process": "linear"}, r"method\.predict \(Eps\) .*method\.predict=v"),
        ("ddpm_digits", {"method.solver": "ancestral", "method.solver.variance": "learned"},
         r"method\.solver \(Ancestral\) .*method\.objective\.name=hybrid"),
        ("edm_digits", {"method.objective": "hybrid"}, r"method\.objective \(Hybrid\) .*method\.process\.name=vp"),
        ("edm_digits", {"method.times": "importance"}, r"method\.times \(Importance\) .*method\.process\.name=vp"),
        ("consistency_digits", {"method.times": "importance"}, r"method \(Consistency\) .*method\.times\.name=uniform"),
        ("consistency_digits", {"method.process": "vp"}, r"method \(Consistency\) .*method\.process\.name=edm"),
        ("meanflow_digits", {"method.process": "edm"}, r"method \(MeanFlow\) .*method\.process\.name=linear"),
    ],
)  # fmt: skip
def test_what_sampling_would_refuse_is_refused_before_training(name, changes, words):
    """A run must not train for hours and then fail at its first picture."""
    config = configs.override(configs.load(f"{ROOT}/configs/{name}.py:tiny"), changes)
    with pytest.raises(UserError, match=words):
        Experiment.open(config, open_source(config, "train").spec)

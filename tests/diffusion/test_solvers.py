"""Laws of solvers: order of convergence on densities whose score is known, the same distribution from all, counted evaluations."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.config import registry
from jaxgen.diffusion import grid
from jaxgen.diffusion.paths import VE, Linear, Sigma, SubVp, Trigonometric, VpSde
from jaxgen.diffusion.process import VP, ratio
from jaxgen.diffusion.solvers import chain, corrector, exponential, fewstep, ode
from jaxgen.diffusion.solvers.table import limited
from jaxgen.errors import UserError

MEANS, STDS, WEIGHTS = np.array([-0.6, 0.5]), np.array([0.15, 0.25]), np.array([0.4, 0.6])
phi = np.vectorize(lambda v: 0.5 * (1 + erf(v / 2**0.5)))


def mixture(process, means=MEANS, stds=STDS, weights=WEIGHTS):
    """E[x_0 | x_t] of a mixture of Gaussians, numpy float64 [...] at one time."""

    def denoise(x, t):
        a, s = process.alpha(np.array([t]))[0], process.sigma(np.array([t]))[0]
        var = (a * stds) ** 2 + s**2
        log = np.log(weights) - 0.5 * np.log(var) - 0.5 * (x[..., None] - a * means) ** 2 / var
        share = np.exp(log - log.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        return (share * (means + a * stds**2 / var * (x[..., None] - a * means))).sum(-1)

    return denoise


def cdf(y, level, means=MEANS, stds=STDS, weights=WEIGHTS):
    """Of y = x_0 + level * eps."""
    return (weights * phi((y[..., None] - means) / np.sqrt(stds**2 + level**2))).sum(-1)


def flowed(y, start, end, *data):
    """Where the probability flow takes y: quantiles stay (one dimension)."""
    low, high, want = np.full_like(y, -50.0), np.full_like(y, 50.0), cdf(y, start, *data)
    for _ in range(80):
        mid = (low + high) / 2
        below = cdf(mid, end, *data) < want
        low, high = np.where(below, mid, low), np.where(below, high, mid)
    return (low + high) / 2


def follow(rows, denoise, x, rng=None):
    """A table by hand, in numpy float64."""

    def noise():
        return rng.standard_normal(x.shape) if rng is not None else np.zeros_like(x)

    x = rows.start[0] * x + rows.start[1] * noise() if rows.start[1] else x
    slots = [x] + [np.zeros_like(x)] * (rows.mix.shape[1] - 1)
    for t, mix in zip(rows.t, rows.mix, strict=True):
        d = denoise(slots[0], t)
        values = [*slots, d, d, noise()]
        slots = [sum(c * v for c, v in zip(row, values, strict=True) if c) + 0.0 * x for row in mix]
    return slots[0]


def eased(share):
    """0 .. 1 in steps that are small at both ends, where multistep methods gather and singlestep ones lose their order."""
    return share**2 * (3 - 2 * share)


def even(share):
    return share


@dataclass(frozen=True)
class Levels:
    """Steps of log(sigma / alpha) that stop before the data."""

    ease: Callable = even
    high: float = 8.0
    low: float = 0.2

    def __call__(self, process, steps):
        share = self.ease(np.linspace(0, 1, steps + 1))
        return process.when(np.exp(np.log(self.high) + share * np.log(self.low / self.high)))


@dataclass(frozen=True)
class Clock:
    """Steps of time between two levels."""

    ease: Callable = even
    high: float = 8.0
    low: float = 0.2

    def __call__(self, process, steps):
        first, last = process.when(np.array([self.high, self.low]))
        return first + self.ease(np.linspace(0, 1, steps + 1)) * (last - first)


EASED = Levels(eased)
ORDERS = [  # (solver of n steps, order)
    (lambda n: chain.Ddim(n, clip=False, grid=Levels()), 1),
    (lambda n: ode.Euler(n, grid=Levels()), 1),
    (lambda n: ode.Euler(n, "time", grid=Clock()), 1),
    (lambda n: ode.EulerAncestral(n, 0.0, grid=Levels()), 1),
    (lambda n: exponential.DpmPlus(n, 1, grid=Levels()), 1),
    (lambda n: ode.Heun(n, grid=Levels()), 2),
    (lambda n: ode.Heun(n, "time", grid=Clock()), 2),
    (lambda n: ode.Churn(n, 0.0, grid=Levels()), 2),
    (lambda n: ode.Dpm2(n, grid=Levels()), 2),
    (lambda n: ode.Pndm(n, grid=EASED), 2),  # its weights are those of even steps
    (lambda n: ode.Lms(n, 2, grid=Levels()), 2),
    (lambda n: ode.Lms(n, 3, grid=EASED), 3),
    (lambda n: ode.Lms(n, 3, space="time", grid=Clock(eased)), 3),
    (lambda n: ode.Lms(n, 4, grid=EASED), 4),
    (lambda n: ode.Deis(n, 2, grid=Levels()), 2),
    (lambda n: ode.Deis(n, 3, grid=EASED), 3),
    (lambda n: ode.Deis(n, 4, grid=EASED), 4),
    (lambda n: exponential.Dpm(n, 2, grid=Levels()), 2),
    (lambda n: exponential.Dpm(n, 2, "heun", grid=Levels()), 2),
    (lambda n: exponential.Dpm(n, 3, curvature=1.0, grid=EASED), 3),
    (lambda n: exponential.DpmPlus(n, 2, grid=Levels()), 2),
    (lambda n: exponential.DpmPlus(n, 2, bend="heun", grid=Levels()), 2),
    (lambda n: exponential.DpmPlus(n, 3, curvature=1.0, grid=EASED), 3),
    (lambda n: exponential.DpmSingle(n, 2, grid=Levels()), 2),
    (lambda n: exponential.DpmSingle(3 * (n // 3) + 1, 3, grid=EASED), 3),
    (lambda n: exponential.DpmSingle(3 * (n // 3) + 1, 3, "heun", grid=EASED), 3),
    (lambda n: exponential.DpmSingle(3 * (n // 3) + 2, 3, "heun", grid=EASED), 3),
    (lambda n: exponential.Dpm2sAncestral(n, 0.0, grid=Levels()), 2),
    (lambda n: exponential.DpmSde(n, 0.0, grid=Levels()), 2),
    (lambda n: exponential.UniPC(n, 2, grid=EASED), 3),  # the corrector is of one order more
    (lambda n: exponential.UniPC(n, 2, "bh1", grid=EASED), 3),
    (lambda n: exponential.UniPC(n, 3, grid=EASED), 4),
    (lambda n: exponential.UniPC(n, 3, "bh1", grid=EASED), 4),
]
SMOOTH = [VpSde(), Sigma(), Trigonometric(), Linear()]
GAUSSIAN = (np.array([0.3]), np.array([0.2]), np.array([1.0]))


def error(solver, process, data):
    """Largest distance to the exact flow, of points at the first level."""
    path = solver.grid(process, solver.steps)
    start, end = ratio(process, path[[0, -1]])
    y = np.linspace(-12, 12, 25)
    a = process.alpha(path[[0, -1]])
    got = follow(solver.table(process), mixture(process, *data), a[0] * y) / a[1]
    return np.abs(got - flowed(y, start, end, *data)).max()


@pytest.mark.parametrize("process", SMOOTH, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("make", "order"), ORDERS, ids=lambda v: type(v(3)).__name__ if callable(v) else str(v))
def test_order_of_convergence(make, order, process):
    """Twice the steps, 2^order less error, against the exact flow of a mixture and of a Gaussian."""
    for data in ((MEANS, STDS, WEIGHTS), GAUSSIAN):
        coarse, fine = (error(make(n), process, data) for n in (96, 192))
        assert fine < 0.05 / 10 ** (order - 1)
        assert coarse / fine > 0.8 * 2**order or fine < 3e-8  # quantiles are no finer


@pytest.mark.parametrize("kind", [exponential.Dpm, exponential.DpmPlus])
def test_third_order_as_published_is_second_order(kind):
    """DPM-Solver's own program, diffusers and k-diffusion halve the second derivative; the golden cases want it so."""
    coarse, fine = (error(kind(n, 3, grid=EASED), VpSde(), (MEANS, STDS, WEIGHTS)) for n in (96, 192))
    assert 3.0 < coarse / fine < 5.0


MULTISTEP = [  # (solver of n steps, its order, steps below which the published programs lower it at the end)
    (lambda n, g: ode.Lms(n, 4, grid=g), 4, 0),
    (lambda n, g: ode.Lms(n, 4, taper=True, grid=g), 4, 15),
    (lambda n, g: ode.Deis(n, 2, grid=g), 2, 15),
    (lambda n, g: ode.Deis(n, 3, grid=g), 3, 15),
    (lambda n, g: exponential.Dpm(n, 2, grid=g), 2, 15),
    (lambda n, g: exponential.Dpm(n, 3, grid=g), 3, 15),
    (lambda n, g: exponential.DpmPlus(n, 2, grid=g), 2, 15),
    (lambda n, g: exponential.DpmPlus(n, 3, grid=g), 3, 15),
    (lambda n, g: exponential.DpmPlus(n, 3, 1.0, grid=g), 3, 15),
    (lambda n, g: exponential.UniPC(n, 2, grid=g), 2, np.inf),
    (lambda n, g: exponential.UniPC(n, 3, grid=g), 3, np.inf),
]


@pytest.mark.parametrize("steps", [12, 17])
@pytest.mark.parametrize(
    ("make", "most", "below"), MULTISTEP, ids=lambda v: type(v(9, 0)).__name__ if callable(v) else v
)
def test_the_order_falls_at_the_end_where_the_published_programs_lower_it(make, most, below, steps):
    """Read from the tables: an update of order k takes the newest of k outputs and k - 1 of those before."""
    process, path = VpSde(), Levels()
    solver = make(steps, path)
    mix = solver.table(process).mix
    update, first = mix[:, 0], 1  # what the next input is made of; the slot of the newest past output
    if isinstance(solver, exponential.UniPC):  # its update starts at a corrected point, which has outputs of its own
        sigma = process.sigma(path(process, steps))
        update, first = update - (sigma[1:] / sigma[:-1])[:, None] * mix[:, 1], 2
    used = (np.abs(update[:, first:-3]) > 1e-9).sum(1)
    left = [steps - i if steps < below else most for i in range(steps)]
    np.testing.assert_array_equal(1 + used, [min(most, i + 1, left[i]) for i in range(steps)])


@pytest.mark.parametrize("steps", [12, 17])
def test_deis_integrates_the_polynomial_in_log_sigma(steps):
    """Zhang & Chen 2023, eq. 15, by quadrature, at every step of a run that is shortened and of one that is not."""
    process, path = Sigma(), Levels()
    sigma = process.sigma(path(process, steps))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    denoise, x, past = mixture(process), np.linspace(-4, 4, 9), []
    for i in range(steps):
        past.insert(0, (x - denoise(x, process.when(sigma[i : i + 1])[0])) / sigma[i])
        order = min(3, i + 1, steps - i if steps < 15 else 3)
        at = (sigma[i] + sigma[i + 1]) / 2 + (sigma[i + 1] - sigma[i]) / 2 * nodes
        curves = np.polyfit(np.log(sigma[i - order + 1 : i + 1][::-1]), np.stack(past[:order]), order - 1)
        values = sum(c[:, None] * np.log(at) ** (order - 1 - k) for k, c in enumerate(curves))
        x = x + values @ weights * (sigma[i + 1] - sigma[i]) / 2
    got = follow(ode.Deis(steps, 3, grid=path).table(process), denoise, np.linspace(-4, 4, 9))
    np.testing.assert_allclose(got, x, atol=1e-9)


EVERY = [
    chain.Ancestral(400, "small", False), chain.Ddim(200, 0.5, False), ode.Euler(200), ode.EulerAncestral(400),
    ode.Heun(60), ode.Churn(100), ode.Dpm2(60), ode.Dpm2(200, 1.0), ode.Lms(80), ode.Deis(60), ode.Pndm(100),
    exponential.Dpm(60), exponential.DpmPlus(60), exponential.DpmPlus(60, 3), exponential.DpmPlus(200, 2, 1.0),
    exponential.DpmPlus(200, 3, 1.0), exponential.DpmSingle(60), exponential.DpmSingle(60, 3),
    exponential.Dpm2sAncestral(200), exponential.DpmSde(200), exponential.UniPC(60), exponential.UniPC(60, 2, "bh1"),
    exponential.UniPC(60, 3), ode.EulerMaruyama(800, "sigma"), ode.EulerMaruyama(800, "sbdm"),
]  # fmt: skip


@pytest.mark.parametrize("process", [VP("cosine"), VpSde(), Sigma()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver", EVERY, ids=lambda s: f"{type(s).__name__}-{s.steps}")
def test_every_solver_ends_in_the_data(solver, process):
    """Kolmogorov distance of 4,000 draws from the mixture; 1.63 / sqrt(n) is the 1 % level."""
    if isinstance(solver, ode.EulerMaruyama) and solver.diffusion != "sbdm" and isinstance(process, Sigma):
        pytest.skip("a diffusion of size sigma = 80 needs its own steps")
    rng = np.random.default_rng(0)
    path = grid.Karras() if not isinstance(solver, ode.EulerMaruyama) else grid.Even()
    solver = dataclasses.replace(solver, grid=path)
    x = rng.standard_normal(4000) * process.sigma(np.ones(1))[0]
    y = np.sort(follow(solver.table(process), mixture(process), x, rng))
    assert np.abs(cdf(y, 0.0) - (np.arange(len(y)) + 0.5) / len(y)).max() < 0.04


FROM_NOISE = [
    ode.Euler(60, "time"), ode.Heun(30, "time"), exponential.DpmPlus(40, 2), exponential.DpmPlus(40, 3),
    exponential.DpmSingle(40), exponential.DpmSingle(40, 3), exponential.UniPC(80), exponential.UniPC(80, 3, "bh1"),
    chain.Ddim(60, 0.0, False), chain.Ddim(200, 1.0, False), exponential.DpmPlus(200, 2, 1.0),
    ode.EulerMaruyama(400, "sigma"), chain.Ancestral(200, "small", False),
]  # fmt: skip


@pytest.mark.parametrize("process", [Linear(), Linear(3.0), Trigonometric()], ids=str)
@pytest.mark.parametrize("solver", FROM_NOISE, ids=lambda s: f"{type(s).__name__}-{s.steps}")
def test_solvers_that_start_from_noise_alone(solver, process):
    """alpha(1) = 0: lambda is endless at the start, and nothing becomes NaN."""
    rng = np.random.default_rng(0)
    y = np.sort(follow(solver.table(process), mixture(process), rng.standard_normal(4000), rng))
    assert np.abs(cdf(y, 0.0) - (np.arange(len(y)) + 0.5) / len(y)).max() < 0.05


def in_jax(process):
    """The Gaussian denoiser N(0.3, 0.2^2) in jax."""

    def denoise(x, t):
        a, s = (f(t).reshape(-1, *(1,) * (x.ndim - 1)) for f in (process.alpha, process.sigma))
        return 0.3 + a * 0.04 / (a**2 * 0.04 + s**2) * (x - a * 0.3)

    return denoise


@pytest.mark.parametrize("solver", [ode.Heun(6), exponential.UniPC(6), ode.Pndm(6), ode.Churn(6)], ids=str)
def test_the_scan_follows_the_table_and_counts_its_evaluations(solver):
    process, x = VpSde(), np.linspace(-1, 1, 10).reshape(2, 5)
    rows = solver.table(process)
    assert solver.nfe(process) == len(rows.t) == len(rows)
    noise = np.random.default_rng(0).standard_normal((len(rows) + bool(rows.start[1]), *x.shape))

    class Recorded:
        def __init__(self):
            self.left = list(noise)

        def standard_normal(self, shape):
            return self.left.pop(0)

    want = follow(rows, mixture(process, np.array([0.3]), np.array([0.2]), np.ones(1)), x, Recorded())
    got = solver(in_jax(process), process, jnp.asarray(x, jnp.float32), jnp.asarray(noise, jnp.float32))
    np.testing.assert_allclose(got, want, atol=2e-4)
    path = solver.trajectory(in_jax(process), process, jnp.asarray(x, jnp.float32), jnp.asarray(noise, jnp.float32))
    assert path.shape == (len(rows) + 1, *x.shape)
    np.testing.assert_allclose(path[-1], got, atol=1e-6)


def test_euler_in_sigma_is_ddim_and_ancestral_euler_goes_down_and_up():
    """k-diffusion's step in y = x / alpha: y + (down - tau) (y - D) / tau + up z, with tau = sigma / alpha."""
    path = grid.Karras()
    for process in (VP(), VpSde(), Sigma(), VE(), SubVp()):
        one, other = ode.Euler(9, grid=path), chain.Ddim(9, 0.0, False, path)
        np.testing.assert_allclose(one.table(process).mix, other.table(process).mix, atol=1e-8, rtol=1e-6)
        times = path(process, 9)
        tau, alpha = ratio(process, times), process.alpha(times)
        for i, (keep, data, raw, noise) in enumerate(ode.EulerAncestral(9, 0.7, grid=path).table(process).mix[:, 0]):
            down, up = ode.down_up(tau[i], tau[i + 1], 0.7)
            want = alpha[i + 1] * np.array([down / tau[i] / alpha[i], 1 - down / tau[i], 0.0, up])
            np.testing.assert_allclose([keep, data, raw, noise], want, atol=1e-8, rtol=1e-6)


def test_euler_is_the_same_in_every_frame_of_a_straight_path():
    process = Linear()
    path = grid.Flow(3.0, 1e-3)
    one, other = ode.Euler(7, "time", grid=path), chain.Ddim(7, 0.0, False, path)
    np.testing.assert_allclose(one.table(process).mix, other.table(process).mix, atol=1e-9)


def test_inversion_and_sampling_are_each_others_inverse():
    process = VP("cosine")
    x = np.linspace(-0.5, 0.9, 15)
    denoise = mixture(process)
    up = follow(chain.DdimInversion(500).table(process), denoise, x)
    back = follow(chain.Ddim(500, clip=False).table(process), denoise, up)
    np.testing.assert_allclose(back, x, atol=0.03)
    assert np.abs(up).max() < 5


def test_bh1_stays_finite_on_the_step_to_the_data():
    """diffusers' UniPC multiplies h = infinity by an empty sum there and returns NaN."""
    rows = exponential.UniPC(12, 2, "bh1", grid=grid.Linspace(spare=True)).table(VP())
    assert np.isfinite(rows.mix).all()
    x = np.linspace(-3, 3, 13)
    last = mixture(VP())(x, rows.t[-1])
    values = [x, *[np.full_like(x, 7.0)] * (rows.mix.shape[1] - 1), last, last, x]
    np.testing.assert_allclose(sum(c * v for c, v in zip(rows.mix[-1, 0], values, strict=True)), last, atol=1e-12)


def test_predictor_corrector_ends_in_the_data():
    process = VE(0.01, 10.0)
    solver = corrector.PredictorCorrector(60, 1)
    x = jax.random.normal(jax.random.key(0), (512, 8)) * 10.0
    y = np.asarray(jax.jit(lambda x, k: solver(in_jax(process), process, x, k))(x, jax.random.key(1)))
    assert y.mean() == pytest.approx(0.3, abs=0.02) and y.std() == pytest.approx(0.2, rel=0.1)
    assert solver.nfe(process) == 119


def test_consistency_sampling_with_an_exact_consistency_function():
    """f(x_t) = where the flow ends: one step already gives the data, more keep them."""
    process = Sigma()

    def function(x, t):
        return flowed(x, process.sigma(np.array([t]))[0], 0.0, np.array([0.3]), np.array([0.2]), np.ones(1))

    for steps in (1, 3):
        rng = np.random.default_rng(1)
        solver = fewstep.Lcm(steps, scale=0.0, grid=grid.Karras() if steps > 1 else grid.Given((80.0, 0.0)))
        y = follow(solver.table(process), function, 80 * rng.standard_normal(3000), rng)
        assert y.mean() == pytest.approx(0.3, abs=0.02) and y.std() == pytest.approx(0.2, rel=0.05)


def test_tcd_without_noise_is_ddim():
    process, path = VP(), grid.Trailing()
    np.testing.assert_allclose(
        fewstep.Tcd(5, 0.0, grid=path).table(process).mix,
        chain.Ddim(5, 0.0, False, path).table(process).mix,
        atol=1e-12,
    )


GRIDS = [grid.Even(), grid.Leading(), grid.Leading(1, "first"), grid.Trailing(), grid.Linspace(), grid.Linspace(spare=True),
         grid.Karras(), grid.Exponential(), grid.Flow(), grid.DynamicFlow(4096)]  # fmt: skip


@pytest.mark.parametrize("path", GRIDS, ids=str)
@pytest.mark.parametrize("steps", [2, 10, 50])
def test_grids_fall_from_noise_to_data(path, steps):
    times = path(VP(), steps)
    assert times.shape == (steps + 1,) and times.dtype == np.float64
    assert (np.diff(times) < 0).all() and times[0] <= 1 and times[-1] in (0.0, 0.001)


def test_dynamic_shift_is_the_published_line():
    assert grid.DynamicFlow(256).mu == pytest.approx(0.5) and grid.DynamicFlow(4096).mu == pytest.approx(1.15)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ode.Heun(0).table(VP()), "solver.steps=0"),
        (lambda: ode.Heun(-3).table(Sigma()), "solver.steps=-3"),
        (lambda: ode.Euler(0).table(Linear()), "solver.steps=0"),
        (lambda: chain.Ddim(1001).table(VP()), "solver.steps=1001.*process.steps=1000"),
        (lambda: ode.Euler(5, grid=grid.Trailing()).table(Sigma()), "needs a chain.*process.name=vp"),
        (lambda: ode.Heun(5).table(Linear()), "solver.space='sigma'.*solver.space='time'"),
        (lambda: ode.Heun(5, "warp").table(VP()), "solver.space='warp'"),
        (lambda: ode.Heun(5, grid=grid.Karras(sigma_min=2.0, sigma_max=1.0)).table(VP()), "sigma_min=2, sigma_max=1"),
        (lambda: exponential.UniPC(5, grid=grid.Karras()).table(Linear()), "solver.grid.sigma_max"),
        (lambda: exponential.Dpm(5).table(Linear()), "solver dpm.*dpm_plus"),
        (lambda: exponential.DpmPlus(5, bend="round"), "solver.bend='round'"),
        (lambda: exponential.UniPC(5, kind="bh3"), "solver.kind='bh3'"),
        (lambda: ode.EulerMaruyama(5, "sbdm").table(Linear()), "solver.diffusion=sbdm"),
        (lambda: ode.EulerMaruyama(5, "soap"), "solver.diffusion='soap'"),
        (lambda: grid.Given((1.0, 2.0))(VP(), 1), "solver.grid.levels"),
        (lambda: grid.Leading(400)(VP(), 2), None),
        (lambda: grid.Leading(700)(VP(), 2), "solver.grid.offset=700"),
        (lambda: grid.Leading(0, "end")(VP(), 2), "solver.grid.stop='end'"),
    ],
)  # fmt: skip
def test_mistakes_name_the_field(make, words):
    if words is None:
        make()
        return
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize("name", sorted(registry.TABLES["solver"]))
def test_every_solver_clamps_and_thresholds(name):
    """Imagen's: the quantile of |x_0|, at least 1 and without an upper limit, by which what is clamped is divided."""
    x0 = np.random.default_rng(0).normal(0, [[0.2], [1.0], [3.0]], (3, 400))
    size = np.maximum(np.quantile(np.abs(x0), 0.995, axis=1), 1.0)[:, None]
    for clip, want in ((False, x0), (True, np.clip(x0, -1, 1)), (0.995, np.clip(x0, -size, size) / size)):
        solver = registry.build("solver", {"name": name, "clip": clip})
        limit = solver.limit if hasattr(solver, "limit") else limited(solver.prepared(VP()).clip)
        np.testing.assert_allclose(limit(jnp.asarray(x0)), want, atol=1e-5)
    with pytest.raises(UserError, match=r"clip=2\.0 must be True or False or above 0"):
        registry.build("solver", {"name": name, "clip": 2.0})

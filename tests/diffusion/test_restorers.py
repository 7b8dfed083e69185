"""The posterior law: with the exact denoiser of N(mu, S) every restorer is held against the closed form of p(x_0 | y)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.config import registry
from jaxgen.core.linear import masked, separable
from jaxgen.diffusion.grid import Exponential
from jaxgen.diffusion.paths import VpSde
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.restorers.ddnm import Ddnm
from jaxgen.diffusion.restorers.ddrm import Ddrm
from jaxgen.diffusion.restorers.dps import Dps
from jaxgen.diffusion.restorers.pigdm import PiGdm
from jaxgen.diffusion.restorers.repaint import RePaint, order
from jaxgen.diffusion.solvers.chain import Ancestral
from jaxgen.diffusion.solvers.exponential import DpmPlus
from jaxgen.diffusion.solvers.table import Estimate

SIDE = 4
NUM = SIDE * SIDE
PROCESS = VpSde()
FINE = DpmPlus(40, 3, grid=Exponential())  # of plain samples it gets the variance 0.25 to 0.001
MEAN = np.full(NUM, 0.3)
ALIKE = 0.25 * np.eye(NUM)
PLACES = np.stack(np.meshgrid(range(SIDE), range(SIDE)), -1).reshape(-1, 2)
BOUND = 0.25 * np.exp(-0.25 * ((PLACES[:, None] - PLACES) ** 2).sum(-1))  # neighbours are alike


def blurred():
    """Wide enough for singular values that are none."""
    taps = np.exp(-0.5 * (np.subtract.outer(np.arange(SIDE), np.arange(SIDE)) / 1.5) ** 2)
    return taps / taps.sum(1, keepdims=True)


def seen_by(name, noise=0.0, cov=ALIKE):
    """One of the maps, and what was seen through it of a picture of N(MEAN, cov)."""
    rng = np.random.default_rng(0)
    x = MEAN + np.linalg.cholesky(cov) @ rng.standard_normal(NUM)
    x = jnp.asarray(x, jnp.float32).reshape(1, SIDE, SIDE, 1)
    known = jnp.asarray(rng.random((1, SIDE, SIDE, 1)) < 0.5, jnp.float32)
    means = np.kron(np.eye(SIDE // 2), [[0.5, 0.5]])
    a = {
        "mask": lambda: masked(x * known, known),
        "means": lambda: separable(x[:, ::2, ::2], means, means, noise=noise),
        "blur": lambda: separable(x, blurred(), blurred(), noise=noise),
        "grey": lambda: separable(x, channels=np.full((1, 1), 0.6), noise=noise),
    }[name]()
    return separable(a.apply(x), blurred(), blurred()) if name == "blur" and not noise else a


def closed(a, noise, cov):
    """Mean and covariance of x_0 given y."""
    with jax.default_matmul_precision("highest"):
        matrix = np.asarray(a.apply(jnp.eye(NUM).reshape(NUM, SIDE, SIDE, 1)), np.float64).reshape(NUM, -1).T
    u, s, vt = np.linalg.svd(matrix)
    rank = int((s > 5e-5 * s[0]).sum())  # of values below a ten thousandth of the largest nothing is taken to be seen
    y, matrix = u.T[:rank] @ np.asarray(a.y, np.float64).ravel(), s[:rank, None] * vt[:rank]
    gain = cov @ matrix.T @ np.linalg.inv(matrix @ cov @ matrix.T + noise**2 * np.eye(rank))
    return MEAN + gain @ (y - matrix @ MEAN), cov - gain @ matrix @ cov


def exact(cov):
    """E[x_0 | x_t] of N(MEAN, cov)."""
    values, axes = np.linalg.eigh(cov)
    values, axes, mean = (jnp.asarray(v, jnp.float32) for v in (values, axes, MEAN))

    def denoise(x, t):
        alpha, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
        z = (x.reshape(len(x), -1) - alpha * mean) @ axes
        return (mean + (alpha * values / (alpha**2 * values + sigma**2) * z) @ axes.T).reshape(x.shape)

    return denoise


def follow(restorer, x, a, cov, solver=FINE):
    """x at t=1 [N, 16] -> x at t=0 [N, 16], float64."""
    with jax.default_matmul_precision("highest"):
        x = jnp.asarray(x, jnp.float32).reshape(-1, SIDE, SIDE, 1) * PROCESS.sigma(np.ones(1)).astype(np.float32)
        made = jax.jit(lambda x, rng: restorer(exact(cov), solver, PROCESS, x, rng, a))(x, jax.random.key(0))
    return np.asarray(made, np.float64).reshape(len(x), -1)


def pushed(restorer, a, cov):
    """Mean and covariance of the samples of a restorer that is affine in its noise and draws none on its way: without a draw."""
    zero, *ends = follow(restorer, np.concatenate([np.zeros((1, NUM)), np.eye(NUM)]), a, cov)
    way = np.stack(ends) - zero
    return zero, way.T @ way


def drawn(restorer, a, cov, num=4000, solver=FINE):
    """The same by samples."""
    made = follow(restorer, np.random.default_rng(1).standard_normal((num, NUM)), a, cov, solver)
    return made.mean(0), np.cov(made.T)


def far(found, want):
    """The largest error of the mean and of the covariance."""
    return [float(np.abs(f - w).max()) for f, w in zip(found, want, strict=True)]


EXACT = [  # without noise
    ("mask", Ddnm(), 0.0), ("mask", PiGdm(0.5), 0.0), ("mask", Ddrm(400, 0.0, clip=False, grid=Exponential()), 0.0),
    ("means", Ddnm(), 0.0), ("means", PiGdm(0.5), 0.0), ("means", Ddrm(400, 0.0, clip=False, grid=Exponential()), 0.0),
    ("blur", Ddnm(), 0.0), ("blur", PiGdm(0.5), 0.0), ("blur", Ddrm(400, 0.0, clip=False, grid=Exponential()), 0.0),
    ("means", PiGdm(0.5), 0.3), ("blur", PiGdm(0.5), 0.3), ("grey", PiGdm(0.5), 0.3),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "restorer", "noise"), EXACT, ids=lambda v: str(v).split("(")[0])
def test_samples_are_the_posteriors_where_pixels_are_independent(kind, restorer, noise):
    a = seen_by(kind, noise)
    mean, cov = far(pushed(restorer, a, ALIKE), closed(a, noise, ALIKE))
    assert mean < 4e-3 and cov < (6e-3 if isinstance(restorer, Ddrm) else 2e-3), (mean, cov)


def test_what_was_seen_is_met_whatever_the_denoiser_says():
    """Of a denoiser that knows nothing of the data."""
    zero = lambda x, t: 0.0 * x  # noqa: E731
    for kind in ("mask", "means"):
        a, x = seen_by(kind), jax.random.normal(jax.random.key(1), (3, SIDE, SIDE, 1))
        for restorer in (Ddnm(), RePaint(steps=6, jump=2, passes=2), Ddrm(steps=5)):
            made = restorer(zero, DpmPlus(5), PROCESS, x, jax.random.key(0), a)
            np.testing.assert_allclose(a.apply(made), jnp.broadcast_to(a.y, (3, *a.y.shape[1:])), atol=1e-5)


def test_the_bias_where_pixels_depend_on_each_other(capsys):
    """Nobody is exact; the figures are printed, and those fall that the papers say fall."""
    a = seen_by("mask", cov=BOUND)
    want = closed(a, 0.0, BOUND)
    rows = {
        "ddnm": Ddnm(), "pigdm": PiGdm(0.5), "ddrm eta 0.85": Ddrm(100, clip=False), "dps": Dps(3.0),
        "repaint once": RePaint(40, 5, 1, clip=False), "repaint 6 times": RePaint(40, 5, 6, clip=False),
    }  # fmt: skip
    found = {}
    for name, restorer in rows.items():
        found[name] = far(drawn(restorer, a, BOUND, 1000), want)
    with capsys.disabled():
        print("", *(f"{name:16} mean {m:.3f} covariance {c:.3f}" for name, (m, c) in found.items()), sep="\n")
    assert max(found[name][0] for name in ("pigdm", "dps")) < 0.6 * found["ddnm"][0]
    assert all(more < 0.75 * once for more, once in zip(found["repaint 6 times"], found["repaint once"], strict=True))


def test_dps_takes_the_papers_step_after_every_ancestral_step():
    """By hand, with the slope of the norm by finite differences."""
    process, a, scale = VP(steps=8, beta_max=0.006), seen_by("mask"), 40.0
    denoise = lambda x, t: 0.7 * jnp.tanh(x) + 0.1 * x[:, ::-1]  # noqa: E731
    solver, x = Ancestral(8, clip=False), jax.random.normal(jax.random.key(2), (2, SIDE, SIDE, 1))
    z = jax.random.normal(jax.random.key(3), (8, 2, SIDE, SIDE, 1))
    got = Dps(scale, 8)(denoise, solver, process, x, z, a)
    table, zeta = solver.table(process), scale * np.sqrt(NUM / (256 * 256 * 3))
    norm = lambda x: jnp.sqrt(((a.y - a.apply(denoise(x, None))) ** 2).sum((1, 2, 3)))  # noqa: E731
    with jax.enable_x64(True):
        for mix, noise in zip(table.mix[:, 0], np.asarray(z, np.float64), strict=True):
            x64, step = np.asarray(x, np.float64), 1e-4
            slope = np.zeros_like(x64)
            for i in np.ndindex(x64.shape[1:]):
                move = np.zeros_like(x64)
                move[(slice(None), *i)] = step
                slope[(slice(None), *i)] = (norm(x64 + move) - norm(x64 - move)) / (2 * step)
            x = mix[0] * x64 + mix[1] * np.asarray(denoise(x64, None)) + mix[3] * noise - zeta * slope
    np.testing.assert_allclose(got, x, rtol=2e-3, atol=2e-3)


def test_repaint_goes_over_its_steps_again_in_the_published_order():
    assert RePaint().nfe(None, VP()) == 2410  # Lugmayr et al. 2022: 250 steps, jumps of 10, 10 times
    assert RePaint(passes=1).nfe(None, VP()) == 250
    assert order(4, 1, 2) == [4, 3, 4, 3, 2, 3, 2, 1, 2, 1, 0]
    rows = RePaint(20, 4, 3).rows(VP())
    assert len(rows.t) == RePaint(20, 4, 3).nfe(None, VP())
    level = rows.rise**2 * rows.sigma**2 + rows.fresh**2  # what rises has the noise of where it goes
    np.testing.assert_allclose(level[:-1], VP().sigma(rows.t[1:]) ** 2, atol=1e-6)
    np.testing.assert_allclose((rows.rise * rows.alpha)[:-1], VP().alpha(rows.t[1:]), atol=1e-6)


@pytest.mark.parametrize("name", sorted(registry.TABLES["restorer"]))
def test_a_learned_variance_goes_on_to_the_solver(name):
    """A denoiser's estimate keeps its other part."""
    restorer = registry.build("restorer", name)
    if not hasattr(restorer, "given") or name in ("none", "repaint", "ddrm"):
        return
    given = restorer.given(lambda x, t: Estimate(0.5 * x, 0.2 * x), PROCESS, seen_by("mask"))
    x = jnp.ones((2, SIDE, SIDE, 1))
    out = given(x, jnp.full((2,), 0.5))
    np.testing.assert_array_equal(out.fraction, 0.2 * x)
    assert (np.asarray(out.x0) != 0.5).any()

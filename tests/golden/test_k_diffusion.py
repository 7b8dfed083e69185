"""k-diffusion's samplers in float64 with its own denoiser (a Gaussian's posterior mean), sigmas and recorded noise."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import grid
from jaxgen.diffusion.paths import Sigma, VpSde
from jaxgen.diffusion.process import ratio
from jaxgen.diffusion.solvers import exponential, ode

SOLVERS = {
    "euler": lambda n, g: ode.Euler(n, grid=g),
    "heun": lambda n, g: ode.Heun(n, grid=g),
    "dpm_2": lambda n, g: ode.Dpm2(n, grid=g),
    "lms": lambda n, g: ode.Lms(n, 4, grid=g),
    "dpmpp_2m": lambda n, g: exponential.DpmPlus(n, 2, taper=False, grid=g),
    "euler_ancestral": lambda n, g: ode.EulerAncestral(n, grid=g),
    "dpm_2_ancestral": lambda n, g: ode.Dpm2(n, 1.0, grid=g),
    "dpmpp_2s_ancestral": lambda n, g: exponential.Dpm2sAncestral(n, grid=g),
    "dpmpp_sde": lambda n, g: exponential.DpmSde(n, grid=g),
    "dpmpp_2m_sde": lambda n, g: exponential.DpmPlus(n, 2, 1.0, taper=False, grid=g),
    "dpmpp_3m_sde": lambda n, g: exponential.DpmPlus(n, 3, 1.0, bend="heun", taper=False, grid=g),
    "heun_churn": lambda n, g: ode.Churn(n, **CHURN, grid=g),
}
CHURN = {"churn": 5.0, "low": 0.05, "high": 10.0, "noise": 1.003}  # not in the case's file: found by search
POLY_RHO = 1.7  # likewise


def load(folder):
    return json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))


def gaussian(process, mean, std):
    """E[x_0 | x_t] of data ~ N(mean, std^2)."""

    def denoise(x, t):
        a, s = (f(t).reshape(-1, *(1,) * (x.ndim - 1)) for f in (process.alpha, process.sigma))
        return mean + a * std**2 / (a**2 * std**2 + s**2) * (x - a * mean)

    return denoise


@pytest.mark.golden("k_diffusion_samplers")
@pytest.mark.parametrize("name", SOLVERS)
def test_sampler(folder, name):
    case, arrays = load(folder)
    levels = arrays["sigmas_karras"]
    process = Sigma(sigma_max=float(levels[0]))
    solver = SOLVERS[name](len(levels) - 1, grid.Given(tuple(levels)))
    rows = solver.table(process)
    early = bool(rows.start[1])
    noise = np.zeros((len(rows) + early, *arrays["x"].shape))
    recorded = arrays.get(f"{name}_noise", ())
    # churn draws at every step and adds it after the step before; the others draw where their rows have noise
    drawn = range(-1, len(rows), 2) if "churn" in name else np.flatnonzero(rows.mix[:, 0, -1])
    for row, z in zip(drawn, recorded, strict=False):
        if row + early >= 0:
            noise[row + early] = z
    with jax.enable_x64(True):
        x = jnp.asarray(arrays["x"], jnp.float64)
        denoise = gaussian(process, float(arrays["mu"]), float(arrays["sd"]))
        got = jax.jit(lambda x, z: solver(denoise, process, x, z))(x, jnp.asarray(noise))
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    np.testing.assert_allclose(got, arrays[name], **tolerance)


@pytest.mark.golden("k_diffusion_samplers")
def test_grids(folder):
    _, arrays = load(folder)
    process = Sigma()
    for name, rule in {"karras": grid.Karras, "exp": grid.Exponential, "poly": grid.Exponential}.items():
        want = arrays[f"sigmas_{name}"]
        bend = {"bend": POLY_RHO} if name == "poly" else {}
        path = rule(sigma_min=float(want[-2]), sigma_max=float(want[0]), **bend)(process, len(want) - 1)
        np.testing.assert_allclose(ratio(process, path), want, rtol=1e-5)
    vp = VpSde(beta_min=0.1, beta_max=20.0)
    # exp(...) - 1 in float32 over there
    np.testing.assert_allclose(ratio(vp, vp.grid(len(want) - 1)) ** 2, arrays["sigmas_vp"] ** 2, rtol=1e-5, atol=1.2e-7)


@pytest.mark.golden("k_diffusion_samplers")
def test_ancestral_step(folder):
    _, arrays = load(folder)
    np.testing.assert_allclose(ode.down_up(2.0, 1.2, 0.8), arrays["ancestral_step_2_1.2_eta0.8"], rtol=1e-6)

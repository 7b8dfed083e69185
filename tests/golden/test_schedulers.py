"""diffusers' schedulers: every state of every recorded trajectory, from the recorded model outputs and noise.

A case is a scheduler's class and config; here they become a process, a prediction, a grid and a solver. The states of
diffusers' sigma schedulers are y = x / alpha and are compared as such.
"""

import dataclasses
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.config.registry import build
from jaxgen.diffusion import grid, predict
from jaxgen.diffusion.paths import Linear, Sigma, shifted
from jaxgen.diffusion.process import VP, Level, ratio
from jaxgen.diffusion.solvers import chain, exponential, fewstep, ode
from jaxgen.diffusion.solvers.table import Estimate, Thresholded, clipped, run, unlimited
from jaxgen.errors import UserError
from jaxgen.pretrained.schedulers import CLASSES, method_keys

BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
PREDICTIONS = {
    "epsilon": predict.Eps(), "v_prediction": predict.V(), "sample": predict.X0(), "flow_prediction": predict.Flow(),
    "flow": predict.Flow(),
}  # fmt: skip
SIGMA_SPACE = ("EulerDiscrete", "EulerAncestral", "HeunDiscrete", "KDPM2", "LMS")


@dataclass(frozen=True)
class Times:
    """A grid written out."""

    times: tuple[float, ...]

    def __call__(self, process, steps):
        return np.asarray(self.times)


def process_of(case):
    c = case["scheduler_config"]
    if case["mode"] == "flow":
        return Linear()
    if case["mode"] == "edm":
        return Sigma(c["sigma_min"], c["sigma_max"], c["rho"])
    total = c["num_train_timesteps"]
    return VP(
        BETAS[c["beta_schedule"]], total, c["beta_start"] * total / 1000, c["beta_end"] * total / 1000,
        zero_snr=c.get("rescale_betas_zero_snr", False),
    )  # fmt: skip


def grid_of(case, arrays, process):
    """The grid by our own rules; checked against the recorded timesteps or sigmas."""
    c, name, steps = case["scheduler_config"], case["cls"], case["steps"]
    spacing, stop = c.get("timestep_spacing"), "data"
    if (name.startswith(("DDIM", "PNDM")) and not c.get("set_alpha_to_one")) or c.get(
        "final_sigmas_type"
    ) == "sigma_min":
        stop = "first"
    if name.startswith("DEIS"):
        stop = "first"
    if name.startswith(("LCM", "TCD")):  # their grid thins out the distillation's 50 steps
        return Times((*((arrays["timesteps"] + 1) / process.steps), process.first if name.startswith("TCD") else 0.0))
    if case["mode"] == "edm":
        return grid.Even()
    if name.startswith("FlowMatch"):
        low = 1 / c["num_train_timesteps"]
        shift = float(np.exp(case["set_timesteps_kwargs"]["mu"])) if c.get("use_dynamic_shifting") else c["shift"]
        if not c.get("use_dynamic_shifting"):  # diffusers shifts the smallest time before and with all the others
            low = shift * low / (1 + (shift - 1) * low)
        return grid.Flow(shift, low)
    if c.get("use_flow_sigmas"):
        # DPM-Solver counts even steps up from 1 / T, UniPC down to it; pure noise has no lambda and is left out
        even = np.linspace(1, 1 / c["num_train_timesteps"], steps + 1)
        even = np.minimum(even[:-1], 1 - 1e-6) if name.startswith("UniPC") else (1 - even)[::-1][:-1]
        even = shifted(even, c["flow_shift"])
        return grid.Given((*(even / (1 - even)), 0.0))
    if spacing == "leading" and c.get("use_karras_sigmas"):
        even = ratio(process, grid.Leading(c["steps_offset"])(process, steps))
        return grid.Karras(7.0, float(even[-2]), float(even[0]))
    if c.get("use_karras_sigmas"):
        return grid.Karras(7.0)
    if spacing == "leading":
        return grid.Leading(c.get("steps_offset", 0), stop)
    if spacing == "trailing":
        return grid.Trailing(stop)
    if name.startswith(SIGMA_SPACE):
        return grid.Linspace(whole=False)
    return grid.Linspace(spare=name.startswith(("DPM", "UniPC", "DEIS")), stop=stop)


def solver_of(case, steps, path):
    c, name = case["scheduler_config"], case["cls"]
    clip, order = bool(c.get("clip_sample")), c.get("solver_order")
    if name.startswith("DDPM"):
        variance = {"fixed_small": "small", "fixed_large": "large", "learned_range": "learned"}[c["variance_type"]]
        return chain.Ancestral(steps, variance, clip, path)
    if name.startswith("DDIM"):
        return chain.Ddim(steps, case["step_kwargs"].get("eta", 0.0), clip, path, rederive=False)
    if name.startswith(("DPMSolverMultistep", "EDMDPM")):
        bend = c["solver_type"]
        if c["algorithm_type"] == "dpmsolver":
            return exponential.Dpm(steps, order, bend, grid=path)
        return exponential.DpmPlus(steps, order, float("sde" in c["algorithm_type"]), 1.0, bend, grid=path)
    if name.startswith("DPMSolverSinglestep"):
        return exponential.DpmSingle(steps, order, c["solver_type"], grid=path)
    if name.startswith("UniPC"):
        return exponential.UniPC(steps, order, c["solver_type"], grid=path)
    if name.startswith("DEIS"):
        return ode.Deis(steps, order, grid=path)
    if name.startswith("LMS"):
        return ode.Lms(steps, grid=path)
    if name.startswith("PNDM"):
        return ode.Pndm(steps, grid=path)
    if name.startswith("LCM"):
        return fewstep.Lcm(steps, c["timestep_scaling"], grid=path)
    if name.startswith("TCD"):
        return fewstep.Tcd(steps, case["step_kwargs"]["eta"], grid=path)
    if name.startswith("KDPM2"):
        return ode.Dpm2(steps, float("Ancestral" in name), grid=path)
    if "Heun" in name:
        return ode.Heun(steps, "time" if case["mode"] == "flow" else "sigma", grid=path)
    if "Ancestral" in name:
        return ode.EulerAncestral(steps, grid=path)
    assert "Euler" in name, f"no solver is known for {name}"
    return ode.Euler(steps, "time" if case["mode"] == "flow" else "sigma", grid=path)


def replay(solver, process, arrays, predicted, limit, scale):
    """The trajectory of x from what the model said at each row and the noise that was drawn."""
    rows = solver.table(process)
    outputs = jnp.asarray(arrays["model_outputs"])
    level = Level(process.alpha(rows.t), process.sigma(rows.t), *np.full((2, len(rows)), np.nan))  # no case needs rates
    assert len(rows) == len(outputs) == solver.nfe(process)
    learned = outputs.shape[2] == 2 * arrays["xs"].shape[2]
    outputs, second = jnp.split(outputs, 2, axis=2) if learned else (outputs, None)
    noise = np.zeros((len(rows), *arrays["xs"].shape[1:]), np.float32)
    drawn = np.flatnonzero(rows.mix[:, 0, -1]) if len(arrays.get("noise", ())) < len(rows) else range(len(rows))
    for row, z in zip(drawn, arrays.get("noise", ()), strict=False):
        noise[row] = z

    def denoise(x, row):
        i = row[0].astype(int)
        x0 = predicted.denoised(outputs[i], x, Level(*(jnp.asarray(v, x.dtype)[i] for v in level)))
        return Estimate(x0, (second[i] + 1) / 2) if learned else x0

    numbered = dataclasses.replace(rows, t=np.arange(len(rows), dtype=np.float64))
    x = jnp.asarray(arrays["xs"][0] * scale(rows.t[:1])[0])
    path = jax.jit(lambda x: run(numbered, denoise, x, jnp.asarray(noise), limit, keep=True))(x)
    return np.asarray(path), rows


def load(file):
    return json.loads(file.read_text()), dict(np.load(file.with_suffix(".npz")))


@pytest.mark.golden("schedulers/*.json")
def test_trajectory(folder):
    case, arrays = load(folder)
    c = case["scheduler_config"]
    process = process_of(case)
    path = grid_of(case, arrays, process)
    if case["cls"] == "DDIMScheduler" and c["timestep_spacing"] == "trailing":
        path = grid.Trailing()
    predicted = predict.Edm(c["sigma_data"]) if case["mode"] == "edm" else PREDICTIONS[case["prediction"]]
    solver = solver_of(case, case["steps"], path)
    if case["cls"] == "DDIMScheduler" and c["timestep_spacing"] == "trailing":
        # diffusers' DDIM goes to t - T // steps and asks the network at the next time of the rounded grid: the two
        # differ by one index wherever the grid rounds down. Its own states need its own pairs of times.
        t = path(process, case["steps"])[:-1]
        s = np.maximum(t - process.steps // case["steps"] / process.steps, 0.0)
        solver = Pairs(solver, t, s)
    in_sigma = case["cls"].startswith(SIGMA_SPACE)

    def scale(t):
        return process.alpha(t) if in_sigma else np.ones_like(t)

    limit = clipped if c.get("clip_sample") else unlimited
    if c.get("thresholding"):
        limit = Thresholded(c["dynamic_thresholding_ratio"], c["sample_max_value"])
    got, rows = replay(solver, process, arrays, predicted, limit, scale)
    ends = np.append(rows.t, path(process, case["steps"])[-1])
    back = scale(ends).reshape(-1, 1, 1, 1, 1)
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    np.testing.assert_allclose(got / back, arrays["xs"], **tolerance)


@dataclass(frozen=True)
class Pairs:
    """DDIM over given pairs of times."""

    ddim: chain.Ddim
    t: np.ndarray
    s: np.ndarray

    def table(self, process):
        return self.ddim.between(process, self.t, self.s)

    def nfe(self, process):
        return len(self.t)


@pytest.mark.golden("schedulers/*.json")
def test_grid_and_schedule(folder):
    case, arrays = load(folder)
    process = process_of(case)
    if "betas" in arrays and isinstance(process, VP):
        # float32 over there: a rescaled beta is 1 minus a ratio near 1, and what is left of it is rounding
        np.testing.assert_allclose(
            process.betas, arrays["betas"], rtol=1e-5, atol=1e-9 if not process.zero_snr else 1e-5
        )
        np.testing.assert_allclose(np.exp(process.log_bar[1:]), arrays["alphas_cumprod"], rtol=2e-5, atol=1e-9)
    times = grid_of(case, arrays, process)(process, case["steps"])
    if "sigmas" not in arrays:
        want = arrays["timesteps"]
        want = np.delete(want, 1) if case["cls"] == "PNDMScheduler" else want  # its second evaluation
        np.testing.assert_allclose(process.clock(times[:-1]), want, atol=1e-6)
        return
    want = arrays["sigmas"][np.append(True, np.diff(arrays["sigmas"]) != 0)]  # twice where a step has two stages
    got = process.sigma(times) if case["mode"] == "flow" else ratio(process, times)
    # sigma^2 = 1 / alpha_bar - 1 in float32 is no finer than its 1.2e-7
    np.testing.assert_allclose(got**2, want[: len(got)] ** 2, rtol=2e-5, atol=1.2e-7)


@pytest.mark.golden("schedulers/*.json")
def test_a_published_config_says_the_same_parts(folder):
    """`method_keys` gives the very objects whose trajectories are checked above, or says in a line what it cannot."""
    case, arrays = load(folder)
    config = case["scheduler_config"] | {"_class_name": case["cls"]}
    try:
        keys = method_keys(config, case["steps"])
    except UserError as error:
        refused = [key for key in ("thresholding", "use_dynamic_shifting", "use_flow_sigmas") if config.get(key)]
        leading = config.get("timestep_spacing") == "leading" and config.get("use_karras_sigmas")
        assert case["cls"] not in CLASSES or refused or leading, error
        return
    process = process_of(case)
    path = grid_of(case, arrays, process)
    if case["cls"] == "DDIMScheduler" and config["timestep_spacing"] == "trailing":
        path = grid.Trailing()
    told = build("process", keys["process"])
    assert told == (dataclasses.replace(process, whole_clock=told.whole_clock) if isinstance(told, VP) else process)
    if config.get("use_karras_sigmas") and case["cls"] in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        clock = told.clock(path(process, case["steps"])[:-1])
        np.testing.assert_allclose(clock, arrays["timesteps"], atol=0 if told.whole_clock else 1e-3)
    assert build("predict", keys["predict"]) == PREDICTIONS[case["prediction"]]
    if keys["solver"]["name"] == "ddim":
        keys["solver"]["eta"] = case["step_kwargs"].get("eta", 0.0)  # of their call, not of the config
    assert repr(build("solver", keys["solver"])) == repr(solver_of(case, case["steps"], path))

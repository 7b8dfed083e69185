"""EDM (Karras et al. 2022): preconditioning, samplers with their ablations, and losses, from the originals' draws."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.core.state import Weights
from jaxgen.diffusion import predict, times, weight
from jaxgen.diffusion.paths import VE, Sigma, VpSde
from jaxgen.diffusion.process import VP, level_at
from jaxgen.diffusion.solvers import ode
from jaxgen.methods.diffusion import Diffusion


def load(folder):
    return json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))


def spread(v, x):
    return jnp.asarray(v, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def gaussian(process, mean, std):
    """E[x_0 | x_t] of data ~ N(mean, std^2)."""

    def denoise(x, t):
        a, s = spread(process.alpha(t), x), spread(process.sigma(t), x)
        return mean + a * std**2 / (a**2 * std**2 + s**2) * (x - a * mean)

    return denoise


# name over there -> (process, prediction, what their network's clock is in ours)
PRECONDS = {
    "VPPrecond": (VpSde(0.1, 20.0), predict.Eps()),
    "VEPrecond": (VE(0.02, 100.0, first=1e-9), predict.Score(power=1.0)),
    "iDDPMPrecond": (VP("cosine", 1000), predict.Eps()),
    "EDMPrecond": (Sigma(), predict.Edm(0.5)),
}


@pytest.mark.golden("edm_precond")
@pytest.mark.parametrize("name", PRECONDS)
def test_preconditioning(folder, name):
    """Their D(y; sigma), network input and clock; y = x / alpha. iDDPM rounds sigma to the chain, as its paper does not."""
    case, arrays = load(folder)
    process, predicted = PRECONDS[name]
    sigma = np.asarray(arrays["sigma"], np.float64)
    t = process.when(sigma)
    given = process.when(np.asarray(arrays[f"{name}_round_sigma"], np.float64))
    if isinstance(process, VP):
        assert np.abs(process.clock(given) - arrays[f"{name}_model_noise_labels"]).max() < 0.01
    else:
        # VP's clock is a log of 1 + sigma^2 in float32 over there
        near = 999 * 1.2e-7 / (0.1 * 0.1) if name == "VPPrecond" else 1e-6
        np.testing.assert_allclose(process.clock(t), arrays[f"{name}_model_noise_labels"], rtol=1e-5, atol=near)
    level = level_at(process, t, arrays["x"])
    x = jnp.asarray(arrays["x"]) * level.alpha
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    np.testing.assert_allclose(x * predicted.scale(level), arrays[f"{name}_model_x"], **tolerance)
    out = jnp.asarray(arrays["F"])
    np.testing.assert_allclose(predicted.denoised(out, x, level), arrays[f"{name}_D"], **tolerance)


@dataclass(frozen=True)
class Levels:
    """A grid of times written out, and 0."""

    times: tuple[float, ...]

    def __call__(self, process, steps):
        return np.append(np.asarray(self.times), 0.0)


def in_float64(solver, process, arrays, noise, scale):
    with jax.enable_x64(True):
        denoise = gaussian(process, float(arrays["mu"]), float(arrays["sd"]))
        x = jnp.asarray(arrays["latents"], jnp.float64) * scale
        return np.asarray(jax.jit(lambda x, z: solver(denoise, process, x, z))(x, jnp.asarray(noise)))


@pytest.mark.golden("edm_samplers")
def test_stochastic_sampler(folder):
    case, arrays = load(folder)
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    for name, options in case["cases"].items():
        if name.startswith("abl_"):
            continue
        process = Sigma(options.get("sigma_min", 0.002), options.get("sigma_max", 80.0), options.get("rho", 7))
        steps = options.get("num_steps", 18)
        solver = ode.Churn(
            steps, options.get("S_churn", 0.0), options.get("S_min", 0.0), options.get("S_max", 1e9),
            options.get("S_noise", 1.0),
        )  # fmt: skip
        rows = solver.table(process)
        early = bool(rows.start[1])
        noise = np.zeros((len(rows) + early, *arrays["latents"].shape))
        for row, z in zip(range(-1, len(rows), 2), arrays[f"{name}_noise"], strict=False):
            if row + early >= 0:
                noise[row + early] = z
        got = in_float64(solver, process, arrays, noise, process.sigma_max)
        np.testing.assert_allclose(got, arrays[name], **tolerance, err_msg=name)
        if not options.get("S_churn"):
            heun = in_float64(ode.Heun(steps), process, arrays, noise, process.sigma_max)
            np.testing.assert_allclose(heun, got, rtol=1e-9)


class Fitted(VpSde):
    """Betas fitted to a range of sigma; the first may come out below 0."""

    def __post_init__(self):
        assert self.beta_max > 0


def ablation(options):
    """Their (discretization, schedule, scaling) as a process with a grid of its times."""
    n, steps = options["num_steps"], np.arange(options["num_steps"])
    vp_sigma = {t: np.sqrt(np.expm1(0.5 * 19.9 * t**2 + 0.1 * t)) for t in (1e-3, 1.0)}
    low = {"vp": vp_sigma[1e-3], "ve": 0.02, "iddpm": 0.002, "edm": 0.002}[options["discretization"]]
    high = {"vp": vp_sigma[1.0], "ve": 100.0, "iddpm": 81.0, "edm": 80.0}[options["discretization"]]
    low, high = max(low, 0.002), min(high, 80.0)  # what their network says it was trained for
    # the VP schedule's betas are chosen to meet the range at t = 1e-3 and 1
    spent = [np.log1p(low**2), np.log1p(high**2)]
    slope = 2 * (spent[0] / 1e-3 - spent[1]) / (1e-3 - 1)
    first = spent[1] - 0.5 * slope
    if options["discretization"] == "vp":
        t = 1 + steps / (n - 1) * (1e-3 - 1)
        sigma = np.sqrt(np.expm1(0.5 * slope * t**2 + first * t))
    elif options["discretization"] == "ve":
        sigma = np.sqrt(high**2 * (low**2 / high**2) ** (steps / (n - 1)))
    elif options["discretization"] == "edm":
        sigma = (high ** (1 / 7) + steps / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    else:  # the improved DDPM chain's own sigmas, thinned by index
        chain = VP("cosine", 1000)
        t = np.arange(1, 1001) / 1000
        all_levels = (chain.sigma(t) / chain.alpha(t))[::-1]
        inside = all_levels[(all_levels >= low) & (all_levels <= high)]
        sigma = inside[np.round((len(inside) - 1) / (n - 1) * steps).astype(int)]
    process = {
        "vp": Fitted(first, first + slope), "ve": Sigma(low, high, power=0.5), "linear": Sigma(low, high)
    }[options["schedule"]]  # fmt: skip
    return process, Levels(tuple(process.when(sigma))), sigma[0]


@pytest.mark.golden("edm_samplers")
def test_ablated_sampler(folder):
    """Euler and Heun on dx/dt in each paper's own time, scaling and discretisation (their equation 4 and table 1)."""
    case, arrays = load(folder)
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    for name, options in case["cases"].items():
        if not name.startswith("abl_"):
            continue
        process, path, most = ablation(options)
        kind = {"euler": ode.Euler, "heun": ode.Heun}[options["solver"]]
        solver = kind(options["num_steps"], "time", grid=path)
        start = most * process.alpha(path(process, 0)[:1])[0]
        got = in_float64(solver, process, arrays, np.zeros((len(solver.table(process)), 1)), start)
        np.testing.assert_allclose(got, arrays[name], **tolerance, err_msg=name)


class Gaussian(nn.Module):
    """The case's denoiser as a net: D itself from x, or EDM's F from c_in x, at the level that each clock shows."""

    mean: float
    std: float
    process: VpSde | VE | Sigma

    def __call__(self, x, clock, cond, train=False):
        if isinstance(self.process, VpSde):
            t = clock / self.process.scale
        else:
            t = self.process.when(2 * jnp.exp(clock) if isinstance(self.process, VE) else jnp.exp(4 * clock))
        if not isinstance(self.process, Sigma):
            return gaussian(self.process, self.mean, self.std)(x, t)
        sigma = spread(self.process.sigma(t), x)
        size = jnp.sqrt(sigma**2 + 0.25)
        y = x * size
        return (gaussian(self.process, self.mean, self.std)(y, t) - 0.25 / size**2 * y) * size / (0.5 * sigma)


def recorded(kind, raw):
    """Those times, with the case's draws for their raw ones."""

    class Recorded(type(kind)):
        def __call__(self, rng, num):
            return raw

    return Recorded(**vars(kind))


@dataclass(frozen=True, kw_only=True)
class Replayed(Diffusion):
    """Diffusion on the case's noise."""

    noise: jax.Array

    def couple(self, w, batch, t, cond, rng):
        return self.target(batch), self.noise


LOSSES = {  # (process, prediction, times, weight)
    "VPLoss": (VpSde(0.1, 20.0), predict.X0(), times.Uniform(), weight.Snr()),
    "VELoss": (VE(0.02, 100.0, first=1e-9), predict.X0(), times.Uniform(), weight.Snr()),
    "EDMLoss": (Sigma(), predict.Edm(0.5), times.LogNormal(-1.2, 1.2), weight.EdmLambda(0.5)),
}


@pytest.mark.golden("edm_losses")
@pytest.mark.parametrize("name", LOSSES)
def test_the_methods_own_loss(folder, name):
    """`Diffusion.loss` itself, from the draw that picks sigma and the unit noise; every pixel is an example of its own."""
    case, arrays = load(folder)
    process, predicted, drawn, weighted = LOSSES[name]
    images, noise = (jnp.asarray(arrays[k]).reshape(-1, 1, 1, 1) for k in ("images", f"{name}_noise"))
    raw = jnp.repeat(jnp.asarray(arrays[f"{name}_draw0"]).reshape(-1), arrays["images"][0].size)
    raw = 1 - raw if name == "VPLoss" else raw  # their VP time runs down from 1 as the draw grows
    net = Net(Gaussian(float(arrays["mu"]), float(arrays["sd"]), process), optax.identity())
    method = Replayed(
        net=net, spec=pictures(images.shape[1:]), process=process, predict=predicted, times=recorded(drawn, raw),
        weight=weighted, solver=ode.Heun(5), noise=noise,
    )  # fmt: skip
    w = Weights(jnp.int32(0), {"net": {}}, {}, {})
    found = jax.jit(lambda batch: method.loss(w, batch, jax.random.key(0), True))({"image": images})
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    np.testing.assert_allclose(found.each, arrays[f"{name}_loss"].reshape(-1), **tolerance)

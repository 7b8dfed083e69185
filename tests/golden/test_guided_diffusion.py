"""openai/guided-diffusion: schedules, posteriors, every loss of improved DDPM, the bound, and respaced samplers.

Their index i is our time (i + 1) / T. The plain KL losses were recorded on the linear chain with the clock rescaled to
1,000, everything else but the respaced samplers on the cosine one.
"""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import bound, solve
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers.table import Estimate


@pytest.fixture
def stored(request, folder):
    return json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))


def tolerances(case):
    return {k: case["tolerance"][k] for k in ("rtol", "atol")}


def spread(v):
    return jnp.asarray(v, jnp.float32)[:, None, None, None]


def output(arrays, x, clock):
    """The case's model: [B, 6, H, W] from x and the clock it sees [B]."""
    return jnp.einsum("bchw,cd->bdhw", x, arrays["A"]) + 0.1 * jnp.sin(clock / 40)[:, None, None, None]


def guess(kind, process, said, x, t):
    """x_0 from the network's first half."""
    a, s = spread(process.alpha(t)), spread(process.sigma(t))
    if kind == "EPSILON":
        return (x - s * said) / a
    if kind == "START_X":
        return said
    chain = bound.chain(process)
    return (said - bound.take(chain.keep, t, x) * x) / bound.take(chain.data, t, x)


def log_variance(kind, process, second, x, t):
    if kind == "LEARNED":
        return second
    name = {"FIXED_SMALL": "small", "FIXED_LARGE": "large", "LEARNED_RANGE": "learned"}[kind]
    return bound.log_variance(process, t, Estimate(x, (second + 1) / 2), x, name)


@pytest.mark.golden("guided_diffusion")
def test_schedules_and_posterior(folder, stored):
    case, arrays = stored
    for key in [k for k in arrays if k.startswith("betas_")]:
        _, name, steps = key.split("_")
        np.testing.assert_allclose(VP(name, int(steps)).betas, arrays[key], rtol=1e-9)
    process, t = VP("cosine", case["T"]), (arrays["t"] + 1) / case["T"]
    x = spread(process.alpha(t)) * arrays["x0"] + spread(process.sigma(t)) * arrays["noise"]
    np.testing.assert_allclose(x, arrays["q_sample"], **tolerances(case))
    chain = bound.chain(process)
    mean = bound.take(chain.keep, t, x) * x + bound.take(chain.data, t, x) * arrays["x0"]
    np.testing.assert_allclose(mean, arrays["q_post_mean"], **tolerances(case))
    want = np.broadcast_to(bound.take(chain.small, t, x), x.shape)
    np.testing.assert_allclose(want, arrays["q_post_logvar_clipped"], **tolerances(case))
    nats = bound.prior(process, jnp.asarray(arrays["x0"]))
    np.testing.assert_allclose(bound.bits_per_dim(nats, x), arrays["prior_bpd"], atol=1e-7)


@pytest.mark.golden("guided_diffusion")
def test_kl_and_decoder(folder, stored):
    case, arrays = stored
    np.testing.assert_allclose(bound.normal_kl(*jnp.asarray(arrays["kl_in"])), arrays["kl"], **tolerances(case))
    x, mean, log_scale = (jnp.asarray(arrays[k]) for k in ("dg_x", "dg_mean", "dg_logscale"))
    got = bound.grey_level_log_prob(x, mean, log_scale)
    # far in the tail the mass is a difference of two float32 near 1 and nothing but rounding
    mass = np.exp(arrays["dg_ll"])
    np.testing.assert_allclose(np.exp(got), mass, rtol=2e-4, atol=2.4e-7)
    solid = mass > 1e-2
    assert solid.sum() > 20
    np.testing.assert_allclose(got[solid], arrays["dg_ll"][solid], **tolerances(case))


@pytest.mark.golden("guided_diffusion")
def test_model_mean_and_variance(folder, stored):
    case, arrays = stored
    process, t = VP("cosine", case["T"]), jnp.asarray((arrays["t"] + 1) / case["T"], jnp.float32)
    x = jnp.asarray(arrays["q_sample"])
    chain = bound.chain(process)
    for key in [k for k in arrays if k.startswith("pmv:") and k.endswith(":mean")]:
        kind, variance, _ = key[4:].split(".")
        said, second = jnp.split(output(arrays, x, jnp.asarray(arrays["t"])), 2, axis=1)
        raw = guess(kind, process, said, x, t)
        x0 = jnp.clip(raw, -1, 1)
        mean = said if kind == "PREVIOUS_X" else bound.take(chain.keep, t, x) * x + bound.take(chain.data, t, x) * x0
        base = key.rsplit(":", 1)[0]
        np.testing.assert_allclose(x0, arrays[f"{base}:x0"], rtol=2e-4, atol=1e-4, err_msg=base)
        np.testing.assert_allclose(mean, arrays[key], **tolerances(case), err_msg=base)
        got = jnp.broadcast_to(log_variance(variance, process, second, x, t), x.shape)
        np.testing.assert_allclose(got, arrays[f"{base}:logvar"], **tolerances(case), err_msg=base)


@pytest.mark.golden("guided_diffusion")
def test_losses(folder, stored):
    """MSE, hybrid (MSE + bound with the mean held still) and bound, for every prediction and variance."""
    case, arrays = stored
    total, index = case["T"], jnp.asarray(arrays["t"])
    t = jnp.asarray((arrays["t"] + 1) / total, jnp.float32)
    x0, noise = jnp.asarray(arrays["x0"]), jnp.asarray(arrays["noise"])
    for key in [k for k in arrays if k.startswith("loss:")]:
        kind, variance, rest = key[5:].split(".")
        loss, part = rest.split(":")
        plain = loss == "KL"
        process = VP("linear" if plain else "cosine", total)
        x = spread(process.alpha(t)) * x0 + spread(process.sigma(t)) * noise
        said, second = jnp.split(output(arrays, x, index * (1000 / total if plain else 1.0)), 2, axis=1)
        target = {"EPSILON": noise, "START_X": x0}.get(kind)
        if target is None:
            chain = bound.chain(process)
            target = bound.take(chain.keep, t, x) * x + bound.take(chain.data, t, x) * x0
        mse = jnp.mean((said - target) ** 2, axis=(1, 2, 3))
        log_var = log_variance(variance, process, second, x, t)
        term = bound.bits_per_dim(bound.term(process, x0, x, t, guess(kind, process, said, x, t), log_var), x0)
        if "KL" in loss:
            want = total * term if "RESCALED" in loss else term
        else:
            vb = term * (total / 1000 if "RESCALED" in loss else 1.0)
            learned = "LEARNED" in variance
            want = {"mse": mse, "vb": vb, "loss": mse + vb if learned else mse}[part]
        # index 0 is the decoder: where a guess is far off its mass is float32 rounding (see test_kl_and_decoder)
        sure = (arrays["t"] > 0) | ("mse" in part)
        np.testing.assert_allclose(want[sure], arrays[key][sure], rtol=5e-4, atol=1e-5, err_msg=key)
        np.testing.assert_allclose(want[~sure], arrays[key][~sure], rtol=0.1, err_msg=key)


@pytest.mark.golden("guided_diffusion")
def test_bound(folder, stored):
    case, arrays = stored
    process, x0 = VP("cosine", case["T"]), jnp.asarray(arrays["x0"][: len(arrays["bpd_vb"])])

    def denoise(x, t):
        said, second = jnp.split(output(arrays, x, jnp.round(process.clock(t))), 2, axis=1)
        return Estimate(guess("EPSILON", process, said, x, t), (second + 1) / 2)

    got = jax.jit(lambda z: bound.variational_bound(denoise, process, x0, z, "learned"))(
        jnp.asarray(arrays["bpd_noise"])
    )
    terms = bound.bits_per_dim(got.terms.T, x0).T[:, ::-1]  # theirs run from the last step to the first
    np.testing.assert_allclose(terms[:, :-1], arrays["bpd_vb"][:, :-1], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(terms[:, -1], arrays["bpd_vb"][:, -1], rtol=5e-3)
    np.testing.assert_allclose(bound.bits_per_dim(got.total, x0), arrays["bpd_total_bpd"], rtol=1e-3)


@dataclass(frozen=True)
class Times:
    """A grid written out."""

    times: tuple[float, ...]

    def __call__(self, process, steps):
        return np.asarray(self.times)


@pytest.mark.golden("guided_diffusion")
def test_respaced_samplers(folder, stored):
    case, arrays = stored
    process, steps = VP("linear", case["T"]), len(arrays["spaced_map"])
    index = np.asarray(arrays["spaced_map"])
    path = Times((*((index[::-1] + 1) / case["T"]), 0.0))
    bar = np.concatenate([[0.0], process.log_bar[1:][index]])
    np.testing.assert_allclose(-np.expm1(np.diff(bar)), arrays["spaced_betas"], rtol=1e-9)

    def denoise(x, t):
        said, second = jnp.split(output(arrays, x, jnp.round(process.clock(t))), 2, axis=1)
        return Estimate(guess("EPSILON", process, said, x, t), (second + 1) / 2)

    for name, solver in {
        "spaced_ddim_eta0": solve.Ddim(steps, 0.0, grid=path),
        "spaced_ddim_eta07": solve.Ddim(steps, 0.7, grid=path),
        "spaced_ancestral": solve.Ancestral(steps, "learned", grid=path),
    }.items():
        noise = jnp.asarray(arrays.get(f"{name}_noise", np.zeros((steps, 1))))
        got = jax.jit(lambda x, z, s=solver: s(denoise, process, x, z))(jnp.asarray(arrays["xT"]), noise)
        np.testing.assert_allclose(got, arrays[name], **tolerances(case), err_msg=name)


@pytest.mark.golden("guided_diffusion")
def test_respacing(folder, stored):
    """space_timesteps with one section is our grid `linspace`: the same indices."""
    from jaxgen.diffusion.grid import Linspace

    case, _ = stored
    process = VP("linear", 1000)
    for name, want in case["space_timesteps"].items():
        if name.isdigit():
            got = process.clock(Linspace()(process, int(name))[:-1])[::-1]
            assert np.abs(np.round(got) - want).max() == 0, name

"""openai/guided-diffusion: schedules, posteriors, every loss of improved DDPM, the bound, and respaced samplers.

Their index i is our time (i + 1) / T. The plain KL losses were recorded on the linear chain with the clock rescaled to
1,000, everything else but the respaced samplers on the cosine one.
"""

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
from jaxgen.diffusion import bound, objective, predict, times
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.solvers import chain
from jaxgen.diffusion.solvers.table import Estimate
from jaxgen.methods.diffusion import Diffusion
from jaxgen.metrics.bits_per_dim import bits_per_dim


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


def guess(kind, process, out, x, t):
    """x_0 from the network's first half."""
    a, s = spread(process.alpha(t)), spread(process.sigma(t))
    if kind == "EPSILON":
        return (x - s * out) / a
    if kind == "START_X":
        return out
    table = bound.chain(process)
    return (out - bound.take(table.keep, t, x) * x) / bound.take(table.data, t, x)


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
    table = bound.chain(process)
    mean = bound.take(table.keep, t, x) * x + bound.take(table.data, t, x) * arrays["x0"]
    np.testing.assert_allclose(mean, arrays["q_post_mean"], **tolerances(case))
    want = np.broadcast_to(bound.take(table.small, t, x), x.shape)
    np.testing.assert_allclose(want, arrays["q_post_logvar_clipped"], **tolerances(case))
    nats = bound.prior(process, jnp.asarray(arrays["x0"]))
    np.testing.assert_allclose(bits_per_dim(-nats, x[0].size), arrays["prior_bpd"], atol=1e-7)


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
    table = bound.chain(process)
    for key in [k for k in arrays if k.startswith("pmv:") and k.endswith(":mean")]:
        kind, variance, _ = key[4:].split(".")
        first, second = jnp.split(output(arrays, x, jnp.asarray(arrays["t"])), 2, axis=1)
        raw = guess(kind, process, first, x, t)
        x0 = jnp.clip(raw, -1, 1)
        mean = first if kind == "PREVIOUS_X" else bound.take(table.keep, t, x) * x + bound.take(table.data, t, x) * x0
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
        first, second = jnp.split(output(arrays, x, index * (1000 / total if plain else 1.0)), 2, axis=1)
        target = {"EPSILON": noise, "START_X": x0}.get(kind)
        if target is None:
            table = bound.chain(process)
            target = bound.take(table.keep, t, x) * x + bound.take(table.data, t, x) * x0
        mse = jnp.mean((first - target) ** 2, axis=(1, 2, 3))
        log_var = log_variance(variance, process, second, x, t)
        nats = bound.term(process, x0, x, t, guess(kind, process, first, x, t), log_var)
        term = bits_per_dim(-nats, x0[0].size)
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


@dataclass(frozen=True)
class Recorded(times.Times):
    """The case's times."""

    t: tuple[float, ...]

    def __call__(self, rng, num):
        return jnp.asarray(self.t)

    def at(self, process, raw):
        return raw


class Mixture(nn.Module):
    """The case's model, channels last."""

    @nn.compact
    def __call__(self, x, clock, cond, train=False):
        return x @ self.get_variable("params", "A") + 0.1 * jnp.sin(clock / 40)[:, None, None, None]


@dataclass(frozen=True, kw_only=True)
class Replayed(Diffusion):
    """Diffusion on the case's images, times and noise."""

    noise: jax.Array

    def couple(self, w, batch, t, cond, rng):
        return self.target(batch), self.noise


def replayed(arrays, total, **parts):
    """(the method, its loss as a function of A)."""
    x0, noise = (jnp.asarray(arrays[k]).transpose(0, 2, 3, 1) for k in ("x0", "noise"))
    t = tuple(((arrays["t"] + 1) / total).tolist())
    parts = {"process": VP("cosine", total), "solver": chain.Ddim(5), **parts}
    net = Net(Mixture(), optax.identity())
    method = Replayed(net=net, spec=pictures(x0.shape[1:]), times=Recorded(t), noise=noise, **parts)

    def loss(mix, train=True):
        w = Weights(jnp.int32(0), {"net": {"params": {"A": mix}}}, {}, {})
        return method.loss(w, {"image": x0}, jax.random.key(0), train)

    return method, loss


REPLAYED = {  # (variance, loss) over there -> the objective here, of a chain of T steps
    ("FIXED_SMALL", "MSE"): lambda total: objective.Weighted(),
    ("FIXED_LARGE", "RESCALED_MSE"): lambda total: objective.Weighted(),
    ("LEARNED_RANGE", "MSE"): lambda total: objective.Hybrid(1 / total),  # all of one term
    ("LEARNED_RANGE", "RESCALED_MSE"): lambda total: objective.Hybrid(),  # 0.001 T of it
    ("LEARNED_RANGE", "RESCALED_KL"): lambda total: objective.Bound(),
    ("LEARNED_RANGE", "KL"): lambda total: objective.Bound(),  # T times theirs
}


@pytest.mark.golden("guided_diffusion")
@pytest.mark.parametrize(("variance", "kind"), REPLAYED)
@pytest.mark.parametrize("prediction", ["EPSILON", "START_X"])
def test_the_methods_own_loss(folder, stored, prediction, variance, kind):
    """`Diffusion.loss` itself: targets, 0.001 T bound, the bound alone, and the mean squared error beside them."""
    case, arrays = stored
    total, name = case["T"], f"loss:{prediction}.{variance}.{kind}"
    process = VP("linear", total, clock_steps=1000) if kind == "KL" else VP("cosine", total)
    predicted = {"EPSILON": predict.Eps(), "START_X": predict.X0()}[prediction]
    parts = {"objective": REPLAYED[variance, kind](total), "predict": predicted, "process": process}
    mix = jnp.asarray(arrays["A"])[:, : 6 if variance == "LEARNED_RANGE" else 3]
    found = jax.jit(replayed(arrays, total, **parts)[1])(mix)
    got, sure = found.each / (total if kind == "KL" else 1), arrays["t"] > 0  # of index 0 see test_losses
    np.testing.assert_allclose(got[sure], arrays[f"{name}:loss"][sure], rtol=5e-4, atol=1e-5)
    np.testing.assert_allclose(got[~sure], arrays[f"{name}:loss"][~sure], rtol=0.1)
    if "KL" not in kind:
        np.testing.assert_allclose(found.metrics["mse"], arrays[f"{name}:mse"], rtol=5e-4, atol=1e-5)
    if "MSE" in kind and variance == "LEARNED_RANGE":
        theirs = arrays[f"{name}:vb"] * (1000 if kind == "RESCALED_MSE" else total)
        np.testing.assert_allclose(found.metrics["vlb"][sure], theirs[sure], rtol=5e-4, atol=1e-5)


@pytest.mark.golden("guided_diffusion")
def test_the_bound_teaches_the_variance_and_not_the_mean(folder, stored):
    """The hybrid's gradient: the mean's half is the squared error's alone, the other half the bound's, by differences."""
    case, arrays = stored
    with jax.enable_x64(True):
        arrays = {k: np.asarray(arrays[k], np.float64) for k in ("x0", "noise", "t", "A")}
        arrays["t"][0], mix = 7, jnp.asarray(arrays["A"])  # away from the decoder, whose cdf is an approximation
        _, loss = replayed(arrays, case["T"], objective=objective.Hybrid())
        mean = jax.jit(lambda mix: loss(mix).each.mean())
        got = np.asarray(jax.grad(mean)(mix))
        process, t = VP("cosine", case["T"]), (arrays["t"] + 1) / case["T"]
        x = (np.reshape(process.alpha(t), (-1, 1, 1, 1)) * arrays["x0"]
             + np.reshape(process.sigma(t), (-1, 1, 1, 1)) * arrays["noise"])  # fmt: skip
        out = np.einsum("bchw,cd->bdhw", x, arrays["A"][:, :3]) + 0.1 * np.sin(arrays["t"] / 40)[:, None, None, None]
        error = 2 * np.einsum("bchw,bdhw->cd", x, out - arrays["noise"]) / x.size
        np.testing.assert_allclose(got[:, :3], error, rtol=1e-5)
        step = 1e-4 * np.eye(18).reshape(18, 3, 6)
        slopes = np.array([(mean(mix + h) - mean(mix - h)) / 2e-4 for h in step]).reshape(3, 6)
    np.testing.assert_allclose(got[:, 3:], slopes[:, 3:], rtol=1e-3, atol=1e-8)
    assert np.abs(got - slopes)[:, :3].max() > 1e-2 * np.abs(got[:, :3]).max()  # the bound does depend on the mean


@pytest.mark.golden("guided_diffusion")
def test_bound(folder, stored):
    case, arrays = stored
    process, x0 = VP("cosine", case["T"]), jnp.asarray(arrays["x0"][: len(arrays["bpd_vb"])])

    def denoise(x, t):
        first, second = jnp.split(output(arrays, x, jnp.round(process.clock(t))), 2, axis=1)
        return Estimate(guess("EPSILON", process, first, x, t), (second + 1) / 2)

    got = jax.jit(lambda z: bound.variational_bound(denoise, process, x0, z, "learned"))(
        jnp.asarray(arrays["bpd_noise"])
    )
    terms = bits_per_dim(-got.terms, x0[0].size)[:, ::-1]  # theirs run from the last step to the first
    np.testing.assert_allclose(terms[:, :-1], arrays["bpd_vb"][:, :-1], rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(terms[:, -1], arrays["bpd_vb"][:, -1], rtol=5e-3)
    np.testing.assert_allclose(bits_per_dim(-got.total, x0[0].size), arrays["bpd_total_bpd"], rtol=1e-3)


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
        first, second = jnp.split(output(arrays, x, jnp.round(process.clock(t))), 2, axis=1)
        return Estimate(guess("EPSILON", process, first, x, t), (second + 1) / 2)

    for name, solver in {
        "spaced_ddim_eta0": chain.Ddim(steps, 0.0, grid=path),
        "spaced_ddim_eta07": chain.Ddim(steps, 0.7, grid=path),
        "spaced_ancestral": chain.Ancestral(steps, "learned", grid=path),
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

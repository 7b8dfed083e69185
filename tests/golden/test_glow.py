"""A Glow step of chaiyujin/glow-pytorch both ways, its squeeze and its actnorm; torch's pixel_unshuffle."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import images_last
from safetensors.numpy import load_file

from jaxgen.nets.flow import ActNorm, GlowStep, plu
from jaxgen.nets.layers import pixel_shuffle, pixel_unshuffle


def halves(x):
    """Channels that say shift and scale in turn, as shifts and then scales."""
    return np.concatenate([x[..., 0::2], x[..., 1::2]], -1)


def variables(weights):
    """torch's weights of a step as ours; what starts from data starts at nothing, since theirs holds it."""
    norm = lambda name: {k: weights[f"{name}.{k}"].ravel() for k in ("bias", "logs")}  # noqa: E731
    kernel = lambda name: {"kernel": weights[f"{name}.weight"].transpose(2, 3, 1, 0)}  # noqa: E731
    last = {"kernel": halves(kernel("f.4")["kernel"]), "bias": halves(weights["f.4.bias"])}
    found = plu(weights["invconv.weight"])
    net = {
        "Conv_0": kernel("f.0"), "ActNorm_0": norm("f.0.actnorm"), "Conv_1": kernel("f.2"), "ActNorm_1": norm("f.2.actnorm"),
        "ZeroConv_0": {"Conv_0": last, "logs": halves(weights["f.4.logs"].ravel())},
    }  # fmt: skip
    mix = {"lower": found.lower, "upper": found.upper, "logs": found.logs}
    params = {"norm": norm("actnorm"), "mix": mix, "coupling": {"net": net}}
    blank = lambda tree: {f"first_{k}": jnp.zeros_like(v) for k, v in tree.items()}  # noqa: E731
    start = {"norm": blank(params["norm"]), "coupling": {"net": {k: blank(net[k]) for k in ("ActNorm_0", "ActNorm_1")}}}
    return {"params": params, "start": start, "fixed": {"mix": {"order": found.order, "sign": found.sign}}}


@pytest.mark.golden("glow_flowstep*")
def test_a_step_both_ways_its_squeeze_and_its_actnorm(folder):
    case, a = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    close = dict(rtol=case["tolerance"]["rtol"], atol=case["tolerance"]["atol"])
    assert case["config"]["permutation"] == "invconv" and case["config"]["coupling"] == "affine"
    step = GlowStep(case["config"]["in_channels"], case["config"]["hidden"])
    v = variables(load_file(folder / "weights.safetensors"))
    y, logdet = step.apply(v, images_last(a["x"]), method="forward")
    np.testing.assert_allclose(y, images_last(a["y"]), **close)
    np.testing.assert_allclose(logdet, a["logdet"], **close)
    x, back = step.apply(v, images_last(a["y"]), method="inverse")
    np.testing.assert_allclose(x, images_last(a["x_rec"]), **close)
    np.testing.assert_allclose(logdet + back, a["logdet_back"], **close)  # theirs counts on from the way there

    four = images_last(a["sq_in"])
    np.testing.assert_array_equal(pixel_unshuffle(four), images_last(a["sq_out"]))
    np.testing.assert_array_equal(pixel_shuffle(pixel_unshuffle(four)), four)

    x = images_last(a["actnorm_x"])
    norm = ActNorm(x.shape[-1])
    fresh = norm.init(jax.random.key(0), x)
    (y, logdet), found = norm.apply(fresh, x, mutable=["start"])
    np.testing.assert_allclose(y, images_last(a["actnorm_y"]), **close)
    np.testing.assert_allclose(logdet, a["actnorm_logdet"], **close)
    for ours in ("bias", "logs"):
        np.testing.assert_allclose(found["start"][f"first_{ours}"], a[f"actnorm_{ours}"].ravel(), **close)


@pytest.mark.golden("torch_ops*")
def test_squeeze_is_pixel_unshuffle(folder):
    a = dict(np.load(folder / "io.npz"))
    x = images_last(a["x"])
    want = a["pixel_unshuffle"]
    even = x[:, : 2 * want.shape[2], : 2 * want.shape[3]]
    np.testing.assert_array_equal(pixel_unshuffle(even), images_last(want))

"""Spectral norm of torch's two implementations: three training forwards from one start, evaluation, and the gradient.

torch.nn.utils.spectral_norm moves v, then u, as ours; torch.nn.utils.parametrizations.spectral_norm moves u, then v, which is
ours of the transposed matrix.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import images_last

from jaxgen.nets.layers import Conv, ConvTranspose, Dense
from jaxgen.nets.spectral import power_iteration


def ours(weight, kind):
    """A torch weight as our kernel."""
    axes = {"linear": (1, 0), "conv": (2, 3, 1, 0), "convT": (2, 3, 0, 1)}[kind]
    return jnp.asarray(weight.transpose(axes))


def rows(v, kernel):
    """torch's v, over [in, kh, kw], in the order of our kernel's axes."""
    *window, inside = kernel.shape[:-1]
    return jnp.asarray(np.moveaxis(np.asarray(v).reshape(inside, *window), 0, -1).ravel())


@pytest.mark.golden("spectral_norm*")
@pytest.mark.parametrize("kind", ["linear", "conv", "convT"])
def test_three_updates_and_an_evaluation(folder, kind):
    case, arrays = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    close = dict(rtol=case["tolerance"]["rtol"], atol=case["tolerance"]["atol"])
    a = {name.removeprefix(f"{kind}_"): v for name, v in arrays.items() if name.startswith(f"{kind}_")}
    kernel, x = ours(a["W"], kind), images_last(a["x"])
    if kind == "linear":
        module = Dense(kernel.shape[-1], spectral=True)
    elif kind == "conv":  # the image keeps its size
        assert a["hook_y"].shape[-2:] == a["x"].shape[-2:]
        module = Conv(kernel.shape[-1], kernel.shape[:2], padding=kernel.shape[0] // 2, spectral=True)
    else:
        module = ConvTranspose(kernel.shape[-1], kernel.shape[:2], spectral=True)
    params = {"kernel": kernel, "bias": jnp.asarray(a["b"])}

    def run(params, pair, move):
        held = {"params": params, "spectral": {"kernel": pair}}
        y, new = module.apply(held, x, mutable=["spectral"] if move else [])
        return y, new["spectral"]["kernel"] if move else pair

    steps = len(a["hook_y"])
    assert steps > 1
    start = {"u": jnp.asarray(a["u0"]), "v": rows(a["v0"], kernel)}
    pair = start
    for i in range(steps):
        before, (y, pair) = pair, run(params, pair, True)
        np.testing.assert_allclose(y, images_last(a["hook_y"][i]), **close)
        np.testing.assert_allclose(pair["u"], a["hook_u"][i], **close)
        np.testing.assert_allclose(pair["v"], rows(a["hook_v"][i], kernel), **close)
    np.testing.assert_allclose(run(params, pair, False)[0], images_last(a["hook_y_eval"]), **close)
    grad = jax.grad(lambda kernel: (run({**params, "kernel": kernel}, before, True)[0] ** 2).mean())(kernel)
    np.testing.assert_allclose(grad, ours(a["hook_grad_W"], kind), **close)

    # the other order: u from v, then v from u; its pairs, held, give its outputs
    w, v = kernel.reshape(-1, kernel.shape[-1]), start["v"]
    for i in range(steps):
        v, u = power_iteration(w.T, v)
        np.testing.assert_allclose(u, a["param_u"][i], **close)
        np.testing.assert_allclose(v, rows(a["param_v"][i], kernel), **close)
        np.testing.assert_allclose(run(params, {"u": u, "v": v}, False)[0], images_last(a["param_y"][i]), **close)
    np.testing.assert_allclose(run(params, {"u": u, "v": v}, False)[0], images_last(a["param_y_eval"]), **close)
    still = lambda kernel: (run({**params, "kernel": kernel}, {"u": u, "v": v}, False)[0] ** 2).mean()  # noqa: E731
    np.testing.assert_allclose(jax.grad(still)(kernel), ours(a["param_grad_W"], kind), **close)


@pytest.mark.golden("torch_ops*")
def test_a_linear_layer_of_torch(folder):
    case, arrays = json.loads((folder / "case.json").read_text()), np.load(folder / "io.npz")
    close = dict(rtol=case["tolerance"]["rtol"], atol=case["tolerance"]["atol"])
    kernel, u = jnp.asarray(arrays["sn_weight"].T), jnp.asarray(arrays["sn_u0"])
    module = Dense(kernel.shape[-1], spectral=True)
    vars = {"spectral": {"kernel": {"u": u, "v": jnp.zeros(len(kernel))}}}
    params = {"kernel": kernel, "bias": jnp.asarray(arrays["sn_bias"])}
    first, vars = module.apply({"params": params, **vars}, arrays["sn_x"], mutable=["spectral"])
    np.testing.assert_allclose(first, arrays["sn_out1"], **close)
    np.testing.assert_allclose(vars["spectral"]["kernel"]["u"], arrays["sn_u1"], **close)
    second, _ = module.apply({"params": params, **vars}, arrays["sn_x"], mutable=["spectral"])
    np.testing.assert_allclose(second, arrays["sn_out2"], **close)

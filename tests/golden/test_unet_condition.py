"""diffusers' `UNet2DConditionModel` reproduced from its own weights: outputs, loss, the gradient norm of every tensor."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import case_of, images_last
from safetensors.numpy import load_file

from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained.diffusers import TENSORS_FILE
from jaxgen.pretrained.unet_condition import from_diffusers, load, net_config, net_fields, to_diffusers

THEIRS = {"states": "encoder_hidden_states", "pooled": "text_embeds", "size": "time_ids"}


def told(module, a):
    """(x, cond): what is joined to their input is a condition here."""
    cond = {name: jnp.asarray(a[key]) for name, key in THEIRS.items() if key in a}
    x, parts = images_last(a["x"]), module.shape[2]
    out = x[..., :parts]
    for name in ("mask", "shown"):
        if name in module.conditions:
            width = module.conditions[name].shape[-1]
            cond[name], parts = x[..., parts : parts + width], parts + width
    assert parts == x.shape[-1]
    return out, cond


@pytest.mark.golden("unet_sd*_tiny")
@pytest.mark.parametrize(
    "scan", [pytest.param(False, id="plain"), pytest.param(True, id="scan", marks=pytest.mark.slow)]
)
def test_output_loss_and_gradients(folder, scan):
    case, a, close = case_of(folder)
    config = json.loads((folder / "config.json").read_text())
    module = UNetCondition(**net_fields(config, a["time_ids"].shape[1] if "time_ids" in a else 6), scan=scan)
    variables = from_diffusers(module, load_file(folder / TENSORS_FILE))
    x, cond = told(module, a)
    t, target = jnp.asarray(a["t"], jnp.float32), images_last(a["target"])

    def loss(variables):
        y = module.apply(variables, x, t, cond)
        return jnp.mean((y - target) ** 2), y

    (mse, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    np.testing.assert_allclose(y, images_last(a["y"]), **close)
    np.testing.assert_allclose(mse, a["mse"], rtol=close["rtol"])
    norms = {name: np.linalg.norm(g) for name, g in to_diffusers(module, grads).items()}
    assert norms.keys() == case["grad_l2_norms"].keys()
    for name, norm in case["grad_l2_norms"].items():
        np.testing.assert_allclose(norms[name], norm, rtol=close["rtol"], atol=1e-6, err_msg=name)


@pytest.mark.golden("inpaint9_tiny")
def test_a_mask_and_what_is_shown_are_further_channels(folder, recipe_weights):
    case, a, _ = case_of(folder)
    module = UNetCondition(**net_fields(case["config"]))
    variables = from_diffusers(module, recipe_weights(case))
    x, cond = told(module, a)
    y = jax.jit(module.apply)(variables, x, jnp.asarray(a["t"], jnp.float32), cond)
    np.testing.assert_allclose(y, images_last(a["y"]), **case["tolerance"]["y"])


@pytest.mark.golden("unet_sd*_tiny")
def test_import_then_export_is_the_identity(folder):
    module, variables = load(folder)
    want, got = load_file(folder / TENSORS_FILE), to_diffusers(module, variables)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)
    assert net_fields(net_config(module)) == net_fields(json.loads((folder / "config.json").read_text()))

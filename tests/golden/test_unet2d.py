"""diffusers' `UNet2DModel` reproduced from its own weights: outputs, and the gradient norm of every tensor."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxgen.nets.unet import UNet
from jaxgen.pretrained.diffusers import TENSORS_FILE, from_diffusers, load_unet, to_diffusers, unet_config, unet_fields


@pytest.mark.slow
@pytest.mark.golden("unet2d_*")
def test_unet2d(folder, recipe_weights):
    case = json.loads((folder / "case.json").read_text())
    arrays = dict(np.load(folder / "io.npz"))
    stored = folder / "config.json"
    config = json.loads(stored.read_text()) if stored.is_file() else case["config"]
    module = UNet(**unet_fields(config))
    weights = load_file(folder / TENSORS_FILE) if (folder / TENSORS_FILE).is_file() else recipe_weights(case)
    variables = from_diffusers(module, weights)
    tolerance = {name: case["tolerance"][name] for name in ("rtol", "atol")}

    def nhwc(a):
        return jnp.asarray(a.transpose(0, 2, 3, 1))

    x, t = nhwc(arrays["x"]), jnp.asarray(arrays["t"], jnp.float32)
    cond = {"label": jnp.asarray(arrays["class_labels"], jnp.int32)} if "class_labels" in arrays else {}
    want = nhwc(arrays["y"])

    if "grad_l2_norms" not in case:
        got = jax.jit(module.apply)(variables, x, t, cond)
        np.testing.assert_allclose(got, want, **tolerance)
        return

    params = variables.pop("params")
    target = nhwc(arrays["target"])

    def loss(params):
        y = module.apply({"params": params, **variables}, x, t, cond)
        return jnp.mean((y - target) ** 2), y

    (mse, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(got, want, **tolerance)
    np.testing.assert_allclose(mse, arrays["mse"], rtol=tolerance["rtol"])
    norms = {name: np.linalg.norm(g) for name, g in to_diffusers(module, {"params": grads}).items()}
    assert set(case["grad_l2_norms"]) <= set(norms)
    # a key's bias has no gradient at all, only rounding
    for name, norm in case["grad_l2_norms"].items():
        np.testing.assert_allclose(norms[name], norm, rtol=tolerance["rtol"], atol=1e-6, err_msg=name)


@pytest.mark.golden("unet2d_*")
def test_import_then_export_is_the_identity(folder):
    if not (folder / "config.json").is_file():
        pytest.skip(f"{folder.name} stores no weights")
    module, variables = load_unet(folder)
    theirs = load_file(folder / TENSORS_FILE)
    ours = to_diffusers(module, variables)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)
    config = json.loads((folder / "config.json").read_text())
    assert unet_fields(unet_config(module, config["in_channels"])) == unet_fields(config)

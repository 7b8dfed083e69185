"""EDM's SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM) reproduced from their own weights: the denoiser and gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxgen.pretrained.edm import edm_module, from_edm, to_edm


@pytest.mark.slow
@pytest.mark.golden("edm_net_*")
def test_edm_net(folder):
    case = json.loads((folder / "case.json").read_text())
    tolerance = {name: case["tolerance"][name] for name in ("rtol", "atol")}
    arrays = dict(np.load(folder / "io.npz"))
    arrays = {name: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for name, a in arrays.items()}
    weights = load_file(folder / "weights.safetensors")
    module = edm_module(case["config"])
    variables = from_edm(module, weights)
    params = variables.pop("params")
    labels = arrays["class_labels"]
    np.testing.assert_array_equal(labels.max(1), 1)  # one-hot
    cond = {"label": jnp.asarray(labels.argmax(1))}
    sigma, data = arrays["sigma"].reshape(-1, 1, 1, 1), case["config"]["sigma_data"]

    def loss(params):
        """Karras et al. 2022, equations 7 and 8, table 1."""
        norm = np.sqrt(sigma**2 + data**2)
        out = module.apply({"params": params, **variables}, arrays["x"] / norm, np.log(arrays["sigma"]) / 4, cond)
        denoised = data**2 / norm**2 * arrays["x"] + sigma * data / norm * out
        return jnp.mean((norm / (sigma * data)) ** 2 * (denoised - arrays["target"]) ** 2), denoised

    (value, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(got, arrays["D"], **tolerance)
    np.testing.assert_allclose(value, arrays["loss"], rtol=tolerance["rtol"])
    norms = {f"model.{name}": np.linalg.norm(g) for name, g in to_edm(module, {"params": grads}).items()}
    assert norms.keys() == case["grad_l2_norms"].keys()
    for name, norm in case["grad_l2_norms"].items():
        np.testing.assert_allclose(norms[name], norm, rtol=tolerance["rtol"], atol=1e-6, err_msg=name)


@pytest.mark.golden("edm_net_*")
def test_import_then_export_is_the_identity(folder):
    module = edm_module(json.loads((folder / "case.json").read_text())["config"])
    want = load_file(folder / "weights.safetensors")
    got = {f"model.{name}": a for name, a in to_edm(module, from_edm(module, want)).items()}
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)

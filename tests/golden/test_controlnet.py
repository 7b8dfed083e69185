"""diffusers' `ControlNetModel` reproduced from its own weights: its residuals, at their scale, and what they do to a UNet."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import case_of, images_first, images_last
from safetensors.numpy import load_file

from jaxgen.pretrained import controlnet
from jaxgen.pretrained.diffusers import TENSORS_FILE


@pytest.mark.golden("controlnet_tiny")
def test_residuals_and_the_way_back(folder):
    case, a, close = case_of(folder)
    module, variables = controlnet.load(folder)
    tensors, want = controlnet.to_diffusers(module, variables), load_file(folder / TENSORS_FILE)
    assert tensors.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(tensors[name], value)
    config = json.loads((folder / "config.json").read_text())
    assert controlnet.net_fields(controlnet.net_config(module)) == controlnet.net_fields(config)

    module = module.clone(strength=case["conditioning_scale"])
    cond = {"states": jnp.asarray(a["encoder_hidden_states"]), "hint": images_last(a["controlnet_cond"])}
    found = jax.jit(module.apply)(variables, images_last(a["x"]), jnp.asarray(a["t"], jnp.float32), cond)
    np.testing.assert_allclose(images_first(found.middle), a["mid"], **close)
    assert len(found.skips) == sum(name.startswith("down_") for name in a)
    for i, skip in enumerate(found.skips):
        np.testing.assert_allclose(images_first(skip), a[f"down_{i}"], **close)

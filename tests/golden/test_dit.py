"""DiT reproduced from its own weights: the authors' net and diffusers', outputs and the gradient norm of every tensor."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxgen.nets.dit import DiT, position_waves, stack_blocks
from jaxgen.pretrained.diffusers import TENSORS_FILE
from jaxgen.pretrained.dit import (
    author_fields,
    dit_config,
    dit_fields,
    from_diffusers,
    load_author,
    load_dit,
    to_author,
    to_diffusers,
)


def opened(folder):
    """case.json, io.npz with images in NHWC, and the tolerance."""
    case = json.loads((folder / "case.json").read_text())
    arrays = dict(np.load(folder / "io.npz"))
    arrays = {name: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for name, a in arrays.items()}
    return case, arrays, {name: case["tolerance"][name] for name in ("rtol", "atol")}


@pytest.mark.golden("dit_facebook_*")
@pytest.mark.parametrize("scan", [False, True])
def test_the_authors_net(folder, scan):
    case, arrays, tolerance = opened(folder)
    config, weights = case["config"], load_file(folder / "weights.safetensors")
    module = DiT(**author_fields(weights, config["num_heads"]) | dict(scan=scan))
    assert (module.shape[0], module.patch, module.depth, module.width, module.conditions.classes) == tuple(
        config[name] for name in ("input_size", "patch_size", "depth", "hidden_size", "num_classes")
    )
    assert module.out_channels == config["in_channels"] * (1 + config["learn_sigma"])
    variables = load_author(weights, config["num_heads"])[1]
    variables = {"params": stack_blocks(variables["params"])} if scan else variables
    side = config["input_size"] // config["patch_size"]
    np.testing.assert_allclose(position_waves(side, side, module.width), arrays["pos_embed"][0], atol=1e-6)

    t, cond = jnp.asarray(arrays["t"]), {"label": jnp.asarray(arrays["y"])}

    def loss(variables):
        out = module.apply(variables, arrays["x"], t, cond)
        return jnp.mean(out**2), out

    (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    np.testing.assert_allclose(got, arrays["out"], **tolerance)
    norms = {name: np.linalg.norm(g) for name, g in to_author(module, grads).items()}
    want = case["grad_l2_norms_of_mean_out_squared"]
    assert norms.keys() == want.keys()
    for name, norm in want.items():
        np.testing.assert_allclose(norms[name], norm, rtol=tolerance["rtol"], atol=1e-6, err_msg=name)


@pytest.mark.golden("dit_facebook_*")
def test_the_authors_guidance_leaves_all_but_three_channels_alone(folder):
    """Their classifier-free guidance of scale 4; t = 300 and the labels 1, 2, null, null are not in the case."""
    case, arrays, tolerance = opened(folder)
    module, variables = load_author(load_file(folder / "weights.safetensors"), case["config"]["num_heads"])
    null = module.conditions.classes
    out = jax.jit(module.apply)(variables, arrays["cfg_x"], jnp.full(4, 300), {"label": jnp.array([1, 2, null, null])})
    given, null = jnp.split(out[..., :3], 2)
    guided = null + 4 * (given - null)
    want = jnp.concatenate([jnp.concatenate([guided, guided]), out[..., 3:]], -1)
    np.testing.assert_allclose(want, arrays["cfg_out_scale4"], rtol=tolerance["rtol"], atol=5 * tolerance["atol"])


@pytest.mark.golden("dit_diffusers_*")
@pytest.mark.parametrize("scan", [False, True])
def test_diffusers_net(folder, scan):
    _, arrays, tolerance = opened(folder)
    config = json.loads((folder / "config.json").read_text())
    module = DiT(**dit_fields(config) | dict(scan=scan))
    variables = from_diffusers(module, load_file(folder / TENSORS_FILE))
    cond = {"label": jnp.asarray(arrays["class_labels"])}
    got = jax.jit(module.apply)(variables, arrays["x"], jnp.asarray(arrays["t"]), cond)
    np.testing.assert_allclose(got, arrays["y"], **tolerance)


@pytest.mark.golden("dit_diffusers_*")
def test_import_then_export_is_the_identity(folder):
    module, variables = load_dit(folder)
    want, got = load_file(folder / TENSORS_FILE), to_diffusers(module, variables)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)
    config = json.loads((folder / "config.json").read_text())
    assert dit_fields(dit_config(module, config["in_channels"])) == dit_fields(config)

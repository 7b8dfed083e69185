"""A single file of Stable Diffusion: every tensor where diffusers has it, and the outputs of the original programs."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import case_of, images_last

from jaxgen.errors import UserError
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import single_files, text
from jaxgen.pretrained.torch_files import write_tensors
from jaxgen.pretrained.unet_condition import from_diffusers, net_fields

FILES = ("model_emaonly.safetensors", "model_full.ckpt")


def marks(tensors):
    """Shape and the beginning of the hash of float32 bytes."""
    return {
        name: [list(a.shape), hashlib.sha256(np.asarray(a, "<f4", order="C").tobytes()).hexdigest()[:16]]
        for name, a in tensors.items()
    }


@pytest.mark.golden("ldm_single_file_tiny")
@pytest.mark.parametrize("file", FILES)
def test_every_tensor_is_that_of_the_twin(folder, file):
    twin, found = json.loads((folder / "twin.json").read_text()), single_files.load(folder / file)
    assert marks(found["unet"]) == twin["unet"]
    case, _, _ = case_of(folder)
    kind, fields = text.fields({"model_type": "clip_text_model", **case["config"]["text_encoder"]})
    module = kind(**fields)
    got = text.to_transformers(module, text.from_transformers(module, found["text_encoder"]))
    want = {name.removeprefix("text_model."): value for name, value in twin["text_encoder"].items()}
    assert marks(got) == want


@pytest.mark.golden("ldm_single_file_tiny")
def test_averages_or_the_weights_in_training(folder):
    case, a, close = case_of(folder)
    module = UNetCondition(**net_fields(case["config"]["unet"]))
    run, x = jax.jit(module.apply), images_last(a["x"])
    for ema, want in ((True, "y"), (False, "y_not_ema")):
        variables = from_diffusers(module, single_files.load(folder / FILES[1], ema)["unet"])
        y = run(variables, x, jnp.asarray(a["t"], jnp.float32), {"states": jnp.asarray(a["context"])})
        np.testing.assert_allclose(y, images_last(a[want]), **close)


def test_an_encoder_that_is_left_out_is_told(tmp_path):
    names = ["model.diffusion_model.out.0.weight", "cond_stage_model.model.ln_final.weight"]
    write_tensors(tmp_path / "x.safetensors", {name: np.zeros(1, np.float32) for name in names})
    with pytest.warns(UserWarning, match=f"an encoder of text is left out, 1 tensors such as {names[1]}"):
        assert single_files.load(tmp_path / "x.safetensors").keys() == {"unet"}


@pytest.mark.parametrize(
    "names, said",
    [
        (["first_stage_model.decoder.conv_in.weight"], "has no tensor model.diffusion_model"),
        (
            ["model.diffusion_model.joint_blocks.0.weight"],
            "joint_blocks.0.weight is no tensor of Stable Diffusion's UNet",
        ),
        (["model.diffusion_model.out.0.weight", "model_ema.decay"], "lacks model_ema.diffusion_modelout0weight"),
    ],
)
def test_what_is_no_such_file_is_said(tmp_path, names, said):
    write_tensors(tmp_path / "x.safetensors", {name: np.zeros(1, np.float32) for name in names})
    with pytest.raises(UserError, match=said):
        single_files.load(tmp_path / "x.safetensors")

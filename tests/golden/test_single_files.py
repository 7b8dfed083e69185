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
from jaxgen.pretrained import single_files
from jaxgen.pretrained.torch_files import read_tensors, write_tensors
from jaxgen.pretrained.unet_condition import from_diffusers, net_fields

POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
FILES = ("model_emaonly.safetensors", "model_full.ckpt")


def marks(tensors):
    """Shape and the beginning of the hash of float32 bytes."""
    return {
        name: [list(a.shape), hashlib.sha256(np.asarray(a, "<f4", order="C").tobytes()).hexdigest()[:16]]
        for name, a in tensors.items()
    }


OPTIONS = dict(heads=2, text_heads=2, groups=4)  # which no such file tells


@pytest.mark.golden("ldm_single_file_tiny")
@pytest.mark.parametrize("file", FILES)
def test_every_tensor_is_that_of_the_twin(folder, file):
    twin, found = json.loads((folder / "twin.json").read_text()), single_files.read(folder / file, **OPTIONS)
    case, _, _ = case_of(folder)
    assert marks(found.averages or found.net.tensors) == twin["unet"]
    assert found.net.config.items() >= {**case["config"]["unet"], "sample_size": 64}.items()
    (encoder,) = found.encoders
    assert encoder.config.items() >= case["config"]["text_encoder"].items()
    tensors = {k: v for k, v in encoder.tensors.items() if not k.endswith("position_ids")}
    assert {k.removeprefix("text_model."): v for k, v in marks(tensors).items()} == {
        k.removeprefix("text_model."): v for k, v in twin["text_encoder"].items()
    }
    assert marks(found.vae.tensors) == twin["vae"]
    assert found.left == ("3 tensors such as alphas_cumprod",) or found.left == ("3 tensors such as betas",)


@pytest.mark.golden("ldm_single_file_tiny")
def test_a_file_is_written_again_tensor_for_tensor(folder, tmp_path):
    single_files.write(tmp_path / "x.safetensors", single_files.read(folder / FILES[0], **OPTIONS))
    old, new = (read_tensors(file) for file in (folder / FILES[0], tmp_path / "x.safetensors"))
    assert (
        old.keys() - new.keys() == {"betas", "alphas_cumprod", "alphas_cumprod_prev", POSITIONS}
        and not new.keys() - old.keys()
    )
    for name, value in new.items():
        assert (value.dtype, value.tobytes()) == (old[name].dtype, old[name].tobytes()), name


@pytest.mark.golden("ldm_single_file_tiny")
def test_averages_or_the_weights_in_training(folder):
    case, a, close = case_of(folder)
    module = UNetCondition(**net_fields(case["config"]["unet"]))
    run, x, found = jax.jit(module.apply), images_last(a["x"]), single_files.read(folder / FILES[1], **OPTIONS)
    for tensors, want in ((found.averages, "y"), (found.net.tensors, "y_not_ema")):
        y = run(
            from_diffusers(module, tensors), x, jnp.asarray(a["t"], jnp.float32), {"states": jnp.asarray(a["context"])}
        )
        np.testing.assert_allclose(y, images_last(a[want]), **close)


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
        single_files.read(tmp_path / "x.safetensors")

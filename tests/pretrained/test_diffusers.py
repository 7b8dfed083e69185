"""diffusers folders: export then import is the identity, bit by bit, and what we lack is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.unet import UNet
from jaxgen.pretrained.diffusers import load_unet, save_unet, unet_config, unet_fields
from jaxgen.pretrained.schedulers import method_keys

SMALL = dict(shape=(8, 8, 3), width=8, mults=(1, 2), blocks=1, attend=(4,), groups=4)
NETS = {
    "ddpm": SMALL,
    "labelled": SMALL | dict(conditions=labels(3), head_dim=4, scale_shift=True, flip_sin_to_cos=True, freq_shift=0.0),
    "attention norm": SMALL | dict(scale_shift=True, mid_norm_groups=2, head_dim=8),
    "resnet": SMALL | dict(downsample="resnet", upsample="resnet", mults=(1, 1.5, 2), mid_scale=2.0),
    "fourier": SMALL | dict(time_embedding="fourier", attend_mid=False, activation="relu", out_channels=4),
    "asymmetric": SMALL | dict(attend_down=(True, False), attend_up=(False, True), downsample_padding=1, time_width=24),
}


def random_variables(module, channels=3):
    x = jax.ShapeDtypeStruct((1, *module.shape[:2], channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, module.conditions.abstract(1))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_export_then_import_is_the_identity(name, tmp_path):
    module = UNet(**NETS[name])
    variables = random_variables(module)
    save_unet(tmp_path, module, variables)
    loaded, back = load_unet(tmp_path)
    assert jax.tree.structure(back) == jax.tree.structure(dict(variables))
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))
    assert unet_config(loaded, 3) == json.loads((tmp_path / "config.json").read_text())
    x, t, cond = np.ones((2, 8, 8, 3), np.float32), np.array([1.0, 5.0], np.float32), {"label": np.array([0, 2])}
    ours, theirs = (jax.jit(m.apply)(v, x, t, cond) for m, v in ((module, variables), (loaded, back)))
    np.testing.assert_array_equal(ours, theirs)


def test_old_attention_names_are_read(tmp_path):
    module = UNet(**SMALL)
    variables = random_variables(module)
    save_unet(tmp_path, module, variables)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for key, value in load_file(path).items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        weights[key] = value
    assert any("proj_attn" in key for key in weights)
    save_file(weights, path)
    jax.tree.map(np.testing.assert_array_equal, load_unet(tmp_path)[1], dict(variables))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("down_block_types", ["SkipDownBlock2D"]),
        ("up_block_types", ["AttnSkipUpBlock2D"]),
        ("mid_block_type", "UnCLIPUNetMidBlock2D"),
        ("class_embed_type", "timestep"),
        ("time_embedding_type", "learned"),
        ("resnet_time_scale_shift", "spatial"),
        ("downsample_padding", 2),
        ("act_fn", "tanh"),
        ("an_option_of_next_year", 1),
    ],
)
def test_unsupported_options_are_named(option, value):
    with pytest.raises(UserError, match=option):
        unet_fields({option: value})


def test_wrong_weights_are_named(tmp_path):
    module = UNet(**SMALL)
    save_unet(tmp_path, module, random_variables(module))
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if k != "conv_out.bias"}, path)
    with pytest.raises(UserError, match=r"conv_out\.bias"):
        load_unet(tmp_path)
    save_file(weights | {"surplus": weights["conv_out.bias"]}, path)
    with pytest.raises(UserError, match="surplus"):
        load_unet(tmp_path)
    with pytest.raises(UserError, match=r"config\.json"):
        load_unet(tmp_path / "nowhere")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_unet(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        load_unet(tmp_path)


@pytest.mark.parametrize(
    "more", [dict(size=Field((), "int32", "label", values=2)), dict(low=Field((4, 4, 3), "uint8", "image"))]
)
def test_nets_that_are_told_more_than_a_label_are_named(more):
    with pytest.raises(UserError, match=f"told nothing but a label, and this net: .*{next(iter(more))}"):
        unet_config(UNet(**SMALL | dict(conditions=Spec(labels(3), **more), head_dim=4)), 3)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("DDIMScheduler", dict(magic=1)),
        ("DPMSolverMultistepScheduler", dict(lambda_min_clipped=-5.1)),
        ("EulerDiscreteScheduler", dict(sigma_max=80.0)),
        ("FlowMatchEulerDiscreteScheduler", dict(use_karras_sigmas=True)),
        ("PNDMScheduler", {}),  # skip_prk_steps is False by default
    ],
    ids=str,
)
def test_options_of_a_scheduler_that_we_lack(kind, option):
    with pytest.raises(UserError, match=next(iter(option), "skip_prk_steps")):
        method_keys({"_class_name": kind, **option}, 10)

"""Nets that read a text, in diffusers' folders: export then import is the identity, and what does not fit is named."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.controlnet import ControlNet
from jaxgen.nets.flux import Flux
from jaxgen.nets.mmdit import MMDiT
from jaxgen.nets.pixart import PixArt
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.nets.uvit import UVitMasked
from jaxgen.pretrained import controlnet, unet_condition
from jaxgen.pretrained.diffusers import TENSORS_FILE
from jaxgen.pretrained.flux import FLUX
from jaxgen.pretrained.mmdit import SD3
from jaxgen.pretrained.pixart import PIXART
from jaxgen.pretrained.uvit import UVIT

STATES = Field((77, 12), "float32", "embedding")
UNET = dict(
    shape=(8, 8, 4), width=8, mults=(1, 2), blocks=1, groups=4, attend_down=(True, False), attend_up=(True, False)
)
SDXL = Spec(states=STATES, pooled=Field((10,), "float32", "embedding"), size=Field((6,), "float32", "embedding"))
INPAINT = Spec(states=STATES, mask=Field((8, 8, 1), "float32", "mask"), shown=Field((8, 8, 4), "float32", "latent"))
SIZED = Spec(states=STATES, size=Field((3,), "float32", "embedding"))
SMALL = dict(shape=(8, 8, 4), width=16, heads=2)
HINTED = Spec(states=STATES, hint=Field((16, 16, 3), "float32", "image"))
POOLED = Spec(states=STATES, pooled=Field((10,), "float32", "embedding"))
NETS = {
    "sd": (UNetCondition(**UNET, conditions=Spec(states=STATES), heads=2), unet_condition),
    "sdxl": (
        UNetCondition(
            **UNET | dict(attend_down=(False, True), attend_up=(False, True)), conditions=SDXL, heads=(1, 2), layers=(1, 2),
            size_waves=8, linear_projection=True, scan=True,
        ),
        unet_condition,
    ),
    "inpaint": (UNetCondition(**UNET, conditions=Spec(INPAINT, **labels(3)), heads=2, null_label=False), unet_condition),
    "sd3": (MMDiT(conditions=POOLED, **SMALL, depth=4, positions=6, qk_norm=True, dual=2, scan=True), SD3),
    "flux": (
        Flux(
            conditions=Spec(POOLED, guidance=Field((1,), "float32", "embedding")), **SMALL, double=2, single=1,
            axes=(2, 2, 4), guided=True, scan=True,
        ),
        FLUX,
    ),
    "pixart": (PixArt(conditions=SIZED, **SMALL | dict(width=24), depth=2, stretch=2.0, out_channels=8, scan=True), PIXART),
    "uvit": (
        UVitMasked(
            shape=(4, 4), vocabulary=7, conditions=SDXL, rows=10, embed=6, channels=8, blocks=2, block_heads=2, width=12,
            depth=2, heads=2, hidden=20, size_waves=4, halve=True, use_bias=True, scan=True,
        ),
        UVIT,
    ),
    "controlnet": (ControlNet(**UNET, conditions=HINTED, hint_widths=(4, 8), heads=2), controlnet),
}  # fmt: skip


def random_variables(module, found):
    """Of the net as it is, also with `scan`."""
    rng = np.random.default_rng(0)
    plain = jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), found.shapes_of(module))
    return found.from_diffusers(module, found.to_diffusers(module.clone(scan=False), plain))


@pytest.mark.parametrize("name", NETS)
def test_export_then_import_is_the_identity(name, tmp_path):
    module, found = NETS[name]
    variables = random_variables(module, found)
    found.save(tmp_path, module, variables)
    loaded, back = found.load(tmp_path)
    assert loaded.conditions.keys() == module.conditions.keys()
    again = found.from_diffusers(module, found.to_diffusers(loaded, back))
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    assert json.loads(json.dumps(found.net_config(loaded))) == json.loads((tmp_path / "config.json").read_text())


def test_what_does_not_fit_is_named(tmp_path):
    module, found = NETS["sd"]
    found.save(tmp_path, module, random_variables(module, found))
    weights = load_file(tmp_path / TENSORS_FILE)
    one = next(iter(sorted(weights)))
    with pytest.raises(UserError, match=f"lack tensor {one}"):
        found.from_diffusers(module, {k: v for k, v in weights.items() if k != one})
    with pytest.raises(UserError, match=r"no place.*zzz"):
        found.from_diffusers(module, {**weights, "zzz": weights[one]})
    with pytest.raises(UserError, match="has shape"):
        found.from_diffusers(module, {**weights, one: np.zeros((*weights[one].shape[:-1], weights[one].shape[-1] + 1))})


@pytest.mark.parametrize("name", NETS)
def test_an_option_that_we_do_not_know(name):
    with pytest.raises(UserError, match="unknown option magic"):
        NETS[name][1].net_fields({"magic": 1})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (dict(only_cross_attention=True), "only_cross_attention=True"),
        (dict(center_input_sample=True, in_channels=9), "center_input_sample"),
        (dict(addition_embed_type="image"), "addition_embed_type='image'"),
        (dict(transformer_layers_per_block=[1, [2, 2]]), "transformer_layers_per_block"),
        (dict(down_block_types=["SimpleCrossAttnDownBlock2D"]), "SimpleCrossAttnDownBlock2D"),
    ],
)
def test_options_of_a_unet_that_we_lack(config, named):
    with pytest.raises(UserError, match=named):
        unet_condition.net_fields(config)


@pytest.mark.parametrize(
    ("table", "config", "named"),
    [
        (SD3, dict(caption_projection_dim=7), "caption_projection_dim=7"),
        (SD3, dict(dual_attention_layers=[1]), "dual_attention_layers"),
        (SD3, dict(qk_norm="layer_norm"), "qk_norm='layer_norm'"),
        (FLUX, dict(in_channels=6), "6 channels"),
        (PIXART, dict(cross_attention_dim=7), "cross_attention_dim=7"),
        (UVIT, dict(downsample=True), "upsample=False differ"),
    ],
)
def test_options_of_a_transformer_that_we_lack(table, config, named):
    with pytest.raises(UserError, match=named):
        table.net_fields(config)


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("sd3", dict(conditions=Spec(POOLED, **labels(3))), "label"),
        ("sd3", dict(conditions=Spec(states=STATES)), "pooled"),
        ("sd3", dict(conditions=Spec(POOLED, seen=Field((77,), "float32", "mask"))), "seen"),
        ("flux", dict(guided=False), "guidance"),
        ("pixart", dict(shape=(8, 12, 4)), "square"),
        ("uvit", dict(shape=(4, 6)), "square"),
        ("flux", dict(patch=4), "patch=2"),
    ],
)
def test_what_a_transformer_of_theirs_cannot_be(name, fields, named):
    module, table = NETS[name]
    with pytest.raises(UserError, match=named):
        table.net_config(dataclasses.replace(module, **fields))


def test_a_controlnet_that_reads_pictures_otherwise():
    with pytest.raises(UserError, match="channel_order='bgr'"):
        controlnet.net_fields(dict(controlnet_conditioning_channel_order="bgr"))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (dict(head_dim=4), "head_dim"),
        (dict(attend_mid=False), "attend_mid"),
        (dict(conditions=Spec(states=STATES, style=Field((3,), "float32", "embedding"))), "style"),
    ],
)
def test_what_diffusers_cannot_express(fields, named):
    with pytest.raises(UserError, match=named):
        unet_condition.net_config(dataclasses.replace(NETS["sd"][0], **fields))

"""docs/weights.md: every block of code runs as printed, on smaller nets, with files where it looks for them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.dit import DiT, position_waves
from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.nets.translator import UNetTranslator
from jaxgen.nets.unet import UNet
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import lora, text_nets, translation, unet_condition
from jaxgen.pretrained.diffusers import load_unet, save_unet
from jaxgen.pretrained.dit import to_author
from jaxgen.pretrained.edm import edm_module, to_edm
from jaxgen.pretrained.torch_files import read_tensors, write_tensors

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/weights.md").read_text(), re.S)
BATCH = 1


def block(words: str) -> str:
    (found,) = [text for text in BLOCKS if words in text]
    return found


def variables_of(module, channels=3):
    x = jax.ShapeDtypeStruct((BATCH, *module.shape[:2], channels), jnp.float32)
    t = jax.ShapeDtypeStruct((BATCH,), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, module.conditions.abstract(BATCH))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: 0.1 * rng.standard_normal(a.shape).astype(np.float32), shapes)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_samples_from_a_diffusers_folder_and_training_on(here):
    module = UNet(shape=(8, 8, 3), width=8, mults=(1,), blocks=1, attend=(), groups=4)
    save_unet("ddpm-cifar10-32", module, variables_of(module))
    names = {}
    exec(block("load_unet").replace("steps=50", "steps=2"), names)
    assert names["images"].shape == (16, 8, 8, 3) and (here / "samples.png").is_file()
    exec(block("started(variables)"), names)
    assert np.isfinite(float(names["metrics"]["loss"]))


@pytest.mark.slow
def test_a_run_for_diffusers(tiny, here):
    from jaxgen.train import train

    train(tiny("ddpm_digits", steps=1, eval={}), here / "runs/digits")
    names = {}
    exec(block("save_unet"), names)
    module, variables = load_unet("digits_unet")
    assert module.conditions.classes == 11  # ten digits and none
    jax.tree.map(np.testing.assert_array_equal, variables, dict(names["weights"].nets["net"]))


def test_dit_of_its_authors(here):
    module = DiT(shape=(4, 4, 4), conditions=labels(3), depth=1, width=384, heads=6, out_channels=8)
    stored = to_author(module, variables_of(module, 4)) | {"pos_embed": position_waves(2, 2, 384)[None]}
    write_tensors("DiT-XL-2-256x256.pt", stored)
    names = {}
    exec(block("load_author"), names)
    assert names["module"] == module
    again = read_tensors("again.safetensors")
    assert again.keys() == stored.keys() - {"pos_embed"}


def test_generators_of_pix2pix():
    module = UNetTranslator(shape=(256, 256, 3), width=2, downs=2, norm="batch")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32))
    stored = translation.to_author(module, jax.tree.map(lambda a: np.full(a.shape, 0.1, np.float32), shapes))
    write_tensors("latest_net_G.pth", stored)
    names = {"picture": np.zeros((1, 4, 8, 3), np.float32)}
    exec(block("translation import"), names)
    assert names["gen"] == module and names["made"].shape == (1, 4, 8, 3)
    assert read_tensors("generator.safetensors").keys() == stored.keys()


def test_nets_that_read_a_text(here):
    module = UNetCondition(
        shape=(8, 8, 4), conditions=Spec(states=Field((77, 6), "float32", "embedding")), width=8, mults=(1,), blocks=1, groups=4,
        heads=2, attend_down=(True,), attend_up=(True,),
    )  # fmt: skip
    shapes = unet_condition.shapes_of(module)
    text_nets.save("unet", module, jax.tree.map(lambda a: np.full(a.shape, 0.1, np.float32), shapes))
    names = {}
    exec(block("text_nets.save"), names)
    assert names["out"].shape == (1, 8, 8, 4)
    pair = lora.Pair(np.ones((1, 8), np.float32), np.ones((8, 1), np.float32), 0.5)
    lora.write_kohya("style.safetensors", {"mid_block.attentions.0.transformer_blocks.0.attn1.to_v": pair})
    exec(block("lora.merged"), names)
    value = names["mixed"]["params"]["mid_attend"]["block0"]["qkv"]["kernel"]
    np.testing.assert_allclose(value, 0.1 + np.repeat([0.0, 0.0, 0.8 * 0.5], 8) * np.ones((8, 1)), rtol=1e-6)
    assert (here / "again.safetensors").read_bytes() == (here / "style.safetensors").read_bytes()
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (here / "again" / file).read_bytes() == (here / "unet" / file).read_bytes()
    with pytest.raises(UserError, match=r"nowhere has no config\.json.*UNet2DConditionModel"):
        text_nets.load("nowhere")
    with pytest.raises(UserError, match="DiT has no twin"):
        text_nets.save("again", DiT(), {})


def test_autoencoders(tiny, here):
    from jaxgen.pretrained.autoencoders import load_diffusers, save_diffusers
    from jaxgen.train import train

    module = LdmAutoencoder(
        NormalRegularizer(dim=2), (64, 64, 3), width=4, mults=(1,), blocks=1, z=2, groups=2, attend_mid=False
    )
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    save_diffusers("vae", module, jax.tree.map(lambda a: np.full(a.shape, 0.1, np.float32), shapes))
    names = {}
    exec(block("load_diffusers"), names)
    assert names["mean"].shape == (1, 64, 64, 2)
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (here / "again" / file).read_bytes() == (here / "vae" / file).read_bytes()
    train(tiny("kl_cifar", steps=2, eval={"latent_statistics": {"num": 8}}), here / "runs/kl")
    exec(block("FrozenRun"), names)
    found = load_diffusers("kl")
    scale = np.sqrt(np.mean(np.square(found.latents["std"])))
    assert 0.5 * scale < np.mean(names["std"]) < 2.0 * scale


def test_edm(here):
    small = block("from_edm").replace('"model_channels": 128', '"model_channels": 16').replace("[2, 2, 2]", "[1]")
    small = small.replace('"num_blocks": 4', '"num_blocks": 1')
    options = re.search(r"edm_module\((.*?)\)\n", small, re.S)[1]
    module = edm_module(eval(options.strip()))
    write_tensors("edm.pt", to_edm(module, variables_of(module)))
    names = {}
    exec(small, names)
    assert names["module"] == module


def test_every_function_that_it_names_is_there():
    import importlib

    page = (ROOT / "docs/weights.md").read_text()
    named = set(re.findall(r"`(autoencoders|diffusers|dit|edm|text_nets|torch_files)\.(\w+)", page))
    assert len(named) >= 10
    for room, name in named:
        assert hasattr(importlib.import_module(f"jaxgen.pretrained.{room}"), name), (room, name)

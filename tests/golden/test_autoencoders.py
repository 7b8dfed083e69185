"""Autoencoders of diffusers, latent diffusion and taming-transformers: outputs, and files that come back to the byte."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import case_of, images_first, images_last
from safetensors.numpy import load_file

from jaxgen.pretrained import translation
from jaxgen.pretrained.autoencoders import load_author, load_diffusers, save_diffusers, to_diffusers
from jaxgen.pretrained.torch_files import read_tensors


def runner(found):
    """(input, method) -> output, compiled."""
    return jax.jit(lambda x, method=None: found.module.apply(found.variables, x, method=method), static_argnums=1)


def comes_back(found, folder, tmp_path):
    save_diffusers(tmp_path, found.module, found.variables, found.config)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    own = tmp_path / "own"
    save_diffusers(own, found.module, found.variables)  # its config made anew says the same net
    assert load_diffusers(own).module == found.module.clone(shape=found.module.shape)


@pytest.mark.golden("autoencoder_kl_*")
def test_autoencoder_kl(folder, tmp_path):
    _, a, close = case_of(folder)
    found = load_diffusers(folder)
    run, x = runner(found), images_last(a["x"])
    mean, log_var = run(x, "moments")
    np.testing.assert_allclose(images_first(mean), a["mean"], **close)
    np.testing.assert_allclose(images_first(log_var), a["logvar"], **close)
    z = mean + jnp.exp(0.5 * log_var) * images_last(a["eps"])
    np.testing.assert_allclose(images_first(z), a["z"], **close)
    np.testing.assert_allclose(images_first(run(z, "decode")), a["y"], **close)
    kl = run(x, "quantize").metrics["kl"]
    np.testing.assert_allclose(kl, a["kl"], rtol=1e-4)
    nll = 0.5 * (jnp.log(2 * jnp.pi) + log_var + (z - mean) ** 2 / jnp.exp(log_var))
    np.testing.assert_allclose(nll.reshape(len(z), -1).sum(-1), a["nll"], rtol=1e-4)
    np.testing.assert_allclose(found.latents["std"], [1 / 0.18215] * 4)
    comes_back(found, folder, tmp_path)


@pytest.mark.golden("vqmodel_*")
def test_vqmodel(folder, tmp_path):
    _, a, close = case_of(folder)
    found = load_diffusers(folder)
    run, x = runner(found), images_last(a["x"])
    np.testing.assert_allclose(images_first(run(x, "features")), a["latents"], **close)
    y, q = run(x)
    np.testing.assert_array_equal(q.ids, a["indices"])
    np.testing.assert_allclose(images_first(q.codes), a["quantized"], **close)
    np.testing.assert_allclose(q.loss.mean(), a["commit_loss"], **close)
    np.testing.assert_allclose(images_first(y), a["y"], **close)
    np.testing.assert_allclose(images_first(run(q.ids, "decode_ids")), a["y_from_quantized"], **close)
    comes_back(found, folder, tmp_path)


@pytest.mark.golden("ldm_single_file_*")
@pytest.mark.parametrize("file", ["model_emaonly.safetensors", "model_full.ckpt"])
def test_the_first_stage_of_a_latent_diffusion_model(folder, file):
    """From a Lightning pickle too, which names classes that are not here; each tensor is the one of diffusers' layout."""
    case, a, close = case_of(folder)
    found = load_author(folder / file, groups=case["config"]["groups"])
    twin = json.loads((folder / "twin.json").read_text())["vae"]
    tensors = to_diffusers(found.module, found.variables)
    assert tensors.keys() == twin.keys()
    for name, (shape, digest) in twin.items():
        assert list(tensors[name].shape) == shape
        assert hashlib.sha256(tensors[name].tobytes()).hexdigest()[:16] == digest, name
    run = runner(found)
    mean, log_var = run(images_last(a["image"]), "moments")
    np.testing.assert_allclose(images_first(jnp.concatenate([mean, log_var], -1)), a["moments"], **close)
    if file.endswith("ckpt"):
        assert all(
            name.startswith(("model", "first", "cond")) or "." not in name
            for name in read_tensors(folder / file, "state_dict")
        )


@pytest.mark.golden("taming_vq*")
def test_the_discriminator_of_a_first_stage(folder):
    _, a, close = case_of(folder)
    module, variables = translation.from_author(load_file(folder / "weights.safetensors"))
    run = jax.jit(lambda x: module.apply(variables, x))
    np.testing.assert_allclose(run(images_last(a["disc_x"])), a["disc_eval"][:, 0], **close)

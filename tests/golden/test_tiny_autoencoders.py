"""TAEF2, the real one: its author's latents and pictures, his files back to the byte, and what it cannot do."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import images_last
from safetensors.numpy import load_file

from jaxgen.errors import UserError
from jaxgen.nets.tiny_autoencoder import TinyAutoencoder
from jaxgen.pretrained.codecs import load
from jaxgen.pretrained.tiny_autoencoders import load_author, save_author, save_diffusers, to_tensors
from jaxgen.pretrained.torch_files import read_tensors


@functools.cache
def taef2(folder):
    """(where its files are, what they hold, (input, method) -> output): the published weights lie beside the golden cases."""
    weights = folder.parents[1] / "weights/taef2"
    found = load_author(weights)
    run = jax.jit(lambda x, method: found.module.apply(found.variables, x, method=method), static_argnums=1)
    return weights, found, run


@pytest.mark.golden("taef2_real")
def test_latents_and_pictures_are_the_authors(folder):
    """Pictures in [0, 1] there are [-1, 1] here; 61x77 is rounded up to 64x80, and is stored as float16."""
    a, (_, _, run) = dict(np.load(folder / "io.npz")), taef2(folder)
    for i, atol in ((0, 1e-4), (2, 1e-3)):
        x = a[f"x{i}_u8"][None].astype(np.float32) / 127.5 - 1.0
        z = run(x, "encode")
        np.testing.assert_allclose(z, images_last(a[f"latent{i}"]), atol=1e-4)
        y = run(z, "decode")
        np.testing.assert_allclose((y + 1.0) / 2.0, images_last(a[f"y{i}"]), atol=atol)
        eight = jnp.round(jnp.clip(z / 6.0 + 0.5, 0.0, 1.0) * 255.0)  # his latents of eight bits
        np.testing.assert_allclose(eight, images_last(a[f"latent{i}_u8"]), atol=1.0)
        y = run((images_last(a[f"latent{i}_u8"]) / 255.0 - 0.5) * 6.0, "decode")
        off = np.abs(np.round(np.clip((y + 1) / 2, 0, 1) * 255) - images_last(a[f"y{i}_from_u8"]).astype(float))
        assert off.max() <= 1 and z.shape[1:3] == tuple(-(-side // 8) for side in x.shape[1:3])


@pytest.mark.golden("taef2_real")
def test_it_commutes_with_no_mirror_and_a_tile_is_not_the_pictures(folder):
    """Latents of a mirrored picture are others; those of a tile too, everywhere, because a norm sees the whole picture."""
    a, (_, _, run) = dict(np.load(folder / "io.npz")), taef2(folder)
    x = a["x0_u8"][None].astype(np.float32) / 127.5 - 1.0
    z, mirrored = run(x, "encode"), run(x[:, :, ::-1], "encode")[:, :, ::-1]
    assert np.abs(z - mirrored).max() > 1.0
    back, pictures = run(mirrored, "decode"), run(z, "decode")
    assert 20 < -10 * np.log10(np.mean((np.asarray(back) - pictures) ** 2) / 4) < 40
    tile = run(x[:, :, :48], "encode")
    assert np.abs(tile[:, :, :2] - z[:, :, :2]).max() > 0.05  # four latents from the cut, at the far side
    assert json.loads((folder / "case.json").read_text())["tile"]["max_abs_difference_far_from_the_cut"] > 0.05


@pytest.mark.golden("taef2_real")
def test_its_files_come_back_to_the_byte(folder, tmp_path):
    weights, own, _ = taef2(folder)
    save_author(tmp_path, own.module, own.variables, "taef2")
    for part in ("encoder", "decoder"):
        want, got = read_tensors(weights / f"taef2_{part}.pth"), load_file(tmp_path / f"taef2_{part}.safetensors")
        assert got.keys() == want.keys()
        for name, value in want.items():
            np.testing.assert_array_equal(got[name].astype(value.dtype), value)
    assert load_author(tmp_path).module == own.module


def test_the_form_of_diffusers(tmp_path):
    """TAESD has no norm; numbers of the decoder's layers are one less there, and a folder says what is in it."""
    module = TinyAutoencoder(z=4, width=8, blocks=(1, 2))
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    save_diffusers(tmp_path, module, variables)
    names = load_file(tmp_path / "diffusion_pytorch_model.safetensors").keys()
    assert {"decoder.layers.0.weight", "encoder.layers.1.conv.4.bias", "decoder.layers.7.weight"} <= names
    found = load(tmp_path)
    assert found.module == module and found.latents == {"mean": [0.0] * 4, "std": [1.0] * 4}
    jax.tree.map(np.testing.assert_array_equal, found.variables, jax.device_get(variables))
    assert to_tensors(module, variables).keys() != names
    with pytest.raises(
        UserError, match=r"cannot express mid_norm=True.* \(jaxgen\.pretrained\.tiny_autoencoders\.save_author\)"
    ):
        save_diffusers(tmp_path, module.clone(mid_norm=True), variables)

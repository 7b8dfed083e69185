"""DiT weights: export then import is the identity, bit by bit, in both layouts, and what we lack is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxgen.core.spec import Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.dit import DiT, position_waves
from jaxgen.pretrained.diffusers import TENSORS_FILE
from jaxgen.pretrained.dit import (
    dit_config,
    dit_fields,
    from_author,
    from_diffusers,
    load_author,
    load_dit,
    save_dit,
    to_author,
)
from jaxgen.pretrained.torch_files import read_tensors

SMALL = dict(shape=(8, 8, 4), conditions=labels(3), depth=2, width=16, heads=2, out_channels=8)
THEIRS = SMALL | dict(freq_shift=1.0, mlp_norm_eps=1e-5)


def random_variables(module, channels=4):
    x = jax.ShapeDtypeStruct((1, *module.shape[:2], channels), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes)


def author_file(module, variables):
    side = module.shape[0] // module.patch
    return to_author(module, variables) | {"pos_embed": position_waves(side, side, module.width)[None]}


@pytest.mark.parametrize("block_embed", [False, True])
@pytest.mark.parametrize("patch", [2, 4])
def test_export_then_import_is_the_identity(block_embed, patch, tmp_path):
    module = DiT(**THEIRS, block_embed=block_embed, patch=patch)
    variables = random_variables(module)
    save_dit(tmp_path, module, variables)
    loaded, back = load_dit(tmp_path)
    assert loaded == module
    assert jax.tree.structure(back) == jax.tree.structure(dict(variables))
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))
    assert dit_config(loaded, 4) == json.loads((tmp_path / "config.json").read_text())


def test_blocks_that_differ_in_their_embeddings_need_one_each(tmp_path):
    module = DiT(**THEIRS, block_embed=True)
    save_dit(tmp_path, module, random_variables(module))
    with pytest.raises(UserError, match="block_embed=True"):
        from_diffusers(module.clone(block_embed=False), load_file(tmp_path / TENSORS_FILE))


@pytest.mark.parametrize("scan", [False, True])
def test_the_authors_layout_and_back(scan):
    module = DiT(**SMALL, scan=scan)
    variables = random_variables(module)
    back = from_author(module, author_file(module, variables))
    assert jax.tree.structure(back) == jax.tree.structure(dict(variables))
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


@pytest.mark.parametrize("prefix", ["", "ema."])
def test_a_file_tells_all_but_the_heads(prefix, tmp_path):
    module = DiT(**SMALL)
    variables = random_variables(module)
    stored = {f"{prefix}{name}": a for name, a in author_file(module, variables).items()}
    if prefix:  # a training checkpoint also holds the weights that the average is of, and the optimizer's
        stored |= {"model.x_embedder.proj.weight": np.zeros(1), "opt.state.0.exp_avg": np.zeros(1)}
    save_file(stored, tmp_path / "dit.safetensors")
    loaded, back = load_author(read_tensors(tmp_path / "dit.safetensors"), heads=2)
    assert loaded == module
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))
    with pytest.raises(UserError, match="give heads"):
        load_author(read_tensors(tmp_path / "dit.safetensors"))


def test_what_does_not_fit_is_named(tmp_path):
    module = DiT(**SMALL)
    stored = author_file(module, random_variables(module))
    with pytest.raises(UserError, match=r"lack tensor blocks\.1\.mlp\.fc2\.bias"):
        from_author(module, {name: a for name, a in stored.items() if name != "blocks.1.mlp.fc2.bias"})
    with pytest.raises(UserError, match="1 tensors have no place, the first is extra"):
        from_author(module, stored | {"extra": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r"out\.bias has shape \(3,\), want \(32,\)"):
        from_author(module, stored | {"final_layer.linear.bias": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="pos_embed"):
        from_author(module, stored | {"pos_embed": -stored["pos_embed"]})
    with pytest.raises(UserError, match="another model"):
        load_author({"conv.weight": np.zeros(1)})
    with pytest.raises(UserError, match=r"no config\.json"):
        load_dit(tmp_path)


@pytest.mark.parametrize(
    ("option", "value"), [("norm_type", "layer_norm"), ("activation_fn", "gelu"), ("dropout", 0.1), ("colour", 1)]
)
def test_options_that_we_lack_are_named(option, value):
    with pytest.raises(UserError, match=option):
        dit_fields(dit_config(DiT(**THEIRS), 4) | {option: value})


@pytest.mark.parametrize(
    "fields",
    [dict(freq_shift=0.0), dict(null_label=False), dict(conditions=Spec()), dict(mlp_ratio=2.0), dict(shape=(8, 4, 4))],
)
def test_nets_that_diffusers_lacks_are_named(fields):
    with pytest.raises(UserError, match="diffusers DiT"):
        dit_config(DiT(**THEIRS | fields), 4)

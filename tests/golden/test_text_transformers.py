"""diffusers' transformers that read a text, reproduced from their own weights, and folders that come back as they were."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import case_of, images_last
from safetensors.numpy import load_file

from jaxgen.core.spec import Field, Spec
from jaxgen.nets.flux import packed, unpacked
from jaxgen.pretrained.diffusers import TENSORS_FILE
from jaxgen.pretrained.flux import FLUX
from jaxgen.pretrained.mmdit import SD3
from jaxgen.pretrained.pixart import PIXART
from jaxgen.pretrained.uvit import UVIT

scans = pytest.mark.parametrize(
    "scan", [pytest.param(False, id="plain"), pytest.param(True, id="scan", marks=pytest.mark.slow)]
)


def opened(table, folder, scan, mask=False):
    """(module, compiled call), after the folder went in and out."""
    module, variables = table.load(folder)
    want, got = load_file(folder / TENSORS_FILE), table.to_diffusers(module, variables)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)
    config = json.loads((folder / "config.json").read_text())
    assert table.net_fields(table.net_config(module)) == table.net_fields(config)
    if mask:
        seen = Field(module.conditions["states"].shape[:1], "float32", "mask")
        module = module.clone(conditions=Spec(module.conditions, seen=seen))
    module = module.clone(scan=scan)
    variables = table.from_diffusers(module, want)
    return module, lambda *args: jax.jit(module.apply)(variables, *args)


def count(variables):
    return sum(a.size for a in jax.tree.leaves(variables["params"]))


def text_of(a):
    return {"states": jnp.asarray(a["encoder_hidden_states"]), "pooled": jnp.asarray(a["pooled_projections"])}


@scans
@pytest.mark.golden("sd3_mmdit_tiny")
def test_sd3(folder, scan):
    case, a, close = case_of(folder)
    module, run = opened(SD3, folder, scan)
    assert count(SD3.shapes_of(module)) == case["params"]
    y = run(images_last(a["x"]), jnp.asarray(a["t"]), text_of(a))
    np.testing.assert_allclose(y, images_last(a["y"]), **close)


@scans
@pytest.mark.golden("flux_tiny")
def test_flux(folder, scan):
    case, a, close = case_of(folder)
    module, run = opened(FLUX, folder, scan)
    assert count(FLUX.shapes_of(module)) == case["params"]
    rows, columns = (int(n) + 1 for n in a["img_ids"][:, 1:].max(0))
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    np.testing.assert_array_equal(a["img_ids"], np.pad(grid, ((0, 0), (1, 0))))  # as our net numbers its patches
    cond = text_of(a) | ({"guidance": jnp.asarray(a["guidance"])[:, None]} if "guidance" in a else {})
    x = unpacked(jnp.asarray(a["x"]), rows, module.patch)
    np.testing.assert_array_equal(packed(x, module.patch), a["x"])
    y = packed(run(x, jnp.asarray(a["t"]), cond), module.patch)
    np.testing.assert_allclose(y, a["y"], **close)


@scans
@pytest.mark.golden("pixart_tiny")
def test_pixart(folder, scan):
    case, a, close = case_of(folder)
    module, run = opened(PIXART, folder, scan, mask="encoder_attention_mask" in a)
    assert count(PIXART.shapes_of(module)) == case["params"]
    cond = {"states": jnp.asarray(a["encoder_hidden_states"]), "seen": jnp.asarray(a["encoder_attention_mask"])}
    y = run(images_last(a["x"]), jnp.asarray(a["t"]), cond)
    np.testing.assert_allclose(y, images_last(a["y"]), **close)


@scans
@pytest.mark.golden("muse_uvit_masked_tiny")
def test_amused(folder, scan):
    case, a, close = case_of(folder)
    module, run = opened(UVIT, folder, scan)
    assert count(UVIT.shapes_of(module)) == case["params"]
    ids, hidden = (
        a["input_ids"],
        case["config"]["vocab_size"] - 1,
    )  # their last row is the hidden token, ours the first after the codes
    assert module.shape == ids.shape[1:] and ((ids < module.vocabulary) | (ids == hidden)).all()
    ids = jnp.asarray(np.where(ids == hidden, module.vocabulary, ids).reshape(len(ids), -1), jnp.int32)
    told = {"states": "encoder_hidden_states", "pooled": "pooled_text_emb", "size": "micro_conds"}
    logits = run(ids, {name: jnp.asarray(a[key]) for name, key in told.items()})
    np.testing.assert_allclose(logits.reshape(*a["input_ids"].shape, -1), images_last(a["logits"]), **close)

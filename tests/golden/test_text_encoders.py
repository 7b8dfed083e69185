"""CLIP's text encoder and T5's reproduced from their own weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxgen.nets.dit import stack_blocks
from jaxgen.pretrained.text import fields, from_transformers, to_transformers


def opened(folder, **changes):
    """(module, variables, arrays, their tensors, close) of a case."""
    case, config = (json.loads((folder / name).read_text()) for name in ("case.json", "config.json"))
    kind, found = fields({**config, **changes})
    module, weights = kind(**found), load_file(folder / "model.safetensors")
    tolerance = {name: case["tolerance"][name] for name in ("rtol", "atol")}
    close = lambda mine, name, where=...: np.testing.assert_allclose(  # noqa: E731
        np.asarray(mine)[where], arrays[name][where], **tolerance
    )
    arrays = dict(np.load(folder / "io.npz"))
    return module, from_transformers(module, weights), arrays, weights, close


@pytest.mark.golden("clip_text_*")
def test_clip(folder):
    module, variables, arrays, weights, close = opened(folder)
    ids = jnp.asarray(arrays["input_ids"], jnp.int32)
    out = jax.jit(module.apply)(variables, ids)
    close(out["states"], "last_hidden_state")
    close(out["pooled"], "text_embeds")
    stacked = {"params": stack_blocks(variables["params"])}
    close(module.clone(states="penultimate", scan=True).apply(stacked, ids)["states"], "penultimate")
    bare = {
        name.removeprefix("text_model."): value for name, value in weights.items()
    }  # as transformers 5.6 writes them
    assert all(map(np.array_equal, jax.tree.leaves(from_transformers(module, bare)), jax.tree.leaves(variables)))
    back = to_transformers(module, variables, "" if weights.keys() == bare.keys() else "text_model.")
    assert back.keys() == weights.keys() and all((back[k] == v).all() for k, v in weights.items())


@pytest.mark.golden("clip_text_*")
def test_the_end_is_the_first_of_its_number_or_the_largest_number(folder):
    """eos_token_id=2, as published configs say, means that programs pool at the largest id."""
    first, variables, *_ = opened(folder, eos_token_id=100)
    largest, *_ = opened(folder, eos_token_id=2)
    ids = jnp.asarray([[5, 6, 100, 7, 120, 100, 100, 100]])
    masks = [module.apply(variables, ids)["text_mask"][0].tolist() for module in (first, largest)]
    assert masks == [[1] * 3 + [0] * 5, [1] * 5 + [0] * 3]


@pytest.mark.golden("t5_encoder_*")
def test_t5(folder):
    module, variables, arrays, weights, close = opened(folder)
    real = arrays["attention_mask"] > 0
    ids = jnp.where(real, arrays["input_ids"], module.pad).astype(jnp.int32)
    out = jax.jit(module.apply)(variables, ids)
    assert (np.asarray(out["text_mask"]) == real).all()
    close(out["states"], "last_hidden_state", real)
    every = module.clone(pads=True).apply(variables, ids)["states"]  # as pipelines without a mask have it
    assert np.abs(every - out["states"])[real].max() > 1e-3
    longer = jax.jit(module.apply)(variables, jnp.pad(ids, ((0, 0), (0, 7)), constant_values=module.pad))
    np.testing.assert_allclose(longer["states"][:, :-7][real], out["states"][real], atol=1e-5)
    half = module.clone(dtype="bfloat16").apply(variables, ids)["states"]
    assert half.dtype == jnp.float32 and np.abs(half - out["states"])[real].mean() < 0.05
    back = to_transformers(module, variables)
    assert all((back[k] == v).all() for k, v in weights.items() if k in back) and len(back) >= len(weights) - 1

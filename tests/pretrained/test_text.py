"""Encoders of text of the published sizes: counts, and a place for every tensor's name. Nothing of them is computed."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.text import BertText
from jaxgen.pretrained.text import abstract, fields, from_transformers, names, to_transformers

WEIGHTS = Path(__file__).parents[2] / "../shared/weights"
PUBLISHED = ["sd15.text_encoder", "sd21.text_encoder", "sdxl.text_encoder", "sdxl.text_encoder_2",
             "flux_schnell.text_encoder", "flux_schnell.text_encoder_2"]  # fmt: skip
TINY = dict(model_type="bert", vocab_size=50, max_position_embeddings=16, num_hidden_layers=2, hidden_size=8,
            num_attention_heads=2, intermediate_size=12)  # fmt: skip


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the names of published tensors are not beside the repository")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_encoders_have_their_numbers_and_names(name):
    told = json.loads((WEIGHTS / f"names/{name}.json").read_text())
    kind, found = fields(json.loads((WEIGHTS / "configs" / name.replace(".", "/") / "config.json").read_text()))
    module = kind(**found)
    shapes = flatten_dict(abstract(module))
    assert sum(np.prod(s.shape) for s in shapes.values()) == told["parameters"]
    where = names(module)
    placed = {tensor: path for path in shapes for tensor in where(path)}
    assert placed.keys() == {n.removeprefix("text_model.") for n in told["shapes"]} and len(placed) == told["tensors"]


def test_bert_goes_out_and_comes_back_and_what_is_left_over_is_named():
    kind, found = fields(TINY)
    assert kind is BertText
    module = kind(**found)
    variables = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 4), np.int32))
    weights = to_transformers(module, variables, "bert.")
    weights |= {"bert.embeddings.position_ids": np.arange(16)[None], "bert.pooler.dense.weight": np.zeros((8, 8))}
    again = from_transformers(module, weights)
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(variables))
    with pytest.raises(UserError, match=r"1 tensors have no place, the first is extra"):
        from_transformers(module, {**weights, "bert.extra": np.zeros(2)})
    for wrong in (dict(model_type="gpt2"), {**TINY, "hidden_act": "relu"}, dict(model_type="t5", feed_forward_proj="relu"),
                  dict(model_type="clip_text_model", hidden_act="silu")):  # fmt: skip
        with pytest.raises(UserError, match=r"is not supported; known:"):
            fields(wrong)

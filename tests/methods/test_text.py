"""A frozen encoder tells a net what a text says; what is empty, what is padded, what is refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT
from safetensors.numpy import save_file

from jaxgen.config import files as configs
from jaxgen.errors import UserError
from jaxgen.nets.text import ClipText
from jaxgen.pretrained.text import to_transformers
from jaxgen.runs.experiment import Experiment, open_source

CLIP = dict(model_type="clip_text_model", vocab_size=512, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=24, hidden_act="quick_gelu", eos_token_id=2)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder as transformers writes it, of an encoder with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    module = ClipText(values=512, length=24, depth=2, width=8, heads=2, hidden=16)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 24), jnp.int32))
    save_file(to_transformers(module, variables, "text_model."), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CLIP))
    return folder


def opened(clip, **changes):
    """The experiment of a config whose net is told what that encoder says."""
    config = configs.override(
        configs.load(f"{ROOT}/configs/text_shapes.py:tiny"),
        {
            "method.net.text": None,
            "method.text_encoder": {"name": "frozen", "run": {"name": "published_text", "path": str(clip)}},
            **changes,
        },
    )
    return Experiment.open(config, open_source(config, "train").spec)


def test_a_net_is_told_what_a_frozen_encoder_says(clip, tmp_path):
    exp = opened(clip)
    assert exp.method.net.module.conditions.keys() == {"states", "text_mask", "pooled"} and list(
        exp.spec.conditions
    ) == ["caption"]
    assert exp.abstract.frozen["text"].weights["params"]["table"]["embedding"].shape == (512, 8)
    assert {x.sharding.mesh for x in jax.tree.leaves(exp.abstract.frozen)} == {exp.mesh}
    params = exp.abstract.nets["net"].params
    assert (
        params["mid_attend"]["block0"]["text"]["kv"]["kernel"].shape == (8, 16)
        and params["pooled"]["kernel"].shape[0] == 8
    )
    frozen, ids = exp.frozen(), exp.tokenizer.encode(["a red ring", ""])
    told = exp.method.text_encoder(exp.spec, frozen, {"caption": jnp.asarray(ids)})
    direct = frozen["text"].model.encode_text(frozen["text"].weights, jnp.asarray(ids))
    assert told.keys() == {"states", "text_mask", "pooled"}
    jax.tree.map(np.testing.assert_array_equal, told, direct)
    nothing = replace(exp.method.text_encoder, null="zeros", masked=False, pooled=False)
    told = nothing(exp.spec, frozen, {"caption": jnp.asarray(ids)})
    assert told.keys() == {"states"} == nothing.spec(exp.spec).conditions.keys()  # all of it is looked at, as SD does
    assert nothing.kept_in(tmp_path) == nothing
    (tmp_path / "text").mkdir()
    assert nothing.kept_in(tmp_path).run.path == str(tmp_path / "text")  # a copy in the run's directory goes first
    assert not np.asarray(told["states"])[1].any() and np.asarray(told["states"])[0].any()


def test_encoders_that_cannot_serve_are_refused(clip, tmp_path):
    for changes, wanted in (
        ({"data.tokenizer": "none"}, "reads tokens, and the run is told nothing; set config.data.tokenizer"),
        ({"data.tokenizer.vocab": 600}, "has 600 numbers and the encoder of config.method.text_encoder a table of 512"),
        ({"data.tokenizer.length": 30}, r"30 tokens are more than the 24 places that the encoder knows; set"),
        ({"method.text_encoder.run.path": str(tmp_path)}, "has no config.json with .safetensors"),
        ({"method.text_encoder.run.path": ""}, "path is empty: name the folder"),
    ):
        with pytest.raises(UserError, match=wanted):
            opened(clip, **changes)

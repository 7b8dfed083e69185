"""A run that is told captions is asked for texts, from its own directory alone."""

import warnings

import jax
import numpy as np
import pytest
from cases import ROOT

import jaxgen
from jaxgen.config import files as configs
from jaxgen.data.sources import source
from jaxgen.errors import UserError
from jaxgen.train import train


@pytest.mark.slow
def test_prompts(tmp_path):
    config = configs.load(f"{ROOT}/configs/text_shapes.py:tiny")
    changes = {
        "steps": 1,
        "save_every": 1,
        "log_every": 1,
        "eval.grid": None,
        "eval.loss": None,
        "method.solver.steps": 1,
        "method.net.mults": (1,),
        "method.net.attend_down": (False,),
        "method.net.attend_up": (False,),
    }
    train(configs.override(config, changes), tmp_path)
    run = jaxgen.open(tmp_path)
    assert len(run.exp.config.data.tokenizer.merges) > 20  # learned once, and kept
    tokenizer = run.exp.tokenizer
    assert run.exp.spec["caption"] == tokenizer.field() and not tokenizer.open
    asked = run.asked(prompt=["a red ring", "a star"])["caption"]
    assert [tokenizer.decode(row) for row in asked] == ["a red ring", "a star"]
    away = run.changed(run.against("a blue star")).exp.method.guide
    assert tokenizer.decode(away.avoided["caption"]) == "a blue star" and away.scale == run.exp.method.guide.scale
    pictures = run.sample(2, prompt="a red ring", negative="a blue star")
    assert pictures.shape == (2, 16, 16, 3) and pictures.dtype == np.uint8
    story = "a (very:1.3) long story of " + "rings and stars " * 9 + "the end"
    source.TOLD.clear()
    with pytest.warns(
        UserWarning, match=r"longer than 24 tokens, and this is cut off: '.*the end' \(.*tokenizer.chunks=2 keeps"
    ):
        run.asked(prompt=story)
    longer = run.changed({"data.tokenizer.chunks": 4})
    longer = longer.changed(longer.against("(bad:1.2)"))
    with warnings.catch_warnings(action="error"):
        asked = longer.asked(prompt=story)
    assert asked["caption"].shape == (1, 4, 24) and np.shape(longer.exp.method.guide.avoided["caption"]) == (4, 24)
    sample = longer.exp.method.sample
    made = jax.eval_shape(lambda w, rng, cond: sample(w, rng, 1, cond), longer.state.view(), jax.random.key(0), asked)
    assert made.shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match=r"--labels was given but .* is told no labels; ask by --prompt=TEXT"):
        run.asked(labels=[1])

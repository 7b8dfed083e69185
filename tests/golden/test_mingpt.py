"""The transformer of taming-transformers reproduced from its own weights: logits, loss and the gradient norm of every tensor."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from jaxgen.nets.dit import unstack_blocks
from jaxgen.pretrained.layout import theirs
from jaxgen.pretrained.mingpt import load_mingpt, tensors_of


@pytest.mark.golden("taming_mingpt")
@pytest.mark.parametrize("scan", [False, True])
def test_the_transformer_of_taming(folder, scan):
    """Its first token is our label, and its targets, the ids rolled left by one, are the tokens that ours is asked for."""
    case = json.loads((folder / "case.json").read_text())
    arrays, tolerance = dict(np.load(folder / "io.npz")), case["tolerance"]
    weights, config = load_file(folder / "weights.safetensors"), case["config"]
    module, variables = load_mingpt(weights, config["n_head"], classes=config["vocab_size"], scan=scan)
    assert (module.vocabulary, module.places, module.depth, module.width) == tuple(
        config[name] for name in ("vocab_size", "block_size", "n_layer", "n_embd")
    )
    cond, ids = {"label": jnp.asarray(arrays["ids"][:, 0])}, jnp.roll(jnp.asarray(arrays["ids"]), -1, 1)

    def loss(variables):
        logits = module.apply(variables, ids, cond)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1).mean(), logits

    (value, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    np.testing.assert_allclose(logits, arrays["logits"], rtol=tolerance["rtol"], atol=tolerance["atol"])
    np.testing.assert_allclose(value, arrays["loss"], rtol=tolerance["rtol"])

    params = unstack_blocks(grads["params"]) if scan else grads["params"]
    found = {}
    for path, value in flatten_dict({"params": jax.device_get(params)}).items():
        names = tensors_of(path)
        found |= dict(zip(names, theirs(path[-1], value, len(names)), strict=True))
    found["tok_emb.weight"] = found["tok_emb.weight"] + found.pop("start")  # one table of theirs
    wanted = case["grad_l2_norms"]
    assert found.keys() == wanted.keys()
    for name, norm in wanted.items():
        np.testing.assert_allclose(np.linalg.norm(found[name]), norm, rtol=tolerance["rtol"], atol=1e-6, err_msg=name)

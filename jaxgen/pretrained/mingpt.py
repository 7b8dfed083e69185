"""minGPT's weights, as taming-transformers trains them, -> our `CausalTransformer` and its variables.

Their first token is a token like the others: a label c is token c, and a net that is told nothing begins with token 0
(`SOSProvider`). So the rows of our labels, and our first token, are rows of their table.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.nets.dit import stack_blocks
from jaxgen.nets.transformer import CausalTransformer
from jaxgen.pretrained.layout import Path, fill, ours, suffix

NAMES = {  # our module, {} the number of the block -> the modules of theirs that it holds
    "block{}.norm1": ("blocks.{}.ln1",),
    "block{}.qkv": ("blocks.{}.attn.query", "blocks.{}.attn.key", "blocks.{}.attn.value"),
    "block{}.out": ("blocks.{}.attn.proj",),
    "block{}.norm2": ("blocks.{}.ln2",),
    "block{}.mlp0": ("blocks.{}.mlp.0",),
    "block{}.mlp1": ("blocks.{}.mlp.2",),
    "last": ("ln_f",),
    "head": ("head",),
}
ALONE = {"table": "tok_emb.weight", "start": "start", "position": "pos_emb"}


def tensors_of(path: Path) -> list[str]:
    """Our path, ("params", "block3", "qkv", "kernel") -> the names of the tensors that it holds."""
    module = ".".join(path[1:-1])
    if path[1] in ALONE:
        return [ALONE[path[1]]]
    number = path[1].removeprefix("block") if path[1].startswith("block") else ""
    found = NAMES[module.replace(f"block{number}", "block{}") if number else module]
    return [f"{name.format(number)}.{suffix(path[-1])}" for name in found]


def load_mingpt(
    tensors: Mapping[str, np.ndarray], heads: int, classes: int = 0, shape: tuple[int, ...] = (), scan: bool = False
) -> tuple[CausalTransformer, dict[str, Any]]:
    """The state dict of a minGPT, or of the `Net2NetTransformer` around it, -> (module, variables as numpy float32).

    heads: weights do not tell them. classes: of a net that is told a label. shape: of the tokens, if they are a grid.
    Raises UserError for a missing, extra or misshapen tensor.
    """
    inside = {k.removeprefix("transformer."): v for k, v in tensors.items() if k.startswith("transformer.")}
    weights = {k: v for k, v in (inside or dict(tensors)).items() if not k.endswith(".attn.mask")}
    for name in ("tok_emb.weight", "pos_emb", "blocks.0.mlp.0.weight"):
        if name not in weights:
            raise UserError(f"minGPT: the weights lack tensor {name}; is this another model?")
    (vocabulary, width), hidden = weights["tok_emb.weight"].shape, weights["blocks.0.mlp.0.weight"].shape[0]
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    module = CausalTransformer(
        shape=shape or weights["pos_emb"].shape[1:2], vocabulary=vocabulary, conditions=labels(classes), null_label=False,
        depth=depth, width=width, heads=heads, mlp_ratio=hidden / width,
    )  # fmt: skip
    ids = jax.ShapeDtypeStruct((1, module.places), np.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), ids, module.conditions.abstract(1))

    def convert(path: Path, found: list[np.ndarray]) -> np.ndarray:
        if path[1] == "position":
            return found[0][0]
        if path[1] == "start":
            return found[0][:classes] if classes else found[0][0]
        return found[0] if path[1] == "table" else ours(path[-1], found)

    weights["start"] = weights["tok_emb.weight"]  # which two of our params hold
    variables = fill("minGPT", shapes, weights, tensors_of, convert)
    return (module.clone(scan=True), {"params": stack_blocks(variables["params"])}) if scan else (module, variables)

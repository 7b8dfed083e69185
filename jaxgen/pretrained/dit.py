"""Published DiT and SiT weights <-> our DiT and its variables, exact both ways.

Two layouts: the state dicts (.pt) of the authors of DiT and SiT, and diffusers' `DiTTransformer2DModel` folders. They differ
in names, in the frequencies of time (`freq_shift`), in an epsilon, and in that diffusers keeps the embeddings of time and
label once per block; copies that are equal become one.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.nets.dit import SIZES, DiT, position_waves, stack_blocks, unstack_blocks
from jaxgen.pretrained.diffusers import options, read_folder, write_folder
from jaxgen.pretrained.layout import Tensors, fill, only_label, ours, suffix, theirs

HEADS = {size["width"]: size["heads"] for size in SIZES.values()}

# our module, {} the number of the block -> the modules of theirs that it holds
AUTHORS = {
    "patch": ("x_embedder.proj",),
    "embed.time0": ("t_embedder.mlp.0",),
    "embed.time1": ("t_embedder.mlp.2",),
    "embed.label": ("y_embedder.embedding_table",),
    "block{}.adaln": ("blocks.{}.adaLN_modulation.1",),
    "block{}.qkv": ("blocks.{}.attn.qkv",),
    "block{}.out": ("blocks.{}.attn.proj",),
    "block{}.mlp0": ("blocks.{}.mlp.fc1",),
    "block{}.mlp1": ("blocks.{}.mlp.fc2",),
    "adaln_out": ("final_layer.adaLN_modulation.1",),
    "out": ("final_layer.linear",),
}
_BLOCK = "transformer_blocks.{}"
DIFFUSERS = {
    "patch": ("pos_embed.proj",),
    "embed{}.time0": (f"{_BLOCK}.norm1.emb.timestep_embedder.linear_1",),
    "embed{}.time1": (f"{_BLOCK}.norm1.emb.timestep_embedder.linear_2",),
    "embed{}.label": (f"{_BLOCK}.norm1.emb.class_embedder.embedding_table",),
    "block{}.adaln": (f"{_BLOCK}.norm1.linear",),
    "block{}.qkv": (f"{_BLOCK}.attn1.to_q", f"{_BLOCK}.attn1.to_k", f"{_BLOCK}.attn1.to_v"),
    "block{}.out": (f"{_BLOCK}.attn1.to_out.0",),
    "block{}.mlp0": (f"{_BLOCK}.ff.net.0.proj",),
    "block{}.mlp1": (f"{_BLOCK}.ff.net.2",),
    "adaln_out": ("proj_out_1",),
    "out": ("proj_out_2",),
}


def _names(table: dict[str, tuple[str, ...]], path: tuple[str, ...]) -> list[str]:
    """Our path, ("params", "block3", "qkv", "kernel") -> the names of the tensors that it holds."""
    module = ".".join(path[1:-1])
    number = next(iter(re.findall(r"\d+", path[1])), "")
    pattern = module.replace(path[1], path[1].removesuffix(number) + "{}" if number else path[1], 1)
    return [f"{name.format(number)}.{suffix(path[-1])}" for name in table[pattern]]


def _patch_kernel(module: DiT) -> tuple[int, int, int, int]:
    """Shape of the patch embedding as a convolution, HWIO, with the input channels left open."""
    return module.patch, module.patch, -1, module.width


def _from(what: str, module: DiT, weights: Tensors, table: dict[str, tuple[str, ...]], channels: int) -> dict[str, Any]:
    """Tensors -> variables of `module`."""
    plain = module.clone(scan=False)
    x = jax.ShapeDtypeStruct((1, module.patch, module.patch, channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), x, t, module.conditions.abstract(1))

    def convert(path: tuple[str, ...], tensors: list[np.ndarray]) -> np.ndarray:
        value = ours(path[-1], tensors)
        return value.reshape(-1, module.width) if path[1:] == ("patch", "kernel") else value

    variables = fill(what, shapes, weights, lambda path: _names(table, path), convert)
    return {"params": stack_blocks(variables["params"])} if module.scan else variables


def _to(module: DiT, variables: Any, table: dict[str, tuple[str, ...]]) -> Tensors:
    """Variables of `module` (or their gradients) -> tensors by name."""
    params = unstack_blocks(variables["params"]) if module.scan else variables["params"]
    weights = {}
    for path, value in flatten_dict({"params": params}).items():
        value = np.asarray(value)
        value = value.reshape(_patch_kernel(module)) if path[1:] == ("patch", "kernel") else value
        names = _names(table, path)
        weights |= dict(zip(names, theirs(path[-1], value, len(names)), strict=True))
    return weights


# ----------------------------------------------------------------------------------------------------------------------
# The authors' state dicts


def author_fields(weights: Mapping[str, np.ndarray], heads: int = 0) -> dict[str, Any]:
    """The fields of our `DiT` that these weights have. heads: 0 = as in the published nets of that width.

    Raises UserError for weights of another net, or of a width that no published net has when `heads` is 0.
    """
    table = "y_embedder.embedding_table.weight"
    for name in ("x_embedder.proj.weight", "pos_embed", table, "blocks.0.mlp.fc1.weight", "final_layer.linear.weight"):
        if name not in weights:
            raise UserError(f"DiT: the weights lack tensor {name}; is this another model?")
    width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
    if not heads and width not in HEADS:
        raise UserError(f"DiT: no published net has width {width}, and weights do not tell the heads; give heads")
    side = math.isqrt(weights["pos_embed"].shape[1]) * patch
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    return dict(
        shape=(side, side, channels),
        conditions=labels(weights[table].shape[0] - 1),
        patch=patch,
        depth=len(blocks),
        width=width,
        heads=heads or HEADS[width],
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
        out_channels=weights["final_layer.linear.weight"].shape[0] // patch**2,
    )


def from_author(module: DiT, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The authors' tensors -> variables of `module`. Raises UserError for a missing, extra or misshapen tensor."""
    weights = dict(weights)
    stored = weights.pop("pos_embed")
    side = math.isqrt(stored.shape[1])
    if not np.allclose(stored[0], position_waves(side, side, stored.shape[2]), atol=1e-5):
        raise UserError("DiT: pos_embed is not the fixed sines and cosines of DiT; such a net is not supported")
    return _from("DiT", module, weights, AUTHORS, weights["x_embedder.proj.weight"].shape[1])


def to_author(module: DiT, variables: Any) -> Tensors:
    """Variables of `module` (or their gradients) -> the authors' tensors by name, without the fixed `pos_embed`."""
    if module.block_embed:
        raise UserError("DiT: the authors' layout has one embedding of time and label; block_embed must be False")
    return _to(module, variables, AUTHORS)


def load_author(tensors: Mapping[str, np.ndarray], heads: int = 0) -> tuple[DiT, dict[str, Any]]:
    """What `read_tensors` found in a .pt of DiT or SiT -> (module, variables). A training checkpoint gives its average."""
    for part in ("ema.", "model."):
        if any(name.startswith(part) for name in tensors):
            tensors = {name.removeprefix(part): a for name, a in tensors.items() if name.startswith(part)}
            break
    module = DiT(**author_fields(tensors, heads))
    return module, from_author(module, tensors)


# ----------------------------------------------------------------------------------------------------------------------
# diffusers


_FIXED = dict(  # what their net can be, and ours is
    norm_type=("ada_norm_zero",),
    norm_elementwise_affine=(False,),
    activation_fn=("gelu-approximate",),
    attention_bias=(True,),
    dropout=(0.0,),
)
_ALWAYS = {name: only for name, (only,) in _FIXED.items()}
_OLD = dict(  # of a Transformer2DModel, as published folders have it
    cross_attention_dim=(None,), num_vector_embeds=(None,), only_cross_attention=(False,), use_linear_projection=(False,),
    double_self_attention=(False,), attention_type=("default",), caption_channels=(None,), interpolation_scale=(None,),
)  # fmt: skip
_DEFAULTS = dict(
    num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=None, num_layers=28, sample_size=32,
    patch_size=2, num_embeds_ada_norm=1000, norm_eps=1e-5, **_ALWAYS,
    norm_num_groups=32, upcast_attention=False,  # they change no output
)  # fmt: skip


def dit_fields(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of a `DiTTransformer2DModel` -> fields of our `DiT`. Raises UserError naming what we do not have."""
    c = options("diffusers DiT", config, _DEFAULTS, _FIXED | _OLD)
    channels, side = c["in_channels"], c["sample_size"]
    return dict(
        shape=(side, side, channels),
        conditions=labels(c["num_embeds_ada_norm"]),
        patch=c["patch_size"],
        depth=c["num_layers"],
        width=c["num_attention_heads"] * c["attention_head_dim"],
        heads=c["num_attention_heads"],
        mlp_norm_eps=c["norm_eps"],
        freq_shift=1.0,
        block_embed=True,
        out_channels=c["out_channels"] or channels,
    )


def dit_config(module: DiT, in_channels: int) -> dict[str, Any]:
    """Our `DiT` -> the config.json of the same `DiTTransformer2DModel`. Raises UserError for what it cannot express."""
    wanted = dict(freq_shift=1.0, null_label=True, mlp_ratio=4.0)
    for name, value in wanted.items():
        if getattr(module, name) != value:
            raise UserError(f"diffusers DiT: {name} must be {value!r}, not {getattr(module, name)!r}")
    classes = only_label(module.conditions, "diffusers DiT")
    if not classes:
        raise UserError("diffusers DiT: it has no net without labels; give the net a label among its conditions")
    if module.shape[0] != module.shape[1]:
        raise UserError(f"diffusers DiT: images must be square, not {module.shape[0]} x {module.shape[1]}")
    return dict(
        _class_name="DiTTransformer2DModel",
        num_attention_heads=module.heads,
        attention_head_dim=module.width // module.heads,
        in_channels=in_channels,
        out_channels=module.out_channels or module.shape[2],
        num_layers=module.depth,
        sample_size=module.shape[0],
        patch_size=module.patch,
        num_embeds_ada_norm=classes,
        norm_eps=module.mlp_norm_eps,
        **_ALWAYS,
    )


def from_diffusers(module: DiT, weights: Tensors) -> dict[str, Any]:
    """diffusers' tensors -> variables of `module`. Raises UserError for a missing, extra or misshapen tensor.

    A module without `block_embed` takes the embeddings of block 0, and refuses weights in which the blocks differ.
    """
    if "pos_embed.proj.weight" not in weights:
        raise UserError("diffusers DiT: the weights lack tensor pos_embed.proj.weight; is this another model?")
    weights = {name: a for name, a in weights.items() if name != "pos_embed.pos_embed"}  # fixed sines, in old files
    table = DIFFUSERS
    if not module.block_embed:
        if not shares_embedding(weights):
            raise UserError("diffusers DiT: the blocks' embeddings of time and label differ; set block_embed=True")
        later = re.compile(r"transformer_blocks\.[1-9]\d*\.norm1\.emb\.")
        weights = {name: a for name, a in weights.items() if not later.match(name)}
        table = {name.replace("embed{}", "embed"): tuple(t.replace("{}.norm1.emb", "0.norm1.emb") for t in their)
                 for name, their in DIFFUSERS.items()}  # fmt: skip
    return _from("diffusers DiT", module, weights, table, weights["pos_embed.proj.weight"].shape[1])


def to_diffusers(module: DiT, variables: Any) -> Tensors:
    """Variables of `module` (or their gradients) -> diffusers' tensors by name."""
    params = dict(variables["params"])
    if not module.block_embed:
        shared = params.pop("embed")
        params |= {f"embed{i}": shared for i in range(module.depth)}
    return _to(module, {"params": params}, DIFFUSERS)


def shares_embedding(weights: Tensors) -> bool:
    """Whether all blocks of diffusers' tensors hold equal embeddings of time and label."""
    first = re.compile(r"transformer_blocks\.\d+\.norm1\.emb\.")
    return all(
        np.array_equal(a, weights[first.sub("transformer_blocks.0.norm1.emb.", name)])
        for name, a in weights.items()
        if first.match(name)
    )


def load_dit(folder: str | Path) -> tuple[DiT, dict[str, Any]]:
    """A folder written by diffusers' `save_pretrained` -> (module, variables as numpy float32)."""
    config, weights = read_folder(folder, "DiT")
    module = DiT(**dit_fields(config) | dict(block_embed=not shares_embedding(weights)))
    return module, from_diffusers(module, weights)


def save_dit(folder: str | Path, module: DiT, variables: Any) -> None:
    """Write a folder that diffusers' `DiTTransformer2DModel.from_pretrained` reads."""
    weights = to_diffusers(module, variables)
    write_folder(folder, dit_config(module, weights["pos_embed.proj.weight"].shape[1]), weights)

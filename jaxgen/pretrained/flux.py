"""diffusers' `FluxTransformer2DModel` folders <-> our Flux and its variables, exact both ways; and the file of its authors, Black
Forest Labs, by diffusers' names.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import sequences
from jaxgen.nets.flux import Flux
from jaxgen.pretrained.diffusers import options
from jaxgen.pretrained.layout import Tensors
from jaxgen.pretrained.transformers import EMBED, JOINT, Table, image_and_time, refuse_told

WHAT = "diffusers FluxTransformer2DModel"
LENGTH = 512  # tokens of T5; the net reads texts of any length
PATCH = 2  # their pipeline cuts the latents of the codec into patches, their net has none
SIDE = 128  # of the latents of a picture of 1024 x 1024; the net takes any
DEFAULTS = dict(
    in_channels=64, out_channels=None, num_layers=19, num_single_layers=38, attention_head_dim=128, num_attention_heads=24,
    joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=False, axes_dims_rope=(16, 56, 56),
)  # fmt: skip


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    c = options(WHAT, config, DEFAULTS, dict(patch_size=(1,)))
    out = c["out_channels"] or c["in_channels"]
    if odd := [n for n in (out, c["in_channels"]) if n % PATCH**2]:
        raise UserError(f"{WHAT}: {odd[0]} channels are not those of patches of {PATCH} x {PATCH}")
    states = Field((LENGTH, c["joint_attention_dim"]), "float32", "embedding")
    spec = {"states": states, "pooled": Field((c["pooled_projection_dim"],), "float32", "embedding")}
    if c["guidance_embeds"]:
        spec["guidance"] = Field((1,), "float32", "embedding")
    if more := (c["in_channels"] - out) // PATCH**2:
        spec["shown"] = Field((SIDE, SIDE, more), "float32", "latent")
    return dict(
        shape=(SIDE, SIDE, out // PATCH**2),
        conditions=Spec(spec),
        patch=PATCH,
        double=c["num_layers"],
        single=c["num_single_layers"],
        width=c["num_attention_heads"] * c["attention_head_dim"],
        heads=c["num_attention_heads"],
        axes=tuple(c["axes_dims_rope"]),
        guided=c["guidance_embeds"],
    )


def _config(module: Flux) -> dict[str, Any]:
    spec, (states, _), n = module.conditions, sequences(module.conditions), module.patch**2
    pictures = spec.of("latent")
    refuse_told(WHAT, module, [states, "pooled", *(["guidance"] if module.guided else []), *pictures])
    if "pooled" not in spec or module.patch != PATCH:
        raise UserError(f"{WHAT}: a pooled text and patch={PATCH} are needed; keep the net in jaxgen's own format")
    channels = n * (module.shape[2] + sum(f.shape[-1] for f in pictures.values()))
    out = n * (module.out_channels or module.shape[2])
    return dict(
        _class_name="FluxTransformer2DModel",
        patch_size=1,
        in_channels=channels,
        out_channels=None if out == channels else out,
        num_layers=module.double,
        num_single_layers=module.single,
        attention_head_dim=module.width // module.heads,
        num_attention_heads=module.heads,
        joint_attention_dim=spec[states].shape[1],
        pooled_projection_dim=spec["pooled"].shape[0],
        guidance_embeds=module.guided,
        axes_dims_rope=list(module.axes),
    )


_SINGLE = {
    "adaln": ("norm.linear",),
    "qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "norm_q": ("attn.norm_q",),
    "norm_k": ("attn.norm_k",),
    "mlp": ("proj_mlp",),
    "out": ("proj_out",),
}
FLUX = Table(
    net=Flux,
    what=WHAT,
    net_fields=_fields,
    net_config=_config,
    table=EMBED | {"patch": ("x_embedder",)},
    blocks={"double": (JOINT, "transformer_blocks.{}"), "single": (_SINGLE, "single_transformer_blocks.{}")},
    order=lambda module: [f"double{i}" for i in range(module.double)] + [f"single{i}" for i in range(module.single)],
    arguments=image_and_time,
    stacks=("double", "single"),
    tensors={},
    convs=(),
)

# ----------------------------------------------------------------------------------------------------------------------
# The file of its authors

_STREAM = {
    "img": ("", "to_{}", "norm_{}", "to_out.0", "ff"),
    "txt": ("_context", "add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
}
_QKV = ("q", "k", "v")
# theirs, outside of blocks -> diffusers'
AUTHORS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    **{
        f"{theirs}.{way}_layer": f"time_text_embed.{name}_embedder.linear_{n}"
        for theirs, name in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
        for way, n in (("in", 1), ("out", 2))
    },
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
SWAPPED = "norm_out.linear"  # whose shift comes first there, and its scale in diffusers


def _double() -> dict[str, tuple[str, ...]]:
    """Modules of theirs in a block of two streams -> those of diffusers' that they hold, side by side."""
    found: dict[str, tuple[str, ...]] = {}
    for stream, (end, part, norm, out, mlp) in _STREAM.items():
        found |= {
            f"{stream}_mod.lin": (f"norm1{end}.linear",),
            f"{stream}_attn.qkv": tuple(f"attn.{part.format(x)}" for x in _QKV),
            f"{stream}_attn.norm.query_norm": (f"attn.{norm.format('q')}",),
            f"{stream}_attn.norm.key_norm": (f"attn.{norm.format('k')}",),
            f"{stream}_attn.proj": (f"attn.{out}",),
            f"{stream}_mlp.0": (f"{mlp}.net.0.proj",),
            f"{stream}_mlp.2": (f"{mlp}.net.2",),
        }
    return found


BLOCKS = {
    "double_blocks": ("transformer_blocks", _double()),
    "single_blocks": (
        "single_transformer_blocks",
        {
            "modulation.lin": ("norm.linear",),
            "linear1": (*(f"attn.to_{x}" for x in _QKV), "proj_mlp"),
            "linear2": ("proj_out",),
            "norm.query_norm": ("attn.norm_q",),
            "norm.key_norm": ("attn.norm_k",),
        },
    ),
}


def is_authors(names: Iterable[str]) -> bool:
    """Whether a file with these tensors is one of theirs."""
    return {"img_in.weight", "double_blocks.0.img_attn.qkv.weight"} <= set(names)


def _halves(value: np.ndarray) -> np.ndarray:
    return np.concatenate(np.split(value, 2)[::-1])


def from_authors(weights: Mapping[str, np.ndarray]) -> Tensors:
    """The tensors of their file -> the same by diffusers' names. Raises UserError for a tensor that Flux has not."""
    found: Tensors = {}
    for name, value in weights.items():
        module, _, leaf = name.rpartition(".")
        top, _, rest = module.partition(".")
        number, _, inner = rest.partition(".")
        if module in AUTHORS:
            there = AUTHORS[module]
            found[f"{there}.{leaf}"] = _halves(value) if there == SWAPPED else value
        elif top in BLOCKS and number.isdecimal() and inner in BLOCKS[top][1]:
            stem, parts = BLOCKS[top][0], BLOCKS[top][1][inner]
            width = weights[f"{top}.{number}.linear2.bias"].size if len(parts) == 4 else len(value) // len(parts)
            tensors = np.split(value, [width * i for i in range(1, len(parts))])
            end = "weight" if leaf == "scale" else leaf
            found |= {f"{stem}.{number}.{part}.{end}": one for part, one in zip(parts, tensors, strict=True)}
        else:
            raise UserError(f"{name} is no tensor of Flux as its authors write it; is this another model?")
    return found


def to_authors(weights: Mapping[str, np.ndarray]) -> Tensors:
    """The inverse: a `FluxTransformer2DModel`'s tensors -> those of a file of its authors."""
    tops = {theirs: name for name, theirs in AUTHORS.items()}
    inner = {
        (stem, part): (top, name, parts)
        for top, (stem, table) in BLOCKS.items()
        for name, parts in table.items()
        for part in parts
    }
    found: Tensors = {}
    for name, value in weights.items():
        module, _, leaf = name.rpartition(".")
        stem, _, rest = module.partition(".")
        number, _, part = rest.partition(".")
        if module in tops:
            found[f"{tops[module]}.{leaf}"] = _halves(value) if module == SWAPPED else value
        elif (stem, part) in inner:
            top, theirs, parts = inner[stem, part]
            end = "scale" if theirs.endswith("_norm") else leaf
            if part == parts[0]:
                tensors = [weights[f"{stem}.{number}.{one}.{leaf}"] for one in parts]
                found[f"{top}.{number}.{theirs}.{end}"] = np.concatenate(tensors) if len(parts) > 1 else value
        else:
            raise UserError(f"{name} is no tensor of a FluxTransformer2DModel; is this another model?")
    return found


def config_of(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """config.json of the net that diffusers' tensors belong to. The axes of RoPE are no tensors: as published, 1/8 of a head
    and 7/16 twice. Raises UserError for heads that cannot be divided so.
    """
    count = lambda stem: 1 + max((int(n.split(".")[1]) for n in weights if n.startswith(f"{stem}.")), default=-1)  # noqa: E731
    dim, width = weights["transformer_blocks.0.attn.norm_q.weight"].size, weights["x_embedder.bias"].size
    if dim % 32:
        raise UserError(
            f"{WHAT}: how its heads of {dim} channels are turned is not told by a file; load it as diffusers' folder"
        )
    return dict(
        _class_name="FluxTransformer2DModel", patch_size=1, in_channels=weights["x_embedder.weight"].shape[1], out_channels=None,
        num_layers=count("transformer_blocks"), num_single_layers=count("single_transformer_blocks"),
        attention_head_dim=dim, num_attention_heads=width // dim, axes_dims_rope=[dim // 8, 7 * dim // 16, 7 * dim // 16],
        joint_attention_dim=weights["context_embedder.weight"].shape[1],
        pooled_projection_dim=weights["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        guidance_embeds="time_text_embed.guidance_embedder.linear_1.weight" in weights,
    )  # fmt: skip

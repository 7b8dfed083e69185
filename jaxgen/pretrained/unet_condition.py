"""diffusers' `UNet2DConditionModel` folders <-> our UNetCondition and its variables, exact both ways.

Names and options that it shares with `UNet2DModel` are those of `pretrained/diffusers.py`; here are its transformers and what is
told besides the text.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import beside_text, sequences
from jaxgen.nets.dit import stack_blocks, unstack_blocks
from jaxgen.nets.unet import UNet
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import diffusers, layout
from jaxgen.pretrained.diffusers import options, place_of, read_folder, their_modules, write_folder
from jaxgen.pretrained.layout import Tensors, fill, suffix

WHAT = "diffusers UNet2DConditionModel"
net = UNetCondition
Names = Callable[[layout.Path, int], list[str]]  # our leaf, the number of levels -> the names of theirs
LENGTH = 77  # tokens of CLIP; the net reads texts of any length
SHARED = (
    "sample_size", "in_channels", "out_channels", "center_input_sample", "freq_shift", "flip_sin_to_cos",
    "block_out_channels", "layers_per_block", "mid_block_scale_factor", "downsample_padding", "dropout", "act_fn",
    "norm_num_groups", "norm_eps", "resnet_time_scale_shift", "num_class_embeds", "time_embedding_dim",
)  # fmt: skip
# diffusers' defaults: a config.json written by an older version may lack keys
DEFAULTS = dict(
    sample_size=None,
    in_channels=4,
    out_channels=4,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    block_out_channels=(320, 640, 1280, 1280),
    cross_attention_dim=1280,
    transformer_layers_per_block=1,
    attention_head_dim=8,
    num_attention_heads=None,
    use_linear_projection=False,
    addition_embed_type=None,
    addition_time_embed_dim=None,
    projection_class_embeddings_input_dim=None,
    upcast_attention=False,  # it changes no output in float32
    addition_embed_type_num_heads=64,  # of another addition_embed_type
)
BLOCKS = {  # -> the same without the text
    "down_block_types": {"CrossAttnDownBlock2D": "AttnDownBlock2D", "DownBlock2D": "DownBlock2D"},
    "up_block_types": {"CrossAttnUpBlock2D": "AttnUpBlock2D", "UpBlock2D": "UpBlock2D"},
}
_FIXED: dict[str, Any] = dict(  # what their net can be, and ours is; None is "as the others say"
    mid_block_type=("UNetMidBlock2DCrossAttn",),
    only_cross_attention=(False,),
    mid_block_only_cross_attention=(None, False),
    reverse_transformer_layers_per_block=(None,),
    encoder_hid_dim=(None,),
    encoder_hid_dim_type=(None,),
    dual_cross_attention=(False,),
    class_embed_type=(None,),
    resnet_skip_time_act=(False,),
    resnet_out_scale_factor=(1.0,),
    time_embedding_type=("positional",),
    time_embedding_act_fn=(None,),
    timestep_post_act=(None,),
    time_cond_proj_dim=(None,),
    conv_in_kernel=(3,),
    conv_out_kernel=(3,),
    attention_type=("default",),
    class_embeddings_concat=(False,),
    cross_attention_norm=(None,),
    act_fn=("silu", "swish"),
    addition_embed_type=(None, "text_time"),
    **BLOCKS,
)


def _levels(value: Any) -> Any:
    """One value for all levels, or a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else value


def told(c: dict[str, Any], sizes: int) -> Spec:
    """What a net of that config is told: a text, pooled text and sizes, labels, and pictures that are joined to its input."""
    side = c["sample_size"] or 64
    height, width = side if isinstance(side, list | tuple) else (side, side)
    spec = {"states": Field((LENGTH, c["cross_attention_dim"]), "float32", "embedding")}
    if c["addition_embed_type"]:
        pooled = c["projection_class_embeddings_input_dim"] - sizes * c["addition_time_embed_dim"]
        spec["pooled"] = Field((pooled,), "float32", "embedding")
        spec["size"] = Field((sizes,), "float32", "embedding")
    made = diffusers.of_picture(c)
    more = c["in_channels"] - made
    if more > made:  # inpainting: a mask, and the latents of what is shown
        spec["mask"] = Field((height, width, more - made), "float32", "mask")
        more = made
    if more:
        spec["shown"] = Field((height, width, more), "float32", "latent")
    return Spec(spec, **labels(c["num_class_embeds"] or 0))


def net_fields(config: dict[str, Any], sizes: int = 6) -> dict[str, Any]:
    """config.json of a `UNet2DConditionModel` -> fields of our net. Raises UserError naming an option that we do not have.

    sizes: numbers that tell the size, of SDXL; 5 in its refiner.
    """
    c = options(WHAT, config, {k: diffusers.DEFAULTS[k] for k in SHARED} | DEFAULTS, _FIXED)
    if c["center_input_sample"] and c["in_channels"] != c["out_channels"]:
        raise UserError(f"{WHAT}: center_input_sample=True is not supported where pictures are joined to the input")
    heads, layers = (
        _levels(c["num_attention_heads"] or c["attention_head_dim"]),
        _levels(c["transformer_layers_per_block"]),
    )
    for name, value in (("transformer_layers_per_block", layers), ("cross_attention_dim", c["cross_attention_dim"])):
        if not all(isinstance(one, int) for one in (value if isinstance(value, tuple) else (value,))):
            raise UserError(f"{WHAT}: {name}={value!r} is not supported: one number, or one for each level")
    plain = {k: c[k] for k in SHARED} | dict(attention_head_dim=None)
    for key, known in BLOCKS.items():
        plain[key] = [known[kind] for kind in c[key]]
    fields = diffusers.unet_fields(plain)
    del fields["mid_norm_groups"], fields["head_dim"], fields["time_embedding"]
    return fields | dict(
        conditions=told(c, sizes),
        heads=heads,
        layers=layers,
        size_waves=c["addition_time_embed_dim"] or UNetCondition.size_waves,
        linear_projection=c["use_linear_projection"],
    )


def net_config(module: UNetCondition) -> dict[str, Any]:
    """Our net -> the config.json of the same `UNet2DConditionModel`. Raises UserError for what diffusers cannot express."""
    if module.head_dim:
        raise UserError(f"{WHAT} fixes the heads: set heads instead of head_dim")
    spec, channels = module.conditions, module.shape[2]
    states, mask = sequences(spec)
    pictures = beside_text(spec).of("image", "latent", "mask")
    odd = [
        n for n in spec if n not in (states, mask, "label", *pictures, *(("pooled", "size") if "size" in spec else ()))
    ]
    if odd:
        raise UserError(f"{WHAT}: it cannot be told {odd[0]!r}; keep the net in jaxgen's own format")
    shared = {f.name: getattr(module, f.name) for f in dataclasses.fields(UNet) if f.name not in ("name", "parent")}
    plain = UNet(**shared | dict(heads=1, conditions=labels(spec.classes)))
    more = sum(f.shape[-1] for f in pictures.values())
    config = diffusers.unet_config(plain, channels + more)
    for key in BLOCKS:
        config[key] = [kind.replace("Attn", "CrossAttn") for kind in config[key]]
    odd = [k for k in ("downsample_type", "upsample_type") if config[k] != "conv"]
    if odd or not module.attend_mid:
        raise UserError(
            f"{WHAT} cannot express {odd[0] if odd else 'attend_mid=False'} of a net; keep it in jaxgen's own format"
        )
    config = {k: v for k, v in config.items() if k in {*DEFAULTS, *SHARED}} | dict(
        _class_name="UNet2DConditionModel",
        attention_head_dim=module.heads,
        cross_attention_dim=spec[states].shape[1],
        transformer_layers_per_block=module.layers,
        use_linear_projection=module.linear_projection,
    )
    if "size" in spec:
        pooled = spec["pooled"].shape[0] if "pooled" in spec else 0
        config |= dict(
            addition_embed_type="text_time",
            addition_time_embed_dim=module.size_waves,
            projection_class_embeddings_input_dim=pooled + spec["size"].shape[0] * module.size_waves,
        )
    return config


# ----------------------------------------------------------------------------------------------------------------------
# Weights

_ADDED = {"added0": "add_embedding.linear_1", "added1": "add_embedding.linear_2"}
_BLOCK = {
    "norm1": ("norm1",),
    "qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "out": ("attn1.to_out.0",),
    "norm2": ("norm2",),
    "text.q": ("attn2.to_q",),
    "text.kv": ("attn2.to_k", "attn2.to_v"),
    "text.out": ("attn2.to_out.0",),
    "norm3": ("norm3",),
    "mlp0": ("ff.net.0.proj",),
    "mlp1": ("ff.net.2",),
}


def names(path: layout.Path, levels: int) -> list[str]:
    """Our leaf -> the names of the tensors of theirs that it is made of."""
    _, top, *rest, leaf = path
    if top in _ADDED:
        modules = [_ADDED[top]]
    elif "attend" in top:
        stem, (part, *inner) = place_of(top, levels), rest
        modules = [f"{stem}.{part}"]
        if inner:
            block = f"{stem}.transformer_blocks.{part.removeprefix('block')}"
            modules = [f"{block}.{name}" for name in _BLOCK[".".join(inner)]]
    else:
        modules = their_modules((top, *rest), levels)
    return [f"{module}.{suffix(leaf)}" for module in modules]


def is_projection(module: UNetCondition, path: layout.Path) -> bool:
    """Whether a kernel is that of the end of a transformer, and stored as a 1x1 convolution."""
    return path[-2] in ("proj_in", "proj_out") and path[-1] == "kernel" and not module.linear_projection


def restacked(params: dict[str, Any], how: Any) -> dict[str, Any]:
    """Parameters with the blocks of every transformer stacked, or not."""
    return {k: how(v) if "attend" in k else v for k, v in params.items()}


def shapes_of(module: UNetCondition) -> dict[str, Any]:
    """Shapes of all variables, of the net without `scan`."""
    x = jax.ShapeDtypeStruct((1, *module.shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(module.clone(scan=False).init, jax.random.key(0), x, t, module.conditions.abstract(1))


def from_diffusers(module: UNetCondition, weights: Tensors, names: Names = names) -> dict[str, Any]:
    """diffusers' tensors -> variables of `module`. Raises UserError for a missing, extra or misshapen tensor."""

    def convert(path: layout.Path, tensors: list[np.ndarray]) -> np.ndarray:
        if is_projection(module, path):
            tensors = [a.reshape(a.shape[:2]) for a in tensors]
        return layout.ours(path[-1], tensors)

    variables = fill(WHAT, shapes_of(module), weights, lambda path: names(path, len(module.mults)), convert)
    return {"params": restacked(variables["params"], stack_blocks)} if module.scan else variables


def to_diffusers(module: UNetCondition, variables: Any, names: Names = names) -> Tensors:
    """Variables of `module` (or their gradients) -> diffusers' tensors by name."""
    params = restacked(variables["params"], unstack_blocks) if module.scan else variables["params"]
    weights = {}
    for path, value in flatten_dict({"params": params}).items():
        found, value = names(path, len(module.mults)), np.asarray(value)
        tensors = layout.theirs(path[-1], value, len(found))
        if is_projection(module, path):
            tensors = [a[:, :, None, None] for a in tensors]
        weights |= dict(zip(found, tensors, strict=True))
    return weights


def load(folder: str | Path) -> tuple[UNetCondition, dict[str, Any]]:
    """A folder written by diffusers' `save_pretrained` -> (module, variables as numpy float32)."""
    config, weights = read_folder(folder, "UNet2DConditionModel")
    module = UNetCondition(**net_fields(config))
    return module, from_diffusers(module, weights)


def save(folder: str | Path, module: UNetCondition, variables: Any) -> None:
    """Write a folder that diffusers' `UNet2DConditionModel.from_pretrained` reads."""
    write_folder(folder, net_config(module), to_diffusers(module, variables))

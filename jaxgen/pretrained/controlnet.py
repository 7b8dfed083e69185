"""diffusers' `ControlNetModel` folders <-> our ControlNet and its variables, exact both ways."""

from pathlib import Path
from typing import Any

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.controlnet import ControlNet
from jaxgen.pretrained import layout, unet_condition
from jaxgen.pretrained.diffusers import read_folder, write_folder
from jaxgen.pretrained.layout import Tensors, suffix

WHAT = "diffusers ControlNetModel"
net = ControlNet
UP = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}
DEFAULTS = dict(
    conditioning_channels=3,
    conditioning_embedding_out_channels=(16, 32, 96, 256),
    controlnet_conditioning_channel_order="rgb",
    global_pool_conditions=False,
)
shapes_of = unet_condition.shapes_of


def net_fields(config: dict[str, Any], sizes: int = 6) -> dict[str, Any]:
    """config.json of a `ControlNetModel` -> fields of our net. Raises UserError naming an option that we do not have."""
    own = DEFAULTS | {k: v for k, v in config.items() if k in DEFAULTS}
    for key in ("controlnet_conditioning_channel_order", "global_pool_conditions"):
        if own[key] != DEFAULTS[key]:
            raise UserError(f"{WHAT}: {key}={own[key]!r} is not supported, only {DEFAULTS[key]!r}")
    rest = {k: v for k, v in config.items() if k not in DEFAULTS}
    down = rest.get("down_block_types", unet_condition.DEFAULTS["down_block_types"])
    rest |= dict(up_block_types=[UP.get(kind, kind) for kind in down][::-1], out_channels=rest.get("in_channels", 4))
    fields, widths = unet_condition.net_fields(rest, sizes), tuple(own["conditioning_embedding_out_channels"])
    height, width = (side * 2 ** (len(widths) - 1) for side in fields["shape"][:2])
    hint = Field((height, width, own["conditioning_channels"]), "float32", "image")
    return fields | dict(conditions=Spec(fields["conditions"], hint=hint), hint_widths=widths)


def net_config(module: ControlNet) -> dict[str, Any]:
    """Our net -> the config.json of the same `ControlNetModel`. Raises UserError for what diffusers cannot express."""
    config = unet_condition.net_config(module.clone(conditions=module.joined()))
    config = {
        k: v for k, v in config.items() if k not in ("up_block_types", "out_channels", "center_input_sample", "dropout")
    }
    (hint,) = module.conditions.of("image").values()
    more = dict(conditioning_channels=hint.shape[-1], conditioning_embedding_out_channels=list(module.hint_widths))
    return {**DEFAULTS, **config, **more, "_class_name": "ControlNetModel"}


def names(path: layout.Path, levels: int) -> list[str]:
    """Our leaf -> the names of the tensors of theirs that it is made of."""
    part = path[1]
    number = part.lstrip("abcdefghijklmnopqrstuvwxyz_")
    if part.startswith("hint"):
        return [
            f"controlnet_cond_embedding.{f'blocks.{number}' if number else part.replace('hint', 'conv')}.{suffix(path[-1])}"
        ]
    if part.startswith("zero"):
        return [f"controlnet_{'mid_block' if part == 'zero_mid' else f'down_blocks.{number}'}.{suffix(path[-1])}"]
    return unet_condition.names(path, levels)


def from_diffusers(module: ControlNet, weights: Tensors) -> dict[str, Any]:
    """diffusers' tensors -> variables of `module`. Raises UserError for a missing, extra or misshapen tensor."""
    return unet_condition.from_diffusers(module, weights, names)


def to_diffusers(module: ControlNet, variables: Any) -> Tensors:
    """Variables of `module` (or their gradients) -> diffusers' tensors by name."""
    return unet_condition.to_diffusers(module, variables, names)


def load(folder: str | Path) -> tuple[ControlNet, dict[str, Any]]:
    """A folder written by diffusers' `save_pretrained` -> (module, variables as numpy float32)."""
    config, weights = read_folder(folder, "ControlNetModel")
    module = ControlNet(**net_fields(config))
    return module, from_diffusers(module, weights)


def save(folder: str | Path, module: ControlNet, variables: Any) -> None:
    """Write a folder that diffusers' `ControlNetModel.from_pretrained` reads."""
    write_folder(folder, net_config(module), to_diffusers(module, variables))

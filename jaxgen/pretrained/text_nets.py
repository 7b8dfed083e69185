"""Nets that read a text, in diffusers' folders: which of ours a folder holds, by the class that its config.json names."""

from pathlib import Path
from typing import Any

from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.pretrained import controlnet, unet_condition
from jaxgen.pretrained.diffusers import read_config
from jaxgen.pretrained.flux import FLUX
from jaxgen.pretrained.mmdit import SD3
from jaxgen.pretrained.pixart import PIXART
from jaxgen.pretrained.uvit import UVIT

# their class -> what has net, net_fields, net_config, shapes_of, from_diffusers, to_diffusers, load and save
CLASSES: dict[str, Any] = {
    "UNet2DConditionModel": unet_condition,
    "ControlNetModel": controlnet,
    "SD3Transformer2DModel": SD3,
    "FluxTransformer2DModel": FLUX,
    "PixArtTransformer2DModel": PIXART,
    "UVit2DModel": UVIT,
}


def load(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """A folder written by diffusers' `save_pretrained` -> (module, variables as numpy float32).

    Raises UserError for a class that is not among ours, an option that our net lacks, a tensor that does not fit.
    """
    kind = read_config(folder, " or ".join(CLASSES)).get("_class_name")
    if kind not in CLASSES:
        raise UserError(f"{folder}: config.json must name one of {', '.join(CLASSES)}, not {kind}")
    return CLASSES[kind].load(folder)


def save(folder: str | Path, module: nn.Module, variables: Any) -> None:
    """Write a folder that diffusers' `from_pretrained` reads. Raises UserError for what diffusers cannot express."""
    found = [kind for kind in CLASSES.values() if kind.net is type(module)]
    if not found:
        nets = ", ".join(kind.net.__name__ for kind in CLASSES.values())
        raise UserError(f"{type(module).__name__} has no twin in diffusers; these have: {nets}")
    found[0].save(folder, module, variables)

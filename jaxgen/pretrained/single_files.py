"""Single files of Stable Diffusion 1 (.safetensors, Lightning's .ckpt): their UNet and CLIP, by diffusers' names.

Their first stage is read by `autoencoders.load_author`, which takes the same file. OpenCLIP, of SD 2, is not read. Names
alone tell where a block lies: a level ends where it is resampled.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from jaxgen.errors import UserError
from jaxgen.pretrained.layout import Tensors
from jaxgen.pretrained.torch_files import read_tensors

UNET, EMA, CLIP = "model.diffusion_model.", "model_ema.", "cond_stage_model.transformer."
ENCODERS = ("cond_stage_model.", "conditioner.embedders.")  # of all kinds
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TOP = {
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}


def _places(names: Iterable[str]) -> dict[str, str]:
    """Their modules -> diffusers', found by walking through the blocks of both ways."""
    found, names = dict(_TOP), set(names)
    for way, first in (("input", 1), ("output", 0)):
        side, level, index = ("down", "up")[way == "output"], 0, 0
        for i in range(
            first, 1 + max((int(n.split(".")[1]) for n in names if n.startswith(f"{way}_blocks.")), default=0)
        ):
            ends = False
            for part in ("0", "1", "2"):
                stem, here = f"{way}_blocks.{i}.{part}", f"{side}_blocks.{level}"
                if f"{stem}.in_layers.0.weight" in names:
                    found[stem] = f"{here}.resnets.{index}"
                elif f"{stem}.proj_in.weight" in names:
                    found[stem] = f"{here}.attentions.{index}"
                elif resampling := [m for m in ("op", "conv") if f"{stem}.{m}.weight" in names]:
                    found[f"{stem}.{resampling[0]}"], ends = f"{here}.{side}samplers.0.conv", True
            level, index = (level + 1, 0) if ends else (level, index + 1)
    return found


def to_diffusers(weights: Mapping[str, np.ndarray]) -> Tensors:
    """A UNet's tensors, named without `model.diffusion_model.` -> the same by diffusers' names.

    Raises UserError for a name that no block of Stable Diffusion's has.
    """
    places = _places(weights)

    def renamed(name: str) -> str:
        stem, rest = name, ""
        while stem and stem not in places:
            stem, _, last = stem.rpartition(".")
            rest = f"{last}.{rest}" if rest else last
        if not stem:
            raise UserError(f"{UNET}{name} is no tensor of Stable Diffusion's UNet; is this another model?")
        module, _, leaf = rest.rpartition(".")
        return ".".join(part for part in (places[stem], _RESNET.get(module, module), leaf) if part)

    return {renamed(name): value for name, value in weights.items()}


def load(path: str | Path, ema: bool = True) -> dict[str, Tensors]:
    """{"unet": ..., "text_encoder": ...} of a file, by diffusers' and transformers' names; a part that it lacks is left out.

    Of an encoder that is left out since it is none of these (OpenCLIP) a warning tells.
    ema: the averages, where the file keeps them beside the weights in training. Raises UserError for a file without a UNet.
    """
    tensors = read_tensors(path, "state_dict")
    unet = {name.removeprefix(UNET): value for name, value in tensors.items() if name.startswith(UNET)}
    if not unet:
        raise UserError(f"{path} has no tensor {UNET}...; name a single file of Stable Diffusion")
    if ema and any(name.startswith(EMA) for name in tensors):  # its names have lost their dots
        short = {name: f"{EMA}{f'diffusion_model.{name}'.replace('.', '')}" for name in unet}
        if lacking := [key for key in short.values() if key not in tensors]:
            raise UserError(f"{path} has averages, and lacks {lacking[0]}; read the weights in training with ema=False")
        unet = {name: tensors[key] for name, key in short.items()}
    text = {name.removeprefix(CLIP): value for name, value in tensors.items() if name.startswith(CLIP)}
    if left := [name for name in tensors if name.startswith(ENCODERS) and not name.startswith(CLIP)]:
        warnings.warn(
            f"{path}: an encoder of text is left out, {len(left)} tensors such as {left[0]}; only Stable Diffusion 1's CLIP "
            "is read",
            stacklevel=2,
        )
    return {"unet": to_diffusers(unet)} | ({"text_encoder": text} if text else {})

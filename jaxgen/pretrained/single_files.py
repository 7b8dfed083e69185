"""Single files of Stable Diffusion 1, 2 and XL (.safetensors, Lightning's .ckpt) <-> pipelines by diffusers' names.

They hold a UNet (perhaps its averages), CLIP in transformers' or OpenCLIP's form, and a first stage, and no config: shapes tell the
nets, but for heads, groups and what is predicted. Names alone tell where a block lies: a level ends where it is resampled.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.pretrained import autoencoders, flux, text
from jaxgen.pretrained.autoencoders import FIRST_STAGE
from jaxgen.pretrained.layout import Tensors, placing
from jaxgen.pretrained.pipelines import Part, Pipeline, cast
from jaxgen.pretrained.torch_files import read_tensors, write_tensors

UNET, EMA = "model.diffusion_model.", "model_ema."
# where an encoder's tensors begin, by how CLIP is written
TRANSFORMERS = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPENCLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")
XL = "conditioner.embedders."
ENCODERS = ("cond_stage_model.", XL)  # of all kinds
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


def from_diffusers(weights: Mapping[str, np.ndarray]) -> Tensors:
    """The inverse: a `UNet2DConditionModel`'s tensors -> the same as single files name them, without `model.diffusion_model.`."""
    places, inner = _twins(weights), {theirs: ldm for ldm, theirs in _RESNET.items()}

    def renamed(name: str) -> str:
        stem = next((stem for stem in _stems(name) if stem in places), "")
        if not stem:
            raise UserError(f"{name} is no tensor of a UNet that single files have; convert it --to=diffusers")
        module, _, leaf = name.removeprefix(f"{stem}.").rpartition(".")
        return ".".join(part for part in (places[stem], inner.get(module, module), leaf) if part)

    return {renamed(name): value for name, value in weights.items()}


def _stems(name: str) -> Iterable[str]:
    """The modules that a name is in, the innermost first."""
    while name := name.rpartition(".")[0]:
        yield name


def _twins(names: Iterable[str]) -> dict[str, str]:
    """diffusers' modules -> those of single files; there blocks are numbered through all levels."""
    found, names = {theirs: ldm for ldm, theirs in _TOP.items()}, set(names)
    for side, way, number in (("down", "input", 1), ("up", "output", 0)):
        for level in range(sum(f"{side}_blocks.{i}.resnets.0.conv1.weight" in names for i in range(len(names)))):
            here = f"{side}_blocks.{level}"
            ends = f"{here}.{side}samplers.0.conv.weight" in names
            last = sum(f"{here}.resnets.{i}.conv1.weight" in names for i in range(len(names))) - 1
            for i in range(last + 1):
                stem, attends = f"{way}_blocks.{number}", f"{here}.attentions.{i}.norm.weight" in names
                found[f"{here}.resnets.{i}"] = f"{stem}.0"
                found |= {f"{here}.attentions.{i}": f"{stem}.1"} if attends else {}
                if side == "up" and ends and i == last:
                    found[f"{here}.upsamplers.0.conv"] = f"{stem}.{1 + attends}.conv"
                number += 1
            if side == "down" and ends:
                found[f"{here}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
                number += 1
    return found


# ----------------------------------------------------------------------------------------------------------------------
# OpenCLIP's form of CLIP: q, k and v are one, its projection is not transposed

_OPEN = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OPEN_TOP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_QKV = ("q_proj", "k_proj", "v_proj")
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")
PROJECTION, LEFT = "text_projection", ("logit_scale", "attn_mask")


def from_openclip(weights: Mapping[str, np.ndarray], projected: bool = True) -> Tensors:
    """OpenCLIP's tensors -> transformers'. projected: SDXL's; else SD 2's, which is not told the last block nor what is pooled.

    A file without a projection is one of ours, in which that block is left aside already.
    """
    found: Tensors = {}
    depth = 1 + max((int(m[1]) for m in map(_BLOCK.match, weights) if m), default=-1)
    whole = projected or PROJECTION not in weights
    for name, value in weights.items():
        if name in LEFT or (name == PROJECTION and not projected):
            continue
        if name == PROJECTION:
            found["text_projection.weight"] = value.T
        elif name in _OPEN_TOP:
            found[_OPEN_TOP[name]] = value
        elif not (block := _BLOCK.fullmatch(name)) or block[2] not in (*_OPEN, "attn.in_proj"):
            raise UserError(f"{name} is no tensor of OpenCLIP's encoder of text; is this another model?")
        elif whole or int(block[1]) < depth - 1:
            stem = f"text_model.encoder.layers.{block[1]}"
            if block[2] == "attn.in_proj":
                parts = np.split(value, 3)
                found |= {f"{stem}.self_attn.{q}.{block[3]}": part for q, part in zip(_QKV, parts, strict=True)}
            else:
                found[f"{stem}.{_OPEN[block[2]]}.{block[3]}"] = value
    return found


def to_openclip(weights: Mapping[str, np.ndarray]) -> Tensors:
    """The inverse; of SD 2 the last block stays away."""
    found: Tensors = {}
    tops, inner = ({theirs: ours for ours, theirs in table.items()} for table in (_OPEN_TOP, _OPEN))
    for name, value in weights.items():
        whole = name if name.startswith(("text_model.", PROJECTION)) else f"text_model.{name}"
        if name.endswith("position_ids"):
            continue
        if whole == "text_projection.weight":
            found[PROJECTION] = value.T
        elif whole in tops:
            found[tops[whole]] = value
        else:
            number, module, leaf = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(\w+)", whole).groups()
            stem = f"transformer.resblocks.{number}"
            if module == "self_attn.q_proj":
                parts = [weights[name.replace("q_proj", q)] for q in _QKV]
                found[f"{stem}.attn.in_proj_{leaf}"] = np.concatenate(parts)
            elif module in inner:
                found[f"{stem}.{inner[module]}.{leaf}"] = value
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Configs, which such a file lacks


def _unet_config(weights: Tensors, heads: int, groups: int) -> dict[str, Any]:
    """Of the UNet that diffusers' tensors belong to. heads: 0: 8 of Stable Diffusion 1, or 64 channels each, of 2 and XL."""
    shape = lambda name: weights[name].shape  # noqa: E731

    def count(pattern: str) -> int:
        return next(i for i in range(len(weights)) if pattern.format(i) not in weights)

    levels = range(count("down_blocks.{}.resnets.0.conv1.weight"))
    widths = [shape(f"down_blocks.{i}.resnets.0.conv1.weight")[0] for i in levels]
    attends = [f"down_blocks.{i}.attentions.0.norm.weight" in weights for i in levels]
    inner = "attentions.0.transformer_blocks.{}.norm1.weight"
    layers = [count(f"down_blocks.{i}.{inner}") if a else 1 for i, a in zip(levels, attends, strict=True)]
    linear = weights["mid_block.attentions.0.proj_in.weight"].ndim == 2
    width = shape("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")[1]
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends]
    config = dict(
        _class_name="UNet2DConditionModel",
        sample_size={1024: 96, 2048: 128}.get(width, 64),
        in_channels=shape("conv_in.weight")[1], out_channels=shape("conv_out.weight")[0],
        block_out_channels=widths, layers_per_block=count("down_blocks.0.resnets.{}.conv1.weight"),
        down_block_types=down, up_block_types=[kind.replace("Down", "Up") for kind in down[::-1]],
        cross_attention_dim=width, use_linear_projection=linear, norm_num_groups=groups,
        attention_head_dim=heads or ([n // 64 for n in widths] if linear else 8),
        transformer_layers_per_block=layers if any(n > 1 for n in layers) else 1,
    )  # fmt: skip
    if "add_embedding.linear_1.weight" in weights:
        sizes = shape("add_embedding.linear_1.weight")[1]
        config |= dict(
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=sizes
        )
    return config


def _text_config(weights: Tensors, heads: int, opened: bool) -> dict[str, Any]:
    """Of the CLIP that transformers' tensors belong to. heads: 0: 64 channels each; opened: of OpenCLIP."""
    table, places = (weights[f"text_model.embeddings.{kind}_embedding.weight"].shape for kind in ("token", "position"))
    depth = 1 + max(int(m[1]) for m in map(re.compile(r".*encoder\.layers\.(\d+)\.").match, weights) if m)
    projected = weights.get("text_projection.weight")
    return dict(
        model_type="clip_text_model", architectures=["CLIPTextModel" + "WithProjection" * (projected is not None)],
        vocab_size=table[0], hidden_size=table[1], max_position_embeddings=places[0], num_hidden_layers=depth,
        num_attention_heads=heads or max(1, table[1] // 64), hidden_act="gelu" if opened else "quick_gelu",
        intermediate_size=len(weights["text_model.encoder.layers.0.mlp.fc1.bias"]), layer_norm_eps=1e-5,
        bos_token_id=0, eos_token_id=2, pad_token_id=1, projection_dim=768 if projected is None else len(projected),
    )  # fmt: skip


def _scheduler(width: int, prediction: str) -> dict[str, Any]:
    """That with which Stability publishes them; width: of the text's states, which tells 1, 2 and XL apart."""
    config = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1,
        prediction_type=prediction or ("v_prediction" if width == 1024 else "epsilon"),
    )  # fmt: skip
    if width == 2048:
        return dict(_class_name="EulerDiscreteScheduler", timestep_spacing="leading", **config)
    if width == 1024:
        return dict(_class_name="DDIMScheduler", set_alpha_to_one=False, clip_sample=False, **config)
    return dict(_class_name="PNDMScheduler", set_alpha_to_one=False, skip_prk_steps=True, **config)


# ----------------------------------------------------------------------------------------------------------------------
# Files


def read(
    path: str | Path,
    tokenizers: Iterable[str | Path] = (),
    heads: int = 0,
    text_heads: int = 0,
    groups: int = 32,
    prediction: str = "",
) -> Pipeline:
    """A whole file. tokenizers: folders of their files, one for each encoder or one for all, which no such file holds.

    heads, text_heads: of the UNet and of CLIP; 0: as in the published ones. groups: of all norms. prediction: epsilon or
    v_prediction; "": v of SD 2 (its 512 base predicts epsilon), else epsilon. Of SD 2 the last block of OpenCLIP, which nobody is
    told, is left aside. Raises UserError for a file without a UNet, and for a tensor that nobody has a place for.
    """
    tensors = read_tensors(path, "state_dict")
    net, averages = _unets(path, tensors)
    encoders, aside = [], []
    for stem in (*TRANSFORMERS, *OPENCLIP):
        own = {name.removeprefix(stem): value for name, value in tensors.items() if name.startswith(stem)}
        if not own:
            continue
        opened, projected = stem in OPENCLIP, stem.startswith(XL)
        found = from_openclip(own, projected) if opened else own
        if opened and not projected and PROJECTION in own:
            aside.append("the last block and the projection of OpenCLIP, of which Stable Diffusion 2 is told nothing")
        encoders.append(Part(_text_config(found, text_heads, opened), found))
    config = _unet_config(net, heads, groups)
    vae = None
    if any(name.startswith(FIRST_STAGE) for name in tensors):
        with placing(lambda _, value: value):
            found = autoencoders.load_author(tensors, groups)
        scale = 0.13025 if config["cross_attention_dim"] == 2048 else 0.18215
        vae_config = autoencoders.config_of(found.module) | dict(
            scaling_factor=scale, sample_size=8 * config["sample_size"]
        )
        vae = Part(vae_config, autoencoders.to_diffusers(found.module, found.variables))
    known = (UNET, EMA, FIRST_STAGE, *TRANSFORMERS, *OPENCLIP)
    if left := [name for name in tensors if not name.startswith(known)]:
        aside.append(f"{len(left)} tensors such as {left[0]}")
    folders = [Path(one) for one in tokenizers]
    return Pipeline(
        net=Part(config, net), averages=averages, encoders=tuple(encoders), vae=vae,
        scheduler=_scheduler(config["cross_attention_dim"], prediction),
        tokenizers=tuple(folders * len(encoders) if len(folders) == 1 else folders),
        told={"force_zeros_for_empty_prompt": True} if len(encoders) == 2 else {},
        left=tuple(aside),
    )  # fmt: skip


def _unets(path: str | Path, tensors: Tensors) -> tuple[Tensors, Tensors]:
    """(the UNet as it is, its averages or {}) by diffusers' names."""
    unet = {name.removeprefix(UNET): value for name, value in tensors.items() if name.startswith(UNET)}
    if not unet:
        raise UserError(f"{path} has no tensor {UNET}...; name a single file of Stable Diffusion")
    if not any(name.startswith(EMA) for name in tensors):
        return to_diffusers(unet), {}
    # the names of averages have lost their dots
    short = {name: f"{EMA}{f'diffusion_model.{name}'.replace('.', '')}" for name in unet}
    if lacking := [key for key in short.values() if key not in tensors]:
        raise UserError(f"{path} has averages, and lacks {lacking[0]}; load it anew")
    return to_diffusers(unet), to_diffusers({name: tensors[key] for name, key in short.items()})


def read_alone(path: str | Path) -> Part | None:
    """The transformer that a file of Flux's authors holds; None of any other file."""
    if Path(path).suffix != ".safetensors":
        return None
    tensors = {name.removeprefix(UNET): value for name, value in read_tensors(path).items()}
    if not flux.is_authors(tensors):
        return None
    found = flux.from_authors(tensors)
    return Part(flux.config_of(found), found)


def write_alone(path: str | Path, part: Part, dtype: str = "") -> None:
    """A file of a net or a first stage without the rest, by the names that it has in a whole one; a UserError for other parts."""
    name = part.config.get("_class_name", "")
    if name == "UNet2DConditionModel":
        found = {UNET + k: v for k, v in from_diffusers(part.tensors).items()}
    elif name == "FluxTransformer2DModel":
        found = flux.to_authors(part.tensors)
    elif name in ("AutoencoderKL", "VQModel"):
        found = _first_stage(part)
    else:
        raise UserError(
            "single files are of Stable Diffusion 1, 2 and XL, of Flux, and of their first stages, not of a "
            f"{name or 'model of transformers'}; convert it --to=diffusers"
        )
    write_tensors(path, cast(found, dtype))


def _first_stage(part: Part) -> Tensors:
    """A first stage's tensors by the names that they have in a whole file."""
    with placing(lambda _, value: value):
        vae = autoencoders.from_diffusers(part.config, part.tensors)
    return {FIRST_STAGE + name: value for name, value in autoencoders.to_author(vae.module, vae.variables).items()}


def write(path: str | Path, pipeline: Pipeline, dtype: str = "") -> None:
    """A single file with the net as it is (not its averages). dtype: of floats, see pipelines.DTYPES; "": as they are.

    Of Flux the net alone, as its authors have it. Raises UserError for a pipeline that such files do not hold: they are those of
    Stable Diffusion 1, 2 and XL, and of Flux.
    """
    kind, several = pipeline.net.config["_class_name"], len(pipeline.encoders)
    if kind == "FluxTransformer2DModel":
        return write_alone(path, pipeline.net, dtype)
    if kind != "UNet2DConditionModel" or several not in (1, 2) or pipeline.vae is None:
        raise UserError(
            f"single files are of Stable Diffusion 1, 2 and XL, and of Flux, not of a {kind} with {several} encoders of text; "
            "convert it --to=diffusers"
        )
    tensors = {UNET + name: value for name, value in from_diffusers(pipeline.net.tensors).items()}
    for part in pipeline.encoders:
        if part.config.get("hidden_act") == "gelu":
            stem, found = OPENCLIP[several - 1], to_openclip(part.tensors)
        else:
            module = text.fields(part.config)
            found = text.cleaned(module[0](**module[1]), part.tensors)
            stem = f"{TRANSFORMERS[several - 1]}text_model."
        tensors |= {stem + name: value for name, value in found.items()}
    write_tensors(path, cast(tensors | _first_stage(pipeline.vae), dtype))

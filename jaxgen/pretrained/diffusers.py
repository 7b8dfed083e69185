"""diffusers' `UNet2DModel` folders (config.json + safetensors) <-> our UNet and its variables, exact both ways.

Layouts: convolutions OIHW <-> HWIO, linear [out, in] <-> [in, out], q, k, v <-> one fused `qkv`, up blocks are stored
coarse to fine there and named by level here.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.nets.unet import ACTIVATIONS, UNet
from jaxgen.pretrained.layout import Tensors, only_label, ours, suffix, theirs
from jaxgen.pretrained.shards import read_weights
from jaxgen.pretrained.torch_files import write_tensors

TENSORS_FILE = "diffusion_pytorch_model.safetensors"
# norm_type of a Transformer2DModel, as published folders of DiT and PixArt call it -> what diffusers has made of it
DIVIDED = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}

# diffusers' defaults: a config.json written by an older version may lack keys
DEFAULTS = dict(
    sample_size=None,
    in_channels=3,
    out_channels=3,
    center_input_sample=False,
    time_embedding_type="positional",
    time_embedding_dim=None,
    freq_shift=0,
    flip_sin_to_cos=True,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    mid_block_type="UNetMidBlock2D",
    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(224, 448, 672, 896),
    layers_per_block=2,
    mid_block_scale_factor=1,
    downsample_padding=1,
    downsample_type="conv",
    upsample_type="conv",
    dropout=0.0,
    act_fn="silu",
    attention_head_dim=8,
    norm_num_groups=32,
    attn_norm_num_groups=None,
    norm_eps=1e-5,
    resnet_time_scale_shift="default",
    add_attention=True,
    class_embed_type=None,
    num_class_embeds=None,
    num_train_timesteps=None,
)

# block type -> (attends, how it resamples; None = as the config's downsample_type / upsample_type says)
DOWN_BLOCKS = {
    "DownBlock2D": (False, "conv"),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, "resnet"),
}
UP_BLOCKS = {
    "UpBlock2D": (False, "conv"),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, "resnet"),
}


FIXED: dict[str, Any] = dict(  # what theirs may say, and ours can do
    down_block_types=DOWN_BLOCKS,
    up_block_types=UP_BLOCKS,
    mid_block_type=("UNetMidBlock2D",),
    downsample_type=("conv", "resnet"),
    upsample_type=("conv", "resnet"),
    downsample_padding=(0, 1),
    time_embedding_type=("positional", "fourier"),
    resnet_time_scale_shift=("default", "scale_shift"),
    class_embed_type=(None,),
    act_fn=ACTIVATIONS,
)


def options(
    what: str, config: Mapping[str, Any], defaults: Mapping[str, Any], fixed: Mapping[str, Collection[Any]]
) -> dict[str, Any]:
    """A config of theirs with its defaults; a UserError for an option that is unknown, or not as `fixed` has it.

    Of a list every entry must be known to `fixed`.
    """
    found = {**defaults, **{k: v for k, v in config.items() if not k.startswith("_")}}
    for name, value in found.items():
        if name not in defaults and name not in fixed:
            raise UserError(f"{what}: unknown option {name}={value!r} in its config")
        for one in value if isinstance(value, list | tuple) and value else (value,):
            if name in fixed and one not in fixed[name]:
                known = ", ".join(map(repr, fixed[name]))
                raise UserError(f"{what}: {name}={one!r} is not supported; known: {known}")
    return found


def of_picture(c: Mapping[str, Any]) -> int:
    """Channels of what a UNet makes: all that come out, or half of them where it says a variance too."""
    return c["in_channels"] if c["out_channels"] == 2 * c["in_channels"] else c["out_channels"]


def unet_fields(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of a `UNet2DModel` -> fields of our `UNet`. Raises UserError naming an option we do not have."""
    c = options("diffusers UNet2DModel", config, DEFAULTS, FIXED)
    if c["norm_num_groups"] is None:
        raise UserError("diffusers UNet2DModel: norm_num_groups=None is not supported; give a number of groups")
    channels, made = c["block_out_channels"], of_picture(c)
    down = [DOWN_BLOCKS[kind] for kind in c["down_block_types"]]
    up = [UP_BLOCKS[kind] for kind in c["up_block_types"]][::-1]  # finest first
    scale_shift = c["resnet_time_scale_shift"] == "scale_shift"
    mid_norm = c["attn_norm_num_groups"]
    size = c["sample_size"] or 32
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return dict(
        shape=(height, width, made),
        out_channels=0 if made == c["out_channels"] else c["out_channels"],
        conditions=labels(c["num_class_embeds"] or 0),
        width=channels[0],
        mults=tuple(n // channels[0] if n % channels[0] == 0 else n / channels[0] for n in channels),
        blocks=c["layers_per_block"],
        attend=(),
        attend_down=tuple(attends for attends, _ in down),
        attend_up=tuple(attends for attends, _ in up),
        attend_mid=c["add_attention"],
        mid_norm_groups=mid_norm if mid_norm is not None else 0 if scale_shift else -1,
        mid_scale=float(c["mid_block_scale_factor"]),
        head_dim=c["attention_head_dim"] or 0,
        dropout=c["dropout"],
        groups=c["norm_num_groups"],
        norm_eps=c["norm_eps"],
        activation=c["act_fn"],
        scale_shift=scale_shift,
        downsample=tuple(how or c["downsample_type"] for _, how in down),
        upsample=tuple(how or c["upsample_type"] for _, how in up),
        downsample_padding=c["downsample_padding"] or "SAME",  # they pad (0, 1): "SAME" of an even size
        time_embedding=c["time_embedding_type"],
        time_width=c["time_embedding_dim"] or 0,
        flip_sin_to_cos=c["flip_sin_to_cos"],
        freq_shift=float(c["freq_shift"]),
        center_input=c["center_input_sample"],
    )


def _block_types(module: UNet, way: str) -> tuple[list[str], str]:
    """Block types of the way "Down" or "Up", finest level first, and the resampling that attending levels share."""
    attends = module.attends()[way == "Up"]
    how = module.per_level("downsample", module.downsample if way == "Down" else module.upsample)
    resamples = range(len(how) - 1) if way == "Down" else range(1, len(how))
    shared = {how[i] for i in resamples if attends[i]} or {"conv"}
    if len(shared) > 1:
        raise UserError(f"diffusers UNet2DModel: attending levels must all resample alike, not {way.lower()}: {how}")
    plain = {"conv": f"{way}Block2D", "resnet": f"Resnet{way}sampleBlock2D"}
    return [f"Attn{way}Block2D" if a else plain[h] for a, h in zip(attends, how, strict=True)], shared.pop()


def unet_config(module: UNet, in_channels: int) -> dict[str, Any]:
    """Our `UNet` -> the config.json of the same `UNet2DModel`. Raises UserError for what diffusers cannot express."""
    mid_norm = module.groups if module.mid_norm_groups < 0 else module.mid_norm_groups
    if module.heads != 1 and not module.head_dim:
        raise UserError("diffusers UNet2DModel fixes the channels per head: set head_dim instead of heads")
    implied = 0 if module.scale_shift else module.groups  # what diffusers does without attn_norm_num_groups
    if not mid_norm and not module.scale_shift:
        raise UserError("diffusers UNet2DModel: a middle attention without norm exists only with scale_shift")
    down_types, downsample = _block_types(module, "Down")
    up_types, upsample = _block_types(module, "Up")
    height, width = module.shape[:2]
    classes = only_label(module.conditions, "diffusers UNet2DModel")
    return dict(
        _class_name="UNet2DModel",
        sample_size=height if height == width else [height, width],
        in_channels=in_channels,
        out_channels=module.out_channels or module.shape[2],
        center_input_sample=module.center_input,
        time_embedding_type=module.time_embedding,
        time_embedding_dim=module.time_width or None,
        freq_shift=module.freq_shift,
        flip_sin_to_cos=module.flip_sin_to_cos,
        down_block_types=down_types,
        mid_block_type="UNetMidBlock2D",
        up_block_types=up_types[::-1],
        block_out_channels=list(module.widths()),
        layers_per_block=module.blocks,
        mid_block_scale_factor=module.mid_scale,
        downsample_padding=0 if module.downsample_padding == "SAME" else module.downsample_padding,
        downsample_type=downsample,
        upsample_type=upsample,
        dropout=module.dropout,
        act_fn=module.activation,
        attention_head_dim=module.head_dim or None,
        norm_num_groups=module.groups,
        attn_norm_num_groups=None if mid_norm == implied else mid_norm,
        norm_eps=module.norm_eps,
        resnet_time_scale_shift="scale_shift" if module.scale_shift else "default",
        add_attention=module.attend_mid,
        class_embed_type=None,
        num_class_embeds=classes + int(module.null_label) if classes else None,
    )


# ----------------------------------------------------------------------------------------------------------------------
# Weights. A leaf is one path of ours and the tensors of theirs that it is made of.

_RESNET = {
    "norm0": "norm1",
    "conv0": "conv1",
    "emb": "time_emb_proj",
    "norm1": "norm2",
    "conv1": "conv2",
    "shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": ("group_norm",), "qkv": ("to_q", "to_k", "to_v"), "out": ("to_out.0",)}
LEGACY = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # before diffusers 0.15
_TOP = {
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "norm_out": "conv_norm_out",
    "time0": "time_embedding.linear_1",
    "time1": "time_embedding.linear_2",
    "label": "class_embedding",
}


def their_modules(path: tuple[str, ...], levels: int) -> tuple[str, ...]:
    """Our module path, as ("down0_block1", "conv0") -> the names of the diffusers modules it holds."""
    top, *rest = path
    if top in _TOP:
        return (_TOP[top],)
    stem = place_of(top, levels)
    if not rest:  # a strided or upsampling convolution
        return (f"{stem}.conv",)
    if "attend" in top:
        return tuple(f"{stem}.{name}" for name in _ATTENTION[rest[0]])
    return (f"{stem}.{_RESNET[rest[0]]}",)


def place_of(top: str, levels: int) -> str:
    """Our module at a level, as "down0_block1" -> their name of it."""
    place, part = top.split("_")
    if place == "mid":
        return f"mid_block.{'attentions.0' if part == 'attend' else 'resnets.' + part.removeprefix('block')}"
    way, level = place.rstrip("0123456789"), int(place.lstrip("downup"))
    index = level if way == "down" else levels - 1 - level
    kind, number = part.rstrip("0123456789"), part.lstrip("abcdefghijklmnopqrstuvwxyz") or "0"
    kind = {"block": "resnets", "attend": "attentions", "sample": f"{way}samplers"}[kind]
    return f"{way}_blocks.{index}.{kind}.{number}"


def _abstract(module: UNet, in_channels: int) -> dict[str, Any]:
    """Shapes of all variables of `module`."""
    x = jax.ShapeDtypeStruct((1, *module.shape[:2], in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x, t, module.conditions.abstract(1))


def from_diffusers(module: UNet, weights: Tensors) -> dict[str, Any]:
    """diffusers' tensors -> variables of `module`. Raises UserError for a missing, extra or misshapen tensor."""
    if "conv_in.weight" not in weights:
        raise UserError("diffusers UNet2DModel: the weights lack tensor conv_in.weight; is this another model?")
    rest = dict(weights)

    def take(name: str) -> np.ndarray:
        for new, old in LEGACY.items():
            if name not in rest and f".{new}." in name:
                name = name.replace(f".{new}.", f".{old}.")
        if name not in rest:
            raise UserError(f"diffusers UNet2DModel: the weights lack tensor {name}, which config.json asks for")
        return np.asarray(rest.pop(name), np.float32)

    def leaf(path: tuple[str, ...], want: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[0] == "fourier":
            value = take("time_proj.weight")
        else:
            names = [f"{m}.{suffix(path[-1])}" for m in their_modules(path[1:-1], len(module.mults))]
            tensors = [take(name) for name in names]
            if want.ndim == 2:  # old checkpoints keep 1x1 convolutions where linear layers are now
                tensors = [a.reshape(a.shape[:2]) for a in tensors]
            value = ours(path[-1], tensors)
        if value.shape != want.shape:
            raise UserError(f"diffusers UNet2DModel: {'.'.join(path)} has shape {value.shape}, want {want.shape}")
        return value

    shapes = flatten_dict(_abstract(module, weights["conv_in.weight"].shape[1]))
    variables = unflatten_dict({path: leaf(path, want) for path, want in shapes.items()})
    rest.pop("time_proj.W", None)  # an alias that old versions saved twice
    if rest:
        raise UserError(f"diffusers UNet2DModel: {len(rest)} tensors have no place, the first is {min(rest)}")
    return variables


def to_diffusers(module: UNet, variables: Any) -> Tensors:
    """Variables of `module` (or their gradients) -> diffusers' tensors by name."""
    weights = {}
    for path, value in flatten_dict(variables).items():
        if path[0] == "fourier":
            weights["time_proj.weight"] = np.asarray(value)
            continue
        modules = their_modules(path[1:-1], len(module.mults))
        tensors = theirs(path[-1], np.asarray(value), len(modules))
        weights |= {f"{m}.{suffix(path[-1])}": a for m, a in zip(modules, tensors, strict=True)}
    return weights


def read_config(folder: str | Path, what: str) -> dict[str, Any]:
    """config.json of a folder of theirs; `what`: the model that must be in it. A UserError where it is missing or damaged."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise UserError(f"{folder} has no {file.name}: give the folder of a diffusers {what} in safetensors format")
    config = read_json(file)
    if config.get("_class_name") == "Transformer2DModel":
        config["_class_name"] = DIVIDED.get(config.get("norm_type", ""), "Transformer2DModel")
    return config


def read_json(file: Path) -> dict[str, Any]:
    """What a file of theirs says; a UserError where it is damaged."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); load it anew") from None


def read_folder(folder: str | Path, what: str, variant: str = "") -> tuple[dict[str, Any], Tensors]:
    """config.json and tensors of a folder written by diffusers' `save_pretrained`; `what`: the model that must be in it.

    variant: such as fp16. Raises UserError for a folder without these files, and for damaged ones.
    """
    config = read_config(folder, what)
    return config, read_weights(folder, variant, f"diffusers {what}")


def write_folder(folder: str | Path, config: dict[str, Any], weights: Tensors) -> None:
    """Write a folder that diffusers' `from_pretrained` reads."""
    write_tensors(Path(folder) / TENSORS_FILE, weights)
    (Path(folder) / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_unet(folder: str | Path) -> tuple[UNet, dict[str, Any]]:
    """A folder written by diffusers' `save_pretrained` -> (module, variables as numpy float32)."""
    config, weights = read_folder(folder, "UNet2DModel")
    module = UNet(**unet_fields(config))
    return module, from_diffusers(module, weights)


def save_unet(folder: str | Path, module: UNet, variables: Any) -> None:
    """Write a folder that diffusers' `UNet2DModel.from_pretrained` reads."""
    weights = to_diffusers(module, variables)
    write_folder(folder, unet_config(module, weights["conv_in.weight"].shape[1]), weights)

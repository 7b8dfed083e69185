"""State dicts of EDM's networks (Karras et al. 2022: SongUNet, DhariwalUNet) <-> our DDPM++, NCSN++, ADM, exact both ways.

Published files are pickles that carry programs; save `net.state_dict()` of one as .pt or .safetensors, and read that with
`read_tensors`. Queries, keys and values are interleaved there, as (head, channel, which), and in thirds here.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.edm_unet import Adm, DdpmPP, NcsnPP
from jaxgen.pretrained.layout import Tensors, fill, ours, suffix, theirs

# option of theirs -> field of ours
_FIELDS = {
    "model_channels": "width", "channel_mult": "mults", "num_blocks": "blocks", "attn_resolutions": "attend",
    "channel_mult_emb": "emb_mult", "dropout": "dropout", "channel_mult_noise": "noise_mult", "resample_filter": "filter",
}  # fmt: skip
_DEFAULTS = {  # of their two classes
    "SongUNet": dict(model_channels=128, channel_mult=(1, 2, 2, 2), num_blocks=4, attn_resolutions=(16,), dropout=0.1,
                     channel_mult_emb=4, channel_mult_noise=1, resample_filter=(1, 1)),
    "DhariwalUNet": dict(model_channels=192, channel_mult=(1, 2, 3, 4), num_blocks=3, attn_resolutions=(32, 16, 8),
                         dropout=0.1, channel_mult_emb=4),
}  # fmt: skip
_CHOICES = {  # what these options may be; the last two of SongUNet's select DDPM++ or NCSN++
    "decoder_type": ("standard",),
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "residual"),
}
_ELSEWHERE = {"model_type", "img_resolution", "img_channels", "sigma_data", "sigma_min", "sigma_max", "use_fp16",
              "label_dropout"}  # fmt: skip
_CONDITIONS = {"label_dim", "augment_dim"}

_TOP = {
    "time0": "map_layer0",
    "time1": "map_layer1",
    "label": "map_label",
    "augment": "map_augment",
    "time_fourier": "map_noise",
}
_BLOCK = {
    "norm0": "norm0",
    "conv0": "conv0",
    "emb": "affine",
    "norm1": "norm1",
    "conv1": "conv1",
    "shortcut": "skip",
    "fir0": "conv0",
    "fir_shortcut": "skip",
    "attend.norm": "norm2",
    "attend.qkv": "qkv",
    "attend.out": "proj",
}


def edm_module(config: dict[str, Any]) -> DdpmPP:
    """Their net's options (`model_type` and the class's own) -> our module. Raises UserError naming what we do not have."""
    kind = config.get("model_type")
    if kind not in _DEFAULTS:
        raise UserError(f"EDM: model_type={kind!r} is not supported; known: {', '.join(_DEFAULTS)}")
    for name, value in config.items():
        if name in _CHOICES and value not in _CHOICES[name]:
            raise UserError(f"EDM: {name}={value!r} is not supported; known: {', '.join(_CHOICES[name])}")
        if name not in (*_FIELDS, *_CHOICES, *_CONDITIONS, *_ELSEWHERE):
            raise UserError(f"EDM: unknown option {name}={value!r}")
    options = _DEFAULTS[kind] | config
    fields = {ours: options[name] for name, ours in _FIELDS.items() if name in options}
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    side, numbers = config["img_resolution"], config.get("augment_dim", 0)
    augment = {"augment": Field((numbers,), "float32", "embedding")} if numbers else {}
    fields["conditions"] = Spec(labels(config.get("label_dim", 0)), **augment)
    fields["shape"] = (side, side, config["img_channels"])
    if kind == "DhariwalUNet":
        return Adm(**fields)
    fields["filter"] = tuple(map(float, fields["filter"]))
    fields["embedding"] = {"positional": "sines", "fourier": "fourier"}[config.get("embedding_type", "positional")]
    fields["residual_encoder"] = config.get("encoder_type", "standard") == "residual"
    return (NcsnPP if fields["residual_encoder"] else DdpmPP)(**fields)


def _name(module: DdpmPP, path: tuple[str, ...]) -> str:
    """Our path, ("params", "down1_block0", "conv0", "kernel") -> the name of their tensor."""
    top, inner, leaf = path[1], ".".join(path[2:-1]), path[-1]
    end = {"filter": "resample_filter", "frequencies": "freqs"}.get(leaf, suffix(leaf))
    if top in _TOP:
        return f"{_TOP[top]}.{end}"
    if top in ("norm_out", "conv_out"):
        out = top.removesuffix("_out")
        size = f"{module.shape[0]}x{module.shape[0]}"
        return f"out_{out}.{end}" if isinstance(module, Adm) else f"dec.{size}_aux_{out}.{end}"
    place, part = top.split("_")
    levels = len(module.mults)
    level = {"conv": 0, "mid": levels - 1}.get(place) if place in ("conv", "mid") else int(place.lstrip("downup"))
    way = "enc" if place.startswith(("conv", "down")) else "dec"
    part = {"conv": "conv", "mid": part.replace("block", "in")}.get(place, part)
    part = {"sample": {"enc": "down", "dec": "up"}[way], "fir": "aux_residual", "image": "aux_residual"}.get(part, part)
    size = module.shape[0] // 2**level
    return ".".join([f"{way}.{size}x{size}_{part}", *([_BLOCK[inner]] if inner else []), end])


def _interleaved(path: tuple[str, ...]) -> bool:
    return path[-3:-1] == ("attend", "qkv")


def _heads(module: DdpmPP, channels: int) -> int:
    return channels // module.head_dim if module.head_dim else 1


def from_edm(module: DdpmPP, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Tensors of a state dict, with or without the prefix "model." -> variables of `module`.

    Raises UserError for a missing, extra or misshapen tensor.
    """
    weights = {name.removeprefix("model."): a for name, a in weights.items()}
    stem = f"enc.{module.shape[0]}x{module.shape[0]}_conv.weight"
    if stem not in weights:
        raise UserError(f"EDM: the weights lack tensor {stem}; is this another model, or another image size?")
    x = jax.ShapeDtypeStruct((1, *module.shape[:2], weights[stem].shape[1]), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))

    def convert(path: tuple[str, ...], tensors: list[np.ndarray]) -> np.ndarray:
        (value,) = tensors
        if path[-1] == "filter":
            return value[0, 0]
        if _interleaved(path):
            channels = value.shape[0] // 3
            heads = _heads(module, channels)
            value = value.reshape(heads, channels // heads, 3, -1).transpose(2, 0, 1, 3).reshape(3 * channels, -1)
            value = value if path[-1] == "kernel" else value[:, 0]
        if value.ndim == 4 and path[-2] in ("qkv", "out"):  # 1x1 convolutions there, linear layers here
            value = value[:, :, 0, 0]
        return ours(path[-1], [value])

    return fill("EDM", shapes, weights, lambda path: [_name(module, path)], convert)


def to_edm(module: DdpmPP, variables: Any) -> Tensors:
    """Variables of `module` (or gradients of some) -> their tensors by name, without the prefix "model."."""
    weights = {}
    for path, value in flatten_dict(variables).items():
        value = np.asarray(value)
        if path[-1] == "filter":
            value = value[None, None]
        else:
            (value,) = theirs(path[-1], value)
        if _interleaved(path):
            channels = value.shape[0] // 3
            heads = _heads(module, channels)
            thirds = value.reshape(3, heads, channels // heads, -1)
            value = np.ascontiguousarray(thirds.transpose(1, 2, 0, 3).reshape(value.shape))
        if value.ndim == 2 and path[-2] in ("qkv", "out"):
            value = value[:, :, None, None]
        weights[_name(module, path)] = value
    return weights

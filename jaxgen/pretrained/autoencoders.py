"""Autoencoders of other projects <-> our `LdmAutoencoder` and its variables.

diffusers' folders of `AutoencoderKL` and `VQModel`, both ways: what was read is written again to the byte. Checkpoints of
taming-transformers, latent diffusion (also those of a whole model, where it is `first_stage_model`) and VAR: read. Of these no
config is needed, as shapes tell all but the number of groups of the norms. The tiny autoencoders have a file of their own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.nets.patchgan import PatchGan
from jaxgen.nets.quantize import GradientQuantizer, GumbelQuantizer, MultiscaleQuantizer
from jaxgen.nets.tiny_autoencoder import TinyAutoencoder
from jaxgen.pretrained import layout, translation
from jaxgen.pretrained.diffusers import LEGACY, read_folder, their_modules, write_folder
from jaxgen.pretrained.layout import Tensors, fill, suffix
from jaxgen.pretrained.torch_files import read_tensors

Leaf = tuple[str, ...]

FIRST_STAGE = "first_stage_model."  # of a checkpoint that holds a whole model

# diffusers' defaults: a config.json written by an older version may lack keys
SHARED = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=("DownEncoderBlock2D",),
    up_block_types=("UpDecoderBlock2D",),
    block_out_channels=(64,),
    layers_per_block=1,
    act_fn="silu",
    norm_num_groups=32,
    sample_size=32,
    scaling_factor=0.18215,
    force_upcast=True,
    mid_block_add_attention=True,
)
KL = dict(
    latent_channels=4,
    shift_factor=None,
    latents_mean=None,
    latents_std=None,
    use_quant_conv=True,
    use_post_quant_conv=True,
)
VQ = dict(
    latent_channels=3,
    num_vq_embeddings=256,
    vq_embed_dim=None,
    norm_type="group",
    lookup_from_codebook=False,
)
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


@dataclass(frozen=True)
class Autoencoder:
    """A net with its weights, as numpy float32.

    config: diffusers' own, with what is not of the net (`scaling_factor`, ...), {} where it came from elsewhere. disc: the
    discriminator that it was trained with and its variables, where the file has them.
    """

    module: LdmAutoencoder | TinyAutoencoder
    variables: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    disc: tuple[PatchGan, dict[str, Any]] | None = None

    @property
    def factor(self) -> int:
        """By which its latents have fewer places on a side than pictures."""
        levels = self.module.blocks if isinstance(self.module, TinyAutoencoder) else self.module.mults
        return 2 ** (len(levels) - 1)

    @property
    def latents(self) -> dict[str, list[float]]:
        """Mean and standard deviation of each channel of its latents, where the file says so; {} where it does not."""
        dim = self.module.z if isinstance(self.module, TinyAutoencoder) else self.module.regularizer.dim
        if self.config.get("latents_mean") and self.config.get("latents_std"):
            return {"mean": list(self.config["latents_mean"]), "std": list(self.config["latents_std"])}
        if not (scale := self.config.get("scaling_factor")):
            return {}
        return {"mean": [self.config.get("shift_factor") or 0.0] * dim, "std": [1.0 / scale] * dim}


# ----------------------------------------------------------------------------------------------------------------------
# diffusers


def _attending(what: str, down: Sequence[str], up: Sequence[str]) -> tuple[int, ...]:
    """The levels, finest first, whose blocks attend."""
    for key, kinds, known in (("down_block_types", down, DOWN), ("up_block_types", up, UP)):
        if odd := [kind for kind in kinds if kind not in known]:
            raise UserError(f"{what}: {key}={odd[0]!r} is not supported; known: {', '.join(known)}")
    downs, ups = [DOWN[kind] for kind in down], [UP[kind] for kind in up][::-1]
    if downs != ups:
        raise UserError(f"{what}: down_block_types and up_block_types attend on other levels, which is not supported")
    return tuple(i for i, attends in enumerate(downs) if attends)


def module_of(config: Mapping[str, Any]) -> LdmAutoencoder:
    """config.json of an `AutoencoderKL` or a `VQModel` -> our net. Raises UserError naming an option that it does not have."""
    what = f"diffusers {config.get('_class_name', 'autoencoder')}"
    own = {"AutoencoderKL": KL, "VQModel": VQ}.get(config.get("_class_name", ""))
    if own is None:
        raise UserError(f"{what}: config.json must say _class_name, AutoencoderKL or VQModel")
    defaults = SHARED | own
    if odd := [key for key in config if key not in defaults and not key.startswith("_")]:
        raise UserError(f"{what}: unknown option {odd[0]}={config[odd[0]]!r} in config.json")
    c = defaults | {k: v for k, v in config.items() if k in defaults}
    wanted = {"act_fn": ("silu", "swish"), "norm_type": ("group",), "lookup_from_codebook": (False,)}
    for key, known in wanted.items():
        if c.get(key, known[0]) not in known:
            raise UserError(f"{what}: {key}={c[key]!r} is not supported; known: {', '.join(map(str, known))}")
    if c.get("use_quant_conv", True) != c.get("use_post_quant_conv", True):
        raise UserError(f"{what}: use_quant_conv and use_post_quant_conv differ, which is not supported")
    channels, z = c["block_out_channels"], c["latent_channels"]
    if own is KL:
        regularizer = NormalRegularizer(dim=z)
    else:
        regularizer = GradientQuantizer(codes=c["num_vq_embeddings"], dim=c["vq_embed_dim"] or z, start="uniform")
    size = c["sample_size"] if isinstance(c["sample_size"], int) else c["sample_size"][0]
    return LdmAutoencoder(
        regularizer,
        (size, size, c["out_channels"]),
        width=channels[0],
        mults=tuple(n // channels[0] if n % channels[0] == 0 else n / channels[0] for n in channels),
        blocks=c["layers_per_block"],
        attend=_attending(what, c["down_block_types"], c["up_block_types"]),
        attend_mid=c["mid_block_add_attention"],
        z=z,
        project=int(c.get("use_quant_conv", True)),
        groups=c["norm_num_groups"],
    )


def config_of(module: LdmAutoencoder) -> dict[str, Any]:
    """Our net -> the config.json of the same `AutoencoderKL` or `VQModel`. Raises UserError for what diffusers cannot express."""
    normal = isinstance(module.regularizer, NormalRegularizer)
    simple = type(module.regularizer) is GradientQuantizer and not (
        module.regularizer.project or module.regularizer.cosine
    )
    odd = {
        "regularizer": not (normal or simple),
        "project": module.project > 1 or (not module.project and not normal),
        "eps": module.eps != 1e-6,
    }
    if wrong := [key for key, is_odd in odd.items() if is_odd]:
        value = getattr(module, wrong[0])
        told = value if isinstance(value, float | int) else type(value).__name__
        raise UserError(f"diffusers cannot express {wrong[0]}={told} of an autoencoder; keep it in jaxgen's own format")
    levels = range(len(module.mults))
    types = {
        "down_block_types": ["AttnDownEncoderBlock2D" if i in module.attend else "DownEncoderBlock2D" for i in levels],
        "up_block_types": ["AttnUpDecoderBlock2D" if i in module.attend else "UpDecoderBlock2D" for i in levels[::-1]],
    }
    height, width, channels = module.shape
    shared = dict(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=[round(module.width * m) for m in module.mults],
        layers_per_block=module.blocks,
        latent_channels=module.z,
        norm_num_groups=module.groups,
        sample_size=height if height == width else [height, width],
        mid_block_add_attention=module.attend_mid,
    )
    if normal:
        more = {**KL, "use_quant_conv": bool(module.project), "use_post_quant_conv": bool(module.project)}
    else:
        more = {**VQ, "num_vq_embeddings": module.regularizer.codes, "vq_embed_dim": module.regularizer.dim}
    return {**SHARED, **more, **types, **shared, "_class_name": "AutoencoderKL" if normal else "VQModel"}


def _diffusers_names(path: Leaf, levels: int) -> list[str]:
    """Our leaf -> the tensors of theirs that it is made of."""
    _, part, *rest = path
    if part in ("pre", "post"):
        return [f"{'' if part == 'pre' else 'post_'}quant_conv.{suffix(path[-1])}"]
    if part == "regularizer":
        return ["quantize.embedding.weight"]
    return [f"{part}.{name}.{suffix(path[-1])}" for name in their_modules(tuple(rest[:-1]), levels)]


def _abstract(module: LdmAutoencoder, channels: int) -> dict[str, Any]:
    """Shapes of its variables."""
    f = 2 ** (len(module.mults) - 1)
    side = f * (module.regularizer.sizes[-1] if isinstance(module.regularizer, MultiscaleQuantizer) else 1)
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x)


def _variables(what: str, module: LdmAutoencoder, weights: Tensors, channels: int, names: Any) -> dict[str, Any]:
    """Tensors -> variables; a codebook is as it was trained, and nothing starts it anew."""
    shapes = _abstract(module, channels)

    def convert(path: Leaf, tensors: list[np.ndarray]) -> np.ndarray:
        dense = path[-2] in ("qkv", "out", "logits")  # linear layers here, in places 1x1 convolutions there
        tensors = [a.reshape(a.shape[:2]) if dense and a.ndim == 4 else a for a in tensors]
        return layout.ours(path[-1], tensors)

    found = fill(what, {"params": shapes["params"]}, weights, names, convert)
    if "codebook" in shapes:
        book = {k: np.zeros(v.shape, v.dtype) for k, v in shapes["codebook"]["regularizer"].items()}
        book |= {"count": np.ones_like(book["count"]), "ready": np.ones((), bool)}
        found["codebook"] = {"regularizer": book}
    return found


def _renamed(weights: Tensors) -> Tensors:
    """Attention as diffusers called it before 0.15, by its later names."""
    old = {f".{theirs}.": f".{name}." for name, theirs in LEGACY.items()}
    pattern = re.compile("|".join(map(re.escape, old)))
    return {pattern.sub(lambda m: old[m[0]], name): value for name, value in weights.items()}


def from_diffusers(config: Mapping[str, Any], weights: Tensors) -> Autoencoder:
    """config.json and tensors of an `AutoencoderKL` or a `VQModel`."""
    module, weights = module_of(config), _renamed(weights)
    what, levels = f"diffusers {config['_class_name']}", len(module.mults)
    names = lambda path: _diffusers_names(path, levels)  # noqa: E731
    return Autoencoder(module, _variables(what, module, weights, config.get("in_channels", 3), names), dict(config))


def load_diffusers(folder: str | Path) -> Autoencoder:
    """A folder of an `AutoencoderKL` or a `VQModel`, written by diffusers' `save_pretrained`."""
    return from_diffusers(*read_folder(folder, "AutoencoderKL or VQModel"))


def to_diffusers(module: LdmAutoencoder, variables: Any) -> Tensors:
    """Variables -> diffusers' tensors by name."""
    weights = {}
    for path, value in flatten_dict({"params": variables["params"]}).items():
        if path[1] == "log_var":  # of the loss
            continue
        value = np.asarray(value)
        names = _diffusers_names(path, len(module.mults))
        if path[1] == "regularizer":  # with what start and restarts moved it by
            value = value + np.asarray(variables["codebook"]["regularizer"]["offset"])
        weights |= dict(zip(names, layout.theirs(path[-1], value, len(names)), strict=True))
    return weights


def standardised(
    module: LdmAutoencoder | TinyAutoencoder, variables: Any, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Variables of the same autoencoder with latents (z - mean) / std of each channel: its 1x1 layers on both sides take that on.

    Raises UserError for one without these layers, or whose latents are codes.
    """
    if not isinstance(getattr(module, "regularizer", None), NormalRegularizer) or module.project != 1:
        raise UserError(
            "latents of this codec are standardised channel by channel, which diffusers cannot express of it; train on one number "
            "for all (tasks.codec.mean and std), or on a KL autoencoder with project=1"
        )
    m, s = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    params = {k: dict(v) if k in ("pre", "post") else v for k, v in variables["params"].items()}
    pre, post = (jax.tree.map(lambda x: np.asarray(x, np.float64), params[k]) for k in ("pre", "post"))
    scale, shift = np.concatenate([1 / s, np.ones_like(s)]), np.concatenate([-m / s, -2 * np.log(s)])
    new = {
        "pre": {"kernel": pre["kernel"] * scale, "bias": pre["bias"] * scale + shift},
        "post": {
            "kernel": post["kernel"] * s[:, None],
            "bias": post["bias"] + (post["kernel"].reshape(len(m), -1).T @ m),
        },
    }
    return {**variables, "params": {**params, **jax.tree.map(lambda x: x.astype(np.float32), new)}}


def save_diffusers(
    folder: str | Path, module: LdmAutoencoder, variables: Any, config: Mapping[str, Any] | None = None, **more: Any
) -> None:
    """Write a folder that diffusers' `AutoencoderKL.from_pretrained` or `VQModel.from_pretrained` reads.

    config: the one that it was loaded with. more: what diffusers' pipelines ask for besides, such as scaling_factor = 1 / std.
    """
    own = config_of(module)
    write_folder(folder, {**(config or own), **more}, to_diffusers(module, variables))


# ----------------------------------------------------------------------------------------------------------------------
# taming-transformers, latent diffusion, VAR

_RESNET = {"norm0": "norm1", "conv0": "conv1", "norm1": "norm2", "conv1": "conv2", "shortcut": "nin_shortcut"}
_MIDDLE = {"mid_block0": "mid.block_1", "mid_attend": "mid.attn_1", "mid_block1": "mid.block_2"}
_KINDS = {"block": "block", "attend": "attn"}


def _ldm_names(path: Leaf, known: Mapping[str, Any]) -> list[str]:
    """Our leaf -> the tensors of theirs that it is made of."""
    _, part, *rest = path
    end = suffix(path[-1])
    if part in ("pre", "post"):
        return [f"{'' if part == 'pre' else 'post_'}quant_conv.{end}"]
    if part == "regularizer":
        if rest[0].startswith("phi"):
            return [f"quantize.quant_resi.qresi_ls.{rest[0][4:]}.{end}"]
        if rest[0] == "logits":
            return [f"quantize.proj.{end}"]
        return ["quantize.embed.weight" if "quantize.embed.weight" in known else "quantize.embedding.weight"]
    place, *inner = rest[:-1]
    if place in _MIDDLE:
        stem = _MIDDLE[place]
    elif found := re.fullmatch(r"(down|up)(\d+)_(block|attend|sample)(\d*)", place):
        way, level, kind, number = found.groups()
        stem = f"{way}.{level}.{way}sample.conv" if kind == "sample" else f"{way}.{level}.{_KINDS[kind]}.{number}"
    else:
        stem = place
    stem = f"{part}.{stem}"
    if not inner:
        return [f"{stem}.{end}"]
    if "attend" in place:
        parts = {"norm": ("norm",), "out": ("proj_out",), "qkv": ("q", "k", "v")}[inner[0]]
        parts = ("qkv",) if f"{stem}.qkv.{end}" in known and inner[0] == "qkv" else parts
        return [f"{stem}.{name}.{end}" for name in parts]
    return [f"{stem}.{_RESNET[inner[0]]}.{end}"]


def _ldm_module(what: str, weights: Tensors, groups: int, sizes: tuple[int, ...]) -> LdmAutoencoder:
    """The net that tensors belong to."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in weights:
            raise UserError(f"{what}: the weights lack tensor {name}; is this another model?")
        return weights[name].shape

    def levels(pattern: str) -> list[int]:
        return sorted({int(m[1]) for m in map(re.compile(pattern).match, weights) if m})

    width, channels = shape("encoder.conv_in.weight")[:2]
    downs = levels(r"encoder\.down\.(\d+)\.")
    outs = [shape(f"encoder.down.{i}.block.0.conv1.weight")[0] for i in downs]
    z = shape("decoder.conv_in.weight")[1]
    normal = shape("encoder.conv_out.weight")[0] == 2 * z
    project = shape("quant_conv.weight")[-1] if "quant_conv.weight" in weights else 0
    dim = shape("post_quant_conv.weight")[1] if project else z
    if "quantize.used" in weights:
        raise UserError(
            f"{what}: quantize.remap renumbers its codes, which is not supported; give a model without remap"
        )
    if normal:
        regularizer = NormalRegularizer(dim=dim)
    elif "quantize.embed.weight" in weights:
        regularizer = GumbelQuantizer(codes=shape("quantize.embed.weight")[0], dim=shape("quantize.embed.weight")[1])
    else:
        options = dict(codes=shape("quantize.embedding.weight")[0], dim=dim, start="uniform")
        phis = levels(r"quantize\.quant_resi\.qresi_ls\.(\d+)\.")
        regularizer = (
            MultiscaleQuantizer(**options, sizes=sizes, share=len(phis)) if phis else GradientQuantizer(**options)
        )
    return LdmAutoencoder(
        regularizer,
        (256, 256, channels),
        width=width,
        mults=tuple(n // width if n % width == 0 else n / width for n in outs),
        blocks=len(levels(r"encoder\.down\.0\.block\.(\d+)\.")),
        attend=tuple(levels(r"encoder\.down\.(\d+)\.attn\.")),
        attend_mid="encoder.mid.attn_1.norm.weight" in weights,
        z=z,
        project=project,
        groups=groups,
    )


def load_author(
    source: str | Path | Tensors,
    groups: int = 32,
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
) -> Autoencoder:
    """A checkpoint of taming-transformers, of latent diffusion (its first stage or the whole) or of VAR's tokenizer.

    source: the file or its tensors. groups: of the norms; sizes: of VAR's maps. Of a Lightning pickle the state_dict alone is read.
    """
    what = "autoencoder"
    if isinstance(source, Mapping):
        weights = dict(source)
    else:
        what, weights = str(source), read_tensors(source, "state_dict")
    if any(name.startswith(FIRST_STAGE) for name in weights):
        weights = {name.removeprefix(FIRST_STAGE): v for name, v in weights.items() if name.startswith(FIRST_STAGE)}
    disc = {k.removeprefix("loss.discriminator."): v for k, v in weights.items() if k.startswith("loss.discriminator.")}
    aside = ("loss.", "model_ema.", "quantize.ema_vocab_hit_SV")
    weights = {name: v for name, v in weights.items() if not name.startswith(aside)}
    module = _ldm_module(what, weights, groups, sizes)
    variables = _variables(what, module, weights, module.shape[-1], lambda path: _ldm_names(path, weights))
    return Autoencoder(module, variables, disc=translation.from_author(disc) if disc else None)


def to_author(module: LdmAutoencoder, variables: Any) -> Tensors:
    """Variables -> the tensors of latent diffusion's first stage by name, where attention is made of 1x1 convolutions."""
    weights = {}
    for path, value in flatten_dict({"params": variables["params"]}).items():
        if path[1] == "log_var":  # of the loss
            continue
        names = _ldm_names(path, {})
        tensors = layout.theirs(path[-1], np.asarray(value), len(names))
        dense = path[-2] in ("qkv", "out") and path[-1] == "kernel"
        weights |= dict(zip(names, [a[:, :, None, None] if dense else a for a in tensors], strict=True))
    return weights

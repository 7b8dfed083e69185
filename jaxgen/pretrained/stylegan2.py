"""StyleGAN2's published nets (Karras et al. 2019, 2020: StyleGAN2-ADA) <-> ours, exact both ways.

Files are pickles that carry their programs. Here a pickle is only read (`jaxgen.pretrained.inert`): nothing in it is called,
imported or compiled, and tensors are taken from the records of modules, those of PyTorch or the nets of TensorFlow before it.
"""

import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.core.spec import labels
from jaxgen.core.state import NetState, Variables
from jaxgen.errors import UserError
from jaxgen.nets.stylegan2 import StyleGan2Discriminator, StyleGan2Generator
from jaxgen.pretrained.inert import Record, array, items, named, read_pickle
from jaxgen.pretrained.layout import Path, Tensors, fill, ours, suffix, theirs

Player = StyleGan2Generator | StyleGan2Discriminator

# option of theirs -> field of ours
_BOTH = {
    "channel_base": "channel_base", "channel_max": "channel_max", "architecture": "architecture", "conv_clamp": "clamp",
    "num_fp16_res": "half", "resample_filter": "filter", "activation": "activation",
}  # fmt: skip
_GEN = _BOTH | {"w_dim": "w_dim", "mapping_layers": "layers", "lr_multiplier": "lr_mul", "w_avg_beta": "beta"}
_DISC = _BOTH | {
    "mapping_layers": "layers", "lr_multiplier": "lr_mul", "mbstd_group_size": "group", "mbstd_num_channels": "group_channels",
}  # fmt: skip
_DEFAULTS = {  # of their classes
    "channel_base": 32768, "channel_max": 512, "conv_clamp": None, "num_fp16_res": 0, "resample_filter": (1, 3, 3, 1),
    "lr_multiplier": 0.01,
}  # fmt: skip
_ELSEWHERE = {"z_dim", "c_dim", "img_resolution", "img_channels", "truncation"}
_SHAPES = {
    "cmap_dim",
    "embed_features",
    "layer_features",
    "use_noise",
}  # the tensors tell, and are refused where they differ
_WHOLE = 1 << 30  # a group as large as any batch
_PACE = {
    "fused_modconv",
    "fused_modconv_default",
    "fp16_channels_last",
    "freeze_layers",
}  # no matter of what a net computes


def generator(config: Mapping[str, Any]) -> StyleGan2Generator:
    """Options of the published generator -> our net. Raises UserError naming an option that we do not have."""
    fields = _fields(config, _GEN)
    for name in ("z_dim", "img_resolution"):
        if name not in config:
            raise UserError(f"StyleGAN2: the generator's options lack {name}; add it")
    side, channels = config["img_resolution"], config.get("img_channels", 3)
    return StyleGan2Generator(shape=(side, side, channels), **fields)


def discriminator(config: Mapping[str, Any]) -> StyleGan2Discriminator:
    """Options of the published discriminator -> our net. Raises UserError naming an option that we do not have."""
    return StyleGan2Discriminator(**_fields(config, _DISC))


def _fields(config: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    for name, value in config.items():
        if name not in (*known, *_ELSEWHERE, *_SHAPES, *_PACE):
            raise UserError(f"StyleGAN2: unknown option {name}={value!r}")
    options = {**_DEFAULTS, **config}
    fields = {ours: options[name] for name, ours in known.items() if name in options}
    fields["clamp"] = float(fields["clamp"] or 0)
    fields |= {"group": _WHOLE} if fields.get("group", 0) is None else {}
    fields["filter"] = tuple(map(float, fields["filter"]))
    fields["conditions"] = labels(config.get("c_dim", 0))
    return fields


# ----------------------------------------------------------------------------------------------------------------------
# Tensors


def _name(path: Path) -> str:
    """Our path, ("params", "synthesis", "b4", "conv1", "affine", "kernel") -> the name of their tensor."""
    if path[-1] == "mean_w":
        return "mapping.w_avg"
    leaf = path[-1] if path[-1] in ("const", "noise_const", "noise_strength") else suffix(path[-1])
    return ".".join([*path[1:-1], leaf])


def _filters(module: Player, shapes: Mapping[Path, Any]) -> Tensors:
    """The FIR filter, by the names of those that carry it: layers that convolve, but torgb, and blocks that resample."""
    line = np.asarray(module.filter, np.float32)
    whole = np.outer(line, line)
    layers = {p[1:-1] for p, a in shapes.items() if p[-1] == "kernel" and a.ndim == 4 and p[-2] != "torgb"}
    blocks = {layer[:-1] for layer in layers if layer[0] == "synthesis" or layer[-1] == "conv0"}
    return {".".join([*holder, "resample_filter"]): whole / whole.sum() for holder in layers | blocks}


def _grid(path: Path) -> tuple[int, int]:
    """("params", "b4", ...) -> (4, 4)."""
    h, _, w = path[1].removeprefix("b").partition("x")
    return int(h), int(w or h)


def _abstract(module: Player, weights: Tensors) -> dict[str, Any]:
    """Shapes of all variables; what the module does not say (latents, images) is read from the weights."""
    generates = isinstance(module, StyleGan2Generator)
    blocks = [name.split(".")[generates] for name in weights if name.startswith("synthesis.b" if generates else "b")]
    stem = "mapping.fc0.weight" if generates else f"{max(blocks, key=_side, default='b')}.fromrgb.weight"
    if stem not in weights:
        raise UserError(f"StyleGAN2: the weights lack tensor {stem}; are they those of another model?")
    width, cond = weights[stem].shape[1], module.conditions.abstract(1)
    if generates:
        x = (1, width - (module.w_dim if module.conditions else 0))
    else:
        x = (1, *_grid(("params", max(blocks, key=_side))), width)
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(x, jnp.float32), cond)


def _side(block: str) -> int:
    return _grid(("params", block))[0]


def from_author(module: Player, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Tensors of a published generator or discriminator -> variables of `module`.

    Raises UserError for a missing, extra or misshapen tensor, and for another filter than the module's.
    """
    shapes, rest = _abstract(module, weights), dict(weights)
    for name, f in _filters(module, flatten_dict(shapes)).items():
        if not np.array_equal(rest.pop(name, f), f):
            raise UserError(f"StyleGAN2: {name} is another filter than filter={module.filter}; set the net's filter")

    def convert(path: Path, tensors: list[np.ndarray]) -> np.ndarray:
        (a,) = tensors
        if path[-1] == "mean_w":
            return np.tile(a, (max(1, module.conditions.classes), 1))
        if path[-1] == "const":
            return a.transpose(1, 2, 0)
        if path[-2:] == ("fc", "kernel"):  # of pixels, which are [C, H, W] there
            h, w = _grid(path)
            return a.reshape(len(a), -1, h, w).transpose(2, 3, 1, 0).reshape(-1, len(a))
        return ours(path[-1], [a])

    return fill("StyleGAN2", shapes, rest, lambda path: [_name(path)], convert)


def to_author(module: Player, variables: Any) -> Tensors:
    """Variables of `module` (or gradients of some) -> their tensors by name; of the labels' means of w, their mean."""
    flat = {path: np.asarray(a) for path, a in flatten_dict(variables).items()}
    weights = _filters(module, flat)
    for path, a in flat.items():
        if path[-1] == "mean_w":
            a = a.mean(0, dtype=np.float64).astype(a.dtype)
        elif path[-1] == "const":
            a = np.ascontiguousarray(a.transpose(2, 0, 1))
        elif path[-2:] == ("fc", "kernel"):
            h, w = _grid(path)
            a = np.ascontiguousarray(a.reshape(h, w, -1, a.shape[-1]).transpose(3, 2, 0, 1).reshape(a.shape[-1], -1))
        else:
            (a,) = theirs(path[-1], a)
        weights[_name(path)] = a
    return weights


# ----------------------------------------------------------------------------------------------------------------------
# Pickles


@dataclass(frozen=True)
class Published:
    """What a file holds. `G` is the generator as trained, `G_ema` its average, which makes the pictures."""

    gen: StyleGan2Generator
    disc: StyleGan2Discriminator | None
    z_dim: int
    variables: dict[str, Variables] = field(compare=False)  # by the names G, G_ema, D; files may lack some
    p: float | None = None  # of ADA's changes, where it was trained with them

    def __str__(self) -> str:
        size, told = "x".join(map(str, self.gen.shape)), self.gen.conditions.classes
        return (
            f"StyleGAN2 of {', '.join(self.variables)}: {size}, {f'{told} labels' if told else 'no labels'}, z of {self.z_dim}"
            + ("" if self.p is None else f", ADA at p = {self.p:.3f}")
            + "; its licence is that of who published it (NVIDIA's own: not for commercial use)"
        )

    def started(self, nets: Mapping[str, NetState]) -> dict[str, NetState]:
        """The nets "gen" and "disc" of a fresh state with these variables: G_ema in all averages, G and D as trained."""
        ema = self.variables.get("G_ema", self.variables.get("G"))
        gen = nets["gen"].started(ema)
        gen = gen.replace(params=jax.tree.map(jnp.array, self.variables.get("G", ema)["params"]))
        disc = nets["disc"].started(self.variables["D"]) if "D" in self.variables else nets["disc"]
        return {**nets, "gen": gen, "disc": disc}


def load_pickle(path: str | pathlib.Path) -> Published:
    """A file of StyleGAN2 or StyleGAN2-ADA, of PyTorch or TensorFlow: a published one or a `network-snapshot-*.pkl`.

    Nothing in it is run. Raises UserError for a pickle that holds no such nets, those of StyleGAN3 or older than StyleGAN2, or
    classes that are unknown, which it names.
    """
    found = _members(read_pickle(path))
    nets = {name: found[name] for name in ("G", "G_ema", "D") if _is_net(found.get(name))}
    if not nets.keys() & {"G", "G_ema"}:
        raise UserError(f"{path} holds no generator G or G_ema; give a network pickle of StyleGAN2 or StyleGAN2-ADA")
    gen = disc = p = None
    variables = {}
    try:
        for name, net in nets.items():
            kind, config, weights = _net(net)
            if kind != {"D": "Discriminator"}.get(name, "Generator"):
                raise UserError(f"{name} is of class {kind}, which is not StyleGAN2's; convert another file")
            module = (generator if kind == "Generator" else discriminator)(config)
            variables[name] = from_author(module, weights)
            if kind == "Generator":
                gen, z_dim = module, config["z_dim"]
            else:
                disc = module
        if _is_net(found.get("augment_pipe")) and "p" in (pipe := _net(found["augment_pipe"])[2]):
            p = float(pipe["p"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Published(gen, disc, z_dim, variables, p)


def _members(content: Any) -> dict[str, Any]:
    """The content of a file by name; TensorFlow's are G, D and the average Gs in a row, or Gs alone."""
    nets = content if isinstance(content, tuple | list) else [content]
    if any(named(net, "Network") for net in nets):
        return dict(zip(("G", "D", "G_ema") if len(nets) == 3 else ("G_ema",), nets, strict=False))
    return dict(items(content))


def _is_net(value: Any) -> bool:
    return named(value, "_reconstruct_persistent_obj", "Network")


def _module(value: Any) -> tuple[str, dict[str, Any]]:
    """(class, attributes) of the record of a module: one that carries its source, or one of PyTorch's own."""
    if _is_net(value):
        meta = dict(items(value.args[0]))
        return str(meta.get("class_name")), dict(items(meta.get("state")))
    state = value.state if isinstance(value, Record) else None
    return getattr(value, "name", "?").rpartition(".")[2], dict(items(state))


def _net(value: Any) -> tuple[str, dict[str, Any], Tensors]:
    """(class, options, tensors by name) of the record of a net."""
    if named(value, "Network"):
        return _of_tensorflow(value)
    kind, state = _module(value)
    return kind, _flat(state.get("_init_kwargs", {})), _tensors(value)


def _flat(options: Any) -> dict[str, Any]:
    """The options of a net and, from groups such as `synthesis_kwargs`, those of its parts."""
    found = {}
    for name, value in items(options):
        if name.endswith("_kwargs"):
            found |= _flat(value)
        elif name != "class_name":
            found["mapping_layers" if name == "num_layers" else name] = value
    return found


def _tensors(value: Any, prefix: str = "") -> Tensors:
    """Parameters and buffers of a module and of those within it."""
    kind, state = _module(value)
    if kind.startswith("SynthesisInput"):
        raise UserError("it is a net of StyleGAN3, which jaxgen does not have; give one of StyleGAN2")
    found = {}
    for group in ("_parameters", "_buffers"):
        found |= {f"{prefix}{k}": array(v, f"{prefix}{k}") for k, v in items(state.get(group)) if v is not None}
    for name, child in items(state.get("_modules")):
        found |= _tensors(child, f"{prefix}{name}.")
    return found


# ----------------------------------------------------------------------------------------------------------------------
# TensorFlow's: no modules, but variables by the names of scopes. What they name is renamed as in PyTorch's version.

_TF = {  # option -> that of PyTorch's version, where they differ
    "latent_size": "z_dim", "dlatent_size": "w_dim", "label_size": "c_dim", "resolution": "img_resolution",
    "num_channels": "img_channels", "fmap_base": "channel_base", "fmap_max": "channel_max", "resample_kernel": "resample_filter",
    "nonlinearity": "activation", "mapping_lrmul": "lr_multiplier", "dlatent_avg_beta": "w_avg_beta",
    "mbstd_num_features": "mbstd_num_channels",
}  # fmt: skip
_TF_DEFAULTS = {
    "Generator": {"resolution": 1024, "fmap_base": 16384, "latent_size": 512},
    "Discriminator": {
        "resolution": 1024, "fmap_base": 16384, "mapping_layers": 0, "mapping_lrmul": 0.1, "mbstd_group_size": None,
    },
}  # fmt: skip
_TF_ELSEWHERE = {  # of training or of speed, or told by the tensors' shapes
    "truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "style_mixing_prob", "structure",
    "randomize_noise", "mapping_fmaps", "label_fmaps",
}  # fmt: skip
_TF_GROUP = 4  # of minibatches, where StyleGAN2's own discriminator is not told; that of ADA takes all
_TF_NAMES = (  # variable -> tensor of PyTorch's version, where "/" is "."
    (r"dlatent_avg", "mapping/w_avg"),
    (r"(?:mapping/)?LabelEmbed/(\w+)", r"mapping/embed/\1"),
    (r"(?:mapping/Dense|Mapping)(\d+)/(\w+)", r"mapping/fc\1/\2"),
    (r"synthesis/4x4/Const/const", "synthesis/b4/const"),
    (r"synthesis/4x4/Conv/(\w+)", r"synthesis/b4/conv1/\1"),
    (r"4x4/Dense0/(\w+)", r"b4/fc/\1"),
    (r"Output/(\w+)", r"b4/out/\1"),
    (
        r"(synthesis/|)(\d+)x\2/(Conv\d?|Skip|ToRGB|FromRGB)(?:_up|_down)?/(\w+)",
        lambda m: f"{m[1]}b{m[2]}/{m[3].lower()}/{m[4]}",
    ),
    # one of 4x4, then two of each resolution
    (
        r"synthesis/noise(\d+)",
        lambda m: f"synthesis/b{2 ** ((int(m[1]) + 5) // 2)}/conv{1 - int(m[1]) % 2}/noise_const",
    ),
)


def _of_tensorflow(net: Record) -> tuple[str, dict[str, Any], Tensors]:
    """(class, options, tensors by name) as PyTorch's version has them, of the record of a net of TensorFlow's."""
    state = dict(items(net.state))
    kind = "Generator" if dict(items(state.get("components"))) else "Discriminator"
    if not isinstance(version := state.get("version"), int) or version < 4:
        raise UserError(
            f"its nets have format version {version}, and StyleGAN2's have 4 or later; give a pickle of StyleGAN2"
        )
    group = {"mbstd_group_size": _TF_GROUP} if state.get("build_func_name") == "D_stylegan2" else {}
    told = {**_TF_DEFAULTS[kind], **group, **dict(items(state.get("static_kwargs")))}
    told["fmap_base"] *= 2  # of two pixels there, of one in PyTorch's version
    options = {_TF.get(name, name): value for name, value in told.items() if name not in _TF_ELSEWHERE}
    tensors = dict(_tf_tensor(name, a) for name, a in _tf_variables(net).items() if name.split("/")[-1] != "lod")
    return kind, options, tensors


def _tf_variables(net: Record, prefix: str = "") -> Tensors:
    state = dict(items(net.state))
    found = {f"{prefix}{name}": array(a, f"{prefix}{name}") for name, a in state.get("variables", ())}
    for name, part in items(state.get("components")):
        found |= _tf_variables(part, f"{prefix}{name}/")
    return found


def _tf_tensor(name: str, a: np.ndarray) -> tuple[str, np.ndarray]:
    """A variable -> (name, tensor) of PyTorch's version; "synthesis/8x8/Conv0_up/weight" is synthesis.b8.conv0.weight."""
    for pattern, to in _TF_NAMES:
        if found := re.fullmatch(pattern, name):
            new = found.expand(to) if isinstance(to, str) else to(found)
            break
    else:
        raise UserError(f"variable {name} is none of StyleGAN2's; give a pickle of StyleGAN2 or StyleGAN2-ADA")
    leaf = name.rpartition("/")[2]
    if leaf == "const":
        a = a[0]
    elif leaf.startswith("noise") and a.ndim == 4:
        a = a[0, 0]
    elif leaf == "mod_bias":  # counted from 1 there
        a = a + 1
    elif a.ndim == 4:  # a convolution that doubles is turned round there
        a = (a[::-1, ::-1] if "Conv0_up" in name else a).transpose(3, 2, 0, 1)
    return new.replace("/mod_", "/affine/").replace("/", "."), a.T if a.ndim == 2 and leaf.endswith("weight") else a

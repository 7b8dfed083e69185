"""StyleGAN2's published nets (Karras et al. 2019, 2020: StyleGAN2-ADA) <-> ours, exact both ways.

Files are pickles that carry their programs. Here a pickle is only read (`jaxgen.pretrained.inert`): nothing in it is called,
imported or compiled, and tensors are taken from the records of modules.
"""

import pathlib
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
    """A file of StyleGAN2-ADA (PyTorch): `network-snapshot-*.pkl` or a published one. Nothing in it is run.

    Raises UserError for a pickle that holds no such nets, those of StyleGAN3, or classes that are unknown, which it names.
    """
    content = read_pickle(path)
    if isinstance(content, tuple | list) and any(named(net, "Network") for net in content):
        raise UserError(
            f"{path} is a pickle of the TensorFlow version; convert it with StyleGAN2-ADA's legacy.py (PyTorch) first"
        )
    found = dict(items(content))
    nets = {name: found[name] for name in ("G", "G_ema", "D") if _is_net(found.get(name))}
    if not nets.keys() & {"G", "G_ema"}:
        raise UserError(f"{path} holds no generator G or G_ema; give a network pickle of StyleGAN2-ADA (PyTorch)")
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


def _is_net(value: Any) -> bool:
    return named(value, "_reconstruct_persistent_obj")


def _module(value: Any) -> tuple[str, dict[str, Any]]:
    """(class, attributes) of the record of a module: one that carries its source, or one of PyTorch's own."""
    if _is_net(value):
        meta = dict(items(value.args[0]))
        return str(meta.get("class_name")), dict(items(meta.get("state")))
    state = value.state if isinstance(value, Record) else None
    return getattr(value, "name", "?").rpartition(".")[2], dict(items(state))


def _net(value: Any) -> tuple[str, dict[str, Any], Tensors]:
    """(class, options, tensors by name) of the record of a net."""
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

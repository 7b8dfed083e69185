"""LoRA files (Hu et al. 2021, arXiv:2106.09685) of kohya and of PEFT <-> pairs of our nets, and nets with these added.

A pair adds alpha / rank * up @ down to one weight of diffusers' net. kohya names a module by its name with "_" for ".", which is
ambiguous and so looked up among those of the net, and stores alpha beside each pair; without one alpha is the rank. PEFT says
alpha in the file's header (`lora_adapter_metadata`), for all pairs and by patterns. Tensors stay as stored: what is written is
what was read, byte for byte.
"""

import difflib
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.core.adapter import Lora as Adapter
from jaxgen.core.state import PyTree, Variables
from jaxgen.errors import UserError
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import layout, unet_condition
from jaxgen.pretrained.layout import Tensors
from jaxgen.pretrained.torch_files import metadata, read_tensors, write_tensors
from jaxgen.pretrained.unet_condition import restacked

KOHYA, PEFT = "lora_unet_", "unet."  # where the names of a net's modules begin
TEXT = ("lora_te", "text_encoder")  # of text encoders, which are other nets
ENDS = {KOHYA: ("lora_down.weight", "lora_up.weight"), PEFT: ("lora_A.weight", "lora_B.weight")}
ALPHA = "alpha"
HEADER = "lora_adapter_metadata"
SCALED = ("use_rslora", "use_dora")  # PEFT's pairs that are scaled otherwise


@dataclass(frozen=True)
class Pair:
    """What is added to one weight, as stored, in torch's layout."""

    down: np.ndarray  # [rank, in], of a convolution [rank, in, h, w]
    up: np.ndarray  # [out, rank], of a convolution [out, rank, 1, 1]
    alpha: np.ndarray | float | None  # None: nobody says, and it is the rank

    @property
    def rank(self) -> int:
        """Of the product."""
        return len(self.down)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return (len(self.up), *self.down.shape[1:])

    def update(self) -> np.ndarray:
        """alpha / rank * up @ down, float32."""
        down, up = (np.asarray(a, np.float32) for a in (self.down, self.up))
        scale = 1.0 if self.alpha is None else float(self.alpha) / self.rank
        return scale * (up.reshape(-1, self.rank) @ down.reshape(self.rank, -1)).reshape(self.shape)


Lora = Mapping[str, Pair]  # by diffusers' name of the module


def weights_of(module: UNetCondition) -> dict[str, tuple[int, ...]]:
    """diffusers' module -> the shape of its weight, of all that have a kernel."""
    found = {}
    for path, value in flatten_dict(unet_condition.shapes_of(module)).items():
        if path[-1] == "kernel":
            modules = _modules(module, path)
            *window, width, out = value.shape
            window = window or [1, 1] * unet_condition.is_projection(module, path)
            found |= dict.fromkeys(modules, (out // len(modules), width, *window))
    return found


def _modules(module: UNetCondition, path: layout.Path) -> list[str]:
    """Our kernel -> diffusers' modules whose weights it is made of."""
    return [name.removesuffix(".weight") for name in unet_condition.names(path, len(module.mults))]


def read(path: str | Path, module: UNetCondition, alpha: float | None = None) -> dict[str, Pair]:
    """The pairs of a file of kohya or PEFT for the net `module`; of those of text encoders, which are left out, a warning tells.

    alpha: of a PEFT file whose header says none; 0: each module's rank, as diffusers takes it. Raises UserError where it is
    missing, for a file of another kind of adapter, and for one of another base.
    """
    whole = read_tensors(path)
    tensors = {k: v for k, v in whole.items() if not k.startswith(TEXT)}
    if left := [k for k in whole if k not in tensors]:
        warnings.warn(
            f"{path}: pairs of text encoders are left out, {len(left)} tensors such as {left[0]}; its style is that of the "
            "net alone",
            stacklevel=2,
        )
    form = KOHYA if any(k.endswith(ENDS[KOHYA]) for k in tensors) else PEFT
    known, pairs = weights_of(module), {}
    by_name = {form + (name.replace(".", "_") if form is KOHYA else name): name for name in known}
    groups: dict[str, Tensors] = {}
    for key, value in tensors.items():
        stem, end = next(
            ((key.removesuffix(f".{e}"), e) for e in (*ENDS[form], ALPHA) if key.endswith(f".{e}")), ("", "")
        )
        if not end:
            raise UserError(f"{path}: {key} is no part of a LoRA; known are pairs of kohya and of PEFT")
        groups.setdefault(stem, {})[end] = value
    told = _told(path, alpha) if form is PEFT else {}
    for stem, group in groups.items():
        if stem not in by_name:
            near = difflib.get_close_matches(stem, by_name, n=1, cutoff=0)
            raise UserError(f"{path} is a LoRA of another base: the net has no {stem}; the nearest is {near[0]}")
        if lacks := [end for end in ENDS[form] if end not in group]:
            raise UserError(f"{path} lacks {stem}.{lacks[0]}; load it anew")
        down, up = (group[end] for end in ENDS[form])
        name = by_name[stem]
        own = group.get(ALPHA) if form is KOHYA else _alpha(told, name)
        pair = Pair(down, up, own)
        if not _fits(pair, known[name]):
            raise UserError(
                f"{path} is a LoRA of another base: {stem} is {pair.shape} there and {known[name]} in the net"
            )
        pairs[name] = pair
    return pairs


def _fits(pair: Pair, want: tuple[int, ...]) -> bool:
    """Whether a pair is of a weight of that shape; a 1x1 convolution may be stored as a linear layer."""
    plain = lambda shape: shape[:2] if math.prod(shape[2:]) == 1 else shape  # noqa: E731
    return pair.up.shape[1] == pair.rank and plain(pair.shape) == plain(want)


def _told(path: str | Path, alpha: float | None) -> dict[str, Any]:
    """What PEFT says of a file's pairs."""
    text = metadata(path).get(HEADER)
    if not text and alpha is None:
        raise UserError(f"{path} says no alpha: its header has no {HEADER}; give alpha=, or 0 for each module's rank")
    told = {k.removeprefix(PEFT): v for k, v in json.loads(text).items()} if text else {"lora_alpha": alpha}
    if odd := [k for k in SCALED if told.get(k)]:
        raise UserError(f"{path}: {odd[0]} is not supported, only pairs with alpha / rank")
    return told


def _alpha(told: dict[str, Any], name: str) -> float | None:
    """Of a module: that of the first pattern that ends its name, else the common one."""
    patterns = (told.get("alpha_pattern") or {}).items()
    alpha = next((v for k, v in patterns if re.match(rf"(.*\.)?({k})$", name)), told["lora_alpha"])
    return alpha or None


def pairs_of(module: UNetCondition, adapter: Adapter, params: PyTree) -> dict[str, Pair]:
    """What a run has trained (the params of its net, whose adapter it is) as pairs of a file.

    A UserError for pairs of an encoder of text that is the net's own: files have pairs of the UNet.
    """
    if "text" in params:
        raise UserError(
            "method.net.adapter has pairs of the net's own encoder of text, which diffusers' UNet has not; train it with "
            "--config.method.net.adapter.targets='(?!text/).*(qkv|q|kv|out)/kernel'"
        )
    params = restacked(params, unet_condition.unstack_blocks) if module.scan else params
    shapes, found = weights_of(module), {}
    for path, pairs in adapter.pairs(params):
        for name, pair in zip(_modules(module, ("params", *path)), pairs, strict=True):
            (down,), (up,) = (layout.theirs("kernel", np.asarray(pair[k])) for k in ("down", "up"))
            window = len(shapes[name][2:])
            down = down.reshape(*down.shape, *[1] * (window + 2 - down.ndim))
            found[name] = Pair(down, up.reshape(*up.shape, *[1] * window), adapter.alpha)
    return found


def write_kohya(path: str | Path, lora: Lora, **told: str) -> None:
    """Write a file as kohya's programs read; told: what its header says."""
    tensors: Tensors = {}
    for name, pair in lora.items():
        stem = KOHYA + name.replace(".", "_")
        tensors |= dict(zip((f"{stem}.{end}" for end in ENDS[KOHYA]), (pair.down, pair.up), strict=True))
        if pair.alpha is not None:
            tensors[f"{stem}.{ALPHA}"] = np.asarray(pair.alpha, getattr(pair.alpha, "dtype", np.float32))
    write_tensors(path, tensors, **told)


def write_peft(path: str | Path, lora: Lora, **told: str) -> None:
    """Write a file as diffusers' `load_lora_weights` reads; every rank and alpha stands in its header, unless `told` has one."""
    tensors: Tensors = {}
    for name, pair in lora.items():
        tensors |= dict(zip((f"{PEFT}{name}.{end}" for end in ENDS[PEFT]), (pair.down, pair.up), strict=True))
    write_tensors(path, tensors, **{HEADER: json.dumps(_header(lora), indent=2, sort_keys=True), **told})


def _header(lora: Lora) -> dict[str, Any]:
    """PEFT's options of these pairs."""
    ranks = {name: pair.rank for name, pair in lora.items()}
    alphas = {name: float(pair.rank if pair.alpha is None else pair.alpha) for name, pair in lora.items()}
    common = [max(sorted(set(values)), key=values.count) for values in (list(ranks.values()), list(alphas.values()))]
    told = dict(
        peft_type="LORA",
        r=common[0],
        lora_alpha=common[1],
        rank_pattern={re.escape(k): v for k, v in ranks.items() if v != common[0]},
        alpha_pattern={re.escape(k): v for k, v in alphas.items() if v != common[1]},
        target_modules=sorted(lora),
        bias="none",
        use_dora=False,
        use_rslora=False,
    )
    return {f"{PEFT}{k}": v for k, v in told.items()}


def merged(module: UNetCondition, variables: Variables, loras: Iterable[tuple[Lora, float]]) -> Variables:
    """W + sum of weight * alpha / rank * up @ down for every pair (LoRA, weight); `variables` stay as they are, so they undo it."""
    loras, params = list(loras), variables["params"]
    params = flatten_dict({"params": restacked(params, unet_condition.unstack_blocks) if module.scan else params})
    shapes = weights_of(module)
    for path, value in params.items():
        modules = _modules(module, path) if path[-1] == "kernel" else []
        if any(name in lora for lora, _ in loras for name in modules):
            parts = [
                sum((weight * lora[name].update().reshape(shapes[name]) for lora, weight in loras if name in lora),
                    start=np.zeros(shapes[name], np.float32))
                for name in modules
            ]  # fmt: skip
            params[path] = (value + layout.ours("kernel", parts).reshape(value.shape)).astype(value.dtype)
    params = unflatten_dict(params)["params"]
    return {**variables, "params": restacked(params, unet_condition.stack_blocks) if module.scan else params}

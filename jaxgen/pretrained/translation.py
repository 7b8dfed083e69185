"""Nets of junyanz/pytorch-CycleGAN-and-pix2pix <-> ours: both generators, PatchGAN; also PatchGAN of taming-transformers.

A checkpoint is the state_dict of one net (`latest_net_G.pth`, `latest_net_D_A.pth`), and no options go with it: shapes and names
tell all. An instance norm has no tensors there; files of PyTorch before 0.4 kept running statistics of it, which no program uses.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.core.state import Variables
from jaxgen.errors import UserError
from jaxgen.nets.patchgan import PatchGan
from jaxgen.nets.translator import ResnetTranslator, Translator, UNetTranslator
from jaxgen.pretrained import layout
from jaxgen.pretrained.layout import Path as Leaf
from jaxgen.pretrained.layout import Tensors
from jaxgen.pretrained.torch_files import read_tensors

WHAT = "CycleGAN and pix2pix"
LEAVES = {"scale": "weight", "kernel": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def load(path: str | Path) -> tuple[Translator | PatchGan, Variables]:
    """A .pth of a generator or a discriminator -> (module, variables). Raises UserError for one that is neither."""
    try:
        return from_author(read_tensors(Path(path)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def from_author(weights: Mapping[str, np.ndarray]) -> tuple[Translator | PatchGan, Variables]:
    """The tensors of a net by name -> (module, variables)."""
    weights = _cleaned(weights)
    module, seen = module_of(weights)
    x = jax.ShapeDtypeStruct((1, 256, 256, seen), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)

    def convert(path: Leaf, tensors: list[np.ndarray]) -> np.ndarray:
        if path[-1] == "kernel" and path[-2].startswith("up"):
            return np.ascontiguousarray(tensors[0].transpose(2, 3, 0, 1))
        return layout.ours(path[-1], tensors)

    name = namer(module)
    return module, layout.fill(WHAT, shapes, weights, lambda path: [name(path)], convert)


def to_author(module: Translator | PatchGan, variables: Variables) -> Tensors:
    """Variables of `module` (or gradients of some) -> their tensors by name."""
    name, found = namer(module), {}
    for path, value in flatten_dict(variables).items():
        if path[-1] == "kernel" and path[-2].startswith("up"):
            found[name(path)] = np.ascontiguousarray(np.asarray(value).transpose(2, 3, 0, 1))
        else:
            (found[name(path)],) = layout.theirs(path[-1], np.asarray(value))
    return found


def _cleaned(weights: Mapping[str, np.ndarray]) -> Tensors:
    """Without what wraps a net on several GPUs (`module.`), what taming-transformers calls `main`, and what no program uses."""
    own = {re.sub(r"^main\.", "model.", name.removeprefix("module.")): value for name, value in weights.items()}
    used = {name: value for name, value in own.items() if not name.endswith("num_batches_tracked")}
    return {k: v for k, v in used.items() if ".running_" not in k or f"{k.rpartition('.')[0]}.weight" in used}


def module_of(weights: Tensors) -> tuple[Translator | PatchGan, int]:
    """(the net that has such tensors, the channels that it sees)."""
    norm = "batch" if any(name.endswith("running_mean") for name in weights) else "instance"
    kernels = {name: value.shape for name, value in weights.items() if value.ndim == 4}
    if "model.model.0.weight" in kernels:
        width, seen = kernels["model.model.0.weight"][:2]
        downs = len(kernels) // 2
        channels = kernels["model.model.3.weight"][1]
        return UNetTranslator(shape=(256, 256, channels), width=width, downs=downs, norm=norm), seen
    blocks = sorted({int(name.split(".")[1]) for name in kernels if ".conv_block." in name})
    if blocks:
        downs = (blocks[0] - 4) // 3
        second = max(int(re.search(r"conv_block\.(\d+)", name)[1]) for name in kernels if ".conv_block." in name)
        last = f"model.{blocks[-1] + 1 + 3 * downs + 1}.weight"
        if "model.1.weight" in kernels and last in kernels:
            (width, seen), channels = kernels["model.1.weight"][:2], kernels[last][0]
            dropout = 0.5 if second == 6 else 0.0
            fields = dict(width=width, downs=downs, blocks=len(blocks), dropout=dropout, norm=norm)
            return ResnetTranslator(shape=(256, 256, channels), **fields), seen
    first = next((name for name in ("model.0.weight", "net.0.weight") if name in kernels), "")
    if first and min(shape[0] for shape in kernels.values()) == 1:
        layers = 0 if first.startswith("net") else len(kernels) - 2
        return PatchGan(width=kernels[first][0], layers=layers, norm=norm), kernels[first][1]
    raise UserError(
        f"{WHAT}: the tensors are of no generator or discriminator of theirs, the first is {min(weights, default='none')}"
    )


def namer(module: Translator | PatchGan) -> Callable[[Leaf], str]:
    """Our path -> the name of their tensor."""
    place = {UNetTranslator: _unet, ResnetTranslator: _resnet, PatchGan: _patchgan}[type(module)]
    return lambda path: f"{place(module, path[1])}.{LEAVES[path[-1]]}"


def _unet(module: UNetTranslator, layer: str) -> str:
    """down3_norm -> model.model.1.model.3.model.3.model.2: a level lies within the one above it."""
    side, level, norm = re.fullmatch(r"(down|up)(\d+)(_norm)?", layer).groups()
    level = int(level)
    if not level:
        return f"model.model.{0 if side == 'down' else 3}"
    innermost = level == module.downs - 1
    at = {"down": 1, "up": 3 if innermost else 5}[side] + bool(norm)
    return "model.model.1." + "model.3." * (level - 1) + f"model.{at}"


def _resnet(module: ResnetTranslator, layer: str) -> str:
    """block2_conv1_norm -> model.12.conv_block.6; dropout takes a place in a block."""
    body, norm = layer.removesuffix("_norm"), layer.endswith("_norm")
    kind, number, conv = re.fullmatch(r"([a-z]+)(\d*)(?:_conv(\d))?", body).groups()
    number, blocks = int(number or 0), 4 + 3 * module.downs
    if kind == "block":
        return f"model.{blocks + number}.conv_block.{(1, 6 if module.dropout else 5)[int(conv)] + norm}"
    ups = blocks + module.blocks
    at = {"stem": 1, "down": 4 + 3 * number, "up": ups + 3 * number, "out": ups + 3 * module.downs + 1}[kind]
    return f"model.{at + norm}"


def _patchgan(module: PatchGan, layer: str) -> str:
    """Conv_2 -> model.5: a norm and an activation lie between two convolutions, but for the first."""
    kind, number = layer.split("_")
    at = int(number) + 1 if kind == "Norm" else int(number)
    return f"{'model' if module.layers else 'net'}.{max(3 * at - 1, 0) + (kind == 'Norm')}"

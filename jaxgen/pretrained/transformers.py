"""What diffusers' folders of transformers have in common: tables of names, blocks in stacks, patches as convolutions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.dit import stack_blocks, unstack_blocks
from jaxgen.pretrained import layout
from jaxgen.pretrained.diffusers import read_folder, write_folder
from jaxgen.pretrained.layout import Tensors, fill, suffix

JOINT = {  # a block of two streams
    "adaln": ("norm1.linear",),
    "text_adaln": ("norm1_context.linear",),
    "qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "text_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "norm_q": ("attn.norm_q",),
    "norm_k": ("attn.norm_k",),
    "text_norm_q": ("attn.norm_added_q",),
    "text_norm_k": ("attn.norm_added_k",),
    "out": ("attn.to_out.0",),
    "text_out": ("attn.to_add_out",),
    "dual_qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "dual_norm_q": ("attn2.norm_q",),
    "dual_norm_k": ("attn2.norm_k",),
    "dual_out": ("attn2.to_out.0",),
    "mlp0": ("ff.net.0.proj",),
    "mlp1": ("ff.net.2",),
    "text_mlp0": ("ff_context.net.0.proj",),
    "text_mlp1": ("ff_context.net.2",),
}
EMBED = {
    "embed.time0": ("time_text_embed.timestep_embedder.linear_1",),
    "embed.time1": ("time_text_embed.timestep_embedder.linear_2",),
    "embed.pooled0": ("time_text_embed.text_embedder.linear_1",),
    "embed.pooled1": ("time_text_embed.text_embedder.linear_2",),
    "embed.guidance0": ("time_text_embed.guidance_embedder.linear_1",),
    "embed.guidance1": ("time_text_embed.guidance_embedder.linear_2",),
    "states": ("context_embedder",),
    "adaln_out": ("norm_out.linear",),
    "out": ("proj_out",),
}


@dataclass(frozen=True)
class Table:
    """How a net of ours lies in a folder of theirs; what raises says `what`, the name of theirs.

    net_fields: config.json -> fields of our net; net_config: back; both raise a UserError naming what the other side lacks.
    table: our modules -> theirs, outside of blocks. blocks: our kinds of blocks -> (the modules of one, its name with {} for the
        number); order: all blocks of a net as they follow each other; stacks: the kinds that `scan` stacks.
    tensors: our leaves that are whole tensors of theirs, with the shape that these have before their last axis.
    convs: our dense layers that are convolutions there, of patches (`patch`) or 1x1. transposed: our transposed convolutions, whose
        kernels have inputs and outputs the other way round there.
    """

    net: type[nn.Module]
    what: str
    net_fields: Callable[[dict[str, Any]], dict[str, Any]]
    net_config: Callable[[Any], dict[str, Any]]
    table: Mapping[str, Sequence[str]]
    blocks: Mapping[str, tuple[Mapping[str, Sequence[str]], str]]
    order: Callable[[Any], Sequence[str]]
    arguments: Callable[[Any], tuple]
    stacks: tuple[str, ...]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    convs: tuple[str, ...] = ("patch",)
    transposed: tuple[str, ...] = ()

    def shapes_of(self, module: nn.Module) -> dict[str, Any]:
        """Shapes of all variables, of the net without `scan`."""
        plain = module.clone(scan=False)
        return jax.eval_shape(plain.init, jax.random.key(0), *self.arguments(plain), plain.conditions.abstract(1))

    def names(self, module: nn.Module, path: layout.Path) -> list[str]:
        """Our leaf -> the names of the tensors of theirs that it is made of."""
        inside = ".".join(path[1:])
        if inside in self.tensors:
            return [self.tensors[inside][0]]
        top, order = path[1], self.order(module)
        if top not in order:
            return [f"{name}.{suffix(path[-1])}" for name in self.table[".".join(path[1:-1])]]
        table, stem = self.blocks[top.rstrip("0123456789")]
        number = [name for name in order if self.blocks[name.rstrip("0123456789")][1] == stem].index(top)
        rest = ".".join(path[2:])
        if rest in table:  # a leaf of the block itself
            return [f"{stem.format(number)}.{name}" for name in table[rest]]
        return [f"{stem.format(number)}.{name}.{suffix(path[-1])}" for name in table[".".join(path[2:-1])]]

    @staticmethod
    def is_kernel(path: layout.Path, modules: tuple[str, ...]) -> bool:
        """Whether a leaf of ours is the kernel of one of these."""
        return path[-1] == "kernel" and ".".join(path[1:-1]) in modules

    def from_diffusers(self, module: nn.Module, weights: Tensors) -> dict[str, Any]:
        """diffusers' tensors -> variables of `module`. Raises UserError for a missing, extra or misshapen tensor."""
        shapes = self.shapes_of(module)
        wanted = {path: a.shape for path, a in flatten_dict(shapes).items()}

        def convert(path: layout.Path, tensors: list[np.ndarray]) -> np.ndarray:
            inside = ".".join(path[1:])
            if inside in self.tensors:
                return tensors[0].reshape(wanted[path]) if tensors[0].size == np.prod(wanted[path]) else tensors[0]
            value = layout.ours(path[-1], tensors)
            value = value.swapaxes(-1, -2) if self.is_kernel(path, self.transposed) else value
            return value.reshape(-1, value.shape[-1]) if self.is_kernel(path, self.convs) else value

        variables = fill(self.what, shapes, weights, lambda path: self.names(module, path), convert)
        if getattr(module, "scan", False):
            for name in self.stacks:
                variables["params"] = stack_blocks(variables["params"], name)
        return variables

    def to_diffusers(self, module: nn.Module, variables: Any) -> Tensors:
        """Variables of `module` (or their gradients) -> diffusers' tensors by name."""
        variables, weights = dict(variables), {}
        if getattr(module, "scan", False):
            for name in self.stacks:
                variables["params"] = unstack_blocks(variables["params"], name)
        for path, value in flatten_dict(variables).items():
            names, value, inside = self.names(module, path), np.asarray(value), ".".join(path[1:])
            if inside in self.tensors:
                weights[names[0]] = value.reshape(*self.tensors[inside][1], *value.shape[-1:])
                continue
            value = value.swapaxes(-1, -2) if self.is_kernel(path, self.transposed) else value
            if self.is_kernel(path, self.convs):
                side = module.patch if path[1] == "patch" else 1
                value = value.reshape(side, side, -1, value.shape[-1])
            weights |= dict(zip(names, layout.theirs(path[-1], value, len(names)), strict=True))
        return weights

    def load(self, folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
        """A folder written by diffusers' `save_pretrained` -> (module, variables as numpy float32)."""
        config, weights = read_folder(folder, self.what)
        module = self.net(**self.net_fields(config))
        return module, self.from_diffusers(module, weights)

    def save(self, folder: str | Path, module: nn.Module, variables: Any) -> None:
        """Write a folder that diffusers' `from_pretrained` reads."""
        write_folder(folder, self.net_config(module), self.to_diffusers(module, variables))


def refuse_told(what: str, module: nn.Module, known: Sequence[str]) -> None:
    """A UserError for a net that is told what theirs cannot be, as the mask of a text where theirs looks at all of it."""
    if odd := [name for name in module.conditions if name not in known]:
        raise UserError(f"{what}: it cannot be told {odd[0]!r}; keep the net in jaxgen's own format")


def image_and_time(module: nn.Module) -> tuple:
    """What most nets are called with besides conditions."""
    return jax.ShapeDtypeStruct((1, *module.shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)

"""Adapters: what is trained instead of a net's own kernels, which are those of a lent run and never change."""

import difflib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.core.lender import Lender
from jaxgen.core.ranges import Count, Positive
from jaxgen.core.state import BASE, Array, PyTree, Variables, others
from jaxgen.errors import UserError

Path = tuple[str, ...]


@struct.dataclass
class Sum:
    """kernel + down @ up, not yet summed, in the place of a dense kernel: a layer that knows it needs no gradient of a whole one.

    For all others it is the array that it stands for. Flax compares the shape of its first part with what a layer wants.
    """

    kernel: Array  # [in, out]
    down: Array  # [in, rank of all parts]
    up: Array  # [rank of all parts, out]

    def product(self, x: Array, multiply: Callable[[Array, Array], Array], dtype: Any) -> Array:
        """x @ kernel + (x @ down) @ up, in that type; multiply: the layer's product."""
        kernel, down, up = (part.astype(dtype) for part in (self.kernel, self.down, self.up))
        return multiply(x, kernel) + multiply(multiply(x, down), up)

    def __jax_array__(self) -> Array:
        """The sum."""
        return self.kernel + jnp.matmul(self.down, self.up, precision="highest").astype(self.kernel.dtype)

    def astype(self, dtype: Any) -> Array:
        """The sum."""
        return self.__jax_array__().astype(dtype)


@dataclass(frozen=True)
class Lora:
    """LoRA (Hu et al. 2021, arXiv:2106.09685): kernels become W + alpha / rank * down @ up, and down and up are trained.

    A pair is {"down": [..., in, rank], "up": [rank, out]}; a convolution's down has its window, and both of a stack of blocks have
    its depth. A fused kernel has one pair for each part of it, so that they are those of published files. up begins at zero.
    """

    run: Lender  # the base
    rank: Count = 8
    alpha: Positive = 8.0
    targets: str = r".*\b(qkv|q|kv|out)/kernel"  # paths of the kernels, as of optimizer.train

    parts: ClassVar[dict[str, int]] = {"qkv": 3, "kv": 2}  # of fused kernels, side by side along the last axis

    def init(self, rng: Array, params: PyTree) -> PyTree:
        """Fresh pairs for the params of a net; a UserError where `targets` match no kernel."""
        kernels = {path: value for path, value in flatten_dict(params).items() if path[-1] == "kernel"}
        names = {"/".join(path): path for path in kernels}
        found = [path for name, path in names.items() if re.fullmatch(self.targets, name)]
        if not found:
            near = ", ".join(difflib.get_close_matches(self.targets, names, n=3, cutoff=0))
            raise UserError(f"method.net.adapter.targets={self.targets!r} matches no kernel; the nearest are {near}")
        pairs = {}
        for i, path in enumerate(found):
            *window, width, out = kernels[path].shape
            stack = len(window) % 2  # blocks under a scan; a convolution's window has two sides
            depth = [*window[:stack], *[1] * len(window[stack:])]
            parts = self.parts.get(path[-2], 1)
            bound = math.prod([width, *window[stack:]]) ** -0.5  # torch's, as in PEFT and kohya
            for part, key in enumerate(jax.random.split(jax.random.fold_in(rng, i), parts)):
                down = jax.random.uniform(key, (*window, width, self.rank), minval=-bound, maxval=bound)
                pairs |= {(*path, str(part), "down"): down}
                pairs |= {(*path, str(part), "up"): jnp.zeros((*(depth if stack else ()), self.rank, out // parts))}
        return unflatten_dict(pairs)

    def pairs(self, params: PyTree) -> Iterator[tuple[Path, list[dict[str, Array]]]]:
        """(path of the kernel, its pairs in the order of its parts)."""
        paths = dict.fromkeys(path[:-2] for path in flatten_dict(params))
        for path in paths:
            found: Any = params
            for key in path:
                found = found[key]
            yield path, [found[str(i)] for i in range(len(found))]

    def on(self, variables: Variables, apart: bool = False) -> Variables:
        """The variables of the net: the base's with what is added. A UserError for a base of other shapes.

        apart: dense kernels are not summed yet, but `Sum`, for training: their sum would want the gradient of a whole kernel.
        """
        if BASE not in variables:
            raise UserError(
                "method.net.adapter: nobody lends this net its base; adapters are for diffusion, whose runs lend none"
            )
        params = flatten_dict(variables[BASE])
        for path, pairs in self.pairs(variables["params"]):
            here = (*pairs[0]["down"].shape[:-1], sum(pair["up"].shape[-1] for pair in pairs))
            there = params[path].shape if path in params else None
            if there != here:
                raise UserError(
                    f"method.net.adapter.run is no base of this net: {'/'.join(path)} is {there} there and {here} here; "
                    "give both the same method.net"
                )
            if apart and len(here) < 4:  # no convolution
                params[path] = self.sum(params[path], pairs)
                continue
            product = lambda pair: jnp.matmul(pair["down"], pair["up"], precision="highest")  # noqa: E731
            change = (self.alpha / self.rank) * jnp.concatenate([product(pair) for pair in pairs], -1)
            params[path] += change.astype(params[path].dtype)
        return {**{k: v for k, v in others(variables).items() if k != BASE}, "params": unflatten_dict(params)}

    def sum(self, kernel: Array, pairs: list[dict[str, Array]]) -> Sum:
        """A dense kernel, or a stack of them, with all of its pairs: each part's `up` stands in its own columns."""
        widths, at, rows = [pair["up"].shape[-1] for pair in pairs], 0, []
        for pair, width in zip(pairs, widths, strict=True):
            sides = [(0, 0)] * (pair["up"].ndim - 1) + [(at, sum(widths) - at - width)]
            rows.append(jnp.pad(pair["up"], sides))
            at += width
        up = (self.alpha / self.rank) * jnp.concatenate(rows, -2)
        return Sum(kernel, jnp.concatenate([pair["down"] for pair in pairs], -1), up)

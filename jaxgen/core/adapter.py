"""Adapters: what is trained instead of a net's own kernels, which are those of a lent run and never change."""

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.core.lender import Lender
from jaxgen.core.ranges import Count, Positive
from jaxgen.core.state import BASE, Array, PyTree, Variables, others
from jaxgen.errors import UserError

Path = tuple[str, ...]


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

    def on(self, variables: Variables) -> Variables:
        """The variables of the net: the base's with what is added. A UserError for a base of other shapes."""
        if BASE not in variables:
            raise UserError(
                "method.net.adapter: nobody lends this net its base; adapters are for diffusion, whose runs lend none"
            )
        params = flatten_dict(variables[BASE])
        for path, pairs in self.pairs(variables["params"]):
            product = lambda pair: jnp.matmul(pair["down"], pair["up"], precision="highest")  # noqa: E731
            change = (self.alpha / self.rank) * jnp.concatenate([product(pair) for pair in pairs], -1)
            there = params[path].shape if path in params else None
            if there != change.shape:
                raise UserError(
                    f"method.net.adapter.run is no base of this net: {'/'.join(path)} is {there} there and {change.shape} here; "
                    "give both the same method.net"
                )
            params[path] += change.astype(params[path].dtype)
        return {**{k: v for k, v in others(variables).items() if k != BASE}, "params": unflatten_dict(params)}

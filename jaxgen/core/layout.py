"""Many small arrays as a few long vectors: what an optimizer does number by number is a few kernels then, not hundreds."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.state import Array, NetState, PyTree, path_name

LARGE = 1 << 13  # numbers in a leaf that is worth kernels of its own: moving it costs more than they do
# a param's path -> what it shares with all that are treated as it is; None: it stays alone
Alike = Callable[[str], Hashable]


def _masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)  # stands for a leaf that a part of an optimizer does not see


@dataclass(frozen=True)
class Layout:
    """Which params lie one after the other in which vector.

    A joined tree is a dict: the path of a group's first leaf -> its vector, so that a regex over paths says of the vector
    what it says of all its leaves.
    """

    structure: Any  # the params' PyTreeDef
    shapes: tuple[tuple[int, ...], ...]  # of the leaves
    groups: tuple[tuple[str, tuple[int, ...]], ...]  # path of the first leaf, positions of all

    @staticmethod
    def of(params: PyTree, alike: Alike) -> "Layout":
        """Leaves of one dtype that are `alike` are joined, whatever their shapes, but for large ones, whose copies would cost."""
        groups: dict[Hashable, list[int]] = {}
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        names = [path_name(path) for path, _ in paths]
        for i, (name, (_, leaf)) in enumerate(zip(names, paths, strict=True)):
            kind = alike(name) if leaf.size <= LARGE else None
            groups.setdefault(("alone", i) if kind is None else (kind, leaf.dtype), []).append(i)
        shapes = tuple(leaf.shape for _, leaf in paths)
        return Layout(structure, shapes, tuple((names[found[0]], tuple(found)) for found in groups.values()))

    def join(self, tree: PyTree) -> dict[str, Array]:
        """A tree of the params' structure -> its vectors."""
        leaves = jax.tree.leaves(tree, is_leaf=_masked)

        def joined(found: tuple[int, ...]) -> Any:
            parts = [leaves[i] for i in found]
            if len(parts) == 1 or _masked(parts[0]):
                return parts[0]
            return jnp.concatenate([part.reshape(-1) for part in parts])

        return {name: joined(found) for name, found in self.groups}

    def split(self, joined: dict[str, Array]) -> PyTree:
        """The inverse."""
        leaves: list[Any] = [None] * len(self.shapes)
        for name, found in self.groups:
            vector, at = joined[name], 0
            for i in found:
                if len(found) == 1 or _masked(vector):
                    leaves[i] = vector
                    continue
                start, at = at, at + math.prod(self.shapes[i])
                leaves[i] = jax.lax.slice(vector, (start,), (at,)).reshape(self.shapes[i])
        return jax.tree.unflatten(self.structure, leaves)

    def joined(self, net: NetState) -> NetState:
        """Params, averages and all parts of the optimizer's state that follow the params, joined."""

        def fits(node: Any) -> bool:
            return jax.tree.structure(node, is_leaf=_masked) == self.structure

        return _changed(net, None, lambda x: self.join(x) if fits(x) else x, fits)

    def apart(self, net: NetState) -> NetState:
        """The inverse; the net knows its layout then."""
        names = {name for name, _ in self.groups}

        def fits(node: Any) -> bool:
            return isinstance(node, dict) and node.keys() == names

        return _changed(net, self, lambda x: self.split(x) if fits(x) else x, fits)


def _changed(net: NetState, layout: Layout | None, change: Callable, fits: Callable[[Any], bool]) -> NetState:
    params, opt, ema = jax.tree.map(change, (net.params, net.opt, net.ema), is_leaf=fits)
    return net.replace(params=params, opt=opt, ema=ema, layout=layout)

"""PyTorch's tensor layouts <-> ours, and state dicts -> variables with every tensor accounted for.

Convolutions OIHW <-> HWIO, linear [out, in] <-> [in, out]; several of their tensors may be one of ours (q, k, v), side by
side along the last axis.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen.core.spec import Spec
from jaxgen.errors import UserError
from jaxgen.pretrained.torch_files import let_go

Path = tuple[str, ...]  # ("params", "block0", "qkv", "kernel")
Tensors = dict[str, np.ndarray]


def ours(leaf: str, tensors: Sequence[np.ndarray]) -> np.ndarray:
    """Tensors in torch's layout -> our parameter."""
    if leaf == "kernel":
        tensors = [a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T for a in tensors]
    return np.asarray(np.concatenate(tensors, -1) if len(tensors) > 1 else tensors[0], order="C")


def theirs(leaf: str, value: np.ndarray, parts: int = 1) -> list[np.ndarray]:
    """Our parameter -> tensors in torch's layout."""
    tensors = np.split(value, parts, -1) if parts > 1 else [value]
    if leaf == "kernel":
        tensors = [a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T for a in tensors]
    return [np.asarray(a, order="C") for a in tensors]


def suffix(leaf: str) -> str:
    """Our leaf -> the last part of torch's name."""
    return "bias" if leaf == "bias" else "weight"


_PUT: ContextVar[Callable[[Path, np.ndarray], Any] | None] = ContextVar("put", default=None)


@contextmanager
def placing(put: Callable[[Path, np.ndarray], Any]) -> Iterator[None]:
    """While weights are read: what becomes of every parameter, as it is stored, one after the other; else float32 on the host."""
    before = _PUT.set(put)
    try:
        yield
    finally:
        _PUT.reset(before)


def onto(place: jax.sharding.Sharding, value: np.ndarray, dtype: Any) -> jax.Array:
    """A parameter in that type on its devices; nothing of it stays on the host."""
    value = np.asarray(value, dtype)
    return jax.make_array_from_callback(value.shape, place, lambda index: np.array(value[index]))


def fill(
    what: str, shapes: Any, tensors: Mapping[str, np.ndarray], names: Callable[[Path], Sequence[str]], convert: Callable
) -> dict[str, Any]:
    """Variables of the tree `shapes`: at each path `convert(path, the tensors called names(path))`, float32 or as `placing` says.

    Raises UserError, beginning with `what`, for a tensor that is missing, misshapen or left over.
    """
    rest, wanted, put = dict(tensors), flatten_dict(shapes), _PUT.get()
    for name in (name for path in wanted for name in names(path)):
        if name not in rest:
            raise UserError(f"{what}: the weights lack tensor {name}; are the fields of the net the right ones?")

    def leaf(path: Path, want: Any) -> np.ndarray:
        parts = [rest.pop(name) for name in names(path)]
        value = convert(path, [np.asarray(part, None if put else np.float32) for part in parts])
        if value.shape != want.shape:
            raise UserError(f"{what}: {'.'.join(path)} has shape {value.shape}, want {want.shape}")
        placed = put(path, value) if put else value
        for part in parts:
            let_go(part)
        return placed

    # the largest first, while there is little else in memory
    placed = {path: leaf(path, wanted[path]) for path in sorted(wanted, key=lambda path: -wanted[path].size)}
    if rest:
        raise UserError(f"{what}: {len(rest)} tensors have no place, the first is {min(rest)}")
    return unflatten_dict({path: placed[path] for path in wanted})


def only_label(conditions: Spec, what: str) -> int:
    """The classes of a net that is told "label" or nothing (0); a UserError for one that is told more, which `what` is not."""
    if set(conditions) - {"label"}:
        raise UserError(f"{what}: it is told nothing but a label, and this net: {conditions}")
    return conditions.classes

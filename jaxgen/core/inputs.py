"""A part of a method as an input of a program: its numbers may change, and the program stays.

A part (a guide, a solver's table) lists in `inputs` those of its fields that are numbers or arrays; whatever else it is, is
compiled in. One that lists none is compiled in as a whole.
"""

import copy
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxgen.core.state import PyTree


def holding(part: Any, values: dict[str, Any]) -> Any:
    """A copy of a part with other fields. Nothing is checked, as they may be traced."""
    other = copy.copy(part)
    for name, value in values.items():
        object.__setattr__(other, name, value)
    return other


@dataclass(frozen=True)
class Rest:
    """A part without its numbers. Equality tells it from others: a part of somebody's own may have no hash."""

    part: Any

    def __hash__(self) -> int:
        return hash(type(self.part))


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Input:
    """A part as a pytree: its `inputs` are the leaves, a row of numbers one of them."""

    part: Any

    def tree_flatten(self) -> tuple[tuple[PyTree], Rest]:
        """((its numbers by name), the part without them)."""
        names = getattr(self.part, "inputs", ())
        rows = lambda v: isinstance(v, list | tuple)  # noqa: E731
        numbers = {k: getattr(self.part, k) for k in names}
        numbers = jax.tree.map(lambda v: np.asarray(v) if rows(v) else v, numbers, is_leaf=rows)
        return (numbers,), Rest(holding(self.part, dict.fromkeys(names)))

    @classmethod
    def tree_unflatten(cls, rest: Rest, numbers: tuple[PyTree]) -> "Input":
        """The part with these numbers."""
        return cls(holding(rest.part, numbers[0]))

"""Frozen models: the trained weights of another run or a pretrained net, used by a method, a task or a measure.

A borrower says by a `Role` what it needs, a `Lender` lends. What is lent is a `Frozen` in `state.frozen`: an input of every
program, sharded by the run's rules, of its own dtype, left alone by training and never saved.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from flax import struct

from jaxgen.core.spec import Spec
from jaxgen.errors import UserError


@struct.dataclass
class Frozen:
    """Weights with the model that they belong to: a Method, or a function (weights, *args) -> result, called as frozen(*args)."""

    weights: Any
    model: Any = struct.field(pytree_node=False)

    def __call__(self, *args: Any) -> Any:
        """The model on its weights."""
        return self.model(self.weights, *args)


@dataclass(frozen=True)
class Role:
    """What a borrower needs of a lender."""

    needs: Any  # a capability of core.method, or the class of a method
    what: str  # the same in words
    target: bool = True  # it must have learned pictures of the run's shape
    conditions: bool = False  # it must be told what the run is told
    alike: tuple[str, ...] = ()  # parts of its method that must equal the borrower's

    def refuse(self, name: str, owner: str, model: Any, spec: Spec, mine: Spec, borrower: Any) -> None:
        """A UserError unless `model` of a lender with `spec` can serve; `name` is the config key, `owner` names the lender."""
        if not isinstance(model, self.needs):
            raise UserError(
                f"{name}.path names a run of method {type(model).__name__}, which is no {self.what}; name another"
            )
        if self.target and spec.shape != mine.shape:
            raise UserError(f"{name}.path={owner} is a run of images {spec.shape}, not {mine.shape}; name another")
        if self.conditions:
            if (had := spec.conditions.unnamed()) != (wanted := mine.conditions.unnamed()):
                facts = f"is told {str(had) or 'nothing'} and this run {str(wanted) or 'nothing'}"
                raise UserError(f"{name}.path={owner} {facts}; name another, or set data.labels={bool(had)}")
            for key, field in mine.conditions.items():
                for i, (theirs, own) in enumerate(zip(spec[key].names, field.names, strict=False)):
                    if theirs != own:
                        raise UserError(
                            f"{name}.path={owner} knows {key} {i} as {theirs!r} and this run as {own!r}; name another"
                        )
        for part in self.alike:
            theirs, own = getattr(model, part), getattr(borrower, part)
            if theirs != own:
                raise UserError(
                    f"{name}.path names a run with method.{part} {theirs}, and this run has {own}; let them agree"
                )


class Lender(Protocol):
    """Where a frozen model comes from. Nothing is read from the disk inside a trace."""

    @property
    def abstract(self) -> Frozen:
        """Shapes and dtypes of what it lends, with the model."""

    def load(self, places: Any) -> Frozen:
        """What it lends, on the shardings of `places`, a tree like `abstract`."""

    def check(self, name: str, role: Role, spec: Spec, borrower: Any) -> None:
        """A UserError unless it is there and can serve in that role; `name` is the config key that holds it."""

    def copy_to(self, folder: Path) -> None:
        """What is needed of it, copied into a folder that is made."""

    def kept_in(self, folder: Path) -> "Lender":
        """Its copy in that folder, where there is one."""


class Loan(NamedTuple):
    """A lender, the role in which it serves, and the config key that holds it, where that is not its name in the method."""

    lender: Lender
    role: Role
    key: str = ""


def weights_hash(variables: Any) -> str:
    """SHA-256 over the names, types, shapes and numbers of a tree of arrays, in the order of the names: 64 digits.

    The same for equal numbers under equal names, whatever their order, container, device and layout in memory.
    """
    leaves = {
        jax.tree_util.keystr(k, simple=True, separator="/"): v
        for k, v in jax.tree_util.tree_leaves_with_path(variables)
    }
    digest = hashlib.sha256()
    for name in sorted(leaves):
        value = np.asarray(leaves[name])
        digest.update(f"{name} {value.dtype.name} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()

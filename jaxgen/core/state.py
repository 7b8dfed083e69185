"""The state of a run as one value with named parts. Only `Net` and methods write it; the trainer moves it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxgen.core.lender import Frozen
from jaxgen.errors import UserError

Array = jax.Array
PyTree = Any
BASE = "base"  # of what an adapter (core/adapter.py) is added to: the loan, and the collection of it that a net sees
Variables = dict[str, PyTree]  # {"params": ..., "batch_stats": ..., "codebook": ...}, as linen's apply takes them


@struct.dataclass
class NetState:
    """One network: what is trained, how, what it carries along, and its averages."""

    params: PyTree  # trained by gradients
    opt: PyTree  # optimizer state
    vars: Variables  # every other linen collection: batch_stats, codebook, spectral-norm u, ...
    ema: dict[str, PyTree]  # label -> averaged params; {} when the net is not averaged
    default: str = struct.field(pytree_node=False, default="")  # label of the average used where none is named
    layout: Any = struct.field(pytree_node=False, default=None)  # inside a step: the Layout in which its update works

    def variables(self, ema: bool | str) -> Variables:
        """What `module.apply` takes: raw, or the average of that label, or (True, or no such label) the default one."""
        label = ema if ema in self.ema else self.default
        params = self.ema[label] if ema and self.ema else self.params
        # cut out of the vectors once: cut in every kernel that reads them, no two kernels would be the same
        if self.layout:
            params = jax.lax.optimization_barrier(params)
        return {"params": params, **self.vars}

    def started(self, variables: Variables) -> "NetState":
        """The net with these variables, from where its averages begin too; copies, as a step gives its buffers away."""
        copied = jax.tree.map(jnp.copy, variables)
        ema = {label: jax.tree.map(jnp.copy, copied["params"]) for label in self.ema}
        return self.replace(params=copied["params"], vars=others(copied), ema=ema)


@struct.dataclass
class Weights:
    """TrainState without optimizers: all that losses, samplers and evaluators may see."""

    step: Array
    nets: dict[str, Variables]
    frozen: dict[str, Frozen]
    extra: dict[str, PyTree]

    def training(self, net: str, params: PyTree) -> "Weights":
        """The same with other params of one net: those by which a loss is differentiated."""
        return self.replace(nets={**self.nets, net: {**self.nets[net], "params": params}})


@struct.dataclass
class TrainState:
    """Everything a run must remember, and nothing else."""

    step: Array  # int32 []; the only clock
    nets: dict[str, NetState]
    frozen: dict[str, Frozen] = struct.field(default_factory=dict)  # lent models: inputs of the step, never saved
    extra: dict[str, PyTree] = struct.field(default_factory=dict)  # what a method must remember between steps

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all averages that are kept, defaults first."""
        nets = [net for net in self.nets.values() if net.ema]
        return tuple(dict.fromkeys([*(net.default for net in nets), *(label for net in nets for label in net.ema)]))

    def view(self, ema: bool | str = False) -> Weights:
        """The state as losses and samplers see it: raw weights, the default averages (True), or those of one label.

        A net without that label gives its default average; a label that no net has is a UserError.
        """
        if isinstance(ema, str) and ema not in self.labels:
            raise UserError(f"there is no average {ema!r}; the run keeps: {', '.join(self.labels) or 'none'}")
        nets = {name: net.variables(ema) for name, net in self.nets.items()}
        if base := self.frozen.get(BASE):
            nets |= {name: {**nets[name], BASE: net["params"]} for name, net in base.weights.nets.items()}
        return Weights(self.step, nets, self.frozen, self.extra)


def others(variables: Variables) -> Variables:
    """A net's collections that no gradient trains."""
    return {k: v for k, v in variables.items() if k != "params"}


def path_name(path: tuple) -> str:
    """A tree path as the text that sharding rules and messages use: `nets/gen/params/Dense_0/kernel`."""
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def adopt(fresh: PyTree, old: PyTree) -> tuple[PyTree, list[str]]:
    """Carry a state, or variables by net, into a changed model: the next phase of a run, or another run.

    Every leaf of `fresh` that has a leaf of the same path, shape and dtype in `old` takes its value; the rest stay
    fresh. Returns the tree and the names of the leaves that stayed fresh.
    """
    known = {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(old)}
    stayed: list[str] = []

    def take(path: tuple, leaf: Array) -> Array:
        other = known.get(path_name(path))
        if other is not None and other.shape == leaf.shape and other.dtype == leaf.dtype:
            return other
        stayed.append(path_name(path))
        return leaf

    return jax.tree_util.tree_map_with_path(take, fresh), stayed


def renewed(fresh: TrainState, adopted: TrainState, stayed: list[str]) -> tuple[TrainState, list[str]]:
    """An adopted state where the optimizers of nets with new params begin anew, and those nets' names.

    Adam counts the steps of all params together: with an old count the first step of a new one would not be corrected for
    moments that begin at zero, and be up to 1 / sqrt(1 - b2) times the rate.
    """
    grown = [name for name in sorted(adopted.nets) if any(path.startswith(f"nets/{name}/params/") for path in stayed)]
    nets = {k: net.replace(opt=fresh.nets[k].opt) if k in grown else net for k, net in adopted.nets.items()}
    return adopted.replace(nets=nets), grown

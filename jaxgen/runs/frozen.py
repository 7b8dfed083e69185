"""Frozen runs: the trained weights of another run, lent to a method or a task: a teacher, a weaker model, a judge, a codec."""

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import jax
from ml_collections import ConfigDict

from jaxgen.config import files as configs
from jaxgen.core.given import FilePath
from jaxgen.core.lender import Frozen, Role
from jaxgen.core.method import Method
from jaxgen.core.net import std_of
from jaxgen.core.ranges import Range
from jaxgen.core.spec import Spec
from jaxgen.core.state import TrainState, Weights, adopt
from jaxgen.errors import UserError
from jaxgen.runs.checkpoint import Averages, Checkpoints
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import build_method, method_spec, taught
from jaxgen.runs.posthoc import choose


@dataclass(frozen=True)
class FrozenRun:
    """A run directory as a part of another run. It lends its nets and `extra`, not what was lent to it."""

    path: FilePath = ""
    step: Annotated[int, Range(least=-1)] = -1  # the checkpoint; -1: the newest
    weights: str = "ema"  # raw, ema (the default average), the label of one that is kept, stdX to reconstruct one

    @cached_property
    def at(self) -> int:
        """The step of the checkpoint that is lent; -1 when there is none yet."""
        steps = Checkpoints(self.path, read_only=True).steps()
        if self.step >= 0 and self.step not in steps:
            raise UserError(f"there is no checkpoint of step {self.step} in {self.path}; there are: {steps}")
        return self.step if self.step >= 0 else max(steps, default=-1)

    @cached_property
    def config(self) -> ConfigDict:
        """How that checkpoint was trained."""
        stages = configs.phases(RunDir(self.path).config())
        return taught(stages[configs.owner(stages, self.at)].config if self.at >= 0 else stages[-1].config)

    @cached_property
    def spec(self) -> Spec:
        """Of the batches that its method saw."""
        run = RunDir(self.path)
        return method_spec(self.config, run.spec(self.at), run.path / "frozen")

    @cached_property
    def method(self) -> Method:
        """Its method, to call with the weights that `load` gives."""
        return build_method(self.config, self.spec, RunDir(self.path).path / "frozen")

    @cached_property
    def state(self) -> TrainState:
        """Shapes and dtypes of all that it saved."""
        return jax.eval_shape(self.method.init, jax.random.key(0), self.spec.abstract(self.config.data.batch))

    @property
    def latents(self) -> dict[str, Any]:
        """What `latent_statistics` measured of the latents of that checkpoint with these weights; {} where nobody did."""
        weights = choose(self.state, self.weights, Averages(self.path, read_only=True)).name
        return RunDir(self.path).noted(self.at, f"latents-{weights}")

    @property
    def abstract(self) -> Frozen:
        """Shapes and dtypes of what it lends: every average has those of the weights."""
        kept = {"raw": False, "ema": True}.get(self.weights, self.weights)
        return Frozen(self.state.view(False if std_of(self.weights) else kept), self.method)

    def load(self, places: Frozen) -> Frozen:
        """What it lends, on those shardings."""
        whole = jax.sharding.NamedSharding(jax.tree.leaves(places)[0].mesh, jax.sharding.PartitionSpec())
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), self.state)
        _, state = Checkpoints(self.path, read_only=True).trained(lambda _: like, self.at)
        chosen = choose(state, self.weights, Averages(self.path, read_only=True)).weights()
        return Frozen(jax.device_put(chosen, places.weights), self.method)

    def refuse_absent(self, key: str) -> None:
        """A UserError unless a run is there; `key` names its directory."""
        if not (RunDir(self.path).path / "config.json").is_file():
            raise UserError(f"{key}={self.path} holds no run (no config.json); train it first or name another")

    def check(self, name: str, role: Role, spec: Spec, borrower: Any) -> None:
        """A UserError unless it is there and can serve in that role; `name` is the key that holds it."""
        if not self.path:
            raise UserError(f"{name}.path is empty: name the directory of a trained run ({name}.path=DIR)")
        self.refuse_absent(f"{name}.path")
        role.refuse(name, self.path, self.method, self.spec, spec, borrower)
        known = RunDir(self.path).spec(self.at)  # also labels that its method was not told
        for key, field in spec.conditions.items():
            theirs = known[key].names if key in known else ()
            if theirs != field.names and sorted(theirs) == sorted(field.names):
                i = next(i for i, (one, other) in enumerate(zip(theirs, field.names, strict=True)) if one != other)
                raise UserError(
                    f"{name}.path={self.path} was trained on data whose {key} {i} is {theirs[i]!r}, and in these it is "
                    f"{field.names[i]!r}: one of them was numbered anew; train both on the same data"
                )

    def copy_to(self, folder: Path) -> None:
        """The checkpoint that is lent, with what it is read by."""
        own = RunDir(self.path).path
        shutil.copytree(own / "checkpoints" / str(self.at), folder / "checkpoints" / str(self.at))
        for file in ("config.json", "run.json"):
            shutil.copy(own / file, folder / file)
        if (own / "frozen").is_dir():
            shutil.copytree(own / "frozen", folder / "frozen")

    def kept_in(self, folder: Path) -> "FrozenRun":
        """Its copy in that folder, where there is one."""
        return replace(self, path=str(folder)) if folder.is_dir() else self


def take(state: TrainState, lent: Weights) -> tuple[TrainState, list[str]]:
    """A fresh state whose nets start from lent weights, by path and shape -> (state, names of the variables that stayed fresh)."""
    fresh = {name: net.variables(False) for name, net in state.nets.items()}
    adopted, stayed = adopt(fresh, lent.nets)
    if len(stayed) == (num := len(jax.tree.leaves(fresh))):
        raise UserError(
            f"config.init: none of the {num} variables has the path and shape of one there; name another run"
        )
    return state.replace(nets={name: net.started(adopted[name]) for name, net in state.nets.items()}), stayed

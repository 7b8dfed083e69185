"""A trained run, opened: `jaxgen.open("runs/digits")`. Config and Spec are those of the checkpoint's own phase."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.config import files as configs
from jaxgen.core.conditions import prepare, refuse_unknown
from jaxgen.core.ranges import refuse_seed
from jaxgen.core.state import TrainState
from jaxgen.errors import UserError
from jaxgen.images import to_uint8
from jaxgen.runs.checkpoint import Averages, Checkpoints
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment, Made
from jaxgen.runs.posthoc import Choice, choose


@dataclass(frozen=True)
class Trained:
    """A checkpoint of a run, with all that is needed to sample and to measure it."""

    run: RunDir
    exp: Experiment
    at: int  # the step
    state: TrainState

    def __repr__(self) -> str:
        return f"Trained({str(self.run.path)!r}, step {self.at}: {self.exp.config.method.name} of {self.exp.spec})"

    @staticmethod
    def open(workdir: str | Path, step: int = -1, changes: Mapping[str, Any] | None = None) -> "Trained":
        """The newest checkpoint (or that of `step`). `changes` to the config ({"method.solver.steps": 20}) hold here only."""
        run = RunDir(workdir)
        config = run.changed(changes or {})
        stages = configs.phases(config)

        @functools.cache
        def experiment(at: int) -> Experiment:
            return Experiment.open(stages[configs.owner(stages, at)].config, run.spec(at), run.path / "frozen")

        at, state = Checkpoints(run.path, read_only=True).trained(lambda at: experiment(at).abstract, step)
        return Trained(run, experiment(at), at, experiment(at).lend(state))

    def choose(self, names: Iterable[str]) -> list[Choice]:
        """Weights by name, all of them looked up: ema, raw, the label of an average, or stdX for one to reconstruct."""
        averages = Averages(self.run.path, read_only=True)
        return [choose(self.state, name, averages) for name in names]

    def asked(self, labels: int | Iterable[int] = (), **values: Any) -> dict[str, np.ndarray]:
        """What samples are asked to show, as arrays [n, ...]. Conditions that the run does not know are a UserError."""
        spec = self.exp.spec
        refuse_unknown(spec, values, f"--workdir={self.run.path}")
        if labels := (labels,) if isinstance(labels, int) else tuple(labels):
            if not spec.label:
                raise UserError(
                    f"--labels was given but {self.run.path} is told no labels; train with data.labels=True"
                )
            if spec.label in values:
                raise UserError(f"both --labels and {spec.label} were given; leave one of them out")
            values = {spec.label: labels, **values}
        return {name: self._as_condition(name, value) for name, value in values.items()}

    def _as_condition(self, name: str, value: Any) -> np.ndarray:
        """A value or a list of values of a condition -> [n, *shape]; what does not fit is a UserError."""
        field = self.exp.spec[name]
        found = np.asarray(value)
        one = found.shape == field.shape
        if found.dtype.kind not in "biuf" or not (one or found.shape[1:] == field.shape):
            raise UserError(
                f"{name} must be one {field.kind} of shape {field.shape} or [N, ...] of them, not {found.shape}"
            )
        if field.kind in ("image", "frames"):
            found = np.asarray(prepare(self.exp.spec, name, found))  # uint8 levels and floats in [-1, 1] alike
        found = found.astype(field.dtype).reshape(-1, *field.shape)
        if field.kind == "label" and (wrong := [int(v) for v in found if not 0 <= v < field.values]):
            raise UserError(
                f"--labels={wrong[0]} is out of range; the labels are 0 to {field.values - 1}: {', '.join(field.names)}"
            )
        return found

    def make(self, num: int, asked: Mapping[str, Any], seed: int, choice: Choice) -> Made:
        """`num` samples with what was asked of each."""
        if num < 1:
            raise UserError(f"--num={num} must be at least 1")
        refuse_seed(seed)
        w = choice.weights()
        with self.exp.explaining({choice.name: w, "raw": self.state.view()}):
            self.exp.refuse_broken(w)
            made = self.exp.sample(w, num, seed, asked)
        return made._replace(images=to_uint8(made.images))

    def sample(
        self, num: int = 16, labels: int | Iterable[int] = (), seed: int = 0, weights: str = "ema", **conditions: Any
    ) -> np.ndarray:
        """uint8 [num, H, W, C]. `labels` (or other conditions by name, [n, ...]) repeat; without them all take turns."""
        (choice,) = self.choose([weights])
        return self.make(num, self.asked(labels, **conditions), seed, choice).images

"""A trained run, opened: `jaxgen.open("runs/digits")`. Config and Spec are those of the checkpoint's own phase."""

import functools
import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.config import files as configs
from jaxgen.config.registry import nearest
from jaxgen.core.conditions import prepare, refuse_unknown
from jaxgen.core.ranges import refuse_seed
from jaxgen.core.spec import Field
from jaxgen.core.state import TrainState
from jaxgen.data.sources.source import warn_once
from jaxgen.errors import UserError
from jaxgen.images import to_uint8
from jaxgen.runs.checkpoint import Averages, Checkpoints
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment, Made, in_rows, without_states
from jaxgen.runs.posthoc import Choice, choose

Labels = (
    int | str | Iterable[int | str]
)  # an int is a label's number; a text its name, or its number where no label has that name
Prompts = str | Iterable[str]


@dataclass(frozen=True)
class Trained:
    """A checkpoint of a run, with all that is needed to sample and to measure it."""

    run: RunDir
    exp: Experiment
    at: int  # the step
    state: TrainState
    changes: Mapping[str, Any] = field(default_factory=dict)  # to the run's config, by path
    opened: dict[str, "Trained"] = field(default_factory=dict, compare=False)  # the same with other changes

    def __repr__(self) -> str:
        return f"Trained({str(self.run.path)!r}, step {self.at}: {self.exp.config.method.name} of {self.exp.spec})"

    @staticmethod
    def open(workdir: str | Path, step: int = -1, changes: Mapping[str, Any] | None = None) -> "Trained":
        """The newest checkpoint (or that of `step`). `changes` to the config ({"method.solver.steps": 20}) hold here only."""
        run, changes = RunDir(workdir), dict(changes or {})
        run.changed(changes)  # what is wrong with these is said first
        experiment = functools.cache(lambda at: _experiment(run, at, changes))
        at, state = Checkpoints(run.path, read_only=True).trained(lambda at: experiment(at).abstract, step)
        return Trained(run, experiment(at), at, experiment(at).lend(state), changes)

    def changed(self, changes: Mapping[str, Any]) -> "Trained":
        """The same weights with (more) changes to the config: another solver, another guide. The last few are kept open."""
        if not changes:
            return self
        changes = {**self.changes, **changes}
        key = configs.to_json(self.run.changed(changes))
        other = self.opened.pop(key, None) or self._reopened(changes)
        self.opened[key] = other
        if len(self.opened) > 8:
            self.opened.pop(next(iter(self.opened)))
        return other

    def _reopened(self, changes: Mapping[str, Any]) -> "Trained":
        exp = _experiment(self.run, self.at, changes)
        if exp.mesh != self.exp.mesh:
            return Trained.open(self.run.path, self.at, changes)
        state = self.state if exp.loans == self.exp.loans else exp.lend(self.state)
        return replace(self, exp=exp, state=state, changes=changes)

    def stem(self, *made_by: str, evaluators: Collection[str] = ()) -> str:
        """`0003000_seed0_solver-ddim`: a file name without its end that tells step, what is said here and what was changed.

        Another setting has another name. Changes to evaluators other than `evaluators` make no difference.
        """
        own, told = self.run.config(), list(made_by)
        for path, value in sorted(self.changes.items()):
            value = configs.parse_value(value) if isinstance(value, str) else value
            section, _, rest = path.removesuffix(".name").partition(".")
            ignored = section == "eval" and rest.partition(".")[0] not in evaluators
            if not ignored and not configs.holds(own, path, value):
                key = path.removesuffix(".name").removeprefix("method.").removeprefix("eval.")
                told.append(f"{key}-{f'{value:g}' if isinstance(value, float) else value}")
        whole = "_".join([f"{self.at:07d}", *told])
        short = re.sub(r"[^\w.,+-]+", "", whole)[:120]
        return short if short == whole else f"{short}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    def choose(self, names: Iterable[str]) -> list[Choice]:
        """Weights by name, all of them looked up: ema, raw, the label of an average, or stdX for one to reconstruct."""
        averages = Averages(self.run.path, read_only=True)
        return [choose(self.state, name, averages) for name in names]

    def asked(self, labels: Labels = (), prompt: Prompts = (), **values: Any) -> dict[str, np.ndarray]:
        """What samples are asked to show, as arrays [n, ...]. Conditions that the run does not know are a UserError."""
        spec = self.exp.spec
        if prompts := texts(prompt):
            values |= self._tokens("--prompt", prompts)
        refuse_unknown(spec, values, f"--workdir={self.run.path}")
        if isinstance(labels, str):
            whole = spec.label and labels in spec[spec.label].names
            labels = (labels,) if whole else tuple(word.strip() for word in labels.split(",") if word.strip())
        if labels := (labels,) if isinstance(labels, int) else tuple(labels):
            if not spec.label:
                cure = "ask by --prompt=TEXT" if self.exp.tokenizer else "train with data.labels=True"
                raise UserError(f"--labels was given but {self.run.path} is told no labels; {cure}")
            if spec.label in values:
                raise UserError(f"both --labels and {spec.label} were given; leave one of them out")
            values = {spec.label: labels, **values}
        return {name: self._as_condition(name, value) for name, value in values.items()}

    def against(self, negative: str) -> dict[str, Any]:
        """Changes to the config that guide away from a text; {} for none."""
        if not negative:
            return {}
        tokens = {name: tuple(row.tolist()) for name, (row,) in self._tokens("--negative", [negative]).items()}
        return {"method.guide": "negative", "method.guide.avoid": tokens}

    def _tokens(self, asked: str, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """The conditions int32 [n, L] of what a flag asked for; what is cut off is told."""
        if not self.exp.tokenizer:
            cure = (
                "ask by --labels"
                if self.exp.spec.label
                else "train with config.data.tokenizer=bytes on data with captions"
            )
            raise UserError(f"{asked} was given but {self.run.path} is told no text; {cure}")
        tokenizers = self.exp.tokenizers
        for (i, tokenizer), text in itertools.product(enumerate(tokenizers), self.exp.words(prompts)):
            if cut := tokenizer.cut(text):
                more = f" (--config.data.tokenizer{f'.{i}' * (len(tokenizers) > 1)}.chunks={tokenizer.chunks + 1} keeps more)"
                length = tokenizer.chunks * tokenizer.length
                warn_once(
                    f"{asked} is longer than {length} tokens, and this is cut off: {cut!r}{more * self.exp.weighs}"
                )
        return self.exp.prompts(prompts)

    def _as_condition(self, name: str, value: Any) -> np.ndarray:
        """A value or a list of values of a condition -> [n, *shape]; what does not fit is a UserError."""
        field = self.exp.spec[name]
        if field.kind == "label" and not isinstance(value, np.ndarray):
            value = [_number(v, field) for v in ((value,) if isinstance(value, str | int) else value)]
        found = np.asarray(value)
        if found.ndim == 0 and field.shape == (1,):  # one number is one number
            found = found.reshape(1)
        one = found.shape == field.shape
        if found.dtype.kind not in "biuf" or not (one or found.shape[1:] == field.shape):
            raise UserError(
                f"{name} must be one {field.kind} of shape {field.shape} or [N, ...] of them, not {found.shape}"
            )
        if field.kind in ("image", "frames"):
            levels = field.dtype == "uint8"  # uint8 levels and floats in [-1, 1] alike, as the field is
            found = to_uint8(found) if levels else np.asarray(prepare(self.exp.spec, name, found))
        found = found.astype(field.dtype).reshape(-1, *field.shape)
        if field.kind == "label" and (wrong := [int(v) for v in found if not 0 <= v < field.values]):
            names = ", ".join(field.names[:10]) + (", ..." if len(field.names) > 10 else "")
            raise UserError(f"--labels={wrong[0]} is out of range; the labels are 0 to {field.values - 1}: {names}")
        return found

    def samples(self, num: int, asked: Mapping[str, Any], seed: int, choice: Choice) -> Iterator[Made]:
        """`num` samples (uint8) with what was asked of each, in batches."""
        if num < 1:
            raise UserError(f"--num={num} must be at least 1")
        refuse_seed(seed)
        return self._samples(num, asked, seed, choice)

    def _samples(self, num: int, asked: Mapping[str, Any], seed: int, choice: Choice) -> Iterator[Made]:
        w = choice.weights()
        with self.exp.explaining({choice.name: w, "raw": self.state.view()}):
            self.exp.refuse_broken(w)
            for made in self.exp.samples(w, num, seed, asked):
                yield made._replace(images=to_uint8(made.images))

    def sample(
        self,
        num: int = 16,
        labels: Labels = (),
        seed: int = 0,
        weights: str = "ema",
        changes: Mapping[str, Any] | None = None,
        prompt: Prompts = (),
        negative: str = "",
        **more: Any,
    ) -> np.ndarray:
        """uint8 [num, H, W, C], such as `run.sample(16, labels=["cat"], solver="ddim", steps=20)`.

        labels: names or numbers, repeated over the samples; without them all take turns. prompt: a text or several, likewise;
        without one the captions of held-out examples. negative: a text to be guided away from, in place of the empty one.
        weights: ema, raw, the label of an average, or stdX. more: other conditions of the run, [n, ...] each; or keys of its
        method, of solver, guide or restorer (solver, steps, eta, guide, scale, ...), which hold for this call, as do `changes`
        by path ({"method.solver.steps": 20}).
        """
        told = {k: more.pop(k) for k in tuple(more) if k in self.exp.spec.conditions}
        run = self.changed({**self.against(negative), **(changes or {}), **self._paths(more)})
        (choice,) = run.choose([weights])
        return np.concatenate(
            [made.images for made in run.samples(num, run.asked(labels, prompt, **told), seed, choice)]
        )

    def _paths(self, short: Mapping[str, Any]) -> dict[str, Any]:
        """{"solver": "ddim", "eta": 0} -> {"method.solver": "ddim", "method.solver.eta": 0}: keys of the method and its parts."""
        paths = {key: f"method.{key}" for key in short if key in self.exp.config.method}
        method = self.run.changed({**self.changes, **{path: short[k] for k, path in paths.items()}}).method
        parts = {name: list(method.get(name, {})) for name in ("solver", "guide", "restorer")}
        for key in short.keys() - paths.keys():
            places = [f"method.{name}.{key}" for name, known in parts.items() if key in known]
            if len(places) > 1:
                raise UserError(
                    f"{key} is a key of {' and of '.join(places)}; say which: changes={{{places[0]!r}: {short[key]!r}}}"
                )
            if not places:
                known = {*method, *itertools.chain(*parts.values()), "labels", "seed", "weights", "changes"} - {"name"}
                told = f"it is told: {', '.join(self.exp.spec.conditions) or 'nothing'}"
                raise UserError(
                    f"the run knows no condition {key!r}; {told}; nor is it a key of its method{nearest(key, known)}"
                )
            paths[key] = places[0]
        return {paths[key]: value for key, value in short.items()}


def _experiment(run: RunDir, at: int, changes: Mapping[str, Any]) -> Experiment:
    """Of the phase that made a checkpoint."""
    stages = configs.phases(run.changed(changes))
    config = without_states(stages[configs.owner(stages, at)].config)
    return Experiment.open(config, in_rows(config, run.spec(at)), run.path / "frozen")


def texts(prompt: Prompts) -> list[str]:
    """One text or several as a list."""
    return [prompt] if isinstance(prompt, str) else list(prompt)


def _number(label: Any, field: Field) -> Any:
    """The number of a label: a text is its name, or its number where no label is called so."""
    if not isinstance(label, str):
        return label
    if label in field.names:
        return field.names.index(label)
    if re.fullmatch(r"-?\d+", label):
        return int(label)
    raise UserError(f"--labels={label} is no label of this run{nearest(label, field.names)}")

"""Cascades: every run but the first enlarges what the one before it has made (Ho et al. 2021, arXiv:2106.15282)."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.core import keys
from jaxgen.core.task import Enlarges
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment
from jaxgen.runs.trained import Labels, Prompts, Trained

LEVEL = 0.1  # of noise on a small picture, for a run that has learned all levels


@dataclass(frozen=True)
class Cascade:
    """Runs in the order in which they work."""

    runs: tuple[Trained, ...]

    def __post_init__(self) -> None:
        """A UserError for a run that does not enlarge what the one before it makes."""
        for before, run in itertools.pairwise(self.runs):
            enlarger(run.exp, before.exp.pictures.shape, str(run.run.path))

    @staticmethod
    def open(paths: Iterable[str | Path], changes: Mapping[str, Any] | None = None) -> "Cascade":
        """Of run directories. Changes to tasks hold for each of them that has the task, others for none of them."""

        def changed(path: str | Path) -> dict[str, Any]:
            tasks = RunDir(path).config().get("tasks", {})
            return {k: v for k, v in (changes or {}).items() if k.startswith("tasks.") and k.split(".")[1] in tasks}

        return Cascade(tuple(Trained.open(path, changes=changed(path)) for path in paths))

    def against(self, negative: str) -> "Cascade":
        """With those that can be guided led away from a text; a UserError where none can."""
        guided = [bool(run.exp.tokenizer) and "null" in getattr(run.exp.method, "gives", ()) for run in self.runs]
        guided[-1] |= not any(guided)  # and says why it cannot
        away = (run.changed(run.against(negative)) if yes else run for run, yes in zip(self.runs, guided, strict=True))
        return Cascade(tuple(away))

    def sample(self, num: int, labels: Labels = (), prompt: Prompts = (), seed: int = 0) -> np.ndarray:
        """uint8 [num, H, W, C] of the last one."""
        made: np.ndarray | None = None
        for run in self.runs:
            small = {} if made is None else enlarging(run.exp, made, str(run.run.path), seed)
            made = run.sample(num, labels, seed, prompt=prompt, **small)
        return made


def enlarger(exp: Experiment, shape: Sequence[int], name: str) -> Enlarges:
    """The task of an experiment that is to enlarge pictures [..., h, w, C]; `name` is the run's, for messages.

    Errors: it enlarges nothing, or pictures of another size.
    """
    task = next((stage.task for stage in exp.stages if isinstance(stage.task, Enlarges)), None)
    if task is None:
        raise UserError(
            f"--cascade: {name} enlarges nothing; a run behind the first needs the task shrink, such as one of imagen_shapes_sr"
        )
    (*_, height, width, _), (*_, h, w, _) = exp.spec["small"].shape, shape
    if (height, width) != (h, w):
        raise UserError(
            f"--cascade: {name} enlarges {height}x{width}, and the run before it makes {h}x{w}; name a run of {h * task.factor}x"
            f"{w * task.factor} pictures with tasks.shrink.factor={task.factor}"
        )
    return task


def enlarging(exp: Experiment, pictures: np.ndarray, name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The conditions of an experiment that is to enlarge uint8 pictures [N, h, w, C], as `enlarger`."""
    task = enlarger(exp, pictures.shape, name)
    task = replace(task, noise=LEVEL) if task.noise is True else task
    return jax.device_get(task.told(to_float(np.asarray(pictures)), keys.named(keys.root(seed), "small")))

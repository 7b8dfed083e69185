"""Borrowed runs: the trained weights of another run, used frozen: a teacher, a weaker model, a judge.

A method holds a `Run` where it needs one and names it in `borrows()`; `Experiment` puts the weights into
`state.frozen`, where they are inputs of every program, are left alone by training and are never saved.
"""

from dataclasses import dataclass
from functools import cached_property

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.core import parallel
from jaxgen.runs.checkpoint import Averages, Checkpoints
from jaxgen.data.sources import Info
from jaxgen.errors import UserError
from jaxgen.runs.experiment import abstract_batch, build_method
from jaxgen.core.method import Method
from jaxgen.core.net import std_of
from jaxgen.runs.posthoc import choose
from jaxgen.runs.directory import RunDir
from jaxgen.core.state import TrainState, Weights


@dataclass(frozen=True)
class Run:
    """A run directory as a part of another run's method. It lends its nets and `extra`, not what it borrowed itself."""

    path: str = ""
    step: int = -1  # the checkpoint; -1: the newest
    weights: str = "ema"  # raw, ema (the default average), the label of one that is kept, stdX to reconstruct one

    @cached_property
    def config(self) -> ConfigDict:
        """How it was trained."""
        return RunDir(self.path).config()

    @cached_property
    def info(self) -> Info:
        """The facts of its data."""
        return RunDir(self.path).info()

    @property
    def classes(self) -> int:
        """Labels that it was told; 0: none."""
        return self.info.classes if self.config.data.labels else 0

    @cached_property
    def method(self) -> Method:
        """Its method, to call with the weights that `load` gives."""
        return build_method(self.config, self.info)

    @cached_property
    def state(self) -> TrainState:
        """Shapes and dtypes of all that it saved."""
        batch = abstract_batch(self.info, self.config.data.labels, self.config.data.batch)
        return jax.eval_shape(self.method.init, jax.random.key(0), batch)

    @property
    def abstract(self) -> Weights:
        """Shapes and dtypes of what it lends: every average has those of the weights."""
        kept = {"raw": False, "ema": True}.get(self.weights, self.weights)
        return self.state.view(False if std_of(self.weights) else kept)

    def load(self, mesh: Mesh) -> Weights:
        """What it lends, on every device of a mesh."""
        whole = parallel.replicated(mesh)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), self.state)
        _, state = Checkpoints(self.path, read_only=True).trained(like, self.step)
        return choose(state, self.weights, Averages(self.path, read_only=True)).weights()

    def check(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        """A UserError unless it is there and knows images and labels like these; `name` is the key that holds it."""
        if not self.path:
            raise UserError(
                f"{name}.path is empty: name the directory of a trained run ({name}=dict(name='run', path=DIR))"
            )
        if not (RunDir(self.path).path / "config.json").is_file():
            raise UserError(f"{name}.path={self.path} holds no run (no config.json); train it first or name another")
        if tuple(self.info.shape) != tuple(shape):
            sizes = f"images {tuple(self.info.shape)}, not {tuple(shape)}"
            raise UserError(f"{name}.path={self.path} is a run of {sizes}; name another")
        if self.classes != classes:
            had, wanted = (f"{n} labels" if n else "no labels" for n in (self.classes, classes))
            told = f"{name}.path={self.path} was trained with {had} and this run has {wanted}"
            raise UserError(f"{told}; name another or set data.labels")

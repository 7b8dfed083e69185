"""Reflow (Liu et al. 2023, arXiv:2209.03003, algorithm 1): a flow is trained anew on the pairs that its teacher makes.

    eps ~ N(0, I),  x_0 = where the teacher's flow takes eps;   L = E_t |u(x_t, t) - (eps - x_0)|^2,  x_t = (1 - t) x_0 + t eps

The paths of these pairs cross less than those of independent ones, so the student's own flow is straighter and needs
fewer steps. How straight it is, S = int E |(eps - x_0) - u(x_t, t)|^2 dt along its own paths (their section 2.2; per
pixel), is 0 where a single step of Euler's method is exact. Time runs from data to noise, against theirs.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.conditions import Cond
from jaxgen.core.lender import Frozen, Lender, Loan
from jaxgen.core.method import PerExample, start_from
from jaxgen.core.ranges import Count
from jaxgen.core.state import Array, TrainState, Weights
from jaxgen.core.task import Batch
from jaxgen.diffusion.paths import Linear
from jaxgen.diffusion.predict import Flow, Prediction
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.solvers.ode import Euler
from jaxgen.diffusion.solvers.table import Denoiser, Solver, x0_of
from jaxgen.methods.diffusion import TEACHER, Diffusion


@dataclass(frozen=True, kw_only=True)
class Reflow(Diffusion):
    """The student begins as the teacher; pairs are made in the step, by the teacher as it samples (its guide, its conditions)."""

    needs: ClassVar[tuple[str, ...]] = ("straight",)
    teacher: Lender
    process: Process = field(default_factory=Linear)
    predict: Prediction = field(default_factory=Flow)
    pairs: Solver = field(default_factory=lambda: Euler(steps=20, space="time"))  # of the teacher
    probes: Count = 16  # steps in which straightness is measured

    def loans(self) -> dict[str, Loan]:
        """The teacher, and the guide's second model."""
        return {**self.inherits(), **super().loans()}

    def inherits(self) -> dict[str, Loan]:
        """The teacher."""
        return {"teacher": Loan(self.teacher, TEACHER)}

    def inherit(self, state: TrainState, lent: dict[str, Frozen]) -> TrainState:
        """The student is a copy."""
        net = start_from(state.nets["net"], lent["teacher"].weights.nets["net"], "teacher")
        return state.replace(nets={**state.nets, "net": net})

    def couple(self, w: Weights, batch: Batch, t: Array, cond: Cond, rng: Array) -> tuple[Array, Array]:
        """(the teacher's image of a noise, that noise)."""
        noise, rest = jax.random.split(rng)
        eps, teacher = jax.random.normal(noise, self.target(batch).shape), w.frozen["teacher"]
        denoise = teacher.model.denoiser(teacher.weights, self.conditions(batch))
        return jax.lax.stop_gradient(self.pairs(denoise, self.process, eps, rest)), eps

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """The loss on the teacher's pairs, and the straightness of the student's paths from fresh noise."""
        eps = jax.random.normal(jax.random.fold_in(rng, 1), self.target(batch).shape)
        found = straightness(self.denoiser(w, self.conditions(batch)), eps, self.probes)
        return {**super().eval_step(w, batch, rng), "straightness": found}


def straightness(denoise: Denoiser, eps: Array, steps: int) -> Array:
    """[B] mean squared distance of the velocities along a path (1 - t) x_0 + t eps to the path's own mean velocity."""

    def step(x: Array, t: Array) -> tuple[Array, Array]:
        velocity = (x - x0_of(denoise(x, jnp.full(x.shape[:1], t)))) / t
        return x - velocity / steps, velocity

    x0, velocities = jax.lax.scan(step, eps, jnp.arange(steps, 0, -1) / steps)
    return jnp.mean((eps - x0 - velocities) ** 2, axis=(0, *range(2, velocities.ndim)))

"""Reflow (Liu et al. 2023, arXiv:2209.03003, algorithm 1): a flow is trained anew on the pairs that its teacher makes.

    eps ~ N(0, I),  x_0 = where the teacher's flow takes eps;   L = E_t |u(x_t, t) - (eps - x_0)|^2,  x_t = (1 - t) x_0 + t eps

The paths of these pairs cross less than those of independent ones, so the student's own flow is straighter and needs
fewer steps. How straight it is, S = int E |(eps - x_0) - u(x_t, t)|^2 dt along its own paths (their section 2.2; per
pixel), is 0 where a single step of Euler's method is exact. Time runs from data to noise, against theirs.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxgen.core.method import Batch, Borrowed, PerExample, start_from
from jaxgen.core.state import Array, TrainState, Weights
from jaxgen.diffusion.paths import Linear
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.solvers.chain import Solver
from jaxgen.diffusion.solvers.ode import Euler
from jaxgen.diffusion.solvers.table import Denoiser, image
from jaxgen.errors import UserError
from jaxgen.methods.diffusion import Diffusion


@dataclass(frozen=True, kw_only=True)
class Reflow(Diffusion):
    """The student begins as the teacher; pairs are made in the step, by the teacher as it samples (its guide, its labels)."""

    teacher: Borrowed
    process: Process = field(default_factory=Linear)
    pairs: Solver = field(default_factory=lambda: Euler(steps=20, space="time"))  # of the teacher
    probes: int = 16  # steps in which straightness is measured

    augment_labels = 0  # the teacher is not told

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.process, Linear):
            raise UserError(
                f"reflow straightens straight paths, and method.process is {type(self.process).__name__}; "
                "set method.process.name=linear, in the teacher's run too"
            )

    def borrows(self) -> dict[str, Borrowed]:
        """The teacher, and the guide's second model."""
        return {"teacher": self.teacher, **super().borrows()}

    def inherits(self) -> dict[str, Borrowed]:
        """The teacher."""
        return {"teacher": self.teacher}

    def inherit(self, state: TrainState, lent: dict[str, Weights]) -> TrainState:
        """The student is a copy."""
        net = start_from(state.nets["net"], lent["teacher"].nets["net"], "teacher")
        return state.replace(nets={**state.nets, "net": net})

    def couple(self, w: Weights, batch: Batch, t: Array, label: Array | None, rng: Array) -> tuple[Array, Array]:
        """(the teacher's image of a noise, that noise)."""
        noise, rest = jax.random.split(rng)
        eps = jax.random.normal(noise, batch["image"].shape)
        denoise = self.teacher.method.denoiser(w.frozen["teacher"], self.labels(batch))
        return jax.lax.stop_gradient(self.pairs(denoise, self.process, eps, rest)), eps

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """The loss on the teacher's pairs, and the straightness of the student's paths from fresh noise."""
        eps = jax.random.normal(jax.random.fold_in(rng, 1), batch["image"].shape)
        found = straightness(self.denoiser(w, self.labels(batch)), eps, self.probes)
        return {**super().eval_step(w, batch, rng), "straightness": found}


def straightness(denoise: Denoiser, eps: Array, steps: int) -> Array:
    """[B] mean squared distance of the velocities along a path (1 - t) x_0 + t eps to the path's own mean velocity."""

    def step(x: Array, t: Array) -> tuple[Array, Array]:
        velocity = (x - image(denoise(x, jnp.full(x.shape[:1], t)))) / t
        return x - velocity / steps, velocity

    x0, velocities = jax.lax.scan(step, eps, jnp.arange(steps, 0, -1) / steps)
    return jnp.mean((eps - x0 - velocities) ** 2, axis=(0, *range(2, velocities.ndim)))

"""Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512, algorithm 2): two DDIM steps of the teacher in one.

    z_t = alpha_t x + sigma_t eps;  DDIM from t over the middle t' to t'' with the teacher gives z_t'';
    x~ = (z_t'' - sigma_t''/sigma_t z_t) / (alpha_t'' - sigma_t''/sigma_t alpha_t);   L = w(lambda_t) |x~ - x_hat(z_t)|^2

x~ is the image for which one DDIM step from z_t ends in z_t''. The student begins as the teacher; at the end of a round
it is the next teacher, and the number of steps is halved.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.conditions import Cond
from jaxgen.core.lender import Frozen, Lender, Loan
from jaxgen.core.method import Metrics, start_from
from jaxgen.core.ranges import Count
from jaxgen.core.state import Array, PyTree, TrainState, Weights
from jaxgen.core.task import Batch
from jaxgen.diffusion.predict import Prediction, V
from jaxgen.diffusion.process import level_at
from jaxgen.diffusion.solvers.chain import Ddim
from jaxgen.diffusion.solvers.table import Denoiser, Solver
from jaxgen.methods.diffusion import TEACHER, Diffusion


@dataclass(frozen=True, kw_only=True)
class ProgressiveDistillation(Diffusion):
    """Sampled with DDIM in `last` steps. The teacher's run is read once: its weights, and later the student's, are in `extra`.

    Teacher and student are told the same conditions, null too, without guidance: the student can be guided. Few steps begin
    at t=1, where a prediction must give an image (Salimans & Ho 2022, section 4); it draws its own times.
    """

    needs: ClassVar[tuple[str, ...]] = ("start", "fixed", "uniform")
    teacher: Lender
    predict: Prediction = field(default_factory=V)
    solver: Solver = field(default_factory=lambda: Ddim(steps=4))
    last: Count = 4  # steps of the student in the last round; twice as many in the one before
    rounds: Count = 4  # halvings: the first teacher takes last * 2^rounds steps
    round_steps: Count = 1000  # training steps of each; the last round goes on to the end of the run

    @property
    def grid(self) -> np.ndarray:
        """float64 [last 2^rounds + 1] rising times of the first teacher; every 2^k-th is the grid of a student."""
        return self.process.grid(self.last * 2**self.rounds)[::-1]

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state, its own teacher until it inherits one."""
        state = super().init(rng, batch)
        return state.replace(extra={"teacher": state.view().nets["net"], "round": jnp.zeros((), jnp.int32)})

    def inherits(self) -> dict[str, Loan]:
        """The first teacher."""
        return {"teacher": Loan(self.teacher, TEACHER)}

    def inherit(self, state: TrainState, lent: dict[str, Frozen]) -> TrainState:
        """theta <- eta, and eta kept."""
        net = start_from(state.nets["net"], lent["teacher"].weights.nets["net"], "teacher")
        return state.replace(nets={"net": net}, extra={**state.extra, "teacher": copy_of(net.variables(False))})

    def promote(self, state: TrainState) -> TrainState:
        """eta <- theta (the average, where one is kept), theta <- eta, N <- N / 2; the optimizer forgets."""
        learnt = state.view(ema=True).nets["net"]
        net = start_from(state.nets["net"], learnt, "student")
        net = net.replace(opt=self.net.tx.init(net.params))
        return state.replace(nets={"net": net}, extra={"teacher": copy_of(learnt), "round": state.extra["round"] + 1})

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """One step of the round that is on; a new round begins when it is due."""
        due = jnp.minimum(state.step // self.round_steps, self.rounds - 1)
        state = jax.lax.cond(due > state.extra["round"], self.promote, lambda state: state, state)
        state, metrics = super().train_step(state, batch, rng)
        return state, {**metrics, "steps": self.last * 2.0 ** (self.rounds - 1 - state.extra["round"])}

    def when(self, w: Weights, rng: Array, num: int) -> tuple[Array, Array | float]:
        """t = i / N, i ~ Cat[1, ..., N], on the grid of this round; no factors."""
        stride = 2 ** (w.extra["round"] + 1)
        i = 1 + jnp.floor(jax.random.uniform(rng, (num,)) * ((len(self.grid) - 1) // stride)).astype(jnp.int32)
        return jnp.asarray(self.grid, jnp.float32)[i * stride], 1.0

    def couple(self, w: Weights, batch: Batch, t: Array, cond: Cond, rng: Array) -> tuple[Array, Array]:
        """(x~, the noise that z_t then holds)."""
        x0, grid = self.target(batch), jnp.asarray(self.grid, jnp.float32)
        at, half = jnp.searchsorted(grid, t), 2 ** w.extra["round"]
        level = level_at(self.process, t, x0)
        z = level.noised(x0, jax.random.normal(rng, x0.shape))
        model = self.unguided(w.extra["teacher"])
        aim = self.halved(lambda x, t: model(x, t, cond), z, t, grid[at - half], grid[at - 2 * half])
        aim = jax.lax.stop_gradient(aim)
        return aim, level.noise(z, aim)

    def halved(self, denoise: Denoiser, z: Array, t: Array, middle: Array, end: Array) -> Array:
        """x~: where one DDIM step from z at t must aim to end where two steps end."""
        start, half, whole = (level_at(self.process, v, z) for v in (t, middle, end))
        first = denoise(z, t)
        between = half.noised(first, start.noise(z, first))
        second = denoise(between, middle)
        after, ratio = whole.noised(second, half.noise(between, second)), whole.sigma / start.sigma
        return (after - ratio * z) / (whole.alpha - ratio * start.alpha)


def copy_of(tree: PyTree) -> PyTree:
    """Buffers of its own: a step gives its inputs away."""
    return jax.tree.map(jnp.copy, tree)

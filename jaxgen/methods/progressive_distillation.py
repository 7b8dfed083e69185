"""Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512, algorithm 2): two DDIM steps of the teacher in one.

    z_t = alpha_t x + sigma_t eps;  DDIM from t over the middle t' to t'' with the teacher gives z_t'';
    x~ = (z_t'' - sigma_t''/sigma_t z_t) / (alpha_t'' - sigma_t''/sigma_t alpha_t);   L = w(lambda_t) |x~ - x_hat(z_t)|^2

x~ is the image for which one DDIM step from z_t ends in z_t''. The student begins as the teacher; at the end of a round
it is the next teacher, and the number of steps is halved.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.method import Batch, Borrowed, Metrics, start_from
from jaxgen.core.state import Array, TrainState, Weights
from jaxgen.diffusion.predict import Eps
from jaxgen.diffusion.solvers.chain import Ddim, Solver
from jaxgen.diffusion.solvers.table import Denoiser
from jaxgen.diffusion.times import Uniform
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.methods.diffusion import Diffusion


@dataclass(frozen=True, kw_only=True)
class ProgressiveDistillation(Diffusion):
    """Sampled with DDIM in `last` steps. The teacher's run is read once: its weights, and later the student's, are in `extra`.

    Teacher and student are asked for the same labels, the null label too, without guidance: the student can be guided.
    """

    teacher: Borrowed
    solver: Solver = field(default_factory=lambda: Ddim(steps=4))
    last: int = 4  # steps of the student in the last round; twice as many in the one before
    rounds: int = 4  # halvings: the first teacher takes last * 2^rounds steps
    round_steps: int = 1000  # training steps of each; the last round goes on to the end of the run

    augment_labels = 0  # the teacher is not told

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("last", "rounds", "round_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"method.{name}={getattr(self, name)} must be at least 1")
        if isinstance(self.predict, Eps):
            raise UserError(
                "method.predict=eps says nothing about the image at t=1, where few steps must begin (Salimans & Ho 2022, "
                "section 4); train the teacher with method.predict=v and set it here too"
            )
        if self.variance == "learned" or not isinstance(self.times, Uniform):
            raise UserError(
                "progressive distillation draws its own times and has no variance to learn; set method.variance=fixed, "
                "method.objective=simple and method.times=uniform"
            )

    @property
    def grid(self) -> np.ndarray:
        """float64 [last 2^rounds + 1] rising times of the first teacher; every 2^k-th is the grid of a student."""
        return self.process.grid(self.last * 2**self.rounds)[::-1]

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state, its own teacher until it inherits one."""
        state = super().init(rng, batch)
        return state.replace(extra={"teacher": state.view().nets["net"], "round": jnp.zeros((), jnp.int32)})

    def inherits(self) -> dict[str, Borrowed]:
        """The first teacher."""
        return {"teacher": self.teacher}

    def inherit(self, state: TrainState, lent: dict[str, Weights]) -> TrainState:
        """theta <- eta, and eta kept."""
        net = start_from(state.nets["net"], lent["teacher"].nets["net"], "teacher")
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

    def when(self, w: Weights, rng: Array, num: int) -> Array:
        """t = i / N, i ~ Cat[1, ..., N], on the grid of this round."""
        stride = 2 ** (w.extra["round"] + 1)
        i = 1 + jnp.floor(jax.random.uniform(rng, (num,)) * ((len(self.grid) - 1) // stride)).astype(jnp.int32)
        return jnp.asarray(self.grid, jnp.float32)[i * stride]

    def couple(self, w: Weights, batch: Batch, t: Array, label: Array | None, rng: Array) -> tuple[Array, Array]:
        """(x~, the noise that z_t then holds)."""
        x0 = to_float(batch["image"])
        grid = jnp.asarray(self.grid, jnp.float32)
        at, half = jnp.searchsorted(grid, t), 2 ** w.extra["round"]
        a, s, *_ = self.level(t, x0)
        z = a * x0 + s * jax.random.normal(rng, x0.shape)
        model = self.model(w.extra["teacher"])
        told = self.halved(lambda x, t: model(x, t, label), z, t, grid[at - half], grid[at - 2 * half])
        told = jax.lax.stop_gradient(told)
        return told, (z - a * told) / s

    def halved(self, denoise: Denoiser, z: Array, t: Array, middle: Array, end: Array) -> Array:
        """x~: where one DDIM step from z at t must aim to end where two steps end."""
        (a, s), (a1, s1), (a2, s2) = (self.level(v, z)[:2] for v in (t, middle, end))
        first = denoise(z, t)
        z1 = a1 * first + s1 / s * (z - a * first)
        second = denoise(z1, middle)
        z2 = a2 * second + s2 / s1 * (z1 - a1 * second)
        return (z2 - s2 / s * z) / (a2 - s2 / s * a)


def copy_of(tree):
    """Buffers of its own: a step gives its inputs away."""
    return jax.tree.map(jnp.copy, tree)

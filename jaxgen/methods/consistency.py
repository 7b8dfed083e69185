"""Consistency models (Song et al. 2023, arXiv:2303.01469), improved training (Song & Dhariwal 2023, arXiv:2310.14189).

f(x, sigma) takes every point of a path of the probability flow to the path's beginning at sigma_1 = sigma_min:

    f = c_skip x + c_out F(c_in x, clock(sigma)),   c_in = 1 / sqrt(sigma^2 + d^2),   d = sigma_data,
    c_skip = d^2 / ((sigma - sigma_min)^2 + d^2),   c_out = d (sigma - sigma_min) / sqrt(sigma^2 + d^2),

so that f(x, sigma_min) = x whatever the net F says. Neighbours on a grid of N(k) levels at step k are made to agree,

    L = E w_n distance( f(x_0 + sigma_(n+1) z, sigma_(n+1)),  stop f(x_n, sigma_n) ),

where x_n is x_0 + sigma_n z (algorithm 3; algorithm 2 is in consistency_distillation). Improved training: distance
sqrt(|.|^2 + c^2) - c, w_n = 1 / (sigma_(n+1) - sigma_n), discretised log-normal sigma_n, N doubling from 10 to 1280, and
the net itself, not an average of it, after `stop`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.conditions import Cond
from jaxgen.core.inputs import Input
from jaxgen.core.method import Loss, LossMethod, Metrics
from jaxgen.core.ranges import BelowOne, Count, Positive, Range
from jaxgen.core.spec import RunLength
from jaxgen.core.state import Array, TrainState, Variables, Weights
from jaxgen.core.task import Batch
from jaxgen.diffusion.grid import Karras
from jaxgen.diffusion.guide import CondModel
from jaxgen.diffusion.needs import refuse_unmet
from jaxgen.diffusion.paths import Sigma
from jaxgen.diffusion.process import spread
from jaxgen.diffusion.solvers.fewstep import Lcm
from jaxgen.diffusion.solvers.table import Solver, prepared
from jaxgen.diffusion.times import LogNormal, Times
from jaxgen.errors import UserError
from jaxgen.methods.diffusion import bounded


class Curriculum(Protocol):
    """How finely the noise levels are cut as training goes on."""

    low: int  # intervals at the first step

    def levels(self, step: Array) -> Array:
        """int32 []: N, the number of levels at this step."""


def validate_curriculum(low: int, high: int) -> None:
    """Never fewer intervals than at the start."""
    if low > high:
        raise UserError(f"method.curriculum.low={low} is above high={high}; set method.curriculum.high={low}")


@dataclass(frozen=True)
class Doubling:
    """N - 1 doubles from `low` to `high` at even distances (Song & Dhariwal 2023, section 3.4)."""

    low: Annotated[int, Range(least=2)] = 10
    high: Count = 1280
    schedule_steps: RunLength = 1  # the length of the run when it first started

    def __post_init__(self) -> None:
        validate_curriculum(self.low, self.high)

    def levels(self, step: Array) -> Array:
        """min(low 2^floor(k / K'), high) + 1 with K' = floor(K / (log2 floor(high / low) + 1))."""
        times = math.log2(self.high // self.low)
        every = max(1, math.floor(self.schedule_steps / (times + 1)))
        doublings = jnp.minimum(step // every, math.ceil(math.log2(self.high / self.low)))
        return jnp.minimum(jnp.left_shift(self.low, doublings), self.high) + 1


@dataclass(frozen=True)
class SquareRoot:
    """N grows like the square root of the step (Song et al. 2023, appendix C)."""

    low: Annotated[int, Range(least=2)] = 2
    high: Count = 150
    schedule_steps: RunLength = 1  # the length of the run when it first started

    def __post_init__(self) -> None:
        validate_curriculum(self.low, self.high)

    def levels(self, step: Array) -> Array:
        """ceil(sqrt(k / K ((high + 1)^2 - low^2) + low^2) - 1) + 1."""
        share = jnp.minimum(step / max(1, self.schedule_steps), 1.0)
        root = jnp.sqrt(share * ((self.high + 1) ** 2 - self.low**2) + self.low**2)
        return jnp.ceil(root - 1).astype(jnp.int32) + 1


@dataclass(frozen=True)
class Fixed:
    """The same number of levels throughout, as in distillation (Song et al. 2023, section 6.1)."""

    low: Annotated[int, Range(least=2)] = 18

    def levels(self, step: Array) -> Array:
        """low."""
        return jnp.full((), self.low, jnp.int32)


def squares(d: Array) -> Array:
    """[B, ...] -> [B]."""
    return jnp.sum(d**2, axis=tuple(range(1, d.ndim)))


def pseudo_huber(d: Array) -> Array:
    """sqrt(|d|^2 + c^2) - c, c = 0.00054 sqrt(dimension) (Song & Dhariwal 2023, section 3.3)."""
    c = 0.00054 * math.sqrt(math.prod(d.shape[1:]))
    return jnp.sqrt(squares(d) + c**2) - c


# distance of two images as a function of their difference [B, ...] -> [B]
DISTANCES: dict[str, Callable[[Array], Array]] = {
    "pseudo_huber": pseudo_huber,
    "l2": squares,
    "l1": lambda d: jnp.sum(jnp.abs(d), axis=tuple(range(1, d.ndim))),
}


@dataclass(frozen=True, kw_only=True)
class Consistency(LossMethod):
    """Improved consistency training by default.

    The original: curriculum=square_root, times=uniform, distance=l2, gap_weight=False, decay=0.9.
    The net is called as net(c_in x [B, ..., C], clock [B], cond, train) -> [B, ..., C].
    """

    needs: ClassVar[tuple[str, ...]] = ("sigma", "memoryless")

    process: Sigma = field(default_factory=Sigma)
    times: Times = field(default_factory=lambda: LogNormal(mean=-1.1, std=2.0, bounded=True))
    curriculum: Curriculum = field(default_factory=Doubling)
    solver: Solver = field(default_factory=lambda: Lcm(steps=1, scale=0.0, clip=True, grid=Karras(spare=True)))
    sigma_data: Positive = 0.5
    distance: str = "pseudo_huber"  # a key of DISTANCES
    gap_weight: bool = True  # w_n = 1 / (sigma_(n+1) - sigma_n); False: 1
    decay: BelowOne = 0.0  # of the average after `stop`, at the first N (later decay^(low / N)); 0: the net itself

    def __post_init__(self) -> None:
        refuse_unmet(self)
        if self.distance not in DISTANCES:
            raise UserError(f"method.distance={self.distance!r} is unknown; there are: {', '.join(DISTANCES)}")
        _ = self.nfe  # a solver refuses what it cannot do before anything is trained

    def example(self, batch: Batch) -> tuple:
        """Net arguments for a batch."""
        x = self.target(batch)
        return x, jnp.zeros(len(x)), self.conditions(batch)

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state; the average, where one is kept, starts at the params."""
        return self.with_average(super().init(rng, batch))

    def with_average(self, state: TrainState) -> TrainState:
        """The average of the net that the loss compares with, begun anew: the paper's target network."""
        params = state.nets["net"].params
        return state.replace(extra={"target": jax.tree.map(jnp.copy, params)}) if self.decay else state

    def below(self, x0: Array, z: Array, high: Array, low: Array, cond: Cond, w: Weights) -> Array:
        """x_n at sigma `low` [B] for x_0 + high z at `high` [B]: the same image with the same noise (eq. 10)."""
        return x0 + spread(low, x0) * z

    def rung(self, index: Array, levels: Array) -> Array:
        """sigma_(index + 1) of Karras' grid (EDM, eq. 5) with so many levels; index 0 is sigma_min exactly."""
        p = self.process
        low, high = p.sigma_min ** (1 / p.rho), p.sigma_max ** (1 / p.rho)
        return jnp.where(index > 0, (low + index / (levels - 1) * (high - low)) ** p.rho, p.sigma_min)

    def draw(self, rng: Array, num: int, levels: Array) -> Array:
        """int32 [num] n - 1 in 0 .. N - 2: the cell of the grid in which a draw of `times` lies."""
        p = self.process
        sigma = p.sigma(self.times.at(p, self.times(rng, num)))
        low, high = p.sigma_min ** (1 / p.rho), p.sigma_max ** (1 / p.rho)
        share = (sigma ** (1 / p.rho) - low) / (high - low)
        return jnp.clip(jnp.floor(share * (levels - 1)), 0, levels - 2).astype(jnp.int32)

    def origin(self, net: Callable[[Array, Array], Array], x: Array, sigma: Array) -> Array:
        """f(x, sigma) [B, ...] of a net(c_in x, clock) at sigma [B]."""
        wide, data = spread(sigma, x), self.sigma_data
        gap = wide - self.process.sigma_min
        size = jnp.sqrt(wide**2 + data**2)
        out = net(x / size, self.process.clock(self.process.when(sigma)))
        return data**2 / (gap**2 + data**2) * x + data * gap / size * out

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """[B]: weighted distance of the neighbours' origins."""
        x0, cond, variables = self.target(batch), self.conditions(batch), w.nets["net"]
        times_rng, noise_rng, net_rng = jax.random.split(rng, 3)

        def net(variables: Variables) -> Callable[[Array, Array], Array]:
            def call(x: Array, clock: Array) -> Array:  # both of a pair drop the same units (Song & Dhariwal, 3.1)
                return self.net.apply(variables, x, clock, cond, train=train, rngs={"dropout": net_rng})[0]

            return call

        levels = self.curriculum.levels(w.step)
        index = self.draw(times_rng, x0.shape[0], levels)
        low, high = self.rung(index, levels), self.rung(index + 1, levels)
        z = jax.random.normal(noise_rng, x0.shape)
        student = self.origin(net(variables), x0 + spread(high, x0) * z, high)
        behind = {**variables, "params": w.extra["target"]} if self.decay else variables
        teacher = self.origin(net(jax.lax.stop_gradient(behind)), self.below(x0, z, high, low, cond, w), low)
        distance = DISTANCES[self.distance](student - jax.lax.stop_gradient(teacher))
        loss = distance / (high - low) if self.gap_weight else distance
        return Loss(loss, {"distance": distance, "levels": levels.astype(jnp.float32)})

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """A step of the net, then of the average after `stop`."""
        after, metrics = super().train_step(state, batch, rng)
        if not self.decay:
            return after, metrics
        decay = self.decay ** (self.curriculum.low / self.curriculum.levels(state.step))  # mu(k), appendix C
        pair = state.extra["target"], after.nets["net"].params
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, *pair)
        return after.replace(extra={**after.extra, "target": average}), metrics

    def function(self, variables: Variables) -> CondModel:
        """f(x [B, ...], t [B], cond) of these variables."""

        def f(x: Array, t: Array, cond: Cond) -> Array:
            sigma = jnp.maximum(self.process.sigma(t), self.process.sigma_min)
            return self.origin(lambda x, clock: self.net.apply(variables, x, clock, cond)[0], x, sigma)

        return f

    @property
    def nfe(self) -> int:
        """Network evaluations per image of `sample`."""
        return self.solver.nfe(self.process)

    def settings(self) -> dict[str, Input]:
        """The solver."""
        return {"solver": Input(prepared(self.solver, self.process))}

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """float32 [num, *spec.shape], pictures in [-1, 1] (algorithm 1: f, then noise to a lower level and f again)."""
        start, noise = jax.random.split(rng)
        f = self.function(w.nets["net"])
        x = jax.random.normal(start, (num, *self.spec.shape)) * np.float32(self.process.sigma_max)
        return bounded(self.spec, self.solver(lambda x, t: f(x, t, cond), self.process, x, noise))

"""RePaint: what is known is noised and put in after every step, and the steps are gone over again (Lugmayr et al. 2022,
arXiv:2201.09865, algorithm 1).

The order is that of the authors' program: after each stretch of `jump` steps their noise is added again and they are repeated, so
that all but the first ones are gone `passes` times: 250 steps with jumps of 10, 10 times, are 2,410 evaluations. What goes up is
noised by the chain itself, in one draw. diffusers' RePaintScheduler has the same list of steps, but climbs from one step lower, on
a shortened chain adds the noise of the wrong training steps, and takes one noise for the known and the unknown part.
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.linear import Linear
from jaxgen.core.ranges import Count, NonNegative
from jaxgen.diffusion.grid import Even, Grid
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.restorers.restorer import Array, OwnLoop
from jaxgen.diffusion.solvers.chain import Ddim
from jaxgen.diffusion.solvers.table import Clip, Denoiser, Solver, at, limited, padded, x0_of


def order(steps: int, jump: int, passes: int) -> list[int]:
    """The levels that x visits, from `steps` (noise) down to 0 (data): one lower is a step, one higher adds noise."""
    level, visited = steps, [steps]
    left = dict.fromkeys(range(1, steps - jump + 1, jump), passes - 1)
    while level > 0:
        level -= 1
        visited.append(level)
        if left.get(level, 0):
            left[level] -= 1
            visited.extend(range(level + 1, level + jump + 1))
            level += jump
    return visited


class Row(NamedTuple):
    """One evaluation, float64 [N] each: x falls from t to s, the known part is put in, and x rises to u >= s."""

    t: np.ndarray
    keep: np.ndarray  # of x, of D and of noise in the step down
    data: np.ndarray
    noise: np.ndarray
    alpha: np.ndarray  # at s
    sigma: np.ndarray
    rise: np.ndarray  # of x, and of noise, on the way up
    fresh: np.ndarray


@dataclass(frozen=True)
class RePaint(OwnLoop):
    """The solver is its own: DDIM's steps, ancestral for eta 1."""

    needs: ClassVar[tuple[str, ...]] = ("seen", "pixels", "clean")

    steps: Count = 250
    jump: Count = 10  # steps that are gone over again
    passes: Count = 10  # over every stretch
    eta: NonNegative = 1.0
    clip: Clip = True
    grid: Grid = field(default_factory=Even)

    def nfe(self, solver: Solver, process: Process) -> int:
        """Steps down."""
        return int((np.diff(order(self.steps, self.jump, self.passes)) < 0).sum())

    def rows(self, process: Process) -> Row:
        """The table."""
        times = self.grid(process, self.steps)[::-1]  # by level: times[0] is the data
        visited = np.array(order(self.steps, self.jump, self.passes))
        falls = np.flatnonzero(np.diff(visited) < 0)
        ends = np.append(falls[1:], len(visited) - 1)  # where x stands when the next fall begins
        t, s, u = (times[visited[i]] for i in (falls, falls + 1, ends))
        mix = Ddim(self.steps, self.eta, self.clip).between(process, t, s).mix[:, 0]
        rise = process.alpha(u) / process.alpha(s)
        fresh = np.sqrt(np.maximum(process.sigma(u) ** 2 - (rise * process.sigma(s)) ** 2, 0.0))
        return Row(t, mix[:, 0], mix[:, 1], mix[:, 3], process.alpha(s), process.sigma(s), rise, fresh)

    def prepared(self, process: Process) -> "Jumps":
        """Its rows, for a program that is given them."""
        rows = self.rows(process)
        return Jumps(Row(*map(padded, rows)), len(rows.t), self.clip)


@dataclass(frozen=True)
class Jumps:
    """The rows of RePaint, and how they are followed."""

    inputs: ClassVar[tuple[str, ...]] = ("rows", "num")

    rows: Row
    num: int | Array
    clip: Clip

    def step(self, row: Row, x: Array, d: Array, seen: Linear, z: tuple[Array, Array, Array]) -> Array:
        """x after a row, of D and unit noise: of the step, of what is known, of the way up."""
        x = row.keep * x + row.data * d + row.noise * z[0]
        known = row.alpha * seen.inverse * seen.seen_to_spectrum(seen.y) + row.sigma * z[1]
        x = seen.from_spectrum(jnp.where(seen.s > 0, known, seen.to_spectrum(x)))
        return row.rise * x + row.fresh * z[2]

    def __call__(
        self, denoise: Denoiser, solver: Solver, process: Process, x: Array, rng: Array, seen: Linear
    ) -> Array:
        """x at t=1 -> x at t=0."""
        rows = Row(*(jnp.asarray(v, x.dtype) for v in self.rows))

        def step(i: Array, x: Array) -> Array:
            row = Row(*(at(v, i) for v in rows))
            z = jax.random.normal(jax.random.fold_in(rng, i), (3, *x.shape), x.dtype)
            d = limited(self.clip)(x0_of(denoise(x, jnp.full(x.shape[:1], row.t))))
            return self.step(row, x, d, seen, tuple(z))

        return jax.lax.fori_loop(0, self.num, step, x)

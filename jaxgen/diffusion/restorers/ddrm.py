"""DDRM: every coordinate of the operator's singular vectors has a chain of its own (Kawar et al. 2022, arXiv:2201.11793, eq. 7-8).

With r = sigma / alpha, x scaled by 1 / alpha, and b = noise / s what noise is on a coordinate that was seen:

    not seen      D + sqrt(1 - eta^2) r (x - D) / r_before                   + eta r z
    r < b         D + sqrt(1 - eta^2) r (y - D) / b                          + eta r z
    r >= b        (1 - eta_b) D + eta_b y                                    + sqrt(r^2 - b^2 eta_b^2) z

With eta between 0 and 1 most of the noise is drawn anew at every step, however many there are: the steps do not become those of
a process, and samples vary less than the posterior. With eta = 0 they are DDIM's.
"""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.linear import Linear
from jaxgen.core.ranges import Count, Share
from jaxgen.diffusion.grid import Even, Grid
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.restorers.restorer import Array, OwnLoop
from jaxgen.diffusion.solvers.table import Clip, Denoiser, Solver, at, limited, padded, x0_of


class Row(NamedTuple):
    """One evaluation at t, float64 [N] each."""

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    alpha_next: np.ndarray
    sigma_next: np.ndarray


@dataclass(frozen=True)
class Ddrm(OwnLoop):
    """The solver is its own."""

    steps: Count = 20
    eta: Share = 0.85
    eta_seen: Share = 1.0  # eta_b
    clip: Clip = True
    grid: Grid = field(default_factory=Even)

    def nfe(self, solver: Solver, process: Process) -> int:
        """Steps."""
        return self.steps

    def prepared(self, process: Process) -> "Coordinates":
        """Its rows, for a program that is given them."""
        grid = self.grid(process, self.steps)
        alpha, sigma = process.alpha(grid), process.sigma(grid)
        rows = Row(grid[:-1], alpha[:-1], sigma[:-1], alpha[1:], sigma[1:])
        return Coordinates(Row(*map(padded, rows)), self.steps, self.eta, self.eta_seen, self.clip)


@dataclass(frozen=True)
class Coordinates:
    """The rows of DDRM, and how they are followed."""

    inputs: ClassVar[tuple[str, ...]] = ("rows", "num", "eta", "eta_seen")

    rows: Row
    num: int | Array
    eta: float | Array
    eta_seen: float | Array
    clip: Clip

    def __call__(
        self, denoise: Denoiser, solver: Solver, process: Process, x: Array, rng: Array, seen: Linear
    ) -> Array:
        """x at t=1 -> x at t=0."""
        rows = Row(*(jnp.asarray(v, x.dtype) for v in self.rows))
        there, y = seen.s > 0, seen.inverse * seen.seen_to_spectrum(seen.y)
        blur = seen.noise * seen.inverse  # b
        first = Row(*(v[0] for v in rows))
        # in place of x_1 ~ N(0, sigma^2): N(alpha y, sigma^2 - alpha^2 b^2) where something was seen
        left = jnp.sqrt(jnp.maximum(1.0 - (first.alpha * blur / first.sigma) ** 2, 0.0))
        z = seen.to_spectrum(x)
        x = seen.from_spectrum(jnp.where(there, first.alpha * y + left * z, z))

        def step(i: Array, x: Array) -> Array:
            row = Row(*(at(v, i) for v in rows))
            d = seen.to_spectrum(limited(self.clip)(x0_of(denoise(x, jnp.full(x.shape[:1], row.t)))))
            z = jax.random.normal(jax.random.fold_in(rng, i), d.shape, d.dtype)
            kept = jnp.sqrt(1.0 - self.eta**2)
            r = row.sigma_next / row.alpha_next
            free = d + kept * r * (seen.to_spectrum(x) - row.alpha * d) / row.sigma + self.eta * r * z
            vague = d + kept * r * (y - d) / jnp.where(blur > 0, blur, 1.0) + self.eta * r * z
            clear = (1.0 - self.eta_seen) * d + self.eta_seen * y
            clear = clear + jnp.sqrt(jnp.maximum(r**2 - (blur * self.eta_seen) ** 2, 0.0)) * z
            new = jnp.where(there, jnp.where(r < blur, vague, clear), free)
            return row.alpha_next * seen.from_spectrum(new)

        return jax.lax.fori_loop(0, self.num, step, x)

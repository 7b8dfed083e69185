"""Diffusion posterior sampling (Chung et al. 2022, arXiv:2209.14687, algorithm 1).

After every step of the ancestral chain x moves by -scale grad_x |y - A D(x_t, t)|, the slope of the norm as their program has it
(written with the squared norm over the norm, as in the paper, it is twice that). A norm grows as the root of the number of values,
and the scale with it: it is what the paper says for pictures of 256 x 256 x 3.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from jaxgen.core.linear import Linear
from jaxgen.core.ranges import Count, NonNegative
from jaxgen.diffusion.process import Process, spread
from jaxgen.diffusion.restorers.restorer import Array, Restored, Restorer, instead, unlimited, with_pull, within_limit
from jaxgen.diffusion.solvers.chain import posterior
from jaxgen.diffusion.solvers.table import Denoiser, Estimate, Solver

VALUES = 256 * 256 * 3  # of the pictures for which the paper gives its scales


@dataclass(frozen=True)
class Dps(Restorer):
    """D moves by what makes the paper's step of x, so that any solver serves, of any number of steps.

    A step of the chain of `steps` moves x by data(t) times what D moves by (Ho et al. 2020, eq. 7). One that is as long as n of
    theirs moves it about n times as far.
    """

    inputs: ClassVar[tuple[str, ...]] = ("scale",)

    scale: NonNegative = 1.0
    steps: Count = 1000  # of the chain whose steps these are

    def __call__(
        self, denoise: Denoiser, solver: Solver, process: Process, x: Array, rng: Array, seen: Linear | None
    ) -> Array:
        """x at t=1 -> x at t=0. What moves x is no picture, so that the solver does not limit it."""
        return unlimited(solver)(self.given(within_limit(denoise, solver), process, seen), process, x, rng)

    def given(self, denoise: Denoiser, process: Process, seen: Linear) -> Restored:
        """D, moved downhill."""

        def call(x: Array, t: Array) -> Array | Estimate:
            x0, out, pull = with_pull(denoise, x, t)
            gap = seen.y - seen.apply(x0)
            norm = jnp.sqrt(jnp.sum(gap**2, tuple(range(1, gap.ndim))))
            uphill = pull(seen.adjoint(gap / spread(jnp.maximum(norm, 1e-8), gap)))
            step = posterior(process, t, jnp.maximum(t - 1.0 / self.steps, 0.0))["data"]
            scale = self.scale * math.sqrt(math.prod(x.shape[1:]) / VALUES)
            return instead(out, x0 + scale * uphill / spread(step, x))

        return call

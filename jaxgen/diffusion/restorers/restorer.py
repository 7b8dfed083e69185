"""What a restorer is: samples of p(x_0 | y), y = A x_0 + noise n, from the denoiser D(x_t, t) of a model that was never told y."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax

from jaxgen.core.inputs import holding
from jaxgen.core.linear import Linear
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.solvers.table import Denoiser, Estimate, Solver, limited, x0_of

Array = jax.Array
Restored = Callable[[Array, Array], Array | Estimate]  # (x_t, t) -> x_0 given y


class Restorer:
    """Those that change D alone serve with any solver, and write `given`; others have a loop of their own (`OwnLoop`)."""

    needs: ClassVar[tuple[str, ...]] = ("seen", "pixels")  # of the run, see jaxgen.diffusion.needs

    def given(self, denoise: Denoiser, process: Process, seen: Linear) -> Restored:
        """D for what was seen. What `denoise` gives is limited as the solver wants it."""
        raise TypeError(f"{type(self).__name__} must say what it makes of a denoiser")

    def __call__(
        self, denoise: Denoiser, solver: Solver, process: Process, x: Array, rng: Array, seen: Linear | None
    ) -> Array:
        """x at t=1 -> x at t=0."""
        return solver(self.given(within_limit(denoise, solver), process, seen), process, x, rng)

    def nfe(self, solver: Solver, process: Process) -> int:
        """How often the denoiser is evaluated."""
        return solver.nfe(process)


class OwnLoop(Restorer):
    """One that follows rows of its own and asks the solver nothing."""

    def prepared(self, process: Process) -> Restorer:
        """Its rows, and how they are followed: for a program that is given them."""
        raise TypeError(f"{type(self).__name__} must say which rows it follows")

    def __call__(
        self, denoise: Denoiser, solver: Solver, process: Process, x: Array, rng: Array, seen: Linear | None
    ) -> Array:
        """x at t=1 -> x at t=0."""
        return self.prepared(process)(denoise, solver, process, x, rng, seen)


@dataclass(frozen=True)
class NoRestorer(Restorer):
    """Samples of the model."""

    needs: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, denoise: Denoiser, solver: Solver, process: Process, x: Array, rng: Array, seen: Linear | None
    ) -> Array:
        """The solver follows D."""
        return solver(denoise, process, x, rng)


def within_limit(denoise: Denoiser, solver: Solver) -> Denoiser:
    """A denoiser whose x_0 is limited as the solver limits it."""
    limit = getattr(solver, "limit", None) or limited(getattr(solver, "clip", False))

    def call(x: Array, t: Array) -> Array | Estimate:
        return instead(out := denoise(x, t), limit(x0_of(out)))

    return call


def unlimited(solver: Solver) -> Solver:
    """The solver without that limit."""
    if hasattr(solver, "clip"):
        return holding(solver, {"clip": False})
    return holding(solver, {"limit": None}) if hasattr(solver, "limit") else solver


def instead(out: Array | Estimate, x0: Array) -> Array | Estimate:
    """A denoiser's output with another x_0."""
    return out._replace(x0=x0) if isinstance(out, Estimate) else x0


def with_pull(denoise: Denoiser, x: Array, t: Array) -> tuple[Array, Array | Estimate, Callable[[Array], Array]]:
    """(x_0, the whole output, v -> v^T dx_0 / dx_t), one evaluation and its transpose."""

    def start(x: Array) -> tuple[Array, Array | Estimate]:
        out = denoise(x, t)
        return x0_of(out), out

    x0, pull, out = jax.vjp(start, x, has_aux=True)
    return x0, out, lambda v: pull(v)[0]

"""Predictor-corrector sampling (Song et al. 2021, algorithm 1): a step of the reverse SDE, then Langevin steps at the new level."""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Count, Natural, NonNegative, Positive
from jaxgen.diffusion.grid import Even, Grid
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.solvers.chain import Ddim
from jaxgen.diffusion.solvers.table import Clip, Denoiser, at, limited, padded, x0_of

Array = jax.Array


@dataclass(frozen=True)
class PredictorCorrector:
    """Ancestral predictor and Langevin corrector: x + eps score + sqrt(2 eps) z, eps = 2 k (snr |z| / |score|)^2.

    k is the step's alpha^2 / alpha_before^2 (1 for VE), their algorithms 4 and 5. Norms are averaged over the batch.
    """

    steps: Count = 1000
    corrections: Natural = 1
    snr: Positive = 0.16
    eta: NonNegative = 1.0  # of the predictor; 0: the probability flow
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def nfe(self, process: Process) -> int:
        """One evaluation each; the last step, to the data, is not corrected."""
        steps = len(self.grid(process, self.steps)) - 1
        return steps + self.corrections * (steps - 1)

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 -> x at t=0."""
        return self.prepared(process)(denoise, process, x, rng)

    def prepared(self, process: Process) -> "Ladder":
        """Its rows, for a program that is given them."""
        grid = self.grid(process, self.steps)
        alpha, sigma = process.alpha(grid), process.sigma(grid)
        kept = (alpha[1:-1] / alpha[:-2]) ** 2 if (alpha[:-1] > 0).all() else np.ones(self.steps - 1)
        mix = Ddim(self.steps, self.eta, self.clip, self.grid).table(process).mix[:, 0]
        kept = np.append(kept, 1.0)
        rows = {"t": grid[:-1], "end": grid[1:], "alpha": alpha[1:], "sigma": sigma[1:], "kept": kept, "mix": mix}
        return Ladder({k: padded(v) for k, v in rows.items()}, len(mix), self.snr, self.corrections, self.clip)


@dataclass(frozen=True)
class Ladder:
    """The levels of a predictor-corrector, and how it goes down them."""

    inputs: ClassVar[tuple[str, ...]] = ("rows", "num", "snr")
    rows: dict[str, np.ndarray]  # float64 [N, ...] each
    num: int | Array  # rows that count
    snr: float | Array
    corrections: int
    clip: Clip

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 -> x at t=0."""
        rows = {k: jnp.asarray(v, x.dtype) for k, v in self.rows.items()}

        def guess(x: Array, t: Array) -> Array:
            x0 = x0_of(denoise(x, jnp.full(x.shape[:1], t)))
            return limited(self.clip)(x0)

        def size(v: Array) -> Array:
            return jnp.mean(jnp.linalg.norm(v.reshape(len(v), -1), axis=1))

        def correct(x: Array, row: dict[str, Array], key: Array) -> Array:
            score = (row["alpha"] * guess(x, row["end"]) - x) / row["sigma"] ** 2
            z = jax.random.normal(key, x.shape, x.dtype)
            step = 2 * row["kept"] * (self.snr * size(z) / size(score)) ** 2
            return x + step * score + jnp.sqrt(2 * step) * z

        def step(i: Array, x: Array) -> Array:
            row = {k: at(v, i) for k, v in rows.items()}
            first, *rest = jax.random.split(jax.random.fold_in(rng, i), 1 + self.corrections)
            mix = row["mix"]
            x = mix[0] * x + mix[1] * guess(x, row["t"]) + mix[3] * jax.random.normal(first, x.shape, x.dtype)
            for k in rest:
                x = correct(x, row, k)
            return x

        x = jax.lax.fori_loop(0, self.num - 1, step, x)
        last = {k: at(v, self.num - 1) for k, v in rows.items()}
        return last["mix"][0] * x + last["mix"][1] * guess(x, last["t"])

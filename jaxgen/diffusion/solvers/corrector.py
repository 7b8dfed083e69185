"""Predictor-corrector sampling (Song et al. 2021, algorithm 1): a step of the reverse SDE, then Langevin steps at the new level."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Count, Natural, NonNegative, Positive
from jaxgen.diffusion.grid import Even, Grid
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.solvers.chain import Ddim
from jaxgen.diffusion.solvers.table import Denoiser, clipped, x0_of

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
    clip: bool = False
    grid: Grid = field(default_factory=Even)

    def nfe(self, process: Process) -> int:
        """One evaluation each; the last step, to the data, is not corrected."""
        steps = len(self.grid(process, self.steps)) - 1
        return steps + self.corrections * (steps - 1)

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 -> x at t=0."""
        grid = self.grid(process, self.steps)
        alpha, sigma = process.alpha(grid), process.sigma(grid)
        kept = (alpha[1:-1] / alpha[:-2]) ** 2 if (alpha[:-1] > 0).all() else np.ones(self.steps - 1)
        mix = Ddim(self.steps, self.eta, self.clip, self.grid).table(process).mix[:, 0]

        def guess(x: Array, t: Array) -> Array:
            x0 = x0_of(denoise(x, jnp.full(x.shape[:1], t)))
            return clipped(x0) if self.clip else x0

        def size(v: Array) -> Array:
            return jnp.mean(jnp.linalg.norm(v.reshape(len(v), -1), axis=1))

        def correct(x: Array, row: dict[str, Array], key: Array) -> Array:
            score = (row["alpha"] * guess(x, row["end"]) - x) / row["sigma"] ** 2
            z = jax.random.normal(key, x.shape, x.dtype)
            step = 2 * row["kept"] * (self.snr * size(z) / size(score)) ** 2
            return x + step * score + jnp.sqrt(2 * step) * z

        def step(x: Array, inputs: tuple[dict[str, Array], Array]) -> tuple[Array, None]:
            row, key = inputs
            first, *rest = jax.random.split(key, 1 + self.corrections)
            mix = row["mix"]
            x = mix[0] * x + mix[1] * guess(x, row["t"]) + mix[3] * jax.random.normal(first, x.shape, x.dtype)
            for k in rest:
                x = correct(x, row, k)
            return x, None

        rows = {"t": grid[:-1], "end": grid[1:], "alpha": alpha[1:], "sigma": sigma[1:], "kept": [*kept, 1], "mix": mix}
        rows = {k: jnp.asarray(v, x.dtype) for k, v in rows.items()}
        keys = jax.random.split(rng, self.steps)
        before = jax.tree.map(lambda v: v[:-1], rows)
        x, _ = jax.lax.scan(step, x, (before, keys[:-1]))
        return mix[-1, 0] * x + mix[-1, 1] * guess(x, rows["t"][-1])

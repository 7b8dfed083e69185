"""Solvers: from noise to an image with a denoiser, as one `lax.scan` whose coefficients are tabulated in float64."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.guide import Denoiser
from jaxgen.diffusion.process import Process
from jaxgen.errors import UserError

Array = jax.Array


class Solver(Protocol):
    """Integrates the reverse process."""

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 [B, ...] -> x at t=0."""


def _scan(denoise: Denoiser, clip: bool, table: dict[str, np.ndarray], x: Array, rng: Array) -> Array:
    """x <- keep x + data D(x, t) + noise z for every row of the table."""
    rows = {k: jnp.asarray(v, jnp.float32) for k, v in table.items()}

    def step(x: Array, row: tuple[dict[str, Array], Array]) -> tuple[Array, None]:
        c, key = row
        x0 = denoise(x, jnp.full(x.shape[:1], c["t"]))
        x0 = jnp.clip(x0, -1.0, 1.0) if clip else x0
        x = c["keep"] * x + c["data"] * x0
        if table["noise"].any():
            x = x + c["noise"] * jax.random.normal(key, x.shape, x.dtype)
        return x, None

    return jax.lax.scan(step, x, (rows, jax.random.split(rng, len(table["t"]))))[0]


def posterior(process: Process, t: np.ndarray, s: np.ndarray) -> dict[str, np.ndarray]:
    """q(x_s | x_t, x_0) for s < t (Ho et al. 2020, eq. 6-7, for any two times): mean = keep x_t + data x_0; variances.

    `small` is the posterior's own variance, `large` that of q(x_t | x_s); eq. 6-7's beta-tilde and beta for neighbours.
    """
    a_t, a_s, v_t, v_s = process.alpha(t), process.alpha(s), process.sigma(t) ** 2, process.sigma(s) ** 2
    ratio = a_t / a_s
    gap = v_t - ratio**2 * v_s  # variance of q(x_t | x_s)
    return {"keep": ratio * v_s / v_t, "data": a_s * gap / v_t, "small": gap * v_s / v_t, "large": gap}


@dataclass(frozen=True)
class Ancestral:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), also on a respaced chain (Nichol & Dhariwal 2021, section 4)."""

    steps: int = 1000
    variance: str = "large"  # large: beta, the paper's choice for CIFAR-10 | small: beta-tilde
    clip: bool = True  # clamp the denoised image to [-1, 1]

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise UserError(f"solver.variance={self.variance!r} is unknown; there are: large, small")

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 -> x at t=0; the last step adds no noise."""
        grid = process.grid(self.steps)
        t, s = grid[:-1], grid[1:]
        q = posterior(process, t, s)
        noise = np.sqrt(q[self.variance]) * (s > 0)
        return _scan(denoise, self.clip, {"t": t, "keep": q["keep"], "data": q["data"], "noise": noise}, x, rng)


@dataclass(frozen=True)
class Ddim:
    """DDIM (Song et al. 2021, eq. 12 and 16): eta = 0 is deterministic, eta = 1 ancestral sampling."""

    steps: int = 50
    eta: float = 0.0
    clip: bool = True

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 -> x at t=0."""
        grid = process.grid(self.steps)
        t, s = grid[:-1], grid[1:]
        noise = self.eta * np.sqrt(posterior(process, t, s)["small"])
        # x_s = a_s x_0 + sqrt(s_s^2 - noise^2) eps + noise z, with eps = (x_t - a_t x_0) / s_t
        direction = np.sqrt(np.maximum(process.sigma(s) ** 2 - noise**2, 0.0)) / process.sigma(t)
        data = process.alpha(s) - direction * process.alpha(t)
        return _scan(denoise, self.clip, {"t": t, "keep": direction, "data": data, "noise": noise}, x, rng)

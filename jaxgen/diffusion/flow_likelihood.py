"""Likelihood by the probability flow (Song et al. 2021, section 4.3; Chen et al. 2018).

log p(x_0) = log p_T(x_T) + int div (dx/dt) dt along the ODE from the data to the noise; the divergence is an unbiased
estimate e^T (d f / d x) e with random signs e (Hutchinson). In tau = log(sigma / alpha) and y = x / alpha the flow is
dy/dtau = y - D, smooth from end to end; the classical Runge-Kutta method on an even grid of tau, 4 evaluations a step.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Count, NonNegative, Positive
from jaxgen.core.spec import Levels
from jaxgen.diffusion.bound import per_image
from jaxgen.diffusion.process import Process, ratio
from jaxgen.diffusion.solvers.table import Denoiser, x0_of
from jaxgen.errors import UserError

Array = jax.Array


@dataclass(frozen=True)
class FlowLikelihood:
    """How the likelihood is integrated, between two levels of sigma / alpha (or the process's own ends, if those are nearer)."""

    steps: Count = 50
    low: Positive = 1e-3  # where the data are taken to be
    high: Positive = 200.0  # where only noise is left: N(0, high^2 I) is the prior of y
    probes: Count = 1  # draws of e, averaged
    prior_variance: NonNegative = 1.0  # of the data: the prior at the end is N(0, high^2 + prior_variance)
    levels: Levels = 256

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise UserError(
                f"method.nll.low={self.low} is not below high={self.high}; set method.nll.high={2 * self.low}"
            )

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser (each with one derivative in the probes' directions)."""
        return 4 * self.steps

    @property
    def kind(self) -> str:
        """The flow's density is exact but for its steps and probes; dequantisation costs something."""
        return "bound" if self.levels else "exact"

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """[B] nats of data in [-1, 1] on their levels, dequantised by uniform noise (Theis et al. 2016): from above on average.

        Levels are 2 / (L - 1) apart, so that the mass of one is the density times that for every dimension. What has no levels
        has its density.
        """
        noise, probe = jax.random.split(rng)
        if not self.levels:
            return -self.log_density(denoise, process, x, probe)
        width = 2 / (self.levels - 1)
        x = x + width * jax.random.uniform(noise, x.shape, x.dtype, -0.5, 0.5)
        return -self.log_density(denoise, process, x, probe) - np.prod(x.shape[1:]) * np.log(width)

    def log_density(self, denoise: Denoiser, process: Process, y: Array, rng: Array) -> Array:
        """[B] nats: log p(y) for data y."""
        least, most = ratio(process, np.array([process.first, 1.0]))
        low, high = max(self.low, float(least)), min(self.high, float(most))
        levels = np.exp(np.linspace(np.log(low), np.log(high), 2 * self.steps + 1))  # every step, and its middle
        width = float(np.log(high / low) / self.steps)
        t = process.when(levels)
        probes = jax.random.rademacher(rng, (self.probes, *y.shape), y.dtype)

        def slope(y: Array, time: Array) -> tuple[Array, Array]:
            """dy/dtau [B, ...] and its divergence [B] at (t, alpha)."""

            def flow(y: Array) -> Array:
                return y - x0_of(denoise(time[1] * y, jnp.full(y.shape[:1], time[0])))

            value, push = jax.linearize(flow, y)
            return value, jax.vmap(lambda e: per_image(e * push(e)))(probes).mean(0)

        def step(state: tuple[Array, Array], times: Array) -> tuple[tuple[Array, Array], None]:
            y, gained = state
            first, grown_1 = slope(y, times[0])
            second, grown_2 = slope(y + width / 2 * first, times[1])
            third, grown_3 = slope(y + width / 2 * second, times[1])
            fourth, grown_4 = slope(y + width * third, times[2])
            y = y + width / 6 * (first + 2 * second + 2 * third + fourth)
            return (y, gained + width / 6 * (grown_1 + 2 * grown_2 + 2 * grown_3 + grown_4)), None

        points = np.stack([t, process.alpha(t)], -1)
        table = jnp.asarray(np.stack([points[:-1:2], points[1::2], points[2::2]], 1), y.dtype)  # [steps, 3, 2]
        (y, gained), _ = jax.lax.scan(step, (y, jnp.zeros(y.shape[:1], y.dtype)), table)
        variance = high**2 + self.prior_variance
        return per_image(-0.5 * (y**2 / variance + np.log(2 * np.pi * variance))) + gained

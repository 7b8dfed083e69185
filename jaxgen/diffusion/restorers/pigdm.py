"""Pseudo-inverse guidance (Song, Vahdat, Mardani & Kautz 2023, ICLR).

p(x_0 | x_t) is taken to be N(D, r^2 I), with r^2 = s^2 sigma^2 / (s^2 alpha^2 + sigma^2) as for data of standard deviation s. Then

    grad_x log p(y | x_t) = (dD / dx_t)^T A^T (r^2 A A^T + noise^2)^-1 (y - A D)                  (their eq. 7 and 8)

and D moves by sigma^2 / alpha times that, which is Bayes' rule for scores. Their algorithm 1 weighs it by r^2 once more.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from jaxgen.core.linear import Linear
from jaxgen.core.ranges import Positive
from jaxgen.diffusion.process import Process, level_at
from jaxgen.diffusion.restorers.restorer import Array, Restored, Restorer, instead, with_pull
from jaxgen.diffusion.solvers.table import Denoiser, Estimate


@dataclass(frozen=True)
class PiGdm(Restorer):
    """Exact where the data are N(mu, s^2 I). An evaluation costs two: the slope of D is taken."""

    inputs: ClassVar[tuple[str, ...]] = ("spread",)

    spread: Positive = 1.0  # s: the paper's, which takes the data to have variance 1

    def given(self, denoise: Denoiser, process: Process, seen: Linear) -> Restored:
        """D of the posterior."""

        def call(x: Array, t: Array) -> Array | Estimate:
            x0, out, pull = with_pull(denoise, x, t)
            level = level_at(process, t, x)
            scale = self.spread**2 * level.sigma**2
            # sigma^2 / r^2, so that nothing is divided by sigma where it is 0
            weight = self.spread**2 * level.alpha**2 + level.sigma**2
            gap = seen.seen_to_spectrum(seen.y) - seen.s * seen.to_spectrum(x0)
            low = scale * seen.s**2 + weight * seen.noise**2
            told = jnp.where(seen.s > 0, weight * seen.s / jnp.where(low > 0, low, 1.0), 0.0) * gap
            return instead(out, x0 + level.sigma**2 / jnp.maximum(level.alpha, 1e-5) * pull(seen.from_spectrum(told)))

        return call

"""Step rules of distilled models that jump to the data and back: LCM and TCD."""

from dataclasses import dataclass, field

import numpy as np

from jaxgen.core.ranges import Count, NonNegative, Positive, Share
from jaxgen.diffusion.grid import Grid, Trailing
from jaxgen.diffusion.process import Process, as_chain
from jaxgen.diffusion.solvers.chain import one_step
from jaxgen.diffusion.solvers.table import Clip, Table, Tabulated


@dataclass(frozen=True)
class Lcm(Tabulated):
    """Multistep consistency sampling (Song et al. 2023, algorithm 1) with latent consistency's boundary (Luo et al. 2023, eq. 9).

    f = c_skip x + c_out D with c_skip = d^2 / (u^2 + d^2), c_out = u / sqrt(u^2 + d^2), u = scale * clock, d = sigma_data;
    then noise to the next time. With scale = 0 the denoiser is taken as a consistency function itself.
    """

    steps: Count = 4
    scale: NonNegative = 10.0
    sigma_data: Positive = 0.5
    clip: Clip = False
    grid: Grid = field(default_factory=Trailing)

    def table(self, process: Process) -> Table:
        """x_s <- alpha_s f + sigma_s z."""
        grid = self.grid(process, self.steps)
        t, s = grid[:-1], grid[1:]
        u = self.scale * process.clock(t)
        skip = self.sigma_data**2 / (u**2 + self.sigma_data**2) if self.scale else 0.0 * t
        out = u / np.sqrt(u**2 + self.sigma_data**2) if self.scale else 1.0 + 0.0 * t
        return one_step(t, process.alpha(s) * skip, process.alpha(s) * out, process.sigma(s), 0.0 * t)


@dataclass(frozen=True)
class Tcd(Tabulated):
    """Strategic stochastic sampling of trajectory consistency (Zheng et al. 2024, algorithm 4).

    DDIM to the time (1 - eta) s, then noise up to s; eta = 0 is DDIM, 1 consistency sampling.
    """

    steps: Count = 4
    eta: Share = 0.3
    clip: Clip = False
    grid: Grid = field(default_factory=Trailing)

    def table(self, process: Process) -> Table:
        """x_s <- r (alpha_m D + sigma_m eps) + sqrt(1 - r^2) z, r = alpha_s / alpha_m, m = (1 - eta) s: variance-preserving."""
        grid = self.grid(process, self.steps)
        t, s = grid[:-1], grid[1:]
        steps = as_chain(process, "solver.name=tcd").steps
        middle = np.where(s > 0, (np.floor((1 - self.eta) * (s * steps - 1)) + 1) / steps, 0.0)
        ratio = process.alpha(s) / process.alpha(middle)
        direction = process.sigma(middle) / process.sigma(t)
        data = process.alpha(middle) - direction * process.alpha(t)
        return one_step(t, ratio * direction, ratio * data, np.sqrt(np.maximum(1 - ratio**2, 0.0)), 0.0 * t)

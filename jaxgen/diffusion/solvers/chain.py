"""The samplers of the discrete chain: ancestral (DDPM), DDIM, and DDIM run backwards."""

from dataclasses import dataclass, field

import numpy as np

from jaxgen.core.ranges import Count, NonNegative
from jaxgen.diffusion.grid import Even, Grid
from jaxgen.diffusion.process import Process, ratio
from jaxgen.diffusion.solvers.table import Clip, Table, Tabulated, symbols
from jaxgen.errors import UserError

VARIANCES = ("large", "small", "learned")


def validate_variance(variance: str, owner: str) -> None:
    """A variance that there is."""
    if variance not in VARIANCES:
        raise UserError(f"{owner}.variance={variance!r} is unknown; there are: {', '.join(VARIANCES)}")


def variance_needs(variance: str) -> tuple[str, ...]:
    """What a variance needs of the run, see jaxgen.diffusion.needs."""
    return ("variance",) if variance == "learned" else ()


def posterior(process: Process, t: np.ndarray, s: np.ndarray) -> dict[str, np.ndarray]:
    """q(x_s | x_t, x_0) for s < t (Ho et al. 2020, eq. 6-7, for any two times): mean = keep x_t + data x_0; variances.

    `small` is the posterior's own variance, `large` that of q(x_t | x_s); eq. 6-7's beta-tilde and beta for neighbours.
    """
    shrink = process.alpha(t) / process.alpha(s)
    var_t, var_s = process.sigma(t) ** 2, process.sigma(s) ** 2
    gap = var_t - shrink**2 * var_s  # variance of q(x_t | x_s)
    data = process.alpha(s) * gap / var_t
    return {"keep": shrink * var_s / var_t, "data": data, "small": gap * var_s / var_t, "large": gap}


def log_band(q: dict[str, np.ndarray]) -> np.ndarray:
    """[N, 2] logs of the smallest and largest variance a model may learn (Nichol & Dhariwal 2021, eq. 15).

    The last step's posterior has no variance; as they do, it takes the step before's.
    """
    small = q["small"].copy()
    if len(small) > 1 and small[-1] <= 0:
        small[-1] = small[-2]
    return np.log(np.maximum(np.stack([small, q["large"]], -1), 1e-20))


def one_step(t: np.ndarray, keep: np.ndarray, data: np.ndarray, noise: np.ndarray, raw: np.ndarray, **more) -> Table:
    """x <- keep x + data D + raw D_unclipped + noise z for every row."""
    (x,), d, r, z = symbols(1)
    rows = keep[:, None] * x + data[:, None] * d + raw[:, None] * r + noise[:, None] * z
    return Table(t, rows[:, None], **more)


@dataclass(frozen=True)
class Ancestral(Tabulated):
    """Ancestral sampling (Ho et al. 2020, algorithm 2), also on a respaced chain (Nichol & Dhariwal 2021, section 4)."""

    steps: Count = 1000
    variance: str = "large"  # large: beta, the paper's choice for CIFAR-10 | small: beta-tilde | learned: the network's
    clip: Clip = True  # of the denoised image: to [-1, 1]; 0.995: dynamically, at that quantile of its pixels
    grid: Grid = field(default_factory=Even)

    def __post_init__(self) -> None:
        validate_variance(self.variance, "solver")

    @property
    def needs(self) -> tuple[str, ...]:
        """A model whose variance can be read."""
        return variance_needs(self.variance)

    def table(self, process: Process) -> Table:
        """The last step adds no noise."""
        grid = self.grid(process, self.steps)
        t, s = grid[:-1], grid[1:]
        q = posterior(process, t, s)
        none = np.zeros_like(t)
        if self.variance == "learned":
            return one_step(t, q["keep"], q["data"], 1.0 * (s > 0), none, band=log_band(q))
        return one_step(t, q["keep"], q["data"], np.sqrt(q[self.variance]) * (s > 0), none)


@dataclass(frozen=True)
class Ddim(Tabulated):
    """DDIM (Song et al. 2021, eq. 12 and 16): eta = 0 is deterministic, eta = 1 ancestral sampling.

    With eta = 0 and no clipping this is Euler's method for the probability flow in sigma / alpha, for any process.
    """

    steps: Count = 50
    eta: NonNegative = 0.0
    clip: Clip = True
    grid: Grid = field(default_factory=Even)
    rederive: bool = True  # eps from the clipped image (OpenAI's code); False: the network's own eps (diffusers)

    def table(self, process: Process) -> Table:
        """On the solver's grid."""
        grid = self.grid(process, self.steps)
        return self.between(process, grid[:-1], grid[1:])

    def between(self, process: Process, t: np.ndarray, s: np.ndarray) -> Table:
        """x_s = alpha_s x_0 + sqrt(sigma_s^2 - noise^2) eps + noise z, with eps = (x_t - alpha_t x_0) / sigma_t."""
        noise = self.eta * np.sqrt(posterior(process, t, s)["small"])
        direction = np.sqrt(np.maximum(process.sigma(s) ** 2 - noise**2, 0.0)) / process.sigma(t)
        back = direction * process.alpha(t)
        if self.rederive or not self.clip:
            return one_step(t, direction, process.alpha(s) - back, noise, np.zeros_like(t))
        return one_step(t, direction, process.alpha(s), noise, -back)


@dataclass(frozen=True)
class DdimInversion(Tabulated):
    """DDIM from the image to its noise (Song et al. 2021, section 4.3; Dhariwal & Nichol 2021, appendix F).

    Each step up takes eps at the time it goes to: at t = 0 there is none.
    """

    steps: int = 50
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """x at t=0 -> x at t=1: x_s / alpha_s = x / alpha_t + (r_s - r_t) eps, r = sigma / alpha, eps = (x - alpha_s D)/sigma_s."""
        grid = self.grid(process, self.steps)[::-1]
        t, s = grid[:-1], grid[1:]
        alpha, sigma = process.alpha(s), process.sigma(s)
        rate = (sigma - alpha * ratio(process, t)) / sigma
        return one_step(s, alpha / process.alpha(t) + rate, -rate * alpha, np.zeros_like(t), np.zeros_like(t))

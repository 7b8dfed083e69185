"""Solvers of the probability-flow ODE by its derivative: Euler, Heun with churn, midpoint, Adams, PLMS.

In a frame with clock tau and z = x / scale the flow is dz/dtau = A z + B D(x, t):
    sigma: tau = sigma / alpha, scale = alpha, A = -B = 1 / tau        (Karras et al. 2022, eq. 4 with s = 1; k-diffusion)
    time:  tau = t, scale = 1, A = sigma' / sigma, B = alpha' - alpha sigma' / sigma       (flow matching's velocity)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import numpy as np

from jaxgen.core.ranges import Count, NonNegative, Range
from jaxgen.diffusion.grid import Even, Grid
from jaxgen.diffusion.process import Process, drift, level_at, ratio
from jaxgen.diffusion.solvers.chain import Ddim
from jaxgen.diffusion.solvers.table import Clip, Table, Tabulated, multistep_orders, symbols, table
from jaxgen.errors import UserError


class Frame(NamedTuple):
    """The flow's coefficients at given times, float64 each."""

    t: np.ndarray
    tau: np.ndarray
    scale: np.ndarray
    of_z: np.ndarray  # A
    of_d: np.ndarray  # B

    def slope(self, i: int, x: np.ndarray, d: np.ndarray) -> np.ndarray:
        """dz/dtau at time i from the network's input x and the denoised image d."""
        return self.of_z[i] / self.scale[i] * x + self.of_d[i] * d


def in_sigma(process: Process, t: np.ndarray) -> Frame:
    """tau = sigma / alpha."""
    tau, alpha = ratio(process, t), process.alpha(t)
    if not np.isfinite(tau).all():
        raise UserError(
            f"method.solver.space='sigma' needs some signal at every time, and {type(process).__name__} starts from noise alone; "
            "set method.solver.space='time'"
        )
    return Frame(t, tau, alpha, 1 / tau, -1 / tau)


def in_time(process: Process, t: np.ndarray) -> Frame:
    """tau = t."""
    alpha, sigma, alpha_rate, sigma_rate = level_at(process, t, t)
    return Frame(t, t, np.ones_like(t), sigma_rate / sigma, alpha_rate - alpha * sigma_rate / sigma)


SPACES: dict[str, Callable[[Process, np.ndarray], Frame]] = {"sigma": in_sigma, "time": in_time}


def frame(process: Process, t: np.ndarray, space: str) -> Frame:
    """The frame by name; at t = 0 its slope is infinite and never asked for."""
    if space not in SPACES:
        raise UserError(f"method.solver.space={space!r} is unknown; there are: {', '.join(SPACES)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        return SPACES[space](process, t)


def down_up(high: float, low: float, eta: float) -> tuple[float, float]:
    """Split a step of sigma into a deterministic part down and noise back up, keeping the marginal (Song et al. 2021, eq. 16).

    up^2 = eta^2 low^2 (high^2 - low^2) / high^2,  down^2 = low^2 - up^2.
    """
    up = min(low, eta * np.sqrt(low**2 * (high**2 - low**2) / high**2))
    return float(np.sqrt(low**2 - up**2)), float(up)


@dataclass(frozen=True)
class Euler(Tabulated):
    """Euler's method: one slope a step."""

    steps: Count = 50
    space: str = "sigma"  # sigma | time, as above
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """z <- z + (tau' - tau) slope."""
        f = frame(process, self.grid(process, self.steps), self.space)
        (x,), d, *_ = symbols(1)
        points = [x / f.scale[i] + step * f.slope(i, x, d) for i, step in enumerate(np.diff(f.tau))]
        return table(f.t[:-1], [[scale * point] for scale, point in zip(f.scale[1:], points, strict=True)])


@dataclass(frozen=True)
class EulerAncestral(Ddim):
    """k-diffusion's euler_ancestral, Euler past the next level and noise back up to it: DDIM with this eta."""

    eta: NonNegative = 1.0
    clip: Clip = False


def sbdm(process: Process, t: np.ndarray) -> np.ndarray:
    """g^2 / 2 of the forward SDE: the reverse SDE of Anderson 1982."""
    return drift(process, t)[1] ** 2 / 2


# how much noise the reverse SDE has at time t, w(t): any choice keeps the marginals (Ma et al. 2024, SiT, section 3.3)
DIFFUSIONS: dict[str, Callable[[Process, np.ndarray], np.ndarray]] = {
    "sbdm": sbdm,
    "constant": lambda process, t: np.ones_like(t),
    "sigma": lambda process, t: process.sigma(t),
    "linear": lambda process, t: t,
    "bump": lambda process, t: np.sin(np.pi * t) ** 2,
}


@dataclass(frozen=True)
class EulerMaruyama(Tabulated):
    """Euler's method for dx = (velocity - w score) dt + sqrt(2 w) dw, backwards in time (Ma et al. 2024, eq. 5 and 8).

    The step to the data takes the denoised image.
    """

    steps: Count = 250
    diffusion: str = "sigma"  # a key of DIFFUSIONS
    norm: NonNegative = 1.0  # factor on w
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def __post_init__(self) -> None:
        if self.diffusion not in DIFFUSIONS:
            raise UserError(
                f"method.solver.diffusion={self.diffusion!r} is unknown; there are: {', '.join(DIFFUSIONS)}"
            )

    def table(self, process: Process) -> Table:
        """x <- x + (s - t) (velocity - w score) + sqrt(2 w (t - s)) z."""
        f = frame(process, self.grid(process, self.steps), "time")
        alpha, sigma = process.alpha(f.t), process.sigma(f.t)
        with np.errstate(divide="ignore", invalid="ignore"):
            w = self.norm * DIFFUSIONS[self.diffusion](process, f.t)
        if not np.isfinite(w[:-1]).all():
            raise UserError(
                f"method.solver.diffusion={self.diffusion} is endless at t=1 for {type(process).__name__}; "
                "set method.solver.diffusion=sigma"
            )
        (x,), d, _, z = symbols(1)
        rows = []
        for i in range(self.steps):
            step, score = f.t[i + 1] - f.t[i], (alpha[i] * d - x) / sigma[i] ** 2
            new = x + step * (f.slope(i, x, d) - w[i] * score) + np.sqrt(-2 * w[i] * step) * z
            rows.append([new if sigma[i + 1] > 0 else d])
        return table(f.t[:-1], rows)


@dataclass(frozen=True)
class Heun(Tabulated):
    """Heun's second-order method (Karras et al. 2022, algorithm 1); the step to sigma = 0 is Euler's. 2 steps - 1 evaluations."""

    steps: Count = 18
    space: str = "sigma"
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """Slots: input, base point, slope there."""
        f = frame(process, self.grid(process, self.steps), self.space)
        (x, base, slope), d, *_ = symbols(3)
        times, rows = [], []
        for i in range(self.steps):
            step, here = f.tau[i + 1] - f.tau[i], f.slope(i, x, d)
            times.append(f.t[i])
            rows.append([f.scale[i + 1] * (x / f.scale[i] + step * here), x / f.scale[i], here])
            if process.sigma(f.t[i + 1 : i + 2])[0] > 0:
                both = slope + f.slope(i + 1, x, d)
                times.append(f.t[i + 1])
                rows.append([f.scale[i + 1] * (base + step / 2 * both), base, slope])
        return table(times, rows)


@dataclass(frozen=True)
class Churn(Tabulated):
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): noise up to (1 + gamma) sigma before each Heun step.

    gamma = min(churn / steps, sqrt(2) - 1) where low <= sigma <= high.
    """

    steps: Count = 18
    churn: NonNegative = 40.0
    low: NonNegative = 0.05
    high: NonNegative = 50.0
    noise: NonNegative = 1.003
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """The noise of a step is added by the row before it, or at the start."""
        levels = frame(process, self.grid(process, self.steps), "sigma")
        gamma = np.where(
            (self.low <= levels.tau) & (levels.tau <= self.high), min(self.churn / self.steps, 2**0.5 - 1), 0.0
        )[:-1]
        raised = levels.tau[:-1] * (1 + gamma)
        added = self.noise * np.sqrt(raised**2 - levels.tau[:-1] ** 2)
        f = frame(process, np.where(gamma > 0, process.when(raised), levels.t[:-1]), "sigma")
        (x, base, slope), d, _, z = symbols(3)
        times, rows = [], []
        for i in range(self.steps):
            last = i + 1 == self.steps
            step, here = levels.tau[i + 1] - f.tau[i], f.slope(i, x, d)
            scale, extra = (levels.scale[-1], 0.0 * z) if last else (f.scale[i + 1], added[i + 1] * z)
            times.append(f.t[i])
            euler = x / f.scale[i] + step * here
            if levels.tau[i + 1] == 0:
                rows.append([euler, base, slope])
                continue
            rows.append([levels.scale[i + 1] * euler, x / f.scale[i], here])
            times.append(levels.t[i + 1])
            both = slope + levels.slope(i + 1, x, d)
            rows.append([scale * (base + step / 2 * both + extra), base, slope])
        return table(times, rows, start=(float(f.scale[0] / levels.scale[0]), float(f.scale[0] * added[0])))


@dataclass(frozen=True)
class Dpm2(Tabulated):
    """Midpoint in log sigma, at the geometric mean of the two levels (k-diffusion's dpm_2; KDPM2); eta > 0: ancestral."""

    steps: Count = 25
    eta: NonNegative = 0.0
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """2 steps - 1 evaluations; the step to sigma = 0 is Euler's."""
        f = frame(process, self.grid(process, self.steps), "sigma")
        (x, base), d, _, z = symbols(2)
        times, rows = [], []
        for i in range(self.steps):
            down, up = down_up(f.tau[i], f.tau[i + 1], self.eta)
            here = f.slope(i, x, d)
            times.append(f.t[i])
            if down == 0:
                rows.append([f.scale[i + 1] * (x / f.scale[i] - f.tau[i] * here + up * z), base])
                continue
            m = frame(process, process.when(np.sqrt(f.tau[i : i + 1] * down)), "sigma")
            rows.append([m.scale[0] * (x / f.scale[i] + (m.tau[0] - f.tau[i]) * here), x / f.scale[i]])
            times.append(m.t[0])
            rows.append([f.scale[i + 1] * (base + (down - f.tau[i]) * m.slope(0, x, d) + up * z), base])
        return table(times, rows)


def lagrange(nodes: np.ndarray, j: int) -> np.ndarray:
    """Coefficients (highest first) of the polynomial that is 1 at nodes[j] and 0 at the others."""
    others = np.delete(nodes, j)
    return np.atleast_1d(np.poly(others)) / np.prod(nodes[j] - others)


def powers(tau: float, highest: int) -> np.ndarray:
    """int tau^k dtau for k = highest .. 0."""
    k = np.arange(highest, -1, -1)
    return tau ** (k + 1) / (k + 1)


def log_powers(tau: float, highest: int) -> np.ndarray:
    """int (log tau)^k dtau = tau L^k - k int L^(k-1), for k = highest .. 0; all 0 at tau = 0."""
    if tau == 0:
        return np.zeros(highest + 1)
    out = [tau]
    for k in range(1, highest + 1):
        out.append(tau * np.log(tau) ** k - k * out[-1])
    return np.asarray(out[::-1])


Areas = Callable[[float, int], np.ndarray]


def adams(f: Frame, most: int, taper: bool, nodes: Callable[[np.ndarray], np.ndarray], areas: Areas) -> Table:
    """z <- z + int of the polynomial in nodes(tau) through the last slopes, at most `most`. Slots: input, slopes, newest first."""
    (x, *old), d, *_ = symbols(most)
    rows = []
    for i, order in enumerate(multistep_orders(len(f.t) - 1, most, taper)):
        past = f.tau[i - order + 1 : i + 1][::-1]
        area = areas(f.tau[i + 1], order - 1) - areas(f.tau[i], order - 1)
        slopes = [f.slope(i, x, d), *old]
        new = x / f.scale[i] + sum(lagrange(nodes(past), j) @ area * slopes[j] for j in range(order))
        rows.append([f.scale[i + 1] * new, *slopes[: most - 1]])
    return table(f.t[:-1], rows)


Order = Annotated[int, Range(least=1, most=4)]  # Adams methods of higher order are unstable


@dataclass(frozen=True)
class Lms(Tabulated):
    """Adams-Bashforth with uneven steps: the polynomial in tau through past slopes, integrated exactly (k-diffusion's lms).

    The linear multistep of Liu et al. 2022 (PNDM, section 3) in EDM's variable.
    """

    steps: Count = 50
    order: Order = 4
    taper: bool = False  # with fewer than 15 steps the order falls towards the end
    space: str = "sigma"
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """Nodes tau."""
        f = frame(process, self.grid(process, self.steps), self.space)
        return adams(f, self.order, self.taper, lambda tau: tau, powers)


@dataclass(frozen=True)
class Deis(Tabulated):
    """DEIS, log-rho form (Zhang & Chen 2023, eq. 15-17): eps interpolated in log(sigma / alpha), integrated exactly."""

    steps: Count = 20
    order: Order = 3
    taper: bool = True  # with fewer than 15 steps the order falls towards the end
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """Nodes log tau."""
        f = frame(process, self.grid(process, self.steps), "sigma")
        return adams(f, self.order, self.taper, np.log, log_powers)


# Adams-Bashforth for even steps, newest first (Liu et al. 2022, eq. 12)
EVEN_ADAMS = (np.array([1.0]), np.array([3, -1]) / 2, np.array([23, -16, 5]) / 12, np.array([55, -59, 37, -9]) / 24)


@dataclass(frozen=True)
class Pndm(Tabulated):
    """PLMS of Liu et al. 2022 (PNDM, eq. 11-12): DDIM's transfer with eps averaged as for even steps.

    The first step is taken twice (eps at both its ends averaged): steps + 1 evaluations, no Runge-Kutta start.
    """

    steps: Annotated[int, Range(least=2)] = 50
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """Slots: input, base of the first step, three past eps."""
        f = frame(process, self.grid(process, self.steps), "sigma")
        (x, base, *old), d, *_ = symbols(5)

        def move(point: np.ndarray, eps: np.ndarray, i: int) -> np.ndarray:
            return f.scale[i + 1] * (point + (f.tau[i + 1] - f.tau[i]) * eps)

        first = f.slope(0, x, d)
        times = [f.t[0], f.t[1]]
        rows = [[move(x / f.scale[0], first, 0), x / f.scale[0], first, *old[:2]]]
        rows.append([move(base, (f.slope(1, x, d) + old[0]) / 2, 0), base, *old])
        for i in range(1, self.steps):
            eps = [f.slope(i, x, d), *old]
            w = EVEN_ADAMS[min(i, 3)]
            rows.append([move(x / f.scale[i], sum(w[j] * eps[j] for j in range(len(w))), i), base, *eps[:3]])
            times.append(f.t[i])
        return table(times, rows)

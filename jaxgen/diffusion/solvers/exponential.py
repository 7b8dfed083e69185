"""Exponential integrators in lambda = log(alpha / sigma): DPM-Solver, DPM-Solver++ and UniPC.

The linear part of the flow is solved exactly, the denoised image (++) or the noise is expanded in lambda:
    x_t = sigma_t / sigma_s x_s + sigma_t int e^lambda D dlambda = alpha_t / alpha_s x_s - sigma_t int e^-lambda eps dlambda
(Lu et al. 2022, eq. 3.4; Lu et al. 2022b, eq. 8). h = lambda_t - lambda_s is the step.
"""

from dataclasses import dataclass, field
from math import factorial
from typing import Annotated, NamedTuple

import numpy as np

from jaxgen.core.ranges import Count, Inside, NonNegative, Range
from jaxgen.diffusion.grid import Even, Grid
from jaxgen.diffusion.process import Process
from jaxgen.diffusion.solvers.ode import down_up, frame
from jaxgen.diffusion.solvers.table import SHORT, Clip, Table, Tabulated, multistep_orders, symbols, table
from jaxgen.errors import UserError

BENDS = ("midpoint", "heun")


class Levels(NamedTuple):
    """A grid in alpha, sigma and lambda; lambda is infinite at either end."""

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    lam: np.ndarray

    def step(self, i: int, j: int) -> float:
        """lambda_j - lambda_i; infinite from pure noise and to the data."""
        return float(self.lam[j] - self.lam[i])


def levels(process: Process, t: np.ndarray) -> Levels:
    """float64 each."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    with np.errstate(divide="ignore"):
        return Levels(t, alpha, sigma, np.log(alpha) - np.log(sigma))


Order = Annotated[int, Range(least=1, most=3)]


def phi(h: float, order: int) -> float:
    """phi_1 = e^h - 1, phi_(k+1) = phi_k / h - 1/k!: the integrals of e^lambda lambda^(k-1) over a step, up to scale."""
    value = np.expm1(h)
    for k in range(1, order):
        value = value / h - 1 / factorial(k)
    return float(value)


def validate_bend(bend: str) -> None:
    """The second-order forms that there are."""
    if bend not in BENDS:
        raise UserError(f"method.solver.bend={bend!r} is unknown; there are: {', '.join(BENDS)}")


def differences(history: list[np.ndarray], h: float, behind: list[float], curvature: float) -> list[np.ndarray]:
    """[m, h m', curvature h^2 m''] of the last outputs, from uneven steps behind (Lu et al. 2022b, algorithm 2, appendix B).

    `behind` are the steps between the entries of `history`, newest first; an endless one (from pure noise) counts for 0.
    """
    if len(history) == 1:
        return history
    newer = h / behind[0] * (history[0] - history[1])
    if len(history) == 2:
        return [history[0], newer]
    older, both = h / behind[1] * (history[1] - history[2]), behind[0] + behind[1]
    bent = newer - older
    share = 0.0 if np.isinf(both) else behind[0] / both
    return [history[0], newer + share * bent, 2 * curvature * h / both * bent]


def expand(terms: list[np.ndarray], h: float, bend: str) -> np.ndarray:
    """phi_1 m + phi_2 h m' + phi_3 h^2 m''; the second-order midpoint form has phi_1 / 2 for phi_2 (their eq. 17)."""
    integrals = [phi(h, k + 1) for k in range(len(terms))]
    if len(terms) == 2 and bend == "midpoint":
        integrals[1] = integrals[0] / 2
    return sum(integral * term for integral, term in zip(integrals, terms, strict=True))


def orders(f: Levels, most: int, taper: bool, below: float = SHORT) -> list[int]:
    """`multistep_orders`, but 1 on the step to the data themselves, where lambda has no end."""
    found = multistep_orders(len(f.t) - 1, most, taper, below)
    return [1 if end == 0 else order for order, end in zip(found, f.sigma[1:], strict=True)]


@dataclass(frozen=True)
class DpmPlus(Tabulated):
    """DPM-Solver++ multistep: order 1 is DDIM, then 2M and 3M; with eta their SDE forms (Lu et al. 2022b, algorithm 2, eq. 18)."""

    steps: Count = 20
    order: Order = 2
    eta: NonNegative = 0.0  # 0: the flow; 1: the reverse SDE
    noise: NonNegative = 1.0  # factor on the noise
    bend: str = "midpoint"  # form of the second-order term: midpoint | heun
    curvature: NonNegative = 0.5  # share of m'' in order 3: half as published, which is exact to order 2; 1: to order 3
    taper: bool = True  # with fewer than 15 steps the order falls towards the end
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def __post_init__(self) -> None:
        validate_bend(self.bend)

    def table(self, process: Process) -> Table:
        """x <- sigma'/sigma e^(-eta h) x - alpha' expand(D; -(1 + eta) h) + sigma' sqrt(1 - e^(-2 eta h)) z. Slots: x, images."""
        f = levels(process, self.grid(process, self.steps))
        (x, *old), d, _, z = symbols(self.order)
        rows = []
        for i, order in enumerate(orders(f, self.order, self.taper)):
            images, h = [d, *old], f.step(i, i + 1)
            behind = [f.step(i - k - 1, i - k) for k in range(order - 1)]
            terms = differences(images[:order], h, behind, self.curvature)
            change = expand(terms, -(1 + self.eta) * h, self.bend)
            new = f.sigma[i + 1] / f.sigma[i] * x - f.alpha[i + 1] * change
            if self.eta and f.sigma[i + 1] > 0:
                fresh = self.noise * f.sigma[i + 1] * np.sqrt(-np.expm1(-2 * self.eta * h))
                new = new + f.sigma[i + 1] / f.sigma[i] * np.expm1(-self.eta * h) * x + fresh * z
            rows.append([new, *images[: self.order - 1]])
        return table(f.t[:-1], rows)


@dataclass(frozen=True)
class Dpm(Tabulated):
    """DPM-Solver multistep: the noise, not the image, is expanded (Lu et al. 2022, eq. 3.7 and appendix D)."""

    steps: Count = 20
    order: Order = 2
    bend: str = "midpoint"
    curvature: NonNegative = 0.5  # as in DpmPlus
    taper: bool = True
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def __post_init__(self) -> None:
        validate_bend(self.bend)

    def table(self, process: Process) -> Table:
        """x <- alpha'/alpha x - sigma' expand(eps; h). Slots: input, past eps; the step to the data takes the image."""
        f = levels(process, self.grid(process, self.steps))
        (x, *old), d, *_ = symbols(self.order)
        if f.alpha[0] == 0:
            raise UserError(
                f"solver dpm divides by process.alpha(1), and {type(process).__name__} starts from noise alone; "
                "set method.solver.name=dpm_plus"
            )
        rows = []
        for i, order in enumerate(orders(f, self.order, self.taper)):
            noises, h = [(x - f.alpha[i] * d) / f.sigma[i], *old], f.step(i, i + 1)
            behind = [f.step(i - k - 1, i - k) for k in range(order - 1)]
            new = f.alpha[i + 1] * d
            if f.sigma[i + 1] > 0:
                change = expand(differences(noises[:order], h, behind, self.curvature), h, self.bend)
                new = f.alpha[i + 1] / f.alpha[i] * x - f.sigma[i + 1] * change
            rows.append([new, *noises[: self.order - 1]])
        return table(f.t[:-1], rows)


def singlestep_orders(steps: int, most: int) -> list[int]:
    """Order of the update that each evaluation allows: blocks 1 .. most that start afresh, the last ones shorter.

    Lu et al. 2022, appendix D.4 ("DPM-Solver-fast"): the number of evaluations is `steps`.
    """
    if most < 3:
        return ([*range(1, most + 1)] * (steps // most) + [1] * (steps % most))[:steps]
    if steps % 3 == 0:
        return [1, 2, 3] * (steps // 3 - 1) + [1, 2, 1]
    return [1, 2, 3] * (steps // 3) + [1, 2][: steps % 3]


@dataclass(frozen=True)
class DpmSingle(Tabulated):
    """DPM-Solver++ singlestep, 1S, 2S and 3S (Lu et al. 2022b, algorithm 1; Lu et al. 2022, algorithm 2).

    The inner points of a step are points of the grid: every evaluation also gives an image there.
    """

    steps: Count = 20
    order: Order = 2
    bend: str = "midpoint"
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def __post_init__(self) -> None:
        validate_bend(self.bend)

    def table(self, process: Process) -> Table:
        """Slots: input, base of the block, the block's images, newest first."""
        f = levels(process, self.grid(process, self.steps))
        slots, d, *_ = symbols(2 + self.order)
        x, base, old = slots[0], slots[1], slots[2:]
        rows, start = [], 0
        for i, order in enumerate(singlestep_orders(self.steps, self.order)):
            if f.sigma[i + 1] == 0 or np.isinf(f.lam[start]):  # no expansion reaches the data or leaves pure noise
                order = 1
            point = base
            if order == 1:
                point, start = x, i
            images, h = [d, *old][:order][::-1], f.step(start, i + 1)  # oldest first
            terms = [images[0]]
            if order == 2:
                terms.append(h / f.step(start, start + 1) * (images[1] - images[0]))
            if order == 3:
                r1, r2 = f.step(start, start + 1) / h, f.step(start, start + 2) / h
                near, far = (images[1] - images[0]) / r1, (images[2] - images[0]) / r2
                if self.bend == "midpoint":
                    terms.append(far)
                else:
                    terms += [(r2 * near - r1 * far) / (r2 - r1), 2 * (far - near) / (r2 - r1)]
            bend = "heun" if order == 3 else self.bend
            new = f.sigma[i + 1] / f.sigma[start] * point - f.alpha[i + 1] * expand(terms, -h, bend)
            rows.append([new, point, *[d, *old][: self.order]])
        return table(f.t[:-1], rows)


@dataclass(frozen=True)
class Dpm2sAncestral(Tabulated):
    """DPM-Solver++(2S) down to a lower level, noise back up (k-diffusion's dpmpp_2s_ancestral). 2 steps - 1 evaluations."""

    steps: Count = 20
    eta: NonNegative = 1.0
    noise: NonNegative = 1.0
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """In tau = sigma / alpha; the inner point lies halfway in lambda. Slots: input, base."""
        f = frame(process, self.grid(process, self.steps), "sigma")
        (x, base), d, _, z = symbols(2)
        times, rows = [], []
        for i in range(self.steps):
            down, up = down_up(f.tau[i], f.tau[i + 1], self.eta)
            times.append(f.t[i])
            if down == 0:
                rows.append([f.scale[i + 1] * (d + self.noise * up * z), base])
                continue
            m = frame(process, process.when(np.sqrt(f.tau[i : i + 1] * down)), "sigma")
            half = m.tau[0] / f.tau[i]  # e^(-h / 2)
            rows.append([m.scale[0] * (half * x / f.scale[i] + (1 - half) * d), x / f.scale[i]])
            times.append(m.t[0])
            rows.append([f.scale[i + 1] * (half**2 * base + (1 - half**2) * d + self.noise * up * z), base])
        return table(times, rows)


@dataclass(frozen=True)
class DpmSde(Tabulated):
    """DPM-Solver++ SDE, singlestep (k-diffusion's dpmpp_sde): both stages go down and up again. 2 steps - 1 evaluations."""

    steps: Count = 20
    eta: NonNegative = 1.0
    noise: NonNegative = 1.0
    middle: Inside = 0.5  # where in lambda the inner point lies
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def table(self, process: Process) -> Table:
        """Slots: input, base, first image."""
        f = frame(process, self.grid(process, self.steps), "sigma")
        (x, base, first), d, _, z = symbols(3)
        times, rows = [], []
        for i in range(self.steps):
            times.append(f.t[i])
            if f.tau[i + 1] == 0:
                rows.append([f.scale[i + 1] * d, base, first])
                continue
            level = f.tau[i] ** (1 - self.middle) * f.tau[i + 1 : i + 2] ** self.middle
            m = frame(process, process.when(level), "sigma")
            down, up = down_up(f.tau[i], m.tau[0], self.eta)
            keep = down / f.tau[i]
            point = x / f.scale[i]
            rows.append([m.scale[0] * (keep * point + (1 - keep) * d + self.noise * up * z), point, d])
            times.append(m.t[0])
            down, up = down_up(f.tau[i], f.tau[i + 1], self.eta)
            keep, share = down / f.tau[i], 1 / (2 * self.middle)
            mean = (1 - share) * first + share * d
            rows.append([f.scale[i + 1] * (keep * base + (1 - keep) * mean + self.noise * up * z), base, first])
        return table(times, rows)


@dataclass(frozen=True)
class UniPC(Tabulated):
    """UniPC on denoised images (Zhao et al. 2023, algorithms 1-2): each evaluation corrects the step that led to it.

    B(h) is e^h - 1 (bh2) or h (bh1). On the step to the data themselves, h endless, bh1 has only its first-order term.
    """

    steps: Count = 20
    order: Order = 2
    kind: str = "bh2"  # bh1 | bh2
    taper: bool = True  # the order falls towards the end, however many steps there are
    clip: Clip = False
    grid: Grid = field(default_factory=Even)

    def __post_init__(self) -> None:
        if self.kind not in ("bh1", "bh2"):
            raise UserError(f"method.solver.kind={self.kind!r} is unknown; there are: bh1, bh2")

    def coefficients(self, ratios: list[float], h: float) -> np.ndarray:
        """Of the divided differences at these ratios of h: sum_m rho_m r_m^(n-1) = phi_(n+1)(h) n! / B(h) (their eq. 9)."""
        size = len(ratios)
        scale = np.expm1(h) if self.kind == "bh2" else h
        if size == 1:
            return np.array([0.5])  # exact enough, as they choose
        matrix = np.array([[r**n for r in ratios] for n in range(size)])
        return np.linalg.solve(matrix, [phi(h, n + 2) * factorial(n + 1) / scale for n in range(size)])

    def step(
        self, f: Levels, i: int, order: int, point: np.ndarray, images: list[np.ndarray], fresh: list[np.ndarray]
    ) -> np.ndarray:
        """From `point` at grid time i to i + 1; images at i, i - 1, ...; `fresh` holds the one at i + 1 or nothing."""
        h = f.step(i, i + 1)
        new = f.sigma[i + 1] / f.sigma[i] * point - f.alpha[i + 1] * np.expm1(-h) * images[0]
        ratios = [f.step(i, i - k) / h for k in range(1, order)]
        slopes = [0.0 if np.isinf(r) else 1 / r for r in ratios]
        curved = [slope * (image - images[0]) for slope, image in zip(slopes, images[1:order], strict=True)]
        ends = [image - images[0] for image in fresh]
        if not curved + ends or (np.isinf(h) and self.kind == "bh1"):
            return new
        if any(np.isinf(r) for r in ratios):  # an image of pure noise tells nothing about the slope
            ratios, curved = [], []
        terms = curved + ends
        shares = self.coefficients([*ratios, *[1.0] * len(ends)], -h) if terms else []
        scale = np.expm1(-h) if self.kind == "bh2" else -h
        return new - f.alpha[i + 1] * scale * sum((c * v for c, v in zip(shares, terms, strict=True)), 0.0 * new)

    def table(self, process: Process) -> Table:
        """Slots: input, the last corrected point, past images."""
        f = levels(process, self.grid(process, self.steps))
        (x, base, *old), d, *_ = symbols(2 + self.order)
        rows, before = [], 0
        for i, order in enumerate(orders(f, self.order, self.taper, below=np.inf)):
            point = self.step(f, i - 1, before, base, old, [d]) if i else x
            images = [d, *old]
            rows.append([self.step(f, i, order, point, images, []), point, *images[: self.order]])
            before = order
        return table(f.t[:-1], rows)

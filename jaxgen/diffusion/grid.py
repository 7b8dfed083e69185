"""Grids: the times that a solver visits, from noise to data. Any solver takes any grid that the process can give.

A grid is float64 [steps + 1], strictly falling; the solver makes one step between each two.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxgen.core.ranges import BelowOne, Count, Natural, NonNegative, Number, Positive
from jaxgen.diffusion.paths import shifted
from jaxgen.diffusion.process import Process, as_chain, at_least_one, count, ratio
from jaxgen.errors import UserError


class Grid(Protocol):
    """Where a solver stops on its way."""

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """float64 [steps + 1] falling times."""


@dataclass(frozen=True)
class Even:
    """The process's own: even steps of a chain, even times, EDM's sigmas."""

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """process.grid(steps)."""
        return process.grid(steps)


def chain(process: Process, steps: int, name: str) -> int:
    """The number of training steps of a discrete process."""
    total = as_chain(process, f"method.solver.grid.name={name}", " or method.solver.grid.name=even").steps
    count(steps, total, "process.steps")
    return total


def ends(times: np.ndarray, stop: str, process: Process) -> np.ndarray:
    """The last stop: the data, or the chain's first step."""
    if stop not in ("data", "first"):
        raise UserError(f"method.solver.grid.stop={stop!r} is unknown; there are: data, first")
    return np.append(times, 0.0 if stop == "data" else process.first)


@dataclass(frozen=True)
class Leading:
    """Every (T // steps)-th step of a chain counted from its beginning (Lin et al. 2024, table 2), index 0 .. T-1."""

    offset: Natural = 0  # added to every index
    stop: str = "data"

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """Times (index + 1) / T."""
        total = chain(process, steps, "leading")
        index = (np.arange(steps) * (total // steps))[::-1] + self.offset
        if index[0] >= total:
            last = total - 1 - (steps - 1) * (total // steps)
            raise UserError(
                f"method.solver.grid.offset={self.offset} must lie in 0 .. {last}; set method.solver.grid.offset={last}"
            )
        return ends((index + 1) / total, self.stop, process)


@dataclass(frozen=True)
class Trailing:
    """Even steps of a chain counted from its end, which is always visited (Lin et al. 2024, table 2)."""

    stop: str = "data"

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """Times round(T - k T / steps) / T."""
        total = chain(process, steps, "trailing")
        return ends(np.round(np.arange(total, 0, -total / steps))[:steps] / total, self.stop, process)


@dataclass(frozen=True)
class Linspace:
    """Even indices from T-1 to 0, both visited (Nichol & Dhariwal 2021, section 4)."""

    whole: bool = True  # round to steps of the chain
    spare: bool = False  # leave index 0 out: steps + 1 even indices without the last
    stop: str = "data"

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """Times (index + 1) / T."""
        total = chain(process, steps, "linspace")
        index = np.linspace(0, total - 1, steps + self.spare)[::-1][:steps]
        return ends(((np.round(index) if self.whole else index) + 1) / total, self.stop, process)


def span(process: Process, low: float, high: float) -> tuple[float, float]:
    """The ends of a grid over sigma / alpha: as asked for, or (0) those of the process."""
    least, most = ratio(process, np.array([process.first, 1.0]))
    low, high = low or float(least), high or float(most)
    if not np.isfinite(high):
        raise UserError(
            f"method.solver.grid.sigma_max=0 takes the process's own largest sigma / alpha, and {type(process).__name__}'s has no "
            "end; set method.solver.grid.sigma_max=80, or method.solver.grid.name=even"
        )
    if not 0 < low < high:
        raise UserError(
            f"method.solver.grid.sigma_min={low:g}, sigma_max={high:g}: need sigma_min < sigma_max; "
            f"set method.solver.grid.sigma_max={2 * low:g}"
        )
    return low, high


@dataclass(frozen=True)
class Karras:
    """(sigma / alpha)^(1/rho) falls evenly, then 0 (Karras et al. 2022, eq. 5)."""

    rho: Positive = 7.0
    sigma_min: NonNegative = 0.0  # 0: the process's own
    sigma_max: NonNegative = 0.0
    spare: bool = False  # leave sigma_min out: steps + 1 levels without the last

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """Times of those noise levels."""
        at_least_one(steps)
        low, high = span(process, self.sigma_min, self.sigma_max)
        levels = np.linspace(high ** (1 / self.rho), low ** (1 / self.rho), steps + self.spare)[:steps] ** self.rho
        return np.append(process.when(levels), 0.0)


@dataclass(frozen=True)
class Exponential:
    """log(sigma / alpha) falls evenly: even steps of log-SNR (Lu et al. 2022, section 3.4); bend 1 is straight."""

    sigma_min: NonNegative = 0.0  # 0: the process's own
    sigma_max: NonNegative = 0.0
    bend: Positive = 1.0  # exponent of the ramp: above 1 more steps at low noise

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """Times of those noise levels, then 0."""
        at_least_one(steps)
        low, high = span(process, self.sigma_min, self.sigma_max)
        ramp = np.linspace(1, 0, steps) ** self.bend
        return np.append(process.when(np.exp(np.log(low) + ramp * np.log(high / low))), 0.0)


@dataclass(frozen=True)
class Flow:
    """Even times under the resolution shift of SD3 (Esser et al. 2024, eq. 23): t -> shift t / (1 + (shift - 1) t)."""

    shift: Positive = 3.0
    first: BelowOne = 0.0  # the last time before 0, ahead of the shift; 0: even down to 0

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """Shifted times."""
        at_least_one(steps)
        even = np.append(np.linspace(1, self.first, steps), 0.0) if self.first else np.linspace(1, 0, steps + 1)
        return shifted(even, self.shift)


@dataclass(frozen=True)
class DynamicFlow:
    """FLUX's shift exp(mu), where mu grows linearly with the number of tokens of the image (Black Forest Labs 2024)."""

    tokens: Count = 256  # H W / patch^2 of what the network sees
    base_tokens: Count = 256
    base_mu: Number = 0.5
    most_tokens: Count = 4096
    most_mu: Number = 1.15
    first: BelowOne = 0.0

    @property
    def mu(self) -> float:
        """Log of the shift."""
        slope = (self.most_mu - self.base_mu) / (self.most_tokens - self.base_tokens)
        return self.base_mu + slope * (self.tokens - self.base_tokens)

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """Flow with shift = exp(mu)."""
        return Flow(float(np.exp(self.mu)), self.first)(process, steps)


@dataclass(frozen=True)
class Given:
    """Noise levels sigma / alpha written out, falling; the last may be 0."""

    levels: tuple[NonNegative, ...] = (80.0, 0.0)

    def __call__(self, process: Process, steps: int) -> np.ndarray:
        """Their times."""
        levels = np.asarray(self.levels, np.float64)
        if len(levels) != steps + 1 or (np.diff(levels) >= 0).any():
            raise UserError(
                f"solver.grid.levels has {len(levels)} values; solver.steps={steps} needs {steps + 1} falling ones"
            )
        return process.when(levels)

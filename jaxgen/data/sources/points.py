"""Gaussians in the plane: the test of a generator that needs no eye. Which does it find, and what does it draw between them?"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jaxgen.core.ranges import Count, Inside, Positive, Seed
from jaxgen.core.spec import Field, Spec
from jaxgen.data.sources.source import Rows, one_of

POINT = Spec(image=Field((1, 1, 2), "float32", "image", "target"))  # x and y within [-1, 1], as a picture of one pixel


@dataclass(frozen=True)
class Mixture(ABC):
    """An even mixture of Gaussians, from which `num` points are drawn once.

    sigma: standard deviation of each, along either axis
    """

    num: Count = 100_000
    eval_num: Count = 10_000
    sigma: Positive = 0.01
    seed: Seed = 0

    @abstractmethod
    def centres(self) -> np.ndarray:
        """[K, 2]."""

    def open(self, split: str) -> "Points":
        """The "train" or "eval" points: different draws."""
        one_of(split, ("train", "eval"), "split")
        num, centres = self.num if split == "train" else self.eval_num, self.centres()
        rng = np.random.default_rng([self.seed, split == "eval"])
        points = centres[rng.integers(len(centres), size=num)] + self.sigma * rng.standard_normal((num, 2))
        arrays = {"image": points.astype(np.float32).reshape(num, 1, 1, 2)}
        notes = (f"held out: {self.eval_num:,} points of their own",)
        return Points(POINT, arrays, np.arange(num), notes, mixture=self)


@dataclass(frozen=True)
class Ring(Mixture):
    """`modes` Gaussians, evenly spaced on a circle, as narrow for their circle as those of Metz et al. 2016 (arXiv:1611.02163)."""

    modes: Count = 8
    radius: Inside = 0.8
    sigma: Positive = 0.008

    def centres(self) -> np.ndarray:
        """Beginning on the x axis."""
        angle = 2 * np.pi * np.arange(self.modes) / self.modes
        return self.radius * np.stack([np.cos(angle), np.sin(angle)], -1)


@dataclass(frozen=True)
class Lattice(Mixture):
    """side x side Gaussians on a square within +-reach, as narrow for their distance as those of Gulrajani et al. 2017."""

    side: Count = 5
    reach: Inside = 0.8

    def centres(self) -> np.ndarray:
        """Row by row."""
        line = np.linspace(-self.reach, self.reach, self.side)
        return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


@dataclass(frozen=True)
class Points(Rows):
    """Draws of a mixture, which they remember."""

    mixture: Mixture = field(kw_only=True)

    def facts(self) -> Any:
        """With the mixture."""
        return [super().facts(), asdict(self.mixture)]

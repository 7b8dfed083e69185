"""Which Gaussians of the plane a generator finds (the sources `ring` and `grid`)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxgen.core.method import Samples
from jaxgen.core.ranges import Count, Natural, Positive, Seed, Share
from jaxgen.core.state import Weights
from jaxgen.data.sources import Points, Source
from jaxgen.errors import UserError
from jaxgen.evaluation.per_image import Report
from jaxgen.runs.experiment import Experiment, open_source


@dataclass(frozen=True)
class Modes:
    """How many modes have their points, and how many points are near none.

    near: standard deviations within which a point belongs to the nearest mode
    least: of the share that an even mixture would give a mode; one that has as much is found
    """

    needs: ClassVar[Any] = Samples
    reads: ClassVar[bool] = False
    every: Natural = 0
    num: Count = 10_000
    near: Positive = 4.0
    least: Share = 0.25
    seed: Seed = 0

    def prepare(self, exp: Experiment) -> None:
        """A UserError where the data do not say where their modes are."""
        if not isinstance(open_source(exp.config, "train"), Points):
            name = exp.config.data.name
            raise UserError(
                f"config.eval.modes counts the modes of ring and grid, not of {name}; set config.eval.modes=None"
            )

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """modes: how many are found; near: share of the points that belong to one; least_share: of the rarest, 1 is even."""
        mixture = open_source(exp.config, "train").mixture
        points = exp.sample(ema, self.num, self.seed).images.reshape(-1, 2)
        figures = count_modes(points, mixture.centres(), self.near * mixture.sigma, self.least)
        return Report(figures, about={"N": self.num, "seeds": [self.seed]})


def count_modes(points: np.ndarray, centres: np.ndarray, radius: float, least: float) -> dict[str, float]:
    """Points [N, 2], centres [K, 2] -> figures of those within `radius` of their nearest centre."""
    distance = np.linalg.norm(points[:, None] - centres[None], axis=-1)
    near = distance.min(1) <= radius
    share = np.bincount(distance.argmin(1)[near], minlength=len(centres)) / len(points) * len(centres)
    found = {"modes": (share >= least).sum(), "near": near.mean(), "least_share": share.min()}
    return {k: float(v) for k, v in found.items()}

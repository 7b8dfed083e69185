"""Degrade: the picture is to be made from what noise, blur, compression or age leave of it: members of `degradation`, in turn.

Blind denoisers are told nothing else (Zhang et al. 2016, arXiv:1608.03981); `told=True` tells the strengths (Zhang et al. 2017,
arXiv:1710.04026, FFDNet).
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.lender import Frozen
from jaxgen.core.linear import Linear, separable
from jaxgen.core.spec import Field, Spec
from jaxgen.core.task import Batch, Task, picture_target, with_conditions
from jaxgen.degradations.degradation import Degradation, degraded, shrinking
from jaxgen.degradations.film import Grey
from jaxgen.degradations.noise import Gaussian
from jaxgen.errors import UserError
from jaxgen.images import to_float

Array = jax.Array


@dataclass(frozen=True)
class Degrade(Task):
    """Adds the condition `seen`, what is left of the picture, float32 of its shape or smaller; the target stays.

    told: the condition `level` [n] is the strength of each degradation, in its own unit. again: the field `other` is the picture
    spoilt a second time, with the same strengths, for Noise2Noise.
    """

    degradation: Degradation | tuple[Degradation, ...] = field(default_factory=Gaussian)
    told: bool = False
    again: bool = False

    @property
    def several(self) -> tuple[Degradation, ...]:
        """The degradations in turn."""
        return self.degradation if isinstance(self.degradation, tuple) else (self.degradation,)

    def spec(self, spec: Spec) -> Spec:
        """With seen, and perhaps level and other; a UserError where there is no picture."""
        picture, factor = picture_target(spec, self), shrinking(self.degradation)
        *frames, height, width, channels = picture.shape
        if height % factor or width % factor:
            raise UserError(
                f"task degrade: pictures become {factor} times smaller, which does not divide {height}x{width}; set "
                f"config.data.size={max(height // factor, 1) * factor}"
            )
        seen = Field((*frames, height // factor, width // factor, channels), "float32", picture.kind)
        level = {"level": Field((len(self.several),), "float32", "embedding")} if self.told else {}
        other = {"other": replace(seen, role="aside")} if self.again else {}
        return with_conditions(spec, self, seen=seen, **level, **other)

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The batch with what is left of its pictures."""
        x, (level_rng, one, two) = to_float(batch[spec.target]), jax.random.split(rng, 3)
        seen, level = degraded(self.degradation, x, one, level_rng)
        found = {"seen": seen} | ({"level": level} if self.told else {})
        if self.again:
            found["other"] = degraded(self.degradation, x, two, level_rng)[0]
        return {**batch, **found}

    @property
    def colours(self) -> bool:
        """Whether colour is among what is to be made."""
        return any(isinstance(one, Grey) for one in self.several)

    def given(self, spec: Spec) -> Field:
        """A picture of the target's size, or so many times smaller."""
        return self.spec(spec)["seen"]

    def ask(self, images: Array, known: Array | None = None) -> Batch:
        """Pictures [B, ..., H, W, C] that are spoilt already; of strengths that are told the middle of each range is taken."""
        if known is not None:
            raise UserError("task degrade mends whole pictures, and keeps no pixel: leave the mask out")
        middle = jnp.array([0.5 * sum(one.span) for one in self.several], jnp.float32)
        level = {"level": jnp.broadcast_to(middle, (len(images), len(middle)))} if self.told else {}
        return {"seen": images, **level}

    def finish(self, cond: Batch, made: Array) -> Array:
        """Samples with what is known for certain: the luma of a picture that has lost its colour and nothing else."""
        return self.degradation.finish(cond["seen"], made) if len(self.several) == 1 else made

    @property
    def noisy(self) -> bool:
        """Where any of the degradations is noise."""
        return any(one.maps((8, 8, 3)).noise for one in self.several)

    def linear(self, cond: Batch) -> Linear:
        """The map of all degradations together; a UserError where one is not linear, or noise comes before the last."""
        shape = cond["seen"].shape[-3:]
        maps = [one.maps(shape) for one in self.several]
        if any(one.noise for one in maps[:-1]):
            raise UserError(
                "task degrade: noise that is spoilt further is not white; let gaussian be the last of tasks.degrade"
            )
        whole = [_product([one[axis] for one in maps]) for axis in range(3)]
        return separable(cond["seen"], *whole, noise=maps[-1].noise)


def _product(tables: list[np.ndarray | None]) -> np.ndarray | None:
    """One matrix after the other."""
    found = None
    for table in (t for t in tables if t is not None):
        found = table if found is None else table @ found
    return found

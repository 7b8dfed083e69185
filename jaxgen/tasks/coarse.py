"""Coarse: smaller pictures are learned, as in the first phases of progressive growing (Karras et al. 2017, arXiv:1710.10196)."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxgen.core.lender import Frozen
from jaxgen.core.ranges import Count, Natural
from jaxgen.core.spec import Spec
from jaxgen.core.task import Batch, Task, picture_target
from jaxgen.errors import UserError
from jaxgen.images import to_float

Array = jax.Array


@dataclass(frozen=True)
class Coarse(Task):
    """The target becomes the means of `factor` x `factor` of its pixels, after `pad` black pixels were put around it.

    Samples are brought back to the data's size, every pixel `factor` x `factor` times: those of all phases compare.
    """

    factor: Count = 1
    pad: Natural = 0

    def spec(self, spec: Spec) -> Spec:
        """With the smaller target, in floats; a UserError where there is no picture, or the factor does not divide its sides."""
        field = picture_target(spec, self)
        *frames, height, width, channels = field.shape
        height, width = height + 2 * self.pad, width + 2 * self.pad
        if height % self.factor or width % self.factor:
            fits = math.gcd(height, width, self.factor)
            raise UserError(
                f"task coarse: factor={self.factor} does not divide {height}x{width}; set tasks.coarse.factor={fits}"
            )
        shape = (*frames, height // self.factor, width // self.factor, channels)
        return Spec(spec, **{spec.target: replace(field, shape=shape, dtype="float32")})

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The batch with the smaller target, float32 in [-1, 1]."""
        x, pad, n = to_float(batch[spec.target]), (self.pad, self.pad), self.factor
        x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 3), pad, pad, (0, 0)], constant_values=-1.0)
        *frames, height, width, channels = x.shape
        means = x.reshape(*frames, height // n, n, width // n, n, channels).mean((-4, -2))
        return {**batch, spec.target: means}

    def undo(self, frozen: dict[str, Frozen], x: Array) -> Array:
        """Enlarged, and the border cut off."""
        x = x.repeat(self.factor, -3).repeat(self.factor, -2)
        return x[..., self.pad : x.shape[-3] - self.pad, self.pad : x.shape[-2] - self.pad, :]

"""Shrink: the picture is to be made from a small one of itself, as in super-resolution (Saharia et al. 2021, arXiv:2104.07636).

In a cascade the small picture is another model's, which errs. So training blurs it with noise of a level that the net is told, and
sampling chooses one (Ho et al. 2021, arXiv:2106.15282, section 4; Saharia et al. 2022, Imagen, arXiv:2205.11487, appendix A).
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp

from jaxgen.core.lender import Frozen
from jaxgen.core.linear import Linear, separable
from jaxgen.core.ranges import Range, Share
from jaxgen.core.spec import Field, Spec
from jaxgen.core.task import Batch, Task, picture_target, with_conditions
from jaxgen.errors import UserError
from jaxgen.metrics.resize import matrix, resize, way

Array = jax.Array


def _factor(height: int, width: int) -> str:
    common = math.gcd(height, width)
    least = next((n for n in range(2, common + 1) if common % n == 0), 0)
    return f"set tasks.shrink.factor={least}" if least else "set config.data.size to an even number"


@dataclass(frozen=True)
class Shrink(Task):
    """Adds the condition `small`, the picture at 1 / `factor` of its height and width; the target stays.

    The default resizes as Pillow does and rounds to levels, so that `small` is what a file would hold. With noise `small` is
    cos(pi s / 2) small + sin(pi s / 2) eps, and s is the condition `noise` [1]; True: a level s of its own for every example,
    evenly in [0, 1), as training wants it; a number: that level, for samples.
    """

    factor: Annotated[int, Range(least=2)] = 2
    how: str = "pil_bicubic_uint8"  # a way of jaxgen.metrics.resize; pil_box_uint8 takes means
    noise: bool | Share = False

    def __post_init__(self) -> None:
        way(self.how)

    def spec(self, spec: Spec) -> Spec:
        """With small; a UserError where there is no picture, or none whose sides are multiples of the factor."""
        field = picture_target(spec, self)
        *frames, height, width, channels = field.shape
        if height % self.factor or width % self.factor:
            raise UserError(
                f"task shrink: factor={self.factor} does not divide {height}x{width}; {_factor(height, width)}"
            )
        shape = (*frames, height // self.factor, width // self.factor, channels)
        level = {} if self.noise is False else {"noise": Field((1,), "float32", "embedding")}
        return with_conditions(spec, self, small=Field(shape, "float32", field.kind), **level)

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The batch with small, float32 in [-1, 1] (some ways overshoot) before noise is added."""
        x = batch[spec.target]
        levels = (x.astype(jnp.float32) + 1.0) * 127.5 if jnp.issubdtype(x.dtype, jnp.floating) else x
        size = (x.shape[-3] // self.factor, x.shape[-2] // self.factor)
        return {**batch, **self.told(resize(levels, size, self.how) / 127.5 - 1.0, rng)}

    def told(self, small: Array, rng: Array) -> Batch:
        """The conditions of small pictures [B, ..., h, w, C] in [-1, 1]."""
        if self.noise is False:
            return {"small": small}
        level_rng, rng = jax.random.split(rng)
        shape = (len(small), 1)
        level = jax.random.uniform(level_rng, shape) if self.noise is True else jnp.full(shape, self.noise)
        angle = 0.5 * jnp.pi * level.reshape(-1, *(1,) * (small.ndim - 1))
        noisy = jnp.cos(angle) * small + jnp.sin(angle) * jax.random.normal(rng, small.shape)
        return {"small": noisy, "noise": level}

    def given(self, spec: Spec) -> Field:
        """A picture of 1 / `factor` of the target's size."""
        return self.spec(spec)["small"]

    def ask(self, images: Array, known: Array | None = None) -> Batch:
        """The conditions of small pictures [B, ..., h, w, C], which are taken to be without noise unless a level is set."""
        if known is not None:
            raise UserError("task shrink enlarges whole pictures, and keeps no pixel: leave the mask out")
        return replace(self, noise=0.0 if self.noise is True else self.noise).told(images, jax.random.key(0))

    def finish(self, cond: Batch, made: Array) -> Array:
        """The same."""
        return made

    @property
    def noisy(self) -> bool:
        """Where a level was asked for."""
        return bool(self.noise)

    def linear(self, cond: Batch) -> Linear:
        """The resize without its rounding."""
        small, how = cond["small"], self.how.removesuffix("_uint8")
        tables = [matrix(how, side * self.factor, side) for side in small.shape[-3:-1]]
        angle = 0.5 * jnp.pi * cond["noise"][:, 0] if "noise" in cond else jnp.zeros(())
        return separable(small, *tables, gain=jnp.cos(angle), noise=jnp.sin(angle))

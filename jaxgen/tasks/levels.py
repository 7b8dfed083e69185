"""Levels: how many values a pixel can take is a matter of choice, and a likelihood of pixels depends on it."""

from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp

from jaxgen.core.lender import Frozen
from jaxgen.core.ranges import Range
from jaxgen.core.spec import Spec
from jaxgen.core.task import Batch, Task, picture_target
from jaxgen.errors import UserError
from jaxgen.images import from_levels, to_float

ROUNDINGS = {  # (place between 0 and 1 from black to white, levels, rng) -> number of the level
    "draw": lambda x, n, rng: jnp.floor(x * (n - 1) + jax.random.uniform(rng, x.shape)),
    "nearest": lambda x, n, rng: jnp.rint(x * (n - 1)),
    "equal": lambda x, n, rng: jnp.floor(x * 255 / 256 * n),
}


@dataclass(frozen=True)
class Levels(Task):
    """The target's values are put on `num` even levels, in uint8.

    rounding: "draw" takes one of the two nearest, the nearer more often, anew each time (binarised MNIST: Burda et al. 2015);
    "nearest" cuts in the middle between them; "equal" gives each as many of 256 (Kingma & Dhariwal 2018: 5 bits are 32)
    """

    num: Annotated[int, Range(least=2, most=256)] = 2
    rounding: str = "draw"

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise UserError(f"task levels: rounding={self.rounding!r} is unknown; there are: {', '.join(ROUNDINGS)}")

    def spec(self, spec: Spec) -> Spec:
        """With a target of so many levels."""
        return Spec(spec, **{spec.target: replace(picture_target(spec, self), dtype="uint8", levels=self.num)})

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: jax.Array) -> Batch:
        """The batch with the target on levels."""
        x = jnp.clip(0.5 * (to_float(batch[spec.target]) + 1.0), 0.0, 1.0)
        k = jnp.minimum(ROUNDINGS[self.rounding](x, self.num, rng), self.num - 1)
        return {**batch, spec.target: jnp.rint(127.5 * (from_levels(k, self.num) + 1.0)).astype(jnp.uint8)}

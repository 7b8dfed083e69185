"""Size: the net is told how large a picture is, as SDXL (arXiv:2307.01952, section 2.2) and PixArt (arXiv:2310.00426) are."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jaxgen.core.lender import Frozen
from jaxgen.core.ranges import Natural
from jaxgen.core.spec import Field, Spec
from jaxgen.core.task import Array, Batch, Task, is_cached, picture_target, with_conditions
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Size(Task):
    """Adds the embedding `size`: of all pictures the same, and of samples, unless they are asked for another (--ask).

    form: "crop", height and width before it was cropped, the crop's top and left, height and width to make [6]; or "ratio", height,
    width and the one by the other [3].
    """

    form: Literal["crop", "ratio"] = "crop"
    height: Natural = 0  # of pictures in pixels; 0: what the data have
    width: Natural = 0

    def spec(self, spec: Spec) -> Spec:
        """With size; a UserError where there is no picture to take it from."""
        if is_cached(spec) and not (self.height and self.width):
            raise UserError(
                "task size: the data are latents, which have no size in pixels; set tasks.size.height and width"
            )
        height, width = (self.height, self.width) if is_cached(spec) else picture_target(spec, self).shape[-3:-1]
        height, width = float(self.height or height), float(self.width or width)
        size = (height, width, 0.0, 0.0, height, width) if self.form == "crop" else (height, width, height / width)
        return with_conditions(spec, self, size=Field((len(size),), "float32", "embedding", empty=size))

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The batch with size [B, 6] or [B, 3]."""
        size = self.spec(spec)["size"].empty
        return {**batch, "size": jnp.broadcast_to(jnp.asarray(size, jnp.float32), (len(batch[spec.target]), len(size)))}

"""How a GAN that grows takes up the layers of its next resolution (Karras et al. 2017, arXiv:1710.10196)."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxgen.core.ranges import Natural
from jaxgen.core.spec import PhaseSpan
from jaxgen.core.state import Array
from jaxgen.errors import UserError
from jaxgen.nets.convolution import upsample2x
from jaxgen.nets.gan import mean_pool2x


@dataclass(frozen=True)
class NoFade:
    """The nets make pictures of one size."""

    def options(self, step: Array) -> dict[str, Any]:
        """What both nets are called with besides."""
        return {}

    def blend(self, x: Array, step: Array) -> Array:
        """Real images as D sees them."""
        return x


@dataclass(frozen=True)
class LinearFade(NoFade):
    """A phase that doubles the pictures of the one before takes up the new layers by and by (Karras et al. 2017, figure 2).

    alpha = clip((step - first step of the phase) / steps, 0, 1), 1 in the first phase, is a function of the step alone. It
    mixes the two ways through the nets and, in real images, what the coarser picture has with what it has not.
    """

    steps: Natural = 0  # 0: the phase has the size of the one before
    phase: PhaseSpan = (0, 0)

    def __post_init__(self) -> None:
        start, stop = min(self.phase, default=0), max(self.phase, default=0)
        if start and self.steps > stop - start:
            raise UserError(
                f"method.fade.steps={self.steps} is longer than its phase, from step {start} to {stop}; set "
                f"method.fade.steps={stop - start}"
            )

    def alpha(self, step: Array) -> Array | float:
        """How much of the new layers is in."""
        start = min(self.phase, default=0)
        return jnp.clip((step - start) / self.steps, 0.0, 1.0) if self.steps and start else 1.0

    def options(self, step: Array) -> dict[str, Any]:
        """alpha."""
        return {"alpha": self.alpha(step)}

    def blend(self, x: Array, step: Array) -> Array:
        """(1 - alpha) up(down(x)) + alpha x."""
        alpha = self.alpha(step)
        if isinstance(alpha, float):
            return x
        coarse = upsample2x(mean_pool2x(x))
        return coarse + alpha * (x - coarse)

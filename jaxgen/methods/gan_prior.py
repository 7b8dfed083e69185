"""What the latents of a GAN are drawn from, and how samples keep near the middle of it: better pictures, less variety."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import NonNegative, Number, Positive
from jaxgen.core.state import Array

PRIORS = {
    "normal": lambda rng, shape: jax.random.normal(rng, shape),
    "uniform": lambda rng, shape: jax.random.uniform(rng, shape, minval=-1.0, maxval=1.0),
}


@dataclass(frozen=True)
class NoTruncation:
    """Samples are what G makes of its prior."""

    def latents(self, rng: Array, shape: tuple[int, ...], prior: str) -> Array:
        """z ~ p(z)."""
        return PRIORS[prior](rng, shape)

    def options(self) -> dict[str, Any]:
        """What G is called with besides."""
        return {}


@dataclass(frozen=True)
class TruncatedLatent(NoTruncation):
    """Latents beyond the threshold are drawn again (Brock et al. 2018, section 3.1): better pictures, less variety."""

    threshold: Positive = 0.5

    inputs: ClassVar[tuple[str, ...]] = ("threshold",)

    def latents(self, rng: Array, shape: tuple[int, ...], prior: str) -> Array:
        """z ~ p(z) where every number is within +-threshold."""
        if prior == "uniform":
            return PRIORS[prior](rng, shape) * jnp.minimum(self.threshold, 1.0)
        return jax.random.truncated_normal(rng, -self.threshold, self.threshold, shape)


@dataclass(frozen=True)
class TruncatedStyle(NoTruncation):
    """w drawn towards its mean, w' = mean + psi (w - mean), in the first `cutoff` layers (Karras et al. 2018, app. B)."""

    psi: Number = 0.7
    cutoff: NonNegative = 1000.0

    inputs: ClassVar[tuple[str, ...]] = ("psi", "cutoff")

    def options(self) -> dict[str, Any]:
        """psi and cutoff."""
        return {"psi": self.psi, "cutoff": self.cutoff}

"""A picture of which something was seen is looked for among those that a model makes of its latents (PULSE: Menon et al. 2020,
arXiv:2003.03808; Bora et al. 2017, arXiv:1703.03208):

    z = argmin |y - A G(z)|^2,    |z| = |z_0|

by Adam, from the nearest z_0 of some draws; z keeps its norm, since nearly all of a normal prior lies on a sphere. Every sample has
draws of its own, so that they differ where what was seen leaves it open.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.conditions import Cond
from jaxgen.core.linear import Linear
from jaxgen.core.ranges import Count, Positive
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Measured
from jaxgen.diffusion.restorers.restorer import NoRestorer, Restorer


@dataclass(frozen=True)
class Latent:
    """Of a GAN, a VAE."""

    needs: ClassVar[tuple[str, ...]] = ("seen", "latent")

    steps: Count = 200
    rate: Positive = 0.05
    draws: Count = 32  # of which the nearest is where a search begins

    def __call__(
        self, make: Callable[[Array], Array], draw: Callable[[Array], Array], seen: Linear, rng: Array
    ) -> Array:
        """Latents [B, ...] of pictures make(z) [B, H, W, C]; draw(rng) gives some of the prior."""

        def distance(z: Array) -> Array:
            gap = seen.y - seen.apply(make(z))
            return jnp.mean(gap**2, axis=tuple(range(1, gap.ndim)))

        def nearer(best: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
            z = draw(key)
            far = distance(z)
            closer = far < best[1]
            return (jnp.where(over(closer, z), z, best[0]), jnp.minimum(far, best[1])), None

        def norm(z: Array) -> Array:
            return over(jnp.linalg.norm(z.reshape(len(z), -1), axis=1), z)

        keys = jax.random.split(rng, self.draws)
        first = draw(keys[0])
        (z, _), _ = jax.lax.scan(nearer, (first, distance(first)), keys[1:])
        adam, radius = optax.scale_by_adam(), norm(z)

        def step(carry: tuple, _: None) -> tuple[tuple, None]:
            z, opt = carry
            change, opt = adam.update(jax.grad(lambda z: distance(z).sum())(z), opt)
            z = z - self.rate * change
            return (z * radius / jnp.maximum(norm(z), 1e-6), opt), None

        return jax.lax.scan(step, (z, adam.init(z)), length=self.steps)[0][0]


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a method that makes pictures of latents has for a restorer: `HasLatent` with a spec."""

    restorer: Restorer = field(default_factory=NoRestorer)  # of a picture of which something is told to samples alone
    measures: Measured = None

    @property
    def gives(self) -> tuple[str, ...]:
        """For the restorer."""
        return ("latent", "seen") if self.measures else ("latent",)

    def found(self: Any, w: Weights, rng: Array, num: int, cond: Cond) -> tuple[Array, Cond]:
        """Latents of `sample`, and what they are told: drawn, or searched for what was seen."""
        told = {name: value for name, value in cond.items() if name in self.spec}
        draw = lambda key: self.draw_latents(key, num)  # noqa: E731
        if len(told) == len(cond):
            return draw(rng), told
        return self.restorer(lambda z: self.from_latents(w, z, told), draw, self.measures.linear(cond), rng), told


def over(v: Array, x: Array) -> Array:
    """[B] to go with x [B, ...]."""
    return v.reshape(-1, *[1] * (x.ndim - 1))

"""Autoregressive models of pixels: PixelCNN, gated PixelCNN, PixelCNN++ and PixelRNN (van den Oord et al. 2016, arXiv:1601.06759).

    log p(x) = sum_i log p(x_i | x_1, ..., x_(i-1)), pixels in raster order, channels in theirs                  (eq. 1, 2)

One pass of the net over the whole picture gives all factors. Sampling makes one value after the other, in one scan that computes
nothing twice (jaxgen.nets.causal). What is shown of a picture up to some pixel is completed exactly: its pixels are taken in place
of drawn ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.conditions import Cond
from jaxgen.core.method import Batch, Loss, LossMethod
from jaxgen.core.ranges import NonNegative
from jaxgen.core.state import Array, Variables, Weights
from jaxgen.errors import UserError
from jaxgen.losses.pixel_likelihood import Categorical, Likelihood
from jaxgen.metrics.bits_per_dim import bits_per_dim
from jaxgen.nets.causal import Around, Place, raster


@dataclass(frozen=True, kw_only=True)
class Autoregressive(LossMethod):
    """The net has __call__(around, channels, order, cond, train, at) -> [B, H, W, channels], in the three forms of nets.causal.

    Told a picture and a mask (the task `hide`), it completes the one where the other is 1; what is shown must come first in raster
    order. Nets are not told them.
    """

    makes: ClassVar[tuple[str, ...]] = ("image",)
    kind: ClassVar[str] = "exact"
    completes: ClassVar[bool] = True  # the task `hide` is for samples alone, also of a run that was trained without

    likelihood: Likelihood = field(default_factory=Categorical)
    temperature: NonNegative = 1.0  # of samples: below 1 nearer to the most likely value, which 0 takes

    def __post_init__(self) -> None:
        name, channels = type(self.likelihood).__name__, self.spec.shape[-1]
        if not self.levels or getattr(self.likelihood, "binarize", "") == "none":
            raise UserError(
                f"method.likelihood: {name} knows no probability of a level, which a pixel made after the other needs; set "
                "method.likelihood=categorical, or method.likelihood=logistic_mixture"
            )
        if self.order > 1 and not self.net.module.orders:
            raise UserError(
                f"method.net makes the {channels} channels of a pixel at once, and {name} knows nothing of one from another; set "
                "method.likelihood=logistic_mixture, or method.net=gated_pixelcnn"
            )

    @property
    def takes(self) -> tuple[str, ...]:
        """What the net takes, and a picture to complete."""
        return (*super().takes, "image", "mask")

    @property
    def levels(self) -> int:
        """Those of its likelihood."""
        return self.likelihood.levels

    @property
    def channels(self) -> int:
        """Channels that the net must put out."""
        return self.likelihood.params(self.spec.shape[-1])

    @property
    def order(self) -> int:
        """Channels of a pixel that are made in turn; 1: all at once."""
        return 1 if self.likelihood.whole else self.spec.shape[-1]

    def look(self, x: Array) -> Array:
        """Values [B, H, W, C] as the net sees them."""
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1) if self.net.module.border else x

    def example(self, batch: Batch) -> tuple:
        """What the net is given of the pictures, and what it must put out."""
        return Around.of(self.look(self.target(batch))), self.channels, self.order, self.conditions(batch)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """-log p(x) / D, [B] nats per value."""
        see_rng, net_rng = jax.random.split(rng)
        x = self.likelihood.prepare(self.target(batch), see_rng)
        args = (Around.of(self.look(x)), self.channels, self.order, self.conditions(batch))
        out, vars = self.net.apply(w.nets["net"], *args, train=train, rngs={"dropout": net_rng})
        log_prob, dims = self.likelihood.log_prob(out, x), math.prod(self.spec.shape)
        return Loss(-log_prob / dims, {"bits_per_dim": bits_per_dim(log_prob, dims)}, vars)

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """log p(x), [B] nats."""
        return -math.prod(self.spec.shape) * self.loss(w, batch, rng, False).each

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """Pictures [num, H, W, C]; completions of those shown where the run is told any."""
        see_rng, draw_rng = jax.random.split(rng)
        shown, mask = self._shown(cond, num)
        given = self.likelihood.prepare(shown, see_rng)
        made = raster(self.run(w, cond), self.look, self.draw(draw_rng), given, mask == 0, self.order)
        return jnp.where(mask == 0, shown, made)

    def run(self, w: Weights, cond: Cond) -> Callable[..., tuple[Array, Variables]]:
        """The net as `raster` runs it."""

        def apply(found: Variables, around: Around, at: Place, mutable: list[str]) -> tuple[Array, Variables]:
            variables = {**w.nets["net"], **found}
            return self.net.module.apply(variables, around, self.channels, self.order, cond, at=at, mutable=mutable)

        return apply

    def draw(self, rng: Array) -> Callable[[Array, Array], Array]:
        """(output [B, 1, 1, channels], number of the draw) -> values [B, 1, 1, C]."""
        cooled = lambda out: self.likelihood.tempered(out, max(self.temperature, 1e-4))  # noqa: E731
        return lambda out, n: self.likelihood.sample(cooled(out), jax.random.fold_in(rng, n))

    def _shown(self, cond: Cond, num: int) -> tuple[Array, Array]:
        """(the picture to be completed, its mask [num, H, W, 1]); all is hidden where there is none."""
        told = self.spec.conditions
        if not told.of("mask"):
            return jnp.zeros((num, *self.spec.shape)), jnp.ones((num, *self.spec.shape[:2], 1))
        return cond[next(iter(told.of("image")))], cond[next(iter(told.of("mask")))]

    def refuse(self, cond: dict[str, np.ndarray]) -> None:
        """A UserError where a hidden pixel comes before one that is shown."""
        for name in self.spec.conditions.of("mask"):
            if name in cond and (np.diff(np.asarray(cond[name], int).reshape(len(cond[name]), -1)) < 0).any():
                raise UserError(
                    f"{name}: pixels are made in raster order, and one that is hidden comes before one that is shown; set "
                    "tasks.hide.shape=lower"
                )

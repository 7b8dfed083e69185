"""Normalizing flows: exact densities of dequantised pixels (Dinh et al. 2016; Kingma & Dhariwal 2018, arXiv:1807.03039).

    log P(x) >= log N(f(u); 0, I) + log |det df/du| - D log L,  u = (k + e) / L

A sample is the inverse of a draw, of standard deviation `temperature`: below 1 it is likelier and less varied.
"""

from dataclasses import dataclass, field

import jax

from jaxgen.core.conditions import Cond, nulls
from jaxgen.core.method import Batch, Loss, LossMethod
from jaxgen.core.ranges import NonNegative
from jaxgen.core.state import Array, Weights
from jaxgen.errors import UserError
from jaxgen.losses.dequantise import Dequantise, Uniform
from jaxgen.losses.pixel_likelihood import log_normal
from jaxgen.metrics.bits_per_dim import bits_per_dim


@dataclass(frozen=True, kw_only=True)
class Flow(LossMethod):
    """The net has forward(u [B, H, W, C] in [0, 1], cond) -> (z [B, D], log |det| [B]) and inverse(z, cond) -> (u, log |det|).

    Its volumes(u, cond) are (z, log |det| [B] by layer).
    """

    makes = ("image",)

    dequantise: Dequantise = field(default_factory=Uniform)
    temperature: NonNegative = 1.0  # of samples

    def __post_init__(self) -> None:
        if self.spec.levels and not self.dequantise.levels:
            raise UserError(
                f"method.dequantise=none: {self.spec.levels} levels have no density, which would grow without bound; "
                "set method.dequantise=uniform"
            )

    @property
    def kind(self) -> str:
        """As the way to get at levels has it: the density is exact."""
        return self.dequantise.kind

    @property
    def levels(self) -> int:
        """Those of dequantisation."""
        return self.dequantise.levels

    @property
    def dims(self) -> int:
        """Values of a picture."""
        height, width, channels = self.spec.shape
        return height * width * channels

    def example(self, batch: Batch) -> tuple:
        """The pictures and what they are told."""
        return self.target(batch), self.conditions(batch)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """-log P(x) [B] in nats, from one draw of the noise; log |det| by layer too, so that one that breaks has a name."""
        u, cond = self.dequantise.spread(self.target(batch), rng), self.conditions(batch)
        (z, volumes), vars = self.net.apply(w.nets["net"], u, cond, train=train, method="volumes")
        logdet = sum(volumes.values())
        log_prob = log_normal(z, 0.0, 0.0) + logdet - self.dequantise.cost(self.dims)
        bits = {"bits_per_dim": bits_per_dim(log_prob, self.dims)} if self.levels else {}
        layers = {f"logdet_{name}": volume for name, volume in volumes.items()}
        return Loss(-log_prob, {"logdet": logdet, **layers, **bits}, vars)

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """[B] nats."""
        cond = self.conditions(batch)

        def log_density(u: Array) -> Array:
            z, logdet = self.net.apply(w.nets["net"], u, cond, method="forward")[0]
            return log_normal(z, 0.0, 0.0) + logdet

        return self.dequantise.log_prob(log_density, self.target(batch), rng)

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """Pictures [num, H, W, C] of draws."""
        return self.from_latents(w, self.draw_latents(rng, num), cond)

    def draw_latents(self, rng: Array, num: int) -> Array:
        """z [num, D] of the temperature asked for."""
        return self.temperature * jax.random.normal(rng, (num, self.dims))

    def from_latents(self, w: Weights, z: Array, cond: Cond, rng: Array | None = None) -> Array:
        """The inverse of the flow, on levels."""
        return self.dequantise.pixels(self.net.apply(w.nets["net"], z, cond, method="inverse")[0][0])

    def encode(self, w: Weights, x: Array, rng: Array) -> Array:
        """z [B, D] of dequantised pictures that are told nothing."""
        u = self.dequantise.spread(x, rng)
        return self.net.apply(w.nets["net"], u, nulls(self.spec, len(x)), method="forward")[0][0]

    def decode(self, w: Weights, z: Array) -> Array:
        """Pictures that are told nothing."""
        return self.from_latents(w, z, nulls(self.spec, len(z)))

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """There and back: what differs has no inverse in float32."""
        u, cond = self.dequantise.spread(self.target(batch), rng), self.conditions(batch)
        z, _ = self.net.apply(w.nets["net"], u, cond, method="forward")[0]
        return self.from_latents(w, z, cond)

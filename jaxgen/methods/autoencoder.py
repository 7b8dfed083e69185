"""Autoencoder, plain and denoising (Hinton & Salakhutdinov 2006; Vincent et al. 2008; Vincent et al. 2010, JMLR 11).

    L(x) = -log p(x | g(f(x~))) / D,   x~ = x spoilt anew at every step                     (Vincent et al. 2010, sec. 2.1, 3.1)

x~ = x is the plain autoencoder. A Gaussian p is the squared error, a Laplace p the absolute one, a Bernoulli p the cross
entropy. Codes have no distribution, so that nothing can be drawn from it; another model may learn them (the task `codec`).
"""

from dataclasses import dataclass, field

import jax

from jaxgen.core.method import Batch, Loss, LossMethod
from jaxgen.core.state import Array, Weights
from jaxgen.degradations.degradation import Degradation, degraded, refuse_smaller
from jaxgen.degradations.noise import Nothing
from jaxgen.images import to_float
from jaxgen.losses.pixel_likelihood import Gaussian, Likelihood


@dataclass(frozen=True, kw_only=True)
class Autoencoder(LossMethod):
    """The net has encode(x) -> z [B, ...] and decode(z, channels) -> [B, H, W, channels]."""

    makes = ("image",)  # its losses are of pixels

    likelihood: Likelihood = field(default_factory=Gaussian)
    corrupt: Degradation | tuple[Degradation, ...] = field(default_factory=Nothing)

    def __post_init__(self) -> None:
        refuse_smaller(self.corrupt, "config.method.corrupt")

    @property
    def channels(self) -> int:
        """Channels that the decoder must put out."""
        return self.likelihood.params(self.spec.shape[-1])

    def example(self, batch: Batch) -> tuple:
        """The images, and the channels to put out."""
        return self.target(batch), self.channels

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """-log p of the whole picture given what is left of it, nats per value [B]; `mse` in units of [-1, 1]."""
        see_rng, spoil_rng, net_rng = jax.random.split(rng, 3)
        x = self.likelihood.prepare(self.target(batch), see_rng)
        spoilt, _ = degraded(self.corrupt, x, spoil_rng)
        out, vars = self.net.apply(w.nets["net"], spoilt, self.channels, train=train, rngs={"dropout": net_rng})
        mse = ((self.likelihood.mean(out) - x) ** 2).reshape(len(x), -1).mean(-1)
        return Loss(-self.likelihood.log_prob(out, x) / x[0].size, {"mse": mse}, vars)

    def encode(self, w: Weights, x: Array, rng: Array) -> Array:
        """Codes [B, latent], or [B, h, w, latent] where the encoder keeps places."""
        return self.net.apply(w.nets["net"], to_float(x), method="encode")[0]

    def decode(self, w: Weights, z: Array) -> Array:
        """Codes -> pictures [B, H, W, C]."""
        return self.likelihood.mean(self.net.apply(w.nets["net"], z, self.channels, method="decode")[0])

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Decoded codes of the pictures, of which nothing is hidden."""
        return self.decode(w, self.encode(w, self.target(batch), rng))

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """The same of what has been spoilt already."""
        return self.reconstruct(w, batch, rng)

"""VQ-VAE: discrete codes from a learned codebook (van den Oord et al. 2017, arXiv:1711.00937).

    L = -log p(x | z_q(x)) + |sg[z_e(x)] - e|^2 + beta |z_e(x) - sg[e]|^2                                          (3)

z_q is the nearest code to z_e (eq. 1-2); gradients jump from z_q to z_e. All three terms are means over elements, as
in the authors' code. The second term is absent where exponential averages move the codebook (appendix A.1).
A model of the codes themselves (the prior) is trained apart.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.method import Batch, Loss, LossMethod
from jaxgen.core.ranges import NonNegative
from jaxgen.core.state import Array, Weights
from jaxgen.images import to_float
from jaxgen.losses.pixel_likelihood import Gaussian, Likelihood


@dataclass(frozen=True, kw_only=True)
class VqVae(LossMethod):
    """The net has __call__(x, channels) -> (out, quantized), encode(x) -> ids, decode(ids, channels) -> out, vectors, nearest."""

    makes = ("image",)  # its likelihoods are of pixels

    likelihood: Likelihood = field(default_factory=lambda: Gaussian(sigma=0.35))  # 2 sigma^2: CIFAR-10's variance
    beta: NonNegative = 0.25  # of the commitment

    @property
    def channels(self) -> int:
        """Channels that the decoder must put out."""
        return self.likelihood.params(self.spec.shape[-1])

    @property
    def codes(self) -> int:
        """Entries of the codebook."""
        return self.net.module.quantizer.codes

    def example(self, batch: Batch) -> tuple:
        """The images, and the channels to put out."""
        return self.target(batch), self.channels

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """Eq. 3, [B]."""
        see_rng, code_rng, net_rng = jax.random.split(rng, 3)
        x = self.likelihood.prepare(self.target(batch), see_rng)
        rngs = {"codebook": code_rng, "dropout": net_rng}
        (out, q), vars = self.net.apply(w.nets["net"], x, self.channels, train=train, rngs=rngs)
        nll = -self.likelihood.log_prob(out, x) / x[0].size
        mse = jnp.mean((self.likelihood.mean(out) - x) ** 2, axis=tuple(range(1, x.ndim)))
        metrics = {"nll": nll, "mse": mse, "commitment": q.commitment, **q.metrics}
        return Loss(nll + q.codebook + self.beta * q.commitment, metrics, vars)

    def encode(self, w: Weights, x: Array, rng: Array) -> Array:
        """Codes' indices int32 [B, h, w]."""
        return self._run(w, "encode", self.likelihood.prepare(to_float(x), rng))

    def decode(self, w: Weights, z: Array) -> Array:
        """Indices [B, h, w] -> images [B, H, W, C]."""
        return self.likelihood.mean(self._run(w, "decode", z, self.channels))

    def vectors(self, w: Weights, ids: Array) -> Array:
        """Indices [B, h, w] -> codes [B, h, w, D]."""
        return self._run(w, "vectors", ids)

    def nearest(self, w: Weights, z: Array) -> Array:
        """Vectors [B, h, w, D] -> indices [B, h, w] of the codes nearest to them."""
        return self._run(w, "nearest", z)

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Decoded codes of the images."""
        return self.decode(w, self.encode(w, self.target(batch), rng))

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Its reconstruction: what the codes cannot say of a degraded image is lost."""
        return self.reconstruct(w, batch, rng)

    def _run(self, w: Weights, method: str, *args: Any) -> Array:
        return self.net.apply(w.nets["net"], *args, method=method)[0]

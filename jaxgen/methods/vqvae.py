"""VQ-VAE: discrete codes from a learned codebook (van den Oord et al. 2017, arXiv:1711.00937).

    L = -log p(x | z_q(x)) + |sg[z_e(x)] - e|^2 + beta |z_e(x) - sg[e]|^2                                          (3)

z_q is the nearest code to z_e (eq. 1-2); gradients jump from z_q to z_e. All terms are means over elements, as in the
authors' code. What follows the likelihood is the quantiser's own loss: the second term is absent where exponential averages
move the codebook (appendix A.1), and other quantisers have others. With two levels of codes it is VQ-VAE-2 (Razavi et al. 2019,
arXiv:1906.00446). A model of the codes themselves (the prior) is trained apart.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.method import Batch, Loss, LossMethod
from jaxgen.core.state import Array, Weights
from jaxgen.images import to_float
from jaxgen.losses.pixel_likelihood import Gaussian, Likelihood
from jaxgen.nets.quantize import Ids


@dataclass(frozen=True, kw_only=True)
class VqVae(LossMethod):
    """The net has __call__(x, channels, step) -> (out, quantized), encode(x), decode(ids, channels) -> out, vectors, nearest.

    ids are int32 [B, h, w], or a tuple of such maps, coarse first.
    """

    makes = ("image",)  # its likelihoods are of pixels

    likelihood: Likelihood = field(default_factory=lambda: Gaussian(sigma=0.35))  # 2 sigma^2: CIFAR-10's variance

    @property
    def channels(self) -> int:
        """Channels that the decoder must put out."""
        return self.likelihood.params(self.spec.shape[-1])

    @property
    def codes(self) -> int:
        """Entries of the codebook (of each, where there are several)."""
        return self.net.module.quantizer.codes

    def example(self, batch: Batch) -> tuple:
        """The images, and the channels to put out."""
        return self.target(batch), self.channels

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """Eq. 3, [B]."""
        see_rng, code_rng, net_rng = jax.random.split(rng, 3)
        x = self.likelihood.prepare(self.target(batch), see_rng)
        options = dict(train=train, rngs={"codebook": code_rng, "dropout": net_rng}, step=w.step)
        (out, q), vars = self.net.apply(w.nets["net"], x, self.channels, **options)
        nll = -self.likelihood.log_prob(out, x) / x[0].size
        mse = jnp.mean((self.likelihood.mean(out) - x) ** 2, axis=tuple(range(1, x.ndim)))
        return Loss(nll + q.loss, {"nll": nll, "mse": mse, **q.metrics}, vars)

    def encode(self, w: Weights, x: Array, rng: Array) -> Ids:
        """Codes' indices."""
        return self._run(w, "encode", self.likelihood.prepare(to_float(x), rng))

    def decode(self, w: Weights, z: Ids) -> Array:
        """Indices -> images [B, H, W, C]."""
        return self.likelihood.mean(self._run(w, "decode", z, self.channels))

    def vectors(self, w: Weights, ids: Ids) -> Array:
        """Indices [B, h, w] -> codes [B, h, w, D]."""
        return self._run(w, "vectors", ids)

    def nearest(self, w: Weights, z: Array) -> Ids:
        """Vectors [B, h, w, D] -> indices [B, h, w] of the codes nearest to them."""
        return self._run(w, "nearest", z)

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Decoded codes of the images."""
        return self.decode(w, self.encode(w, self.target(batch), rng))

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Its reconstruction: what the codes cannot say of a degraded image is lost."""
        return self.reconstruct(w, batch, rng)

    def _run(self, w: Weights, method: str, *args: Any) -> Any:
        return self.net.apply(w.nets["net"], *args, method=method)[0]

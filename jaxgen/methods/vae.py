"""Variational autoencoder (Kingma & Welling 2013, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082).

    L(x) = -E_{q(z|x)} log p(x|z) + beta KL(q(z|x) || N(0, I))                               (Kingma & Welling, eq. 3)
    z = mu(x) + sigma(x) eps, eps ~ N(0, I): gradients pass through the draw                                 (eq. 9-10)

beta = 1 bounds the likelihood, -L <= log p(x); another beta trades it for disentangled codes (beta-VAE, Higgins et al.
2017), and `beta_warmup` steps of linear growth keep the decoder from ignoring z at first (Soenderby et al. 2016).
Evaluation tightens the bound with K draws (IWAE, Burda et al. 2015, arXiv:1509.00519):

    log p(x) >= E log 1/K sum_k p(x, z_k) / q(z_k | x)                                             (Burda et al., eq. 8)
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.conditions import Cond
from jaxgen.core.method import Batch, Loss, LossMethod, Metrics
from jaxgen.core.ranges import Count, Natural, NonNegative
from jaxgen.core.state import Array, Weights
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.losses.pixel_likelihood import Bernoulli, Likelihood, kl_normal, log_normal


def draw(rng: Array, mean: Array, log_var: Array) -> Array:
    """z ~ N(mean, exp(log_var)), differentiable in both (eq. 10)."""
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(rng, mean.shape)


@dataclass(frozen=True, kw_only=True)
class Vae(LossMethod):
    """The net has `latent`, encode(x) -> (mean, log_var) [B, latent] and decode(z, channels) -> [B, H, W, channels]."""

    makes = ("image",)  # its likelihoods are of pixels
    kind: ClassVar[str] = "bound"

    likelihood: Likelihood = field(default_factory=Bernoulli)
    beta: NonNegative = 1.0
    beta_warmup: Natural = 0  # steps
    iwae_samples: Count = 64  # K of the bound that `log_prob` gives
    iwae_chunk: Count = 8  # draws held in memory at once
    pixels: str = "mean"  # of samples: the "mean" of p(x|z), as papers show it, or a "sample" of it

    def __post_init__(self) -> None:
        if self.pixels not in ("mean", "sample"):
            raise UserError(f"method.pixels={self.pixels!r} is unknown; there are: mean, sample")

    @property
    def levels(self) -> int:
        """Those of its likelihood."""
        return self.likelihood.levels

    @property
    def channels(self) -> int:
        """Channels that the decoder must put out."""
        return self.likelihood.params(self.spec.shape[-1])

    def example(self, batch: Batch) -> tuple:
        """The images, and the channels to put out."""
        return self.target(batch), self.channels

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """-log p(x|z) + beta KL, [B] nats."""
        see_rng, draw_rng, net_rng = jax.random.split(rng, 3)
        x, net, rngs = self.likelihood.prepare(self.target(batch), see_rng), w.nets["net"], {"dropout": net_rng}
        (mean, log_var), vars = self.net.apply(net, x, train=train, rngs=rngs, method="encode")
        z = draw(draw_rng, mean, log_var)
        out, vars = self.net.apply({**net, **vars}, z, self.channels, train=train, rngs=rngs, method="decode")
        nll, kl = -self.likelihood.log_prob(out, x), kl_normal(mean, log_var)
        metrics = {"elbo": -nll - kl, "nll": nll, "kl": kl, **self.bits(-nll - kl)}
        beta = self.beta * jnp.minimum(1.0, (w.step + 1.0) / self.beta_warmup) if self.beta_warmup else self.beta
        return Loss(nll + beta * kl, metrics, vars)

    def bits(self, log_prob: Array) -> Metrics:
        """Bits per dimension, where pixels have levels: a density has none."""
        return {"bits_per_dim": -log_prob / (math.prod(self.spec.shape) * jnp.log(2.0))} if self.levels else {}

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Burda's bound with `iwae_samples` draws, [B] nats; it grows with their number towards log p(x)."""
        see_rng, draw_rng = jax.random.split(rng)
        x = self.likelihood.prepare(self.target(batch), see_rng)
        mean, log_var = self._posterior(w, x)

        def log_weight(key: Array) -> Array:  # log p(x, z) / q(z | x) for one draw
            z = draw(key, mean, log_var)
            ratio = log_normal(z, 0.0, 0.0) - log_normal(z, mean, log_var)
            return self.likelihood.log_prob(self._decoded(w, z), x) + ratio

        keys = jax.random.split(draw_rng, self.iwae_samples)
        weights = jax.lax.map(log_weight, keys, batch_size=self.iwae_chunk)  # [K, B]
        return jax.nn.logsumexp(weights, axis=0) - jnp.log(self.iwae_samples)

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """Decoded draws from the prior, [num, H, W, C]."""
        return self.from_latents(w, self.draw_latents(rng, num), cond, jax.random.split(rng)[1])

    def draw_latents(self, rng: Array, num: int) -> Array:
        """z of the prior, [num, latent]."""
        return jax.random.normal(jax.random.split(rng)[0], (num, self.net.module.latent))

    def from_latents(self, w: Weights, z: Array, cond: Cond, rng: Array | None = None) -> Array:
        """Decoded latents, [num, H, W, C]."""
        out = self._decoded(w, z)
        still = self.pixels == "mean" or rng is None
        return self.likelihood.mean(out) if still else self.likelihood.sample(out, rng)

    def encode(self, w: Weights, x: Array, rng: Array) -> Array:
        """z ~ q(z|x), [B, latent]."""
        see_rng, draw_rng = jax.random.split(rng)
        return draw(draw_rng, *self._posterior(w, self.likelihood.prepare(to_float(x), see_rng)))

    def decode(self, w: Weights, z: Array) -> Array:
        """E[x|z], [B, H, W, C]."""
        return self.likelihood.mean(self._decoded(w, z))

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """The decoding of the posterior's mean."""
        mean, _ = self._posterior(w, self.likelihood.prepare(self.target(batch), rng))
        return self.decode(w, mean)

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Its reconstruction: what the codes cannot say of a degraded image is lost."""
        return self.reconstruct(w, batch, rng)

    def _posterior(self, w: Weights, x: Array) -> tuple[Array, Array]:
        return self.net.apply(w.nets["net"], x, method="encode")[0]

    def _decoded(self, w: Weights, z: Array) -> Array:
        return self.net.apply(w.nets["net"], z, self.channels, method="decode")[0]

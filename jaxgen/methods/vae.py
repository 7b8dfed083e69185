"""Variational autoencoder (Kingma & Welling 2013, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082).

    L(x) = -E_{q(z|x)} log p(x|z) + beta KL(q(z|x) || N(0, I))                               (Kingma & Welling, eq. 3)
    z = mu(x) + sigma(x) eps, eps ~ N(0, I): gradients pass through the draw                                 (eq. 9-10)

beta = 1 bounds the likelihood, -L <= log p(x); another beta trades it for disentangled codes (beta-VAE, Higgins et al.
2017), and `beta_warmup` steps of linear growth keep the decoder from ignoring z at first (Soenderby et al. 2016). Two other
prices of the divergence:

    beta |KL - C|                  C grows to `capacity` nats in `capacity_steps` (Burgess et al. 2018, arXiv:1804.03599, eq. 8)
    beta sum_g max(`free`, KL_g)   g is a channel of a group of latents             (Kingma et al. 2016, arXiv:1606.04934, eq. 15)

where KL and KL_g are means over the batch. A hierarchical VAE differs in its net alone (`vdvae`): p(z) and q(z | x) are then
products over groups, and latents from outside are counted as the prior does, z ~ N(0, I) [B, D].

Evaluation tightens the bound with K draws (IWAE, Burda et al. 2015, arXiv:1509.00519):

    log p(x) >= E log 1/K sum_k p(x, z_k) / q(z_k | x)                                             (Burda et al., eq. 8)
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core import parallel
from jaxgen.core.conditions import Cond, nulls
from jaxgen.core.method import Batch, Loss, LossMethod, Metrics
from jaxgen.core.ranges import Count, Natural, NonNegative
from jaxgen.core.state import Array, Weights
from jaxgen.diffusion.needs import refuse_unmet
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.losses.pixel_likelihood import Bernoulli, Likelihood, kl_each, log_normal, per_example
from jaxgen.methods.latent_restorer import Searched
from jaxgen.metrics.bits_per_dim import bits_per_dim


@dataclass(frozen=True, kw_only=True)
class Vae(Searched, LossMethod):
    """The net has `latent`, `sizes`, encode(x, cond), infer(seen, noise, channels, cond) and decode(z, channels, cond)."""

    makes = ("image",)  # its likelihoods are of pixels
    kind: ClassVar[str] = "bound"

    likelihood: Likelihood = field(default_factory=Bernoulli)
    beta: NonNegative = 1.0
    beta_warmup: Natural = 0  # steps
    capacity: NonNegative = 0.0  # nats that the latents shall hold in the end; 0: as many as pay
    capacity_steps: Natural = 0  # in which they grow from none
    free: NonNegative = 0.0  # nats that a channel of a group of latents has for nothing
    temperature: NonNegative = 1.0  # of samples: standard deviation of the latents, as the prior counts
    iwae_samples: Count = 64  # K of the bound that `log_prob` gives
    iwae_chunk: Count = 8  # draws held in memory at once
    pixels: str = "mean"  # of samples: the "mean" of p(x|z), as papers show it, or a "sample" of it

    def __post_init__(self) -> None:
        refuse_unmet(self)
        if self.pixels not in ("mean", "sample"):
            raise UserError(f"method.pixels={self.pixels!r} is unknown; there are: mean, sample")
        if self.capacity and self.free:
            raise UserError(
                f"method.capacity={self.capacity} and method.free={self.free} exclude each other; set method.free=0"
            )

    @property
    def levels(self) -> int:
        """Those of its likelihood."""
        return self.likelihood.levels

    @property
    def channels(self) -> int:
        """Channels that the decoder must put out."""
        return self.likelihood.params(self.spec.shape[-1])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Latents of every group, the upper first."""
        return self.net.module.sizes

    def example(self, batch: Batch) -> tuple:
        """The images, the channels to put out, and what the net is told."""
        return self.target(batch), self.channels, self.conditions(batch)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """-log p(x|z) + beta KL, [B] nats; the KL of every grid of latents, and how many latents are in use."""
        see_rng, draw_rng, net_rng = jax.random.split(rng, 3)
        x, cond = self.likelihood.prepare(self.target(batch), see_rng), self.conditions(batch)
        noise = parallel.as_batch(jax.random.normal(draw_rng, (len(x), sum(self.sizes))))
        net, how = w.nets["net"], dict(train=train, rngs={"dropout": net_rng})
        seen, vars = self.net.apply(net, x, cond, method="encode", **how)
        found, vars = self.net.apply({**net, **vars}, seen, noise, self.channels, cond, method="infer", **how)
        each = [kl_each(*group) for group in found.groups]
        nll, kl = -self.likelihood.log_prob(found.out, x), sum(map(per_example, each))
        metrics = {"elbo": -nll - kl, "nll": nll, "kl": kl, **self.bits(-nll - kl)}
        for divergence in each if len(each) > 1 else ():
            name = f"kl_{'x'.join(map(str, divergence.shape[1:-1]))}"
            metrics[name] = metrics.get(name, 0.0) + per_example(divergence)
        return Loss(nll + self._price(w.step, each, kl, train), metrics, vars)

    def _price(self, step: Array, each: list[Array], kl: Array, train: bool) -> Array:
        """Of the divergence [B]. Means are over the batch in training; each held-out example counts for itself."""
        beta = self.beta * jnp.minimum(1.0, (step + 1.0) / self.beta_warmup) if self.beta_warmup else self.beta
        mean = (lambda v: v.mean(0)) if train else (lambda v: v)
        if self.capacity:
            grown = jnp.minimum(1.0, (step + 1.0) / self.capacity_steps) if self.capacity_steps else 1.0
            over = kl - self.capacity * grown
            return beta * jnp.sign(mean(over)) * over
        if self.free:  # of [B, ..., C] sums over places
            channels = [v.reshape(len(v), -1, v.shape[-1]).sum(1) for v in each]
            kl = sum(per_example(jnp.where(mean(v) > self.free, v, self.free)) for v in channels)
        return beta * kl

    def bits(self, log_prob: Array) -> Metrics:
        """Bits per dimension, where pixels have levels: a density has none."""
        return {"bits_per_dim": bits_per_dim(log_prob, math.prod(self.spec.shape))} if self.levels else {}

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Burda's bound with `iwae_samples` draws, [B] nats; it grows with their number towards log p(x)."""
        see_rng, draw_rng = jax.random.split(rng)
        x, cond = self.likelihood.prepare(self.target(batch), see_rng), self.conditions(batch)
        seen = self._run(w, "encode", x, cond)

        def log_weight(key: Array) -> Array:  # log p(x, z) / q(z | x) for one draw
            noise = jax.random.normal(key, (len(x), sum(self.sizes)))
            found = self._run(w, "infer", seen, noise, self.channels, cond)
            narrower = sum(per_example(group.log_var - group.prior_log_var) for group in found.groups)
            ratio = log_normal(found.z, 0.0, 0.0) - log_normal(noise, 0.0, 0.0) + 0.5 * narrower
            return self.likelihood.log_prob(found.out, x) + ratio

        keys = jax.random.split(draw_rng, self.iwae_samples)
        weights = jax.lax.map(log_weight, keys, batch_size=self.iwae_chunk)  # [K, B]
        return jax.nn.logsumexp(weights, axis=0) - jnp.log(self.iwae_samples)

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """Decoded draws from the prior, [num, H, W, C]."""
        z, told = self.found(w, rng, num, cond)
        return self.from_latents(w, z, told, jax.random.split(rng)[1])

    def draw_latents(self, rng: Array, num: int) -> Array:
        """z of the prior times the temperature, [num, latent]."""
        return self.temperature * jax.random.normal(jax.random.split(rng)[0], (num, sum(self.sizes)))

    def from_latents(self, w: Weights, z: Array, cond: Cond, rng: Array | None = None) -> Array:
        """Decoded latents, [num, H, W, C]."""
        out = self._run(w, "decode", z, self.channels, cond)
        still = self.pixels == "mean" or rng is None
        return self.likelihood.mean(out) if still else self.likelihood.sample(out, rng)

    def encode(self, w: Weights, x: Array, rng: Array) -> Array:
        """z ~ q(z|x), [B, latent]; told nothing."""
        see_rng, draw_rng = jax.random.split(rng)
        x, cond = self.likelihood.prepare(to_float(x), see_rng), nulls(self.spec, len(x))
        return self._inferred(w, x, jax.random.normal(draw_rng, (len(x), sum(self.sizes))), cond).z

    def decode(self, w: Weights, z: Array) -> Array:
        """E[x|z], [B, H, W, C]; told nothing."""
        return self.from_latents(w, z, nulls(self.spec, len(z)))

    def inferred(self, w: Weights, batch: Batch, rng: Array) -> tuple[Array, Array]:
        """The posterior's mean [B, latent], and the divergence of every latent [B, latent]."""
        x, cond = self.likelihood.prepare(self.target(batch), rng), self.conditions(batch)
        found = self._inferred(w, x, jnp.zeros((len(x), sum(self.sizes))), cond)
        return found.z, jnp.concatenate([kl_each(*group).reshape(len(x), -1) for group in found.groups], -1)

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """The decoding of the posterior's mean."""
        x, cond = self.likelihood.prepare(self.target(batch), rng), self.conditions(batch)
        return self.likelihood.mean(self._inferred(w, x, jnp.zeros((len(x), sum(self.sizes))), cond).out)

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """Its reconstruction: what the codes cannot say of a degraded image is lost."""
        return self.reconstruct(w, batch, rng)

    def _inferred(self, w: Weights, x: Array, noise: Array, cond: Cond) -> Any:
        return self._run(w, "infer", self._run(w, "encode", x, cond), noise, self.channels, cond)

    def _run(self, w: Weights, method: str, *args: Any) -> Any:
        return self.net.apply(w.nets["net"], *args, method=method)[0]

"""Likelihoods p(x | z) of images and the divergence that goes with them, in nats.

A decoder's output `out` [B, H, W, params(C)] holds the parameters of p(x | z), all means (or logits) first, then all
log-scales. Images x are float32 [B, H, W, C] in [-1, 1].

    Bernoulli            log p = sum x' l - softplus(l), x' = (x + 1) / 2                (Kingma & Welling 2013, C.1)
    Gaussian             log p = sum -(x - mu)^2 / (2 sigma^2) - log sigma - log(2 pi) / 2                       (C.2)
    discretised logistic log p = sum log(F(x + 1/255) - F(x - 1/255)), open at both ends   (Salimans et al. 2017, eq. 2)
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Number, Positive, Range
from jaxgen.errors import UserError

Array = jax.Array

LOG_2PI = float(np.log(2 * np.pi))


def kl_normal(mean: Array, log_var: Array) -> Array:
    """KL(N(mean, exp(log_var)) || N(0, 1)) summed over all but the first axis -> [B] (Kingma & Welling, app. B)."""
    return per_example(0.5 * (jnp.exp(log_var) + mean**2 - 1.0 - log_var))


def log_normal(z: Array, mean: Array | float, log_var: Array | float) -> Array:
    """log N(z; mean, exp(log_var)) summed over all but the first axis -> [B]."""
    return per_example(-0.5 * ((z - mean) ** 2 * jnp.exp(-jnp.asarray(log_var)) + log_var + LOG_2PI))


def per_example(x: Array) -> Array:
    """Sum over all but the first axis, in float32."""
    return x.astype(jnp.float32).reshape(x.shape[0], -1).sum(-1)


class Likelihood(Protocol):
    """What a decoder's output means."""

    levels: int  # values a pixel can take; 0 for a density, whose bits per dimension would mean nothing

    def params(self, channels: int) -> int:
        """Output channels of the decoder for images with so many channels."""

    def prepare(self, x: Array, rng: Array) -> Array:
        """The image as this likelihood sees it (binarised, or unchanged)."""

    def log_prob(self, out: Array, x: Array) -> Array:
        """log p(x | z) [B], summed over the image."""

    def mean(self, out: Array) -> Array:
        """E[x | z] as an image in [-1, 1]."""

    def sample(self, out: Array, rng: Array) -> Array:
        """x ~ p(x | z) in [-1, 1]."""


@dataclass(frozen=True)
class Bernoulli:
    """Black or white pixels with probability sigmoid(out).

    binarize: "dynamic" draws every pixel anew each time it is seen (Burda et al. 2015), "threshold" cuts at grey,
    "none" takes grey levels as soft targets (a bound on nothing, but a common loss).
    """

    levels: ClassVar[int] = 2
    binarize: str = "dynamic"

    def __post_init__(self) -> None:
        if self.binarize not in ("dynamic", "threshold", "none"):
            raise UserError(f"binarize={self.binarize!r} is unknown; there are: dynamic, threshold, none")

    def params(self, channels: int) -> int:
        """One logit per value."""
        return channels

    def prepare(self, x: Array, rng: Array) -> Array:
        """-1 or 1 per pixel, or the grey levels themselves."""
        rules = {
            "dynamic": lambda: _signs(jax.random.bernoulli(rng, (x + 1.0) / 2.0)),
            "threshold": lambda: _signs(x > 0.0),
            "none": lambda: x,
        }
        return rules[self.binarize]()

    def log_prob(self, out: Array, x: Array) -> Array:
        """x' l - softplus(l): the cross entropy in logits."""
        out = out.astype(jnp.float32)
        return per_example((x + 1.0) / 2.0 * out - jax.nn.softplus(out))

    def mean(self, out: Array) -> Array:
        """Probabilities as grey levels."""
        return 2.0 * jax.nn.sigmoid(out.astype(jnp.float32)) - 1.0

    def sample(self, out: Array, rng: Array) -> Array:
        """-1 or 1."""
        return _signs(jax.random.bernoulli(rng, jax.nn.sigmoid(out.astype(jnp.float32))))


@dataclass(frozen=True)
class Gaussian:
    """Independent normals of one known standard deviation: squared error with a scale that the bound can trust."""

    levels: ClassVar[int] = 0
    sigma: Positive = 1.0

    def params(self, channels: int) -> int:
        """One mean per value."""
        return channels

    def prepare(self, x: Array, rng: Array) -> Array:
        """Unchanged."""
        return x

    def log_prob(self, out: Array, x: Array) -> Array:
        """log N(x; out, sigma^2)."""
        return log_normal(x, out.astype(jnp.float32), 2.0 * float(np.log(self.sigma)))

    def mean(self, out: Array) -> Array:
        """The means, kept in range."""
        return jnp.clip(out.astype(jnp.float32), -1.0, 1.0)

    def sample(self, out: Array, rng: Array) -> Array:
        """Mean plus noise, kept in range."""
        return jnp.clip(out + self.sigma * jax.random.normal(rng, out.shape), -1.0, 1.0)


@dataclass(frozen=True)
class LearnedGaussian:
    """Normals whose standard deviation is learned, one per image (sigma-VAE, Rybkin et al. 2020, arXiv:2006.13202).

    A variance for each pixel would collapse on flat regions. `least` bounds log sigma from below.
    """

    levels: ClassVar[int] = 0
    least: Number = -6.0

    def params(self, channels: int) -> int:
        """A mean and a share of log sigma per value."""
        return 2 * channels

    def prepare(self, x: Array, rng: Array) -> Array:
        """Unchanged."""
        return x

    def log_prob(self, out: Array, x: Array) -> Array:
        """log N(x; mu, sigma^2)."""
        mean, log_sigma = self._split(out)
        return log_normal(x, mean, 2.0 * log_sigma)

    def mean(self, out: Array) -> Array:
        """The means, kept in range."""
        return jnp.clip(self._split(out)[0], -1.0, 1.0)

    def sample(self, out: Array, rng: Array) -> Array:
        """Mean plus noise, kept in range."""
        mean, log_sigma = self._split(out)
        return jnp.clip(mean + jnp.exp(log_sigma) * jax.random.normal(rng, mean.shape), -1.0, 1.0)

    def _split(self, out: Array) -> tuple[Array, Array]:
        mean, share = jnp.split(out.astype(jnp.float32), 2, axis=-1)
        log_sigma = share.mean(axis=tuple(range(1, share.ndim)), keepdims=True)  # [B, 1, 1, 1]
        return mean, self.least + jax.nn.softplus(log_sigma - self.least)


@dataclass(frozen=True)
class DiscretisedLogistic:
    """Probability of the level itself: a logistic integrated over the level's bin (Salimans et al. 2017, eq. 2).

    The bins of the darkest and the brightest level reach to infinity, so that the levels sum to 1 exactly.
    """

    levels: Annotated[int, Range(least=2)] = 256
    least: Number = -7.0  # bound on log-scales

    def params(self, channels: int) -> int:
        """A mean and a log-scale per value."""
        return 2 * channels

    def prepare(self, x: Array, rng: Array) -> Array:
        """Unchanged: images already sit on the levels."""
        return x

    def log_prob(self, out: Array, x: Array) -> Array:
        """log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)) for the sigmoid s: nothing cancels."""
        mean, log_scale = self._split(out)
        half = 1.0 / (self.levels - 1)
        sharp = jnp.exp(-log_scale)
        below = jax.nn.log_sigmoid((x + half - mean) * sharp)  # log P(X <= bin's upper edge)
        above = jax.nn.log_sigmoid(-(x - half - mean) * sharp)  # log P(X > bin's lower edge)
        inside = below + above + jnp.log(-jnp.expm1(-2.0 * half * sharp))
        ends = jnp.where(x < 0.0, below, above)
        return per_example(jnp.where(jnp.abs(x) > 1.0 - half, ends, inside))

    def mean(self, out: Array) -> Array:
        """The location, kept in range."""
        return jnp.clip(self._split(out)[0], -1.0, 1.0)

    def sample(self, out: Array, rng: Array) -> Array:
        """A logistic draw rounded to its level."""
        mean, log_scale = self._split(out)
        x = mean + jnp.exp(log_scale) * jax.random.logistic(rng, mean.shape)
        steps = 0.5 * (self.levels - 1)
        return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * steps) / steps - 1.0

    def _split(self, out: Array) -> tuple[Array, Array]:
        mean, log_scale = jnp.split(out.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.maximum(log_scale, self.least)  # at the bound its gradient is 0.5, torch.clamp's is 1


def _signs(white: Array) -> Array:
    return jnp.where(white, 1.0, -1.0)

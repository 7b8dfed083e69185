"""Likelihoods p(x | z) of images and the divergence that goes with them, in nats.

A decoder's output `out` [B, H, W, params(C)] holds the parameters of p(x | z), all means (or logits) first, then all
log-scales; a mixture's lie as PixelCNN++ has them. Images x are float32 [B, H, W, C] in [-1, 1].

    Bernoulli            log p = sum x' l - softplus(l), x' = (x + 1) / 2                (Kingma & Welling 2013, C.1)
    Gaussian             log p = sum -(x - mu)^2 / (2 sigma^2) - log sigma - log(2 pi) / 2                       (C.2)
    discretised logistic log p = sum log(F(x + 1/255) - F(x - 1/255)), open at both ends   (Salimans et al. 2017, eq. 2)
    categorical          log p = sum log softmax(l)_x                  (van den Oord et al. 2016, arXiv:1601.06759, sec. 3.2)
    mixture of logistics log p = sum_pixels log sum_k pi_k prod_channels P_k(x_c | x_<c)                 (eq. 1 and 3)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Count, Number, Positive
from jaxgen.core.spec import Levels
from jaxgen.errors import UserError
from jaxgen.images import from_levels, to_levels

Array = jax.Array

LOG_2PI = float(np.log(2 * np.pi))


def kl_each(mean: Array, log_var: Array, prior_mean: Array | float = 0.0, prior_log_var: Array | float = 0.0) -> Array:
    """KL(N(mean, exp(log_var)) || N(prior_mean, exp(prior_log_var))) of every number (Kingma & Welling, app. B)."""
    less = log_var - prior_log_var
    return 0.5 * (jnp.exp(less) + (mean - prior_mean) ** 2 * jnp.exp(-jnp.asarray(prior_log_var)) - 1.0 - less)


def log_normal(z: Array, mean: Array | float, log_var: Array | float) -> Array:
    """log N(z; mean, exp(log_var)) summed over all but the first axis -> [B]."""
    return per_example(-0.5 * ((z - mean) ** 2 * jnp.exp(-jnp.asarray(log_var)) + log_var + LOG_2PI))


def per_example(x: Array) -> Array:
    """Sum over all but the first axis, in float32."""
    return x.astype(jnp.float32).reshape(x.shape[0], -1).sum(-1)


def log_level(x: Array, mean: Array, log_scale: Array, levels: int) -> Array:
    """log P that a logistic falls into the bin of the level x; the bins of the first and the last level reach to infinity.

    log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)) for the sigmoid s: nothing cancels.
    """
    half = 1.0 / (levels - 1)
    sharp = jnp.exp(-log_scale)
    below = jax.nn.log_sigmoid((x + half - mean) * sharp)  # log P(X <= bin's upper edge)
    above = jax.nn.log_sigmoid(-(x - half - mean) * sharp)  # log P(X > bin's lower edge)
    inside = below + above + jnp.log(-jnp.expm1(-2.0 * half * sharp))
    ends = jnp.where(x < 0.0, below, above)
    return jnp.where(jnp.abs(x) > 1.0 - half, ends, inside)


def to_level(x: Array, levels: int) -> Array:
    """The nearest of so many levels in [-1, 1]."""
    return from_levels(to_levels(x, levels), levels)


class Likelihood(Protocol):
    """What a decoder's output means."""

    levels: int  # values a pixel can take; 0 for a density, whose bits per dimension would mean nothing
    whole: bool  # where there are levels: whether the values of a pixel depend on each other, so that they are drawn together

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
    whole: ClassVar[bool] = False
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

    def tempered(self, out: Array, temperature: float) -> Array:
        """The parameters of p^(1 / temperature)."""
        return out / temperature


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
class Laplace:
    """Independent double exponentials of one known scale: absolute error."""

    levels: ClassVar[int] = 0
    scale: Positive = 1.0

    def params(self, channels: int) -> int:
        """One median per value."""
        return channels

    def prepare(self, x: Array, rng: Array) -> Array:
        """Unchanged."""
        return x

    def log_prob(self, out: Array, x: Array) -> Array:
        """-|x - out| / scale - log(2 scale)."""
        return per_example(-jnp.abs(x - out.astype(jnp.float32)) / self.scale - float(np.log(2.0 * self.scale)))

    def mean(self, out: Array) -> Array:
        """The medians, kept in range."""
        return jnp.clip(out.astype(jnp.float32), -1.0, 1.0)

    def sample(self, out: Array, rng: Array) -> Array:
        """Median plus noise, kept in range."""
        return jnp.clip(out + self.scale * jax.random.laplace(rng, out.shape), -1.0, 1.0)


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
class OnLevels:
    """What a likelihood of levels shares."""

    whole: ClassVar[bool] = False
    levels: Levels = 256

    def __post_init__(self) -> None:
        if not self.levels:
            raise UserError(
                "method.likelihood is of pixels that have levels, and these are floats; set method.likelihood.levels=256 to take "
                "the nearest of so many, or method.likelihood=learned_gaussian"
            )

    def prepare(self, x: Array, rng: Array) -> Array:
        """On the levels exactly: uint8 has them rounded."""
        return to_level(x, self.levels)


@dataclass(frozen=True)
class Categorical(OnLevels):
    """A probability for every level of every value: a softmax (van den Oord et al. 2016, arXiv:1601.06759, section 3.2)."""

    def params(self, channels: int) -> int:
        """A logit for every level of every value, those of the first level first."""
        return self.levels * channels

    def log_prob(self, out: Array, x: Array) -> Array:
        """The logarithm of the softmax at the level."""
        at = to_levels(x, self.levels)[..., None, :]
        return per_example(jnp.take_along_axis(jax.nn.log_softmax(self._logits(out), -2), at, -2))

    def mean(self, out: Array) -> Array:
        """E[x]."""
        levels = from_levels(jnp.arange(self.levels), self.levels)
        return (jax.nn.softmax(self._logits(out), -2) * levels[:, None]).sum(-2)

    def sample(self, out: Array, rng: Array) -> Array:
        """A level."""
        return from_levels(jax.random.categorical(rng, self._logits(out), axis=-2), self.levels)

    def tempered(self, out: Array, temperature: float) -> Array:
        """The parameters of p^(1 / temperature)."""
        return out / temperature

    def _logits(self, out: Array) -> Array:
        return out.astype(jnp.float32).reshape(*out.shape[:-1], self.levels, -1)


@dataclass(frozen=True)
class DiscretisedLogistic(OnLevels):
    """Probability of the level itself: a logistic integrated over the level's bin (Salimans et al. 2017, eq. 2).

    The bins of the darkest and the brightest level reach to infinity, so that the levels sum to 1 exactly.
    """

    least: Number = -7.0  # bound on log-scales

    def params(self, channels: int) -> int:
        """A mean and a log-scale per value."""
        return 2 * channels

    def log_prob(self, out: Array, x: Array) -> Array:
        """log P of every level."""
        return per_example(log_level(x, *self._split(out), self.levels))

    def mean(self, out: Array) -> Array:
        """The location, kept in range."""
        return jnp.clip(self._split(out)[0], -1.0, 1.0)

    def sample(self, out: Array, rng: Array) -> Array:
        """A logistic draw rounded to its level."""
        mean, log_scale = self._split(out)
        return to_level(mean + jnp.exp(log_scale) * jax.random.logistic(rng, mean.shape), self.levels)

    def tempered(self, out: Array, temperature: float) -> Array:
        """Scales times the temperature."""
        mean, log_scale = jnp.split(out, 2, axis=-1)
        return jnp.concatenate([mean, log_scale + math.log(temperature)], -1)

    def _split(self, out: Array) -> tuple[Array, Array]:
        mean, log_scale = jnp.split(out.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.maximum(log_scale, self.least)  # at the bound its gradient is 0.5, torch.clamp's is 1


@dataclass(frozen=True)
class LogisticMixture(OnLevels):
    """Mixture of discretised logistics for whole pixels (PixelCNN++, Salimans et al. 2017, arXiv:1701.05517, sec. 2.1-2.2).

    A component of RGB has green's mean depend on red, and blue's on both (eq. 3); channels of other pictures are
    independent in it. `out` is logits [K], then for every channel means [K], log-scales [K] and, for RGB, coefficients [K].
    """

    whole: ClassVar[bool] = True
    mixtures: Count = 10
    least: Number = -7.0  # bound on log-scales

    def params(self, channels: int) -> int:
        """10 K for RGB, (1 + 2 C) K for other pictures."""
        return self.mixtures * (1 + channels * (3 if channels == 3 else 2))

    def log_prob(self, out: Array, x: Array) -> Array:
        """log sum_k pi_k P_k(pixel)."""
        logits, mean, log_scale, coefficients = self._split(out)
        mean = _located(mean, coefficients, x[..., None])
        each = log_level(x[..., None], mean, log_scale, self.levels).sum(-2)  # [B, H, W, K]
        return per_example(jax.nn.logsumexp(jax.nn.log_softmax(logits) + each, axis=-1))

    def mean(self, out: Array) -> Array:
        """The components' locations, weighed; what they depend on are the locations of the channels before."""
        logits, mean, _, coefficients = self._split(out)
        x = self._in_turn(mean, coefficients, lambda located: jnp.clip(located, -1.0, 1.0))
        return (jax.nn.softmax(logits)[..., None, :] * x).sum(-1)

    def sample(self, out: Array, rng: Array) -> Array:
        """A component for every pixel, then its channels in turn: each is on its level before the next sees it."""
        pick_rng, draw_rng = jax.random.split(rng)
        logits, *rest = self._split(out)
        picked = jax.nn.one_hot(jax.random.categorical(pick_rng, logits), self.mixtures)[..., None, :]
        mean, log_scale, coefficients = ((picked * part).sum(-1, keepdims=True) for part in rest)
        noise = jnp.exp(log_scale) * jax.random.logistic(draw_rng, mean.shape)
        return self._in_turn(mean, coefficients, lambda located: to_level(located + noise, self.levels))[..., 0]

    def tempered(self, out: Array, temperature: float) -> Array:
        """The components' p^(1 / temperature), and their scales times the temperature."""
        rest = out[..., self.mixtures :].reshape(*out.shape[:-1], -1, self._parts(out), self.mixtures)
        rest = rest.at[..., 1, :].add(math.log(temperature)).reshape(*out.shape[:-1], -1)
        return jnp.concatenate([out[..., : self.mixtures] / temperature, rest], -1)

    def _parts(self, out: Array) -> int:
        return 3 if out.shape[-1] == self.params(3) else 2

    def _split(self, out: Array) -> tuple[Array, Array, Array, Array]:
        """Logits [B, H, W, K]; means, log-scales and coefficients [B, H, W, C, K] each."""
        k, out = self.mixtures, out.astype(jnp.float32)
        parts = self._parts(out)
        rest = out[..., k:].reshape(*out.shape[:-1], -1, parts, k)
        mean, log_scale = rest[..., 0, :], jnp.maximum(rest[..., 1, :], self.least)
        return out[..., :k], mean, log_scale, jnp.tanh(rest[..., 2, :]) if parts == 3 else jnp.zeros_like(mean)

    def _in_turn(self, mean: Array, coefficients: Array, draw: Callable[[Array], Array]) -> Array:
        """x = draw(location), where the location of a channel depends on x of those before: as many passes as channels."""
        x = draw(mean)
        for _ in range(2 if mean.shape[-2] == 3 else 0):
            x = draw(_located(mean, coefficients, x))
        return x


def _located(mean: Array, coefficients: Array, x: Array) -> Array:
    """Means [..., C, K] given the pixel x [..., C, 1 or K]: those of RGB's green and blue move with the channels before."""
    if mean.shape[-2] != 3:
        return mean
    red, green = x[..., 0, :], x[..., 1, :]
    c = coefficients
    moved = (jnp.zeros_like(mean[..., 0, :]), c[..., 0, :] * red, c[..., 1, :] * red + c[..., 2, :] * green)
    return mean + jnp.stack(moved, axis=-2)


def _signs(white: Array) -> Array:
    return jnp.where(white, 1.0, -1.0)

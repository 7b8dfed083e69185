"""The variational bound of a discrete chain, term by term (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, section 2.1).

L_T     = KL(q(x_T | x_0) || N(0, I))
L_(t-1) = KL(q(x_(t-1) | x_t, x_0) || p(x_(t-1) | x_t))
L_0     = -log p(x_0 | x_1), a Gaussian integrated over each grey level; of what has no levels its density
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.spec import Levels
from jaxgen.diffusion.process import Process, as_chain, level_at, spread
from jaxgen.diffusion.solvers.chain import log_band, posterior, validate_variance, variance_needs
from jaxgen.diffusion.solvers.table import Denoiser, Estimate, clipped, x0_of

Array = jax.Array


def normal_kl(mean: Array, log_var: Array, other_mean: Array, other_log_var: Array) -> Array:
    """KL(N(mean, e^log_var) || N(other)) in nats, elementwise."""
    ratio = jnp.exp(log_var - other_log_var)
    return 0.5 * (other_log_var - log_var - 1.0 + ratio + (mean - other_mean) ** 2 * jnp.exp(-other_log_var))


def normal_cdf(x: Array) -> Array:
    """0.5 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): the published programs' approximation, within 3e-4."""
    return 0.5 * (1.0 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def grey_level_log_prob(x: Array, mean: Array, log_std: Array, levels: int = 256) -> Array:
    """log of a Gaussian's mass in the grey level of x, of so many even ones on [-1, 1]; the outermost reach to infinity.

    A mass below 1e-12 counts as that and has no gradient, as after guided-diffusion's torch clamp; at 1e-12 itself the
    gradient is halved here and whole there.
    """
    scale, half = jnp.exp(-log_std), 1 / (levels - 1)
    above, below = normal_cdf(scale * (x - mean + half)), normal_cdf(scale * (x - mean - half))
    mass = jnp.where(x < -0.999, above, jnp.where(x > 0.999, 1.0 - below, above - below))
    return jnp.log(jnp.maximum(mass, 1e-12))


def log_density(x: Array, mean: Array, log_std: Array) -> Array:
    """log N(x; mean, e^(2 log_std)) in nats, elementwise."""
    return -0.5 * ((x - mean) ** 2 * jnp.exp(-2.0 * log_std) + np.log(2 * np.pi)) - log_std


def per_image(v: Array) -> Array:
    """[B, ...] -> [B] sums."""
    return v.reshape(len(v), -1).sum(1)


class Chain(NamedTuple):
    """float32 [T] tables of q(x_(t-1) | x_t, x_0), and the log-variances that a model may use."""

    keep: np.ndarray
    data: np.ndarray
    small: np.ndarray  # log of beta-tilde; the first step has none and takes the second's
    large: np.ndarray  # log of beta
    fixed_large: np.ndarray  # log of beta, with `small`'s first: L_0 is better so (Ho et al. 2020, section 3.2)


@cache
def chain(process: Process) -> Chain:
    """Computed in float64."""
    process = as_chain(process, "the variational bound")
    t = np.arange(process.steps, 0, -1) / process.steps
    q = posterior(process, t, t - 1 / process.steps)
    small, large = log_band(q)[::-1].T
    keep, data = q["keep"][::-1], q["data"][::-1]
    fixed = np.append(small[:1], large[1:])
    return Chain(*(np.asarray(v, np.float32) for v in (keep, data, small, large, fixed)))


def take(values: np.ndarray, t: Array, x: Array) -> Array:
    """values [T] at the chain's times t [B], broadcast against x."""
    index = jnp.round(t * len(values)).astype(int) - 1
    return spread(jnp.asarray(values)[index], x)


def log_variance(process: Process, t: Array, out: Array | Estimate, x: Array, variance: str) -> Array:
    """log of the model's variance at x_t: large | small, or that of a learned fraction (Nichol & Dhariwal 2021, eq. 15)."""
    table = chain(process)
    if variance == "learned":
        low, high = take(table.small, t, x), take(table.large, t, x)
        return out.fraction * high + (1 - out.fraction) * low
    return take({"small": table.small, "large": table.fixed_large}[variance], t, x)


def term(process: Process, x0: Array, x: Array, t: Array, guess: Array, log_var: Array, levels: int = 256) -> Array:
    """[B] nats: L_(t-1), or L_0 at the chain's first step, of a model with this guess of x_0 and this log-variance.

    levels: of a value of x_0; 0 for a density.
    """
    table = chain(process)
    keep, data = take(table.keep, t, x), take(table.data, t, x)
    mean = keep * x + data * guess
    divergence = normal_kl(keep * x + data * x0, take(table.small, t, x), mean, log_var)
    log_std = 0.5 * jnp.broadcast_to(log_var, x.shape)
    decoder = -(grey_level_log_prob(x0, mean, log_std, levels) if levels else log_density(x0, mean, log_std))
    first = jnp.round(t * process.steps) <= 1
    return jnp.where(first, per_image(decoder), per_image(jnp.broadcast_to(divergence, x.shape)))


def prior(process: Process, x0: Array) -> Array:
    """[B] nats: L_T."""
    end = np.ones(1)
    alpha, var = float(process.alpha(end)[0]), float(process.sigma(end)[0]) ** 2
    return per_image(normal_kl(alpha * x0, jnp.log(jnp.float32(var)), jnp.zeros(()), jnp.zeros(())))


class Bound(NamedTuple):
    """Nats; their sum bounds -log p(x_0) from above."""

    prior: Array  # [B] L_T
    terms: Array  # [B, T] L_0 .. L_(T-1)

    @property
    def total(self) -> Array:
        """[B]."""
        return self.prior + self.terms.sum(1)


def variational_bound(
    denoise: Denoiser,
    process: Process,
    x0: Array,
    rng: Array,
    variance: str = "small",
    clip: bool = True,
    levels: int = 256,
) -> Bound:
    """Every term with one draw of its noise: T evaluations. levels: of a value of x0; 0 for a density.

    `rng` is a key, or the recorded unit noise [T, B, ...] from the last step to the first.
    """
    total = chain(process).keep.shape[0]
    recorded = not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
    draws = rng if recorded else jax.random.split(rng, total)

    def one(carry: None, inputs: tuple[Array, Array]) -> tuple[None, Array]:
        now, draw = inputs
        t = jnp.full(x0.shape[:1], now)
        x = level_at(process, t, x0).noised(x0, draw if recorded else jax.random.normal(draw, x0.shape))
        out = denoise(x, t)
        guess = clipped(x0_of(out)) if clip else x0_of(out)
        return carry, term(process, x0, x, t, guess, log_variance(process, t, out, x, variance), levels)

    times = jnp.asarray(np.arange(total, 0, -1) / total, jnp.float32)
    _, terms = jax.lax.scan(one, None, (times, draws))
    return Bound(prior(process, x0), terms[::-1].T)


@dataclass(frozen=True)
class ChainBound:
    """The bound as a negative log-likelihood, of a chain with fixed or learned variance; one evaluation per training step."""

    kind: ClassVar[str] = "bound"

    variance: str = "small"  # large | small | learned
    clip: bool = True  # clamp the denoised image to [-1, 1]
    levels: Levels = 256

    def __post_init__(self) -> None:
        validate_variance(self.variance, "nll")

    @property
    def needs(self) -> tuple[str, ...]:
        """The chain, and a model whose variance can be read where it is learned."""
        return ("chain", *variance_needs(self.variance))

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """[B] nats of data in [-1, 1] on their levels, from above; of what has none, of a density."""
        return variational_bound(denoise, process, x, rng, self.variance, self.clip, self.levels).total

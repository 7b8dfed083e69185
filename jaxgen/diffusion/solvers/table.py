"""Every solver as a table, run by one `lax.scan`.

A sampler keeps a few images (slots): the network's next input, the last denoised images, a saved base point. One row
is one evaluation D = denoise(slot 0, t), after which every slot becomes a fixed linear combination of the slots, of D,
of D before clipping and of unit noise z. The coefficients depend on the process and the grid alone, so they are
computed on the host in float64; a solver's code forms them with vectors that stand for those images, and reads like
the paper's update. The number of rows is the number of function evaluations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.process import Process, spread

Array = jax.Array


class Estimate(NamedTuple):
    """The output of a denoiser with learned variance: x_0, and where between its bounds the log-variance lies."""

    x0: Array  # [B, ...]
    fraction: Array  # [B, ...] in [0, 1]: 0 the posterior's own variance, 1 that of the forward step


def x0_of(out: Array | Estimate) -> Array:
    """x_0 [B, ...] of a denoiser's output."""
    return out.x0 if isinstance(out, Estimate) else out


Denoiser = Callable[[Array, Array], Array | Estimate]  # (x_t [B, ...], t [B]) -> x_0


class Solver(Protocol):
    """Integrates the reverse process."""

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 [B, ...] -> x at t=0. `rng` is a key, or the recorded unit noise of every row [rows, B, ...]."""

    def nfe(self, process: Process) -> int:
        """How often the denoiser is evaluated."""


class NegativeLogLikelihood(Protocol):
    """How likely a model finds an image."""

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """[B] nats of 8-bit images in [-1, 1], or an upper bound."""


class Symbols(NamedTuple):
    """Unit vectors over what a row can combine."""

    slots: list[np.ndarray]
    d: np.ndarray  # the denoised image, clipped if the solver clips
    raw: np.ndarray  # the denoised image as it comes from the network
    z: np.ndarray  # unit noise


def symbols(slots: int) -> Symbols:
    """Names for a table of so many slots."""
    unit = np.eye(slots + 3)
    return Symbols(list(unit[:slots]), *unit[slots:])


@dataclass(frozen=True)
class Table:
    """Rows of a solver; float64."""

    t: np.ndarray  # [N] times given to the denoiser
    mix: np.ndarray  # [N, slots, slots + 3] new slots from (slots, d, raw, z)
    start: tuple[float, float] = (1.0, 0.0)  # the first input is start[0] x + start[1] z
    band: np.ndarray | tuple = ()  # [N, 2] log of smallest and largest variance; z is scaled by the learned one

    def __len__(self) -> int:
        return len(self.t)


def table(t: list[float], rows: list[list[np.ndarray]], **more) -> Table:
    """From one list of new slots per evaluation."""
    return Table(np.asarray(t, np.float64), np.asarray(rows, np.float64), **more)


def combine(mix: np.ndarray, row: Array, values: list[Array]) -> Array:
    """sum_j row[j] values[j] over the columns that any row of the table uses; plain copies cost nothing."""
    used = np.flatnonzero(mix.any(0))
    if not len(used):
        return jnp.zeros_like(values[0])
    if len(used) == 1 and (mix[:, used[0]] == 1).all():
        return values[used[0]]
    total = row[used[0]] * values[used[0]]
    for j in used[1:]:
        total = total + row[j] * values[j]
    return total


def run(
    rows: Table, denoise: Denoiser, x: Array, rng: Array, limit: Callable[[Array], Array], keep: bool = False
) -> Array:
    """Follow the table from x. With `keep` the network's inputs and the result, [N + 1, B, ...], instead of the result.

    `rng` is a key, or recorded unit noise [N, B, ...] ([N + 1, B, ...] when the start is noisy), one image a row.
    """
    coefficients = jnp.asarray(rows.mix, x.dtype)
    times = jnp.asarray(rows.t, jnp.result_type(x.dtype, jnp.float32))
    band = jnp.asarray(rows.band, x.dtype) if len(rows.band) else jnp.zeros((len(rows), 2), x.dtype)
    noisy, slots = bool(rows.start[1]), rows.mix.shape[1]
    recorded = not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
    draws = rng if recorded else jax.random.split(rng, len(rows) + noisy)

    def noise(draw: Array) -> Array:
        return draw.astype(x.dtype) if recorded else jax.random.normal(draw, x.shape, x.dtype)

    if noisy:
        x = rows.start[0] * x + rows.start[1] * noise(draws[0])
        draws = draws[1:]
    first = tuple(x if k == 0 else jnp.zeros_like(x) for k in range(slots))

    def step(images: tuple[Array, ...], inputs: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array | None]:
        c, t, low_high, draw = inputs
        out = denoise(images[0], jnp.full(x.shape[:1], t))
        raw = x0_of(out)
        values = [*images, limit(raw), raw, None]
        if rows.mix[:, :, -1].any():
            z = noise(draw)
            if len(rows.band):
                log_var = out.fraction * low_high[1] + (1 - out.fraction) * low_high[0]
                z = jnp.exp(0.5 * log_var) * z
            values[-1] = z
        new = tuple(combine(rows.mix[:, k], c[k], values) for k in range(slots))
        return new, new[0] if keep else None

    last, path = jax.lax.scan(step, first, (coefficients, times, band, draws))
    return jnp.concatenate([x[None], path]) if keep else last[0]


def unlimited(x0: Array) -> Array:
    """x_0 as it is."""
    return x0


def clipped(x0: Array) -> Array:
    """x_0 clamped to the range of images."""
    return jnp.clip(x0, -1.0, 1.0)


def thresholded(quantile: float = 0.995, most: float = 1.0) -> Callable[[Array], Array]:
    """Dynamic thresholding (Saharia et al. 2022, Imagen, section 2.3): clamp to the quantile of |x_0| in [1, most], rescale."""

    def limit(x0: Array) -> Array:
        size = jnp.quantile(jnp.abs(x0).reshape(len(x0), -1), quantile, axis=1)
        size = spread(jnp.clip(size, 1.0, most), x0)
        return jnp.clip(x0, -size, size) / size

    return limit


class Tabulated:
    """A solver whose `table` says all. Those with a field `clip` clamp every denoised image to [-1, 1]."""

    def table(self, process: Process) -> Table:
        """The rows for this process."""
        raise TypeError(f"{type(self).__name__} must define its table")

    def limit(self, x0: Array) -> Array:
        """What is done to every denoised image before it is used."""
        return clipped(x0) if getattr(self, "clip", False) else x0

    def nfe(self, process: Process) -> int:
        """Rows."""
        return len(self.table(process))

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 -> x at t=0."""
        return run(self.table(process), denoise, x, rng, self.limit)

    def trajectory(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """[nfe + 1, B, ...]: what the network was shown, row by row, and the result."""
        return run(self.table(process), denoise, x, rng, self.limit, keep=True)


SHORT = 15  # steps: the published programs lower the order at the end of shorter runs only


def multistep_orders(steps: int, most: int, taper: bool, below: float = SHORT) -> list[int]:
    """The order of every step of a multistep method: it grows with the history, and falls at the end of a run of few steps.

    diffusers' `lower_order_final`: DPM-Solver(++) and DEIS below 15 steps, UniPC always (below = inf).
    """
    left = [steps - i if taper and steps < below else most for i in range(steps)]
    return [min(most, i + 1, left[i]) for i in range(steps)]

"""Every solver as a table, followed by one loop.

A sampler keeps a few images (slots): the network's next input, the last denoised images, a saved base point. One row
is one evaluation D = denoise(slot 0, t), after which every slot becomes a fixed linear combination of the slots, of D,
of D before clipping and of unit noise z. The coefficients depend on the process and the grid alone, so they are
computed on the host in float64; a solver's code forms them with vectors that stand for those images, and reads like
the paper's update. The number of rows is the number of function evaluations.

A program that is given a table (`Tabulated.prepared`) is compiled for its `Form` alone: other steps, another grid, another eta
are other numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Inside
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


def prepared(solver: Solver, process: Process) -> Solver:
    """What stands in for a solver among the inputs of a program: its table; itself where it has none."""
    return solver.prepared(process) if hasattr(solver, "prepared") else solver


class NegativeLogLikelihood(Protocol):
    """How likely a model finds an image."""

    levels: int  # of a value; 0: the data have a density
    kind: str  # "exact", or a "bound"

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """[B] nats of images in [-1, 1] on their levels, or an upper bound."""


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


class Form(NamedTuple):
    """What a program must know of a table."""

    columns: tuple[tuple[int, ...], ...]  # of each slot: those that any row uses
    copies: tuple[bool, ...]  # slots that are one column as it is
    noisy: bool  # the start has noise
    learned: bool  # z is scaled by a learned variance


@dataclass(frozen=True)
class Table:
    """Rows of a solver; float64. A solver itself, once it is `prepared`."""

    inputs: ClassVar[tuple[str, ...]] = ("t", "mix", "start", "band", "num")

    t: np.ndarray  # [N] times given to the denoiser
    mix: np.ndarray  # [N, slots, slots + 3] new slots from (slots, d, raw, z)
    start: tuple[float, float] = (1.0, 0.0)  # the first input is start[0] x + start[1] z
    band: np.ndarray | tuple = ()  # [N, 2] log of smallest and largest variance; z is scaled by the learned one
    num: int | Array | None = None  # rows that count; None: all
    form: Form | None = None  # None: that of its numbers
    limit: Callable[[Array], Array] | None = None  # what is done to every denoised image; None: nothing

    def __len__(self) -> int:
        return len(self.t)

    def __call__(self, denoise: "Denoiser", process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 -> x at t=0."""
        return run(self, denoise, x, rng, self.limit or unlimited)

    @property
    def nature(self) -> Form:
        """Its form."""
        if self.form:
            return self.form
        columns = [tuple(np.flatnonzero(slot.any(0)).tolist()) for slot in self.mix.swapaxes(0, 1)]
        ones = [(self.mix[:, k, used] == 1).all() for k, used in enumerate(columns)]
        copies = tuple(len(used) == 1 and bool(one) for used, one in zip(columns, ones, strict=True))
        return Form(tuple(columns), copies, bool(self.start[1]), len(self.band) > 0)

    def prepared(self, limit: Callable[[Array], Array]) -> "Table":
        """With its form told apart from its numbers, in as many rows as other tables have."""
        band = padded(self.band) if len(self.band) else ()
        return Table(padded(self.t), padded(self.mix), self.start, band, len(self), self.nature, limit)


def table(t: list[float], rows: list[list[np.ndarray]], **more) -> Table:
    """From one list of new slots per evaluation."""
    return Table(np.asarray(t, np.float64), np.asarray(rows, np.float64), **more)


def padded(rows: np.ndarray) -> np.ndarray:
    """Filled up to 1,024 rows or the next power of two: a program counts the rows of an array."""
    more = max(1024, 1 << (len(rows) - 1).bit_length()) - len(rows)
    return np.concatenate([rows, np.zeros((more, *rows.shape[1:]))])


def combine(used: tuple[int, ...], copy: bool, row: Array, values: list[Array]) -> Array:
    """sum_j row[j] values[j] over the columns that any row of the table uses; plain copies cost nothing."""
    if not used:
        return jnp.zeros_like(values[0])
    if copy:
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
    form, num = rows.nature, len(rows) if rows.num is None else rows.num
    coefficients = jnp.asarray(rows.mix, x.dtype)
    times = jnp.asarray(rows.t, jnp.result_type(x.dtype, jnp.float32))
    band = jnp.asarray(rows.band, x.dtype)
    recorded = not jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)

    def noise(i: Array | int) -> Array:
        return (
            at(rng, i).astype(x.dtype) if recorded else jax.random.normal(jax.random.fold_in(rng, i), x.shape, x.dtype)
        )

    if form.noisy:
        x = rows.start[0] * x + rows.start[1] * noise(0)
    slots = len(form.columns)
    first = tuple(x if k == 0 else jnp.zeros_like(x) for k in range(slots))
    path = jnp.zeros((len(rows) + 1, *x.shape), x.dtype).at[0].set(x) if keep else None

    def step(i: Array, carry: tuple[tuple[Array, ...], Array | None]) -> tuple[tuple[Array, ...], Array | None]:
        images, path = carry
        out = denoise(images[0], jnp.full(x.shape[:1], at(times, i)))
        raw = x0_of(out)
        values = [*images, limit(raw), raw, None]
        if any(slots + 2 in used for used in form.columns):
            z = noise(i + form.noisy)
            if form.learned:
                low, high = at(band, i)
                z = jnp.exp(0.5 * (out.fraction * high + (1 - out.fraction) * low)) * z
            values[-1] = z
        told = zip(form.columns, form.copies, at(coefficients, i), strict=True)
        new = tuple(combine(used, copy, row, values) for used, copy, row in told)
        return new, path.at[i + 1].set(new[0]) if keep else None

    last, path = jax.lax.fori_loop(0, num, step, (first, path))
    return path if keep else last[0]


def at(rows: Array, i: Array | int) -> Array:
    """rows[i]."""
    return jax.lax.dynamic_index_in_dim(rows, i, keepdims=False)


def unlimited(x0: Array) -> Array:
    """x_0 as it is."""
    return x0


def clipped(x0: Array) -> Array:
    """x_0 clamped to the range of images."""
    return jnp.clip(x0, -1.0, 1.0)


@dataclass(frozen=True)
class Thresholded:
    """Dynamic thresholding (Saharia et al. 2022, Imagen, section 2.3): clamp to the quantile of |x_0| in [1, most], rescale.

    With most = 1, as a published program has it by default, it is `clipped`.
    """

    quantile: float = 0.995
    most: float = math.inf

    def __call__(self, x0: Array) -> Array:
        """Each example by its own size."""
        size = jnp.quantile(jnp.abs(x0).reshape(len(x0), -1), self.quantile, axis=1)
        size = spread(jnp.clip(size, 1.0, self.most), x0)
        return jnp.clip(x0, -size, size) / size


# of every denoised image: False leaves it, True clamps it to [-1, 1], a number is the quantile of dynamic thresholding (0.995)
Clip = bool | Inside


def limited(clip: Clip) -> Callable[[Array], Array]:
    """What a `clip` does to a denoised image."""
    return Thresholded(clip) if not isinstance(clip, bool) else clipped if clip else unlimited


class Tabulated:
    """A solver whose `table` says all. Those with a field `clip` limit every denoised image."""

    def table(self, process: Process) -> Table:
        """The rows for this process."""
        raise TypeError(f"{type(self).__name__} must define its table")

    @property
    def limit(self) -> Callable[[Array], Array]:
        """What is done to every denoised image before it is used."""
        return limited(getattr(self, "clip", False))

    def nfe(self, process: Process) -> int:
        """Rows."""
        return len(self.table(process))

    def __call__(self, denoise: Denoiser, process: Process, x: Array, rng: Array) -> Array:
        """x at t=1 -> x at t=0."""
        return run(self.table(process), denoise, x, rng, self.limit)

    def prepared(self, process: Process) -> Table:
        """Its table, for a program that is given it: the same program for any number of steps."""
        return self.table(process).prepared(self.limit)

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

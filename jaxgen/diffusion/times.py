"""How training times are drawn: a raw draw, uniform or normal, and what time of the process it stands for."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jaxgen.core.ranges import Count, Number, Positive, Range, Share
from jaxgen.diffusion.process import Process, as_chain, ratio

Array = jax.Array
Memory = dict[str, Array]  # the losses seen, for times that adapt to them; else empty


class Times:
    """A distribution over training times: a frozen dataclass of options with these functions."""

    gives: ClassVar[tuple[str, ...]] = ("memoryless",)  # see jaxgen.diffusion.needs

    def __call__(self, rng: Array, num: int) -> Array:
        """float32 [num] raw draws."""
        raise TypeError(f"{type(self).__name__} must define its raw draws")

    def at(self, process: Process, raw: Array) -> Array:
        """Raw draws -> times in (0, 1]: those that the process itself gives uniform draws."""
        return process.time(raw)

    def start(self, process: Process) -> Memory:
        """What is remembered between steps, at first."""
        return {}

    def draw(self, process: Process, memory: Memory, rng: Array, num: int) -> tuple[Array, Array | float]:
        """(times [num], factors [num] by which the losses there count so that their mean stays)."""
        return self.at(process, self(rng, num)), 1.0

    def learn(self, memory: Memory, t: Array, losses: Array) -> Memory:
        """The memory after losses [num] at times t [num]."""
        return memory


@dataclass(frozen=True)
class Uniform(Times):
    """Independent draws (Ho et al. 2020, algorithm 1); log-uniform sigmas for VE."""

    gives: ClassVar[tuple[str, ...]] = ("memoryless", "uniform")

    def __call__(self, rng: Array, num: int) -> Array:
        """U[0, 1)."""
        return jax.random.uniform(rng, (num,))


@dataclass(frozen=True)
class Stratified(Times):
    """One draw shared by the batch, spread evenly: less variance (Kingma et al. 2021, VDM, appendix I.1)."""

    def __call__(self, rng: Array, num: int) -> Array:
        """(u + i / num) mod 1."""
        return jnp.mod(jax.random.uniform(rng, ()) + jnp.arange(num) / num, 1.0)


@dataclass(frozen=True)
class LogNormal(Times):
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, table 1)."""

    mean: Number = -1.2
    std: Positive = 1.2
    bounded: bool = False  # cut off at the levels of the process's first time and its last

    def __call__(self, rng: Array, num: int) -> Array:
        """N(0, 1)."""
        return jax.random.normal(rng, (num,))

    def at(self, process: Process, raw: Array) -> Array:
        """The time of that noise level."""
        if self.bounded:  # by the distribution function: as probable among the levels left as it was among all
            ends = np.log(ratio(process, np.array([process.first, 1.0])))
            low, high = ndtr((ends - self.mean) / self.std)
            raw = ndtri(low + (high - low) * ndtr(raw))
        return process.when(jnp.exp(self.mean + self.std * raw))


@dataclass(frozen=True)
class LogitNormal(Times):
    """logit(t) ~ N(mean, std^2): the middle of the path most (Esser et al. 2024, SD3, eq. 19)."""

    mean: Number = 0.0
    std: Positive = 1.0

    def __call__(self, rng: Array, num: int) -> Array:
        """N(0, 1)."""
        return jax.random.normal(rng, (num,))

    def at(self, process: Process, raw: Array) -> Array:
        """process.time(sigmoid(mean + std n))."""
        return process.time(self.share(raw))

    def share(self, raw: Array) -> Array:
        """sigmoid(mean + std n), in (0, 1)."""
        return jax.nn.sigmoid(self.mean + self.std * raw)


@dataclass(frozen=True)
class Mode(Times):
    """Heavy-tailed draws around the middle (Esser et al. 2024, eq. 20): 1 - u - scale (cos^2(pi u / 2) - 1 + u)."""

    scale: Annotated[float, Range(least=-1, most=2 / (np.pi - 2))] = 1.29  # so that t rises with u

    def __call__(self, rng: Array, num: int) -> Array:
        """U[0, 1)."""
        return jax.random.uniform(rng, (num,))

    def at(self, process: Process, raw: Array) -> Array:
        """process.time of it."""
        return process.time(self.share(raw))

    def share(self, raw: Array) -> Array:
        """In [0, 1]."""
        return 1 - raw - self.scale * (jnp.cos(0.5 * jnp.pi * raw) ** 2 - 1 + raw)


@dataclass(frozen=True)
class Importance(Times):
    """Steps of a chain in proportion to sqrt(E L_t^2), from the last losses of each (Nichol & Dhariwal 2021, eq. 18).

    Until every step has `history` losses the draws are uniform. The loss is divided by T p_t, so its mean stays.
    """

    needs: ClassVar[tuple[str, ...]] = ("chain",)
    gives: ClassVar[tuple[str, ...]] = ()
    history: Count = 10
    uniform: Share = 0.001  # share of uniform draws

    def start(self, process: Process) -> Memory:
        """losses [T, history] and counts, how many there are, [T]."""
        steps = as_chain(process, "method.times.name=importance").steps
        return {"losses": jnp.zeros((steps, self.history)), "counts": jnp.zeros(steps, jnp.int32)}

    def probabilities(self, memory: Memory) -> Array:
        """[T]."""
        share = jnp.sqrt(jnp.mean(memory["losses"] ** 2, axis=1))
        share = share / jnp.maximum(share.sum(), 1e-20)
        known = (1 - self.uniform) * share + self.uniform / len(share)
        return jnp.where((memory["counts"] == self.history).all(), known, 1.0 / len(share))

    def draw(self, process: Process, memory: Memory, rng: Array, num: int) -> tuple[Array, Array | float]:
        """(times [num], factors 1 / (T p_t) [num])."""
        p = self.probabilities(memory)
        index = jax.random.choice(rng, len(p), (num,), p=p)
        return (index + 1.0) / len(p), 1.0 / (len(p) * p[index])

    def learn(self, memory: Memory, t: Array, losses: Array) -> Memory:
        """The newest losses [num] at times t [num] replace the oldest of their steps."""
        index = jnp.round(t * len(memory["counts"])).astype(jnp.int32) - 1

        def note(memory: Memory, one: tuple[Array, Array]) -> tuple[Memory, None]:
            i, loss = one
            count = memory["counts"][i]
            row = memory["losses"][i]
            row = jnp.where(count == self.history, jnp.roll(row, -1), row)
            row = row.at[jnp.minimum(count, self.history - 1)].set(loss)
            counts = memory["counts"].at[i].set(jnp.minimum(count + 1, self.history))
            return {"losses": memory["losses"].at[i].set(row), "counts": counts}, None

        return jax.lax.scan(note, memory, (index, losses))[0]

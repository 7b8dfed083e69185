"""MeanFlow (Geng et al. 2025, "Mean Flows for One-step Generative Modeling", arXiv:2505.13447).

The net says the average velocity of the flow between two times r <= t,

    u(z_t, r, t) = 1 / (t - r) int_r^t v(z_s, s) ds,   so that   z_r = z_t - (t - r) u(z_t, r, t)                     (3, 12)

in one step. Differentiated by t this is the identity that it is trained on, with the velocity v = e - x of the straight
path z_t = (1 - t) x + t e of an image x and noise e:

    u = v - (t - r) du/dt,   du/dt = v d_z u + d_t u, one Jacobian-vector product,                                    (6, 8)
    L = E |u - stop(v - (t - r) du/dt)|^2 / stop(|.|^2 + c)^p                                                       (9, 22)

Where r = t this is flow matching. Guidance is built into the target (appendix B.1) and costs nothing when sampling:
v becomes omega v + kappa u(z, t, t | cond) + (1 - omega - kappa) u(z, t, t), a guidance scale of omega / (1 - kappa).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.conditions import Cond, drop
from jaxgen.core.method import Loss, LossMethod
from jaxgen.core.ranges import BelowOne, Count, NonNegative, Number, Positive, Share
from jaxgen.core.state import Array, Variables, Weights
from jaxgen.core.task import Batch
from jaxgen.diffusion.needs import refuse_unmet
from jaxgen.diffusion.paths import Linear
from jaxgen.diffusion.process import Process, level_at, spread
from jaxgen.diffusion.times import LogitNormal, Times
from jaxgen.methods.diffusion import bounded, learns_null

AverageVelocity = Callable[[Array, Array, Array], Array]  # (z [B, ...], r [B], t [B]) -> u [B, ...]


@dataclass(frozen=True, kw_only=True)
class MeanFlow(LossMethod):
    """The defaults are those of the paper's ImageNet runs, without guidance.

    The net is called as net(z [B, ..., C], (clock of t, clock of t - r) [B, 2], cond, train) -> [B, ..., C].
    """

    process: Process = field(default_factory=lambda: Linear(scale=1.0))
    times: Times = field(default_factory=lambda: LogitNormal(mean=-0.4, std=1.0))  # of two draws, t is the later
    share: Share = 0.25  # of the batch with r < t; the rest has r = t
    power: NonNegative = 1.0  # p of the adaptive weight; 0: the plain squared error
    offset: Positive = 1e-3  # c of the adaptive weight
    condition_dropout: BelowOne = 0.0  # share of examples that lose their conditions in training
    omega: Number = 1.0  # of the velocity that the images give; 1 with kappa = 0 is no guidance
    kappa: BelowOne = 0.0  # of the net's own velocity for the conditions
    sample_steps: Count = 1

    def __post_init__(self) -> None:
        refuse_unmet(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """Guidance is away from what is said without conditions."""
        return ("interpolant", "memoryless", *(("null",) if self.guided else ()))

    @property
    def gives(self) -> tuple[str, ...]:
        """What it is trained without."""
        return ("null",) if learns_null(self) else ()

    @property
    def guided(self) -> bool:
        """Whether the target is another velocity than the images'."""
        return (self.omega, self.kappa) != (1.0, 0.0)

    def example(self, batch: Batch) -> tuple:
        """Net arguments for a batch."""
        x = self.target(batch)
        return x, jnp.zeros((len(x), 2)), self.conditions(batch)

    def clocks(self, r: Array, t: Array) -> Array:
        """[B, 2]: how the net is told r and t (table 1c)."""
        return jnp.stack([self.process.clock(t), self.process.clock(t - r)], -1)

    def draw(self, rng: Array, num: int) -> tuple[Array, Array]:
        """(r, t) [num] each."""
        time_rng, same_rng = jax.random.split(rng)
        two = self.times.at(self.process, self.times(time_rng, 2 * num)).reshape(2, num)
        r, t = two.min(0), two.max(0)
        return jnp.where(jax.random.bernoulli(same_rng, self.share, (num,)), r, t), t

    def guide(self, u: Callable[[Cond], Array], v: Array, cond: Cond) -> Array:
        """The guided velocity (19-21) of the net's own u(z, t, t) for conditions. Examples that lost theirs keep v."""
        null = {name: self.spec[name].null(len(v)) for name in cond}
        mixed = self.omega * v + (1 - self.omega - self.kappa) * u(null)
        mixed = mixed + self.kappa * u(cond) if self.kappa else mixed
        same = [(cond[k] == null[k]).reshape(len(v), -1).all(1) for k in cond]
        return jax.lax.stop_gradient(jnp.where(spread(jnp.all(jnp.stack(same), 0), v), v, mixed))

    @staticmethod
    def identity(u: AverageVelocity, z: Array, r: Array, t: Array, v: Array) -> tuple[Array, Array]:
        """(u(z, r, t), v - (t - r) du/dt): equal for the average of the flow whose velocity at z is v (6)."""
        average, rate = jax.jvp(u, (z, r, t), (v, jnp.zeros_like(r), jnp.ones_like(t)))
        return average, jax.lax.stop_gradient(v - spread(t - r, z) * rate)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """[B]: squared error of the identity, summed over the image and weighted adaptively."""
        times_rng, noise_rng, drop_rng, net_rng = jax.random.split(rng, 4)
        x, cond = self.target(batch), self.conditions(batch)
        if train:
            cond = drop(self.spec, cond, self.condition_dropout, drop_rng)

        def net(z: Array, r: Array, t: Array, cond: Cond) -> Array:
            clocks, rngs = self.clocks(r, t), {"dropout": net_rng}
            return self.net.apply(w.nets["net"], z, clocks, cond, train=train, rngs=rngs)[0]

        r, t = self.draw(times_rng, len(x))
        noise, level = jax.random.normal(noise_rng, x.shape), level_at(self.process, t, x)
        z, v = level.noised(x, noise), level.velocity(x, noise)
        if self.guided:
            v = self.guide(lambda cond: net(z, t, t, cond), v, cond)
        average, target = self.identity(lambda z, r, t: net(z, r, t, cond), z, r, t, v)
        error = jnp.sum((average - target) ** 2, axis=tuple(range(1, x.ndim)))
        weight = jax.lax.stop_gradient(error + self.offset) ** -self.power
        return Loss(weight * error, {"mse": error / np.prod(x.shape[1:])})

    def jump(self, variables: Variables, z: Array, r: Array, t: Array, cond: Cond) -> Array:
        """z at times t [B] -> z at times r [B] (12)."""
        u, _ = self.net.apply(variables, z, self.clocks(r, t), cond)
        return z - spread(t - r, z) * u

    @property
    def nfe(self) -> int:
        """Network evaluations per image of `sample`."""
        return self.sample_steps

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """float32 [num, *spec.shape], pictures in [-1, 1], by `sample_steps` jumps."""
        grid = jnp.asarray(self.process.grid(self.sample_steps), jnp.float32)

        def step(z: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
            t, r = (jnp.full(num, end) for end in ends)
            return self.jump(w.nets["net"], z, r, t, cond), None

        z = jax.random.normal(rng, (num, *self.spec.shape)) * self.process.sigma(grid[0])
        z, _ = jax.lax.scan(step, z, (grid[:-1], grid[1:]))
        return bounded(self.spec, z)

"""MeanFlow (Geng et al. 2025, "Mean Flows for One-step Generative Modeling", arXiv:2505.13447).

The net says the average velocity of the flow between two times r <= t,

    u(z_t, r, t) = 1 / (t - r) int_r^t v(z_s, s) ds,   so that   z_r = z_t - (t - r) u(z_t, r, t)                     (3, 12)

in one step. Differentiated by t this is the identity that it is trained on, with the velocity v = e - x of the straight
path z_t = (1 - t) x + t e of an image x and noise e:

    u = v - (t - r) du/dt,   du/dt = v d_z u + d_t u, one Jacobian-vector product,                                    (6, 8)
    L = E |u - stop(v - (t - r) du/dt)|^2 / stop(|.|^2 + c)^p                                                       (9, 22)

Where r = t this is flow matching. Guidance is built into the target (appendix B.1) and costs nothing when sampling:
v becomes omega v + kappa u(z, t, t | label) + (1 - omega - kappa) u(z, t, t), a guidance scale of omega / (1 - kappa).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.method import Batch, LossMethod, Metrics
from jaxgen.core.state import Array, PyTree, Variables, Weights
from jaxgen.diffusion.paths import Linear, Trigonometric
from jaxgen.diffusion.process import Process, spread
from jaxgen.diffusion.times import LogitNormal, Times
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.methods.diffusion import Diffusion, drop_labels, told

AverageVelocity = Callable[[Array, Array, Array], Array]  # (z [B, ...], r [B], t [B]) -> u [B, ...]


@dataclass(frozen=True, kw_only=True)
class MeanFlow(LossMethod):
    """The defaults are those of the paper's ImageNet runs, without guidance.

    The net is called as net(z [B, H, W, C], (clock of t, clock of t - r) [B, 2], label [B] or None, train) -> [B, H, W, C].
    """

    shape: tuple[int, int, int]  # [H, W, C] of the data
    classes: int = 0  # labels; 0 is an unconditional model
    process: Process = field(default_factory=lambda: Linear(scale=1.0))
    times: Times = field(default_factory=lambda: LogitNormal(mean=-0.4, std=1.0))  # of two draws, t is the later
    share: float = 0.25  # of the batch with r < t; the rest has r = t
    power: float = 1.0  # p of the adaptive weight; 0: the plain squared error
    offset: float = 1e-3  # c of the adaptive weight
    label_dropout: float = 0.0  # share of labels replaced by the null label in training
    omega: float = 1.0  # of the velocity that the images give; 1 with kappa = 0 is no guidance
    kappa: float = 0.0  # of the net's own velocity for the label
    sample_steps: int = 1

    augment_labels = Diffusion.augment_labels

    def __post_init__(self) -> None:
        if not isinstance(self.process, Linear | Trigonometric):
            raise UserError("method.process of a mean flow is an interpolant; set method.process.name=linear")
        for name in ("share", "label_dropout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"method.{name}={getattr(self, name)} must lie in [0, 1]")
        if self.sample_steps < 1:
            raise UserError(f"method.sample_steps={self.sample_steps} must be at least 1")
        if self.times.adaptive:
            raise UserError("method.times=importance needs a chain; set method.times.name=logit_normal or uniform")
        if self.offset <= 0 or not 0.0 <= self.kappa < 1.0:
            raise UserError(f"method.offset={self.offset}, kappa={self.kappa}: need offset > 0 and 0 <= kappa < 1")
        if self.guided and not (self.classes and self.label_dropout):
            raise UserError(
                "method.omega and method.kappa guide a conditional run trained with a null label; set data.labels=True, "
                "method.net.null_label=True and method.label_dropout=0.1, or omega=1, kappa=0"
            )

    @property
    def guided(self) -> bool:
        """Whether the target is another velocity than the images'."""
        return (self.omega, self.kappa) != (1.0, 0.0)

    def labels(self, batch: Batch) -> Array | None:
        """The batch's labels when the model is conditional."""
        return batch["label"] if self.classes else None

    def example(self, batch: Batch) -> tuple[tuple, dict]:
        """Net arguments for a batch."""
        x = to_float(batch["image"])
        return (x, jnp.zeros((len(x), 2)), self.labels(batch)), {}

    def clocks(self, r: Array, t: Array) -> Array:
        """[B, 2]: how the net is told r and t (table 1c)."""
        return jnp.stack([self.process.clock(t), self.process.clock(t - r)], -1)

    def draw(self, rng: Array, num: int) -> tuple[Array, Array]:
        """(r, t) [num] each."""
        time_rng, same_rng = jax.random.split(rng)
        two = self.times.at(self.process, self.times(time_rng, 2 * num)).reshape(2, num)
        r, t = two.min(0), two.max(0)
        return jnp.where(jax.random.bernoulli(same_rng, self.share, (num,)), r, t), t

    def guide(self, u: Callable[[Array], Array], v: Array, label: Array) -> Array:
        """The guided velocity (19-21); `u` gives the net's own velocity u(z, t, t) for labels. Dropped labels keep v."""
        null = jnp.full_like(label, self.classes)
        mixed = self.omega * v + (1 - self.omega - self.kappa) * u(null)
        mixed = mixed + self.kappa * u(label) if self.kappa else mixed
        return jax.lax.stop_gradient(jnp.where(spread(label == self.classes, v), v, mixed))

    @staticmethod
    def target(u: AverageVelocity, z: Array, r: Array, t: Array, v: Array) -> tuple[Array, Array]:
        """(u(z, r, t), v - (t - r) du/dt): equal for the average of the flow whose velocity at z is v (6)."""
        said, rate = jax.jvp(u, (z, r, t), (v, jnp.zeros_like(r), jnp.ones_like(t)))
        return said, jax.lax.stop_gradient(v - spread(t - r, z) * rate)

    def loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array, train: bool
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        """[B]: squared error of the identity, summed over the image and weighted adaptively."""
        x = to_float(batch["image"])
        times_rng, noise_rng, drop_rng, net_rng = jax.random.split(rng, 4)
        vars = {k: v for k, v in w.nets["net"].items() if k != "params"}
        label = self.labels(batch)
        if label is not None and train:
            label = drop_labels(label, self.label_dropout, self.classes, drop_rng)

        def net(z: Array, r: Array, t: Array, label: Array | None) -> Array:
            rngs = {"dropout": net_rng}
            return self.net.apply(params, vars, z, self.clocks(r, t), label, train=train, rngs=rngs, **told(batch))[0]

        r, t = self.draw(times_rng, len(x))
        e = jax.random.normal(noise_rng, x.shape)
        z = spread(self.process.alpha(t), x) * x + spread(self.process.sigma(t), x) * e
        da, ds = self.process.rates(t)
        v = spread(da, x) * x + spread(ds, x) * e
        if self.guided:
            v = self.guide(lambda label: net(z, t, t, label), v, label)
        said, target = self.target(lambda z, r, t: net(z, r, t, label), z, r, t, v)
        error = jnp.sum((said - target) ** 2, axis=tuple(range(1, x.ndim)))
        weight = jax.lax.stop_gradient(error + self.offset) ** -self.power
        return weight * error, ({"mse": error / np.prod(x.shape[1:])}, vars)

    def jump(self, variables: Variables, z: Array, r: Array, t: Array, label: Array | None) -> Array:
        """z at times t [B] -> z at times r [B] (12)."""
        u = self.net.module.apply(variables, z, self.clocks(r, t), label, train=False)
        return z - spread(t - r, z) * u

    @property
    def nfe(self) -> int:
        """Network evaluations per image of `sample`."""
        return self.sample_steps

    def sample(self, w: Weights, rng: Array, num: int, cond: Batch) -> Array:
        """[num, H, W, C] in [-1, 1] by `sample_steps` jumps; a conditional model needs cond["label"]."""
        label, grid = self.labels(cond), jnp.asarray(self.process.grid(self.sample_steps), jnp.float32)

        def step(z: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
            t, r = (jnp.full(num, end) for end in ends)
            return self.jump(w.nets["net"], z, r, t, label), None

        z = jax.random.normal(rng, (num, *self.shape)) * self.process.sigma(grid[0])
        z, _ = jax.lax.scan(step, z, (grid[:-1], grid[1:]))
        return jnp.clip(z, -1.0, 1.0)

"""Diffusion models (Ho et al. 2020, arXiv:2006.11239) as six small objects: process, predict, weight, times, solver, guide.

Training (algorithm 1): x_t = alpha(t) x_0 + sigma(t) eps;  L = E_{t, x_0, eps} w(t) |F(x_t, t) - target(x_0, eps, t)|^2.
Sampling (algorithm 2): x_1 ~ N(0, sigma(1)^2), then the solver follows the denoiser D(x_t, t) down to t = 0.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxgen.diffusion.guide import Guide, NoGuide
from jaxgen.diffusion.predict import Eps, Prediction
from jaxgen.diffusion.process import VP, Process
from jaxgen.diffusion.solve import Ancestral, Solver
from jaxgen.diffusion.times import Times, Uniform
from jaxgen.diffusion.weight import Simple, Weight
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.method import Batch, LossMethod, Metrics
from jaxgen.state import Array, PyTree, Variables, Weights


def spread(v: Array, x: Array) -> Array:
    """[B] -> [B, 1, 1, ...] to multiply x."""
    return v.reshape(v.shape + (1,) * (x.ndim - v.ndim))


@dataclass(frozen=True, kw_only=True)
class Diffusion(LossMethod):
    """DDPM by default; other members of the parts make the other papers.

    The net is called as net(x [B, H, W, C], clock [B], label [B] or None, train) -> [B, H, W, C].
    """

    shape: tuple[int, int, int]  # [H, W, C] of the data
    classes: int = 0  # labels; 0 is an unconditional model
    process: Process = field(default_factory=VP)
    predict: Prediction = field(default_factory=Eps)
    weight: Weight = field(default_factory=Simple)
    times: Times = field(default_factory=Uniform)
    solver: Solver = field(default_factory=Ancestral)
    guide: Guide = field(default_factory=NoGuide)
    label_dropout: float = 0.0  # share of labels replaced by the null label in training, for classifier-free guidance

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_dropout < 1.0:
            raise UserError(f"method.label_dropout={self.label_dropout} must lie in [0, 1)")
        if not isinstance(self.guide, NoGuide) and not (self.classes and self.label_dropout):
            raise UserError(
                "method.guide needs a conditional run trained with a null label; set data.labels=True, "
                "method.net.null_label=True and method.label_dropout=0.1, or method.guide.name=none"
            )

    def labels(self, batch: Batch) -> Array | None:
        """The batch's labels when the model is conditional."""
        return batch["label"] if self.classes else None

    def example(self, batch: Batch) -> tuple[tuple, dict]:
        """Net arguments for a batch."""
        x = to_float(batch["image"])
        return (x, jnp.zeros(x.shape[:1]), self.labels(batch)), {}

    def loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array, train: bool
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        """Weighted mean squared error of the prediction, [B]."""
        x0 = to_float(batch["image"])
        times_rng, noise_rng, drop_rng, net_rng = jax.random.split(rng, 4)
        t = self.process.time(self.times(times_rng, x0.shape[0]))
        a, s = self.process.alpha(t), self.process.sigma(t)
        eps = jax.random.normal(noise_rng, x0.shape)
        x = spread(a, x0) * x0 + spread(s, x0) * eps
        label = self.labels(batch)
        if label is not None and train and self.label_dropout:
            dropped = jax.random.bernoulli(drop_rng, self.label_dropout, label.shape)
            label = jnp.where(dropped, self.classes, label)
        vars = {k: v for k, v in w.nets["net"].items() if k != "params"}
        out, vars = self.net.apply(
            params, vars, x, self.process.clock(t), label, train=train, rngs={"dropout": net_rng}
        )
        target = self.predict.target(x0, eps, spread(a, x0), spread(s, x0))
        error = jnp.mean((out - target) ** 2, axis=tuple(range(1, x0.ndim)))
        return self.weight(a, s, self.predict.gain(a, s)) * error, ({"mse": error}, vars)

    def denoiser(self, w: Weights, label: Array | None):
        """D(x_t [B, ...], t [B]) -> x_0 for the labels asked for, guided."""

        def model(x: Array, t: Array, label: Array | None) -> Array:
            a, s = spread(self.process.alpha(t), x), spread(self.process.sigma(t), x)
            out = self.net.module.apply(w.nets["net"], x, self.process.clock(t), label, train=False)
            return self.predict.denoised(out, x, a, s)

        return self.guide(model, label, self.classes)

    def sample(self, w: Weights, rng: Array, num: int, cond: Batch) -> Array:
        """[num, H, W, C] in [-1, 1]; a conditional model needs cond["label"]."""
        start, noise = jax.random.split(rng)
        x = jax.random.normal(start, (num, *self.shape)) * self.process.sigma(jnp.ones(()))
        x = self.solver(self.denoiser(w, self.labels(cond)), self.process, x, noise)
        return jnp.clip(x, -1.0, 1.0)

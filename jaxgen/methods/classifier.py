"""Classifiers of the data at hand: of images, a judge of generators; of noisy images, a guide of diffusion.

    L = -sum_k q_k log p(k | x),   q = (1 - s) [k = label] + s / K          (Szegedy et al. 2016, arXiv:1512.00567, sec. 7)

The judge's features serve `fid:native` and the like, its logits the agreement of conditional samples with their labels.
The guide (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4) learns p(k | x_t, t) of x_t = alpha(t) x_0 + sigma(t) eps.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxgen.core.method import Batch, LossMethod, Metrics
from jaxgen.core.state import Array, PyTree, Variables, Weights
from jaxgen.diffusion.process import VP, Process, spread
from jaxgen.diffusion.times import Times, Uniform
from jaxgen.errors import UserError
from jaxgen.images import to_float


def cross_entropy(logits: Array, label: Array, smoothing: float) -> tuple[Array, Metrics]:
    """(the loss [B], `accuracy` and `nll` (nats, of the true label) [B])."""
    log_p, truth = jax.nn.log_softmax(logits), jax.nn.one_hot(label, logits.shape[-1])
    target = (1.0 - smoothing) * truth + smoothing / logits.shape[-1]
    right = (logits.argmax(-1) == label).astype(jnp.float32)
    return -(target * log_p).sum(-1), {"accuracy": right, "nll": -(truth * log_p).sum(-1)}


def labelled(classes: int) -> None:
    """Refuse data without labels."""
    if classes < 2:
        raise UserError("a classifier needs labels; set config.data.labels=True (and a data set that has them)")


@dataclass(frozen=True, kw_only=True)
class Classifier(LossMethod):
    """The net is called as net(x [B, H, W, C], train) -> (features [B, D], logits [B, classes])."""

    classes: int  # filled from the data
    smoothing: float = 0.1  # s

    def __post_init__(self) -> None:
        labelled(self.classes)

    def example(self, batch: Batch) -> tuple[tuple, dict]:
        """Net arguments for a batch."""
        return (to_float(batch["image"]),), {}

    def loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array, train: bool
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        """Cross-entropy with the smoothed labels, [B]; accuracy and nll beside it."""
        vars = {k: v for k, v in w.nets["net"].items() if k != "params"}
        (_, logits), vars = self.net.apply(params, vars, to_float(batch["image"]), train=train, rngs={"dropout": rng})
        loss, metrics = cross_entropy(logits, batch["label"], self.smoothing)
        return loss, (metrics, vars)

    def classify(self, w: Weights, x: Array) -> tuple[Array, Array]:
        """(features [B, D], logits [B, classes])."""
        return self.net.module.apply(w.nets["net"], to_float(x))


@dataclass(frozen=True, kw_only=True)
class NoisyClassifier(LossMethod):
    """The net is called as net(x [B, H, W, C], clock [B], train) -> (features [B, D], logits [B, classes])."""

    classes: int
    smoothing: float = 0.0  # its gradient is what counts, so the labels are taken as they are
    process: Process = field(default_factory=VP)
    times: Times = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        labelled(self.classes)

    def example(self, batch: Batch) -> tuple[tuple, dict]:
        """Net arguments for a batch."""
        x = to_float(batch["image"])
        return (x, jnp.zeros(x.shape[:1])), {}

    def shown(self, x: Array, t: Array) -> tuple[Array, Array]:
        """(x_t brought to the size of the data, the clock): the net's input for any process."""
        size = jnp.sqrt(self.process.alpha(t) ** 2 + self.process.sigma(t) ** 2)
        return x / spread(size, x), self.process.clock(t)

    def loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array, train: bool
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        """Cross-entropy at random times, [B]; accuracy and nll beside it."""
        x0 = to_float(batch["image"])
        times_rng, noise_rng, net_rng = jax.random.split(rng, 3)
        vars = {k: v for k, v in w.nets["net"].items() if k != "params"}
        t = self.times.at(self.process, self.times(times_rng, x0.shape[0]))
        x = spread(self.process.alpha(t), x0) * x0 + spread(self.process.sigma(t), x0) * jax.random.normal(
            noise_rng, x0.shape
        )
        (_, logits), vars = self.net.apply(params, vars, *self.shown(x, t), train=train, rngs={"dropout": net_rng})
        loss, metrics = cross_entropy(logits, batch["label"], self.smoothing)
        return loss, (metrics, vars)

    def label_log_prob(self, w: Weights, x: Array, t: Array, label: Array) -> Array:
        """log p(label | x_t) [B]."""
        _, logits = self.net.module.apply(w.nets["net"], *self.shown(x, t))
        return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1)[:, 0]

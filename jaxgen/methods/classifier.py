"""Classifiers of the data at hand: of images, a judge of generators; of noisy images, a guide of diffusion.

    L = -sum_k q_k log p(k | x),   q = (1 - s) [k = label] + s / K          (Szegedy et al. 2016, arXiv:1512.00567, sec. 7)

Where the data have several labels, the logits of all stand side by side, and the loss is the mean over labels.

The judge's features serve `fid:native` and the like, its logits the agreement of conditional samples with their labels.
The guide (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4) learns p(k | x_t, t) of x_t = alpha(t) x_0 + sigma(t) eps.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.method import Loss, LossMethod
from jaxgen.core.ranges import BelowOne
from jaxgen.core.spec import Spec
from jaxgen.core.state import Array, Variables, Weights
from jaxgen.core.task import Batch
from jaxgen.diffusion.needs import refuse_unmet
from jaxgen.diffusion.process import VP, Process, level_at, spread
from jaxgen.diffusion.times import Times, Uniform
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.metrics.lpips import lpips


def cross_entropy(logits: Array, label: Array, smoothing: float, vars: Variables) -> Loss:
    """The loss [B] with `accuracy` and `nll` (nats, of the true label) [B]."""
    log_p, truth = jax.nn.log_softmax(logits), jax.nn.one_hot(label, logits.shape[-1])
    target = (1.0 - smoothing) * truth + smoothing / logits.shape[-1]
    right = (logits.argmax(-1) == label).astype(jnp.float32)
    return Loss(-(target * log_p).sum(-1), {"accuracy": right, "nll": -(truth * log_p).sum(-1)}, vars)


def validate_labels(spec: Spec) -> None:
    """Refuse data without labels."""
    if spec.classes < 2:
        raise UserError("a classifier needs labels; set config.data.labels=True (and a data set that has them)")


@dataclass(frozen=True, kw_only=True)
class Classifier(LossMethod):
    """The net is called as net(x [B, H, W, C], train) -> (features [B, D], logits [B, classes]), classes of all labels."""

    takes = ("label",)  # to learn from
    smoothing: BelowOne = 0.1  # s

    def __post_init__(self) -> None:
        validate_labels(self.spec)

    def example(self, batch: Batch) -> tuple:
        """Net arguments for a batch."""
        return (self.target(batch),)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """Cross-entropy with the smoothed labels, [B]; accuracy and nll beside it. accuracy: all labels are right."""
        (_, logits), vars = self.net.apply(w.nets["net"], self.target(batch), train=train, rngs={"dropout": rng})
        each = {k: cross_entropy(v, batch[k], self.smoothing, vars) for k, v in self._apart(logits).items()}
        if len(each) == 1:
            return next(iter(each.values()))
        metrics = {f"accuracy_{k}": one.metrics["accuracy"] for k, one in each.items()}
        metrics["accuracy"] = jnp.stack([*metrics.values()]).min(0)
        metrics["nll"] = sum(one.metrics["nll"] for one in each.values())
        return Loss(sum(one.each for one in each.values()) / len(each), metrics, vars)

    def _apart(self, logits: Array) -> dict[str, Array]:
        """The logits of every label."""
        labels = self.spec.conditions.of("label")
        ends = np.cumsum([field.values for field in labels.values()])[:-1]
        return dict(zip(labels, jnp.split(logits, ends, -1), strict=True))

    def classify(self, w: Weights, x: Array) -> tuple[Array, Array]:
        """(features [B, D], logits [B, classes]) of the first label."""
        features, logits = self.net.apply(w.nets["net"], to_float(x))[0]
        return features, self._apart(logits)[self.spec.label]

    def answers(self, w: Weights, x: Array) -> dict[str, Array]:
        """Label -> logits [B, classes]."""
        return self._apart(self.net.apply(w.nets["net"], to_float(x))[0][1])

    def distance(self, w: Weights, x: Array, y: Array) -> Array:
        """LPIPS in its own features, without heads: squared distances of unit vectors at every place, [B]."""
        seen = [self.net.module.apply(w.nets["net"], v, mutable=["taps"])[1]["taps"] for v in (x, y)]
        taps = [[stage[0] for _, stage in sorted(found.items())] for found in seen]
        return lpips(*taps, [jnp.ones(tap.shape[-1]) for tap in taps[0]])


@dataclass(frozen=True, kw_only=True)
class NoisyClassifier(LossMethod):
    """The net is called as net(x [B, H, W, C], clock [B], train) -> (features [B, D], logits [B, classes])."""

    takes = ("label",)  # to learn from
    needs: ClassVar[tuple[str, ...]] = ("memoryless",)
    smoothing: BelowOne = 0.0  # its gradient is what counts, so the labels are taken as they are
    process: Process = field(default_factory=VP)
    times: Times = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        validate_labels(self.spec)
        refuse_unmet(self)
        if len(labels := self.spec.conditions.of("label")) > 1:
            raise UserError(
                f"a classifier that guides knows one label, and the data have {', '.join(labels)}; take data with one"
            )

    @property
    def classes(self) -> int:
        """Labels that it tells apart."""
        return self.spec.classes

    def example(self, batch: Batch) -> tuple:
        """Net arguments for a batch."""
        x = self.target(batch)
        return x, jnp.zeros(len(x))

    def shown(self, x: Array, t: Array) -> tuple[Array, Array]:
        """(x_t brought to the size of the data, the clock): the net's input for any process."""
        size = jnp.sqrt(self.process.alpha(t) ** 2 + self.process.sigma(t) ** 2)
        return x / spread(size, x), self.process.clock(t)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """Cross-entropy at random times, [B]; accuracy and nll beside it."""
        x0, (times_rng, noise_rng, net_rng) = self.target(batch), jax.random.split(rng, 3)
        t = self.times.at(self.process, self.times(times_rng, len(x0)))
        x = level_at(self.process, t, x0).noised(x0, jax.random.normal(noise_rng, x0.shape))
        shown = self.shown(x, t)
        (_, logits), vars = self.net.apply(w.nets["net"], *shown, train=train, rngs={"dropout": net_rng})
        return cross_entropy(logits, batch[self.spec.label], self.smoothing, vars)

    def label_log_prob(self, w: Weights, x: Array, t: Array, label: Array) -> Array:
        """log p(label | x_t) [B]."""
        (_, logits), _ = self.net.apply(w.nets["net"], *self.shown(x, t))
        return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], 1)[:, 0]

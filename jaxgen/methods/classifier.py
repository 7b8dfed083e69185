"""A classifier of the data at hand: the judge of generators where Inception has nothing to say.

    L = -sum_k q_k log p(k | x),   q = (1 - s) [k = label] + s / K          (Szegedy et al. 2016, arXiv:1512.00567, sec. 7)

Its features serve `fid:native` and the like, its logits the agreement of conditional samples with their labels.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.method import Batch, LossMethod, Metrics
from jaxgen.state import Array, PyTree, Variables, Weights


@dataclass(frozen=True, kw_only=True)
class Classifier(LossMethod):
    """The net is called as net(x [B, H, W, C], train) -> (features [B, D], logits [B, classes])."""

    classes: int  # filled from the data
    smoothing: float = 0.1  # s

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise UserError("a classifier needs labels; set config.data.labels=True (and a data set that has them)")

    def example(self, batch: Batch) -> tuple[tuple, dict]:
        """Net arguments for a batch."""
        return (to_float(batch["image"]),), {}

    def loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array, train: bool
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        """Cross-entropy with the smoothed labels, [B]; `accuracy` and `nll` (nats, of the true label) beside it."""
        vars = {k: v for k, v in w.nets["net"].items() if k != "params"}
        (_, logits), vars = self.net.apply(params, vars, to_float(batch["image"]), train=train, rngs={"dropout": rng})
        log_p, truth = jax.nn.log_softmax(logits), jax.nn.one_hot(batch["label"], self.classes)
        target = (1.0 - self.smoothing) * truth + self.smoothing / self.classes
        right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
        return -(target * log_p).sum(-1), ({"accuracy": right, "nll": -(truth * log_p).sum(-1)}, vars)

    def classify(self, w: Weights, x: Array) -> tuple[Array, Array]:
        """(features [B, D], logits [B, classes])."""
        return self.net.module.apply(w.nets["net"], to_float(x))

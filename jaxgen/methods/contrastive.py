"""CLIP (Radford et al. 2021, arXiv:2103.00020): vectors of pictures and of texts, alike where they belong together.

    s_ij = e^t <picture_i, text_j>,   L_i = -1/2 (log softmax_j s_ij + log softmax_j s_ji) at j = i         (figure 3)

The others of a batch are what each must be told from. Those that have the very same text are left out: they are no others.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.method import Loss, LossMethod
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch
from jaxgen.errors import UserError
from jaxgen.images import to_float


@dataclass(frozen=True, kw_only=True)
class Contrastive(LossMethod):
    """The net is called as net(x [B, H, W, C], ids [B, L], train) -> (unit vectors [B, D] of both, the factor of products)."""

    makes: ClassVar[tuple[str, ...]] = ("image",)  # to learn from

    def __post_init__(self) -> None:
        if not self.spec.texts:
            raise UserError(
                "method.contrastive compares pictures with texts, and is told none; set config.data.tokenizer=bytes on data with "
                "captions"
            )

    @property
    def told(self) -> str:
        """The name of the text."""
        return next(iter(self.spec.texts))

    def example(self, batch: Batch) -> tuple:
        """Pictures and texts."""
        return self.target(batch), batch[self.told]

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """L [B]; `accuracy`: the share of both ways in which none of the others is nearer; the learned factor."""
        ids = batch[self.told]
        (x, y, factor), vars = self.net.apply(
            w.nets["net"], self.target(batch), ids, train=train, rngs={"dropout": rng}
        )
        scores, own = factor * jnp.matmul(x, y.T, precision="highest"), jnp.eye(len(x), dtype=bool)
        scores = jnp.where((ids[:, None] == ids[None]).all(-1) & ~own, -jnp.inf, scores)
        both = (scores, scores.T)
        each = -sum(jnp.diagonal(jax.nn.log_softmax(s)) for s in both) / 2
        right = sum((s.argmax(-1) == jnp.arange(len(x))).astype(jnp.float32) for s in both) / 2
        return Loss(each, {"accuracy": right, "factor": jnp.broadcast_to(factor, (len(x),))}, vars)

    def embed_pictures(self, w: Weights, x: Array) -> Array:
        """Unit vectors [B, D] of pictures [B, H, W, C]."""
        return self.net.apply(w.nets["net"], to_float(x), method="pictures")[0]

    def embed_texts(self, w: Weights, ids: Array) -> Array:
        """Unit vectors [B, D] of tokens [B, L]."""
        return self.net.apply(w.nets["net"], ids, method="texts")[0]

"""Methods: generative procedures over named Nets, as pure functions; and what a method can do besides training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxgen.core.conditions import Cond, read
from jaxgen.core.inputs import Input
from jaxgen.core.lender import Frozen, Loan
from jaxgen.core.net import Net
from jaxgen.core.optim import Careful
from jaxgen.core.parallel import microbatches
from jaxgen.core.ranges import Count
from jaxgen.core.spec import DataSpec, Spec
from jaxgen.core.state import Array, NetState, PyTree, TrainState, Variables, Weights, path_name
from jaxgen.core.task import Batch
from jaxgen.errors import UserError
from jaxgen.images import to_float

Metrics = dict[str, Array]  # float32 scalars
PerExample = dict[str, Array]  # float32 [B] each


@struct.dataclass
class Loss:
    """What a loss says of a batch: all that a training step needs besides the gradient."""

    each: Array  # [B]
    metrics: Metrics = struct.field(default_factory=dict)  # [B] or scalar each
    vars: Variables = struct.field(default_factory=dict)  # collections of the net that changed
    extra: dict[str, PyTree] = struct.field(default_factory=dict)  # parts of the state's `extra` that changed


@runtime_checkable
class Method(Protocol):
    """What the trainer knows. `self` holds hyper-parameters only."""

    spec: Spec  # of the batches that it sees

    makes: tuple[str, ...]  # the kinds of targets that it can learn

    @property
    def takes(self) -> tuple[str, ...]:
        """The kinds of conditions that it can be told."""

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state; only shapes of `batch` matter unless the method says otherwise."""

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """One step of the paper's algorithm; state.step grows by one."""

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """Per-example figures on held-out data; averaged over the set by the evaluators."""


@runtime_checkable
class Borrows(Protocol):
    """Needs frozen models at every step, evaluation and sample: they are in `frozen` by name."""

    def loans(self) -> dict[str, Loan]:
        """Name -> lender and role."""


@runtime_checkable
class Inherits(Protocol):
    """Begins from other runs' weights, which are read once: a resumed run does without them."""

    def inherits(self) -> dict[str, Loan]:
        """Name -> lender and role."""

    def inherit(self, state: TrainState, lent: dict[str, Frozen]) -> TrainState:
        """The fresh state (its `frozen` is filled) with what it takes of those weights."""


@runtime_checkable
class JudgesNoise(Protocol):
    """Knows the labels of noisy images of a process."""

    process: Any

    def label_log_prob(self, w: Weights, x: Array, t: Array, label: Array) -> Array:
        """log p(label | x_t) [B] of x [B, H, W, C] at times t [B]."""


@runtime_checkable
class Samples(Protocol):
    """Can make new images."""

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """float32 [num, *spec.shape], pictures in [-1, 1] (tokens int32); `cond` holds every condition of the spec, [num, ...]."""


@runtime_checkable
class Refuses(Samples, Protocol):
    """Not every value of its conditions can be asked for."""

    def refuse(self, cond: dict[str, np.ndarray]) -> None:
        """A UserError for values [N, ...] of some conditions that its samples cannot meet."""


@runtime_checkable
class Settles(Samples, Protocol):
    """Samples by something that it finds of its weights first, once for all samples."""

    def settle(self, w: Weights) -> dict[str, Variables]:
        """Net -> its collections as samples see them, where they differ from those of `w`."""


@runtime_checkable
class HasLatent(Samples, Protocol):
    """Its samples are pictures of latents z, which it can also be given."""

    def draw_latents(self, rng: Array, num: int) -> Array:
        """The latents [num, ...] of `sample` with that key; fewer of them are the first of these."""

    def from_latents(self, w: Weights, z: Array, cond: Cond, rng: Array | None = None) -> Array:
        """What `sample` makes of latents [num, ...]. Without rng nothing else is drawn: noise stays as it is, pixels are means."""


@runtime_checkable
class Infers(HasLatent, Protocol):
    """Its latents are vectors of a prior N(0, I), and it knows what a picture says of them."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Latents of the groups in which they are drawn, the upper first."""

    def inferred(self, w: Weights, batch: Batch, rng: Array) -> tuple[Array, Array]:
        """The posterior's mean, and how far each latent's posterior is from its prior in nats: [B, D] both."""


@runtime_checkable
class HasStyles(HasLatent, Protocol):
    """Perhaps it has a second latent: w, of which every layer of its net has one (Karras et al. 2018, StyleGAN)."""

    @property
    def styled(self) -> bool:
        """Whether it has."""

    def to_styles(self, w: Weights, z: Array, cond: Cond) -> Array:
        """Latents z [num, ...] -> w [num, layers, D], truncated as its samples are."""

    def from_styles(self, w: Weights, styles: Array, rng: Array | None = None) -> Array:
        """Pictures of w [num, layers, D]; those of `to_styles` are those of `from_latents`."""


@runtime_checkable
class Tunes(Protocol):
    """Has parts that only its samples depend on: their numbers are inputs of the program that samples."""

    def settings(self) -> dict[str, Input]:
        """Field -> what stands in for it."""


@runtime_checkable
class Describes(Protocol):
    """Says in words what a picture shows: its target is the tokens of a text."""

    def describe(self, w: Weights, batch: Batch) -> Array:
        """int32 [B, *spec.shape]: the words found for every picture."""

    def looked(self, w: Weights, batch: Batch, words: Array) -> Array:
        """float32 [B, L, h, w], sums of 1 over the places: where it looks while it says each of those words [B, L]."""


@runtime_checkable
class Reconstructs(Protocol):
    """Can encode an image and bring it back."""

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """float32 [B, H, W, C] in [-1, 1]."""


@runtime_checkable
class Restores(Protocol):
    """Can undo a degradation."""

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """The batch's target, float [B, H, W, C], is degraded -> float32 [B, H, W, C] in [-1, 1]."""


@runtime_checkable
class Encodes(Protocol):
    """Has a latent space; any Encodes can serve as a codec of another method."""

    def encode(self, w: Weights, x: Array, rng: Array) -> Array:
        """[B, H, W, C] -> latents or code indices, [B, ...]; of several levels a tuple, coarse first."""

    def decode(self, w: Weights, z: Array) -> Array:
        """latents or code indices -> float32 [B, H, W, C]."""


@runtime_checkable
class HasMoments(Encodes, Protocol):
    """Its latents are draws of normal posteriors of which it tells the moments."""

    def moments(self, w: Weights, x: Array) -> tuple[Array, Array]:
        """[B, H, W, C] -> mean and log-variance, [B, h, w, D] each; `encode` gives mean + exp(log-variance / 2) noise."""


@runtime_checkable
class Quantizes(Encodes, Protocol):
    """Its latents are indices into a codebook."""

    @property
    def codes(self) -> int:
        """Number of entries."""

    def vectors(self, w: Weights, ids: Array) -> Array:
        """Entries of the codebook: int32 [B, ...] -> float32 [B, ..., D]."""

    def nearest(self, w: Weights, z: Array) -> Array:
        """The inverse, also for vectors between the entries: [B, ..., D] -> int32 [B, ...]."""


@runtime_checkable
class EncodesText(Protocol):
    """Knows what a text says."""

    @property
    def values(self) -> int:
        """Numbers of a token."""

    def encode_text(self, w: Any, ids: Array) -> dict[str, Array]:
        """Tokens int32 [B, L] -> states [B, L, D], text_mask [B, L], 1 where a token is real, and perhaps pooled [B, P]."""


@runtime_checkable
class Compares(Protocol):
    """Puts pictures and texts into one space, where those that belong together are near."""

    def embed_pictures(self, w: Weights, x: Array) -> Array:
        """[B, H, W, C] -> unit vectors [B, D]."""

    def embed_texts(self, w: Weights, ids: Array) -> Array:
        """Tokens int32 [B, L] -> unit vectors [B, D]."""


@runtime_checkable
class Scores(Protocol):
    """Knows (a bound on) the likelihood of an image."""

    @property
    def kind(self) -> str:
        """What `log_prob` is: "exact", or a "bound" from below."""

    @property
    def levels(self) -> int:
        """That a pixel's value can take; 0: `log_prob` is of a density on [-1, 1], which has no bits per dimension."""

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """[B] log-likelihood (or lower bound) in nats of the whole image."""


@runtime_checkable
class Classifies(Protocol):
    """Knows labels, and features by which images can be compared."""

    def classify(self, w: Weights, x: Array) -> tuple[Array, Array]:
        """[B, H, W, C] -> (features [B, D], logits [B, classes]) of the first label."""


@runtime_checkable
class Answers(Protocol):
    """Knows several labels of a picture."""

    def answers(self, w: Weights, x: Array) -> dict[str, Array]:
        """[B, H, W, C] -> label -> logits [B, classes]."""


def start_from(net: NetState, variables: Variables, name: str) -> NetState:
    """A fresh net with the variables of another; its averages begin there too. Nets that differ are a UserError."""
    mine = {"params": net.params, **net.vars}
    given = {k: variables.get(k, v) for k, v in mine.items()}
    shapes = [{path_name(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(t)} for t in (mine, given)]
    if odd := sorted(k for k in {**shapes[0], **shapes[1]} if shapes[0].get(k) != shapes[1].get(k)):
        raise UserError(
            f"method.net is not the net of {name}: {odd[0]} is {shapes[0].get(odd[0])} here and {shapes[1].get(odd[0])} there; "
            "give both the same method.net"
        )
    return net.started(given)


def value_and_grads(loss: Callable[[Weights], Loss], w: Weights, net: str) -> tuple[Array, Loss, PyTree]:
    """(mean of the losses, the Loss, the mean's gradient by the params of `net`)."""

    def mean(params: PyTree) -> tuple[Array, Loss]:
        found = loss(w.training(net, params))
        return found.each.mean(), found

    (value, found), grads = jax.value_and_grad(mean, has_aux=True)(w.nets[net]["params"])
    return value, found, grads


@dataclass(frozen=True, kw_only=True)
class LossMethod:
    """One net, one loss: most families write `loss` and `sample`, nothing else."""

    net: Net
    spec: DataSpec  # of the batches that it sees
    microbatches: Count = 1  # gradient accumulation: the batch is split in so many parts, one update is made

    makes: ClassVar[tuple[str, ...]] = ("image", "frames", "latent")  # kinds of targets

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of conditions: what the net takes."""
        return getattr(self.net.module, "takes", ())

    def target(self, batch: Batch) -> Array:
        """What is to be made, [B, ...]; pictures as floats in [-1, 1]."""
        return to_float(batch[self.spec.target])

    def conditions(self, batch: Batch) -> Cond:
        """What the net is told, complete: null where the batch is silent."""
        return read(self.spec, batch, len(batch[self.spec.target]))

    def example(self, batch: Batch) -> tuple:
        """Arguments with which the net is initialised."""
        raise TypeError(f"{type(self).__name__} must say how its net is called: example(batch) -> args")

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """The batch's Loss; the gradient is taken by w.nets["net"]["params"]."""
        raise TypeError(f"{type(self).__name__} must define its loss")

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state for examples shaped like the batch's."""
        return TrainState(step=jnp.zeros((), jnp.int32), nets={"net": self.net.init(rng, *self.example(batch))})

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """Gradient of the mean loss (over all microbatches), one update."""
        net = state.nets["net"]

        def part(carry: tuple, inputs: tuple[Batch, Array]) -> tuple[tuple, Metrics]:
            (vars, extra, total), (small, key) = carry, inputs
            w = state.view()
            w = w.replace(nets={**w.nets, "net": {**w.nets["net"], **vars}}, extra=extra)
            value, loss, grads = value_and_grads(lambda w: self.loss(w, small, key, True), w, "net")
            total = jax.tree.map(jnp.add, total, grads) if total else grads
            metrics = {"loss": value, **{k: jnp.mean(v) for k, v in loss.metrics.items()}}
            return ({**vars, **loss.vars}, {**extra, **loss.extra}, total), metrics

        first = (net.vars, state.extra)
        if self.microbatches == 1:
            (vars, extra, grads), metrics = part((*first, None), (batch, rng))
        else:
            keys = jax.random.split(rng, self.microbatches)
            parts = (microbatches(batch, self.microbatches), keys)
            zeros = jax.tree.map(jnp.zeros_like, net.params)
            (vars, extra, total), metrics = jax.lax.scan(part, (*first, zeros), parts)
            grads = jax.tree.map(lambda g: g / self.microbatches, total)
            metrics = jax.tree.map(lambda v: v.mean(0), metrics)
        grads = self.net.lined_up(net, grads)
        metrics["grad_norm"] = optax.global_norm(grads)
        net = self.net.update(net, grads, vars, step=state.step)
        if isinstance(net.opt, Careful):
            metrics["skipped"] = (net.opt.in_a_row > 0).astype(jnp.float32)
        return state.replace(step=state.step + 1, nets={**state.nets, "net": net}, extra=extra), metrics

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """The training loss without dropout, per example, and every per-example metric."""
        found = self.loss(w, batch, rng, False)
        return {"loss": found.each, **{k: v for k, v in found.metrics.items() if v.ndim == 1}}

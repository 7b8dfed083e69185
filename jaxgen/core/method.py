"""Methods: generative procedures over named Nets, as pure functions; and what a method can do besides training."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxgen.core.net import Net
from jaxgen.core.parallel import microbatches
from jaxgen.core.state import Array, NetState, PyTree, TrainState, Variables, Weights, path_name
from jaxgen.errors import UserError

Batch = dict[str, Array]  # image [B, H, W, C] uint8 or float in [-1, 1]; label int32 [B] when the run is labelled
Metrics = dict[str, Array]  # float32 scalars
PerExample = dict[str, Array]  # float32 [B] each


@runtime_checkable
class Method(Protocol):
    """What the trainer knows. `self` holds hyper-parameters only."""

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state; only shapes of `batch` matter unless the method says otherwise."""

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """One step of the paper's algorithm; state.step grows by one."""

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """Per-example figures on held-out data; averaged over the set by the evaluators."""


class Borrowed(Protocol):
    """Another run, whose trained weights a method uses frozen: jaxgen.runs.frozen.Run."""

    @property
    def method(self) -> Method:
        """The method that trained it."""

    @property
    def abstract(self) -> Weights:
        """Shapes and dtypes of its weights."""

    def load(self, mesh: Mesh) -> Weights:
        """Its weights, on every device of a mesh."""

    def check(self, name: str, shape: tuple[int, ...], classes: int) -> None:
        """A UserError unless it is there and knows such images and labels."""


@runtime_checkable
class Borrows(Protocol):
    """Needs other runs at every step, evaluation and sample: their weights are in `frozen` by name."""

    def borrows(self) -> dict[str, Borrowed]:
        """Name -> run."""

    def accept(self, name: str, lender: Method) -> None:
        """A UserError unless the method of that run can do what it is borrowed for."""


@runtime_checkable
class Inherits(Protocol):
    """Begins from other runs' weights, which are read once: a resumed run does without them."""

    def inherits(self) -> dict[str, Borrowed]:
        """Name -> run."""

    def inherit(self, state: TrainState, lent: dict[str, Weights]) -> TrainState:
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

    def sample(self, w: Weights, rng: Array, num: int, cond: Batch) -> Array:
        """float32 [num, H, W, C] in [-1, 1]; `cond` is {} or holds `label` int32 [num]."""


@runtime_checkable
class Reconstructs(Protocol):
    """Can encode an image and bring it back."""

    def reconstruct(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """float32 [B, H, W, C] in [-1, 1]."""


@runtime_checkable
class Restores(Protocol):
    """Can undo a degradation."""

    def restore(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """batch["image"] float [B, H, W, C] is degraded -> float32 [B, H, W, C] in [-1, 1]."""


@runtime_checkable
class Encodes(Protocol):
    """Has a latent space; any Encodes can serve as a codec of another method."""

    def encode(self, w: Weights, x: Array, rng: Array) -> Array:
        """[B, H, W, C] -> latents or code indices."""

    def decode(self, w: Weights, z: Array) -> Array:
        """latents or code indices -> float32 [B, H, W, C]."""


@runtime_checkable
class Quantizes(Encodes, Protocol):
    """Its latents are indices into a codebook."""

    @property
    def codes(self) -> int:
        """Number of entries."""


@runtime_checkable
class Scores(Protocol):
    """Knows (a bound on) the likelihood of an image."""

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """[B] log-likelihood (or lower bound) in nats of the whole image."""


@runtime_checkable
class Classifies(Protocol):
    """Knows labels, and features by which images can be compared."""

    def classify(self, w: Weights, x: Array) -> tuple[Array, Array]:
        """[B, H, W, C] -> (features [B, D], logits [B, classes])."""


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
    given = jax.tree.map(jnp.copy, given)  # not the buffers themselves, which a step would give away
    params = given.pop("params")
    return net.replace(params=params, vars=given, ema={label: jax.tree.map(jnp.copy, params) for label in net.ema})


def value_and_grads(fn, params: PyTree) -> tuple[tuple[Array, tuple[Metrics, Variables]], PyTree]:
    """Mean of a per-example loss with its gradient; `fn(params) -> ([B], (metrics, vars))`."""

    def mean(p: PyTree):
        losses, aux = fn(p)
        return losses.mean(), aux

    return jax.value_and_grad(mean, has_aux=True)(params)


@dataclass(frozen=True, kw_only=True)
class LossMethod:
    """One net, one loss: most families write `loss` and `sample`, nothing else."""

    net: Net
    microbatches: int = 1  # gradient accumulation: the batch is split in so many parts, one update is made

    def example(self, batch: Batch) -> tuple[tuple, dict]:
        """Arguments (args, kwargs) with which the net is initialised."""
        raise TypeError(f"{type(self).__name__} must say how its net is called: example(batch) -> (args, kwargs)")

    def loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array, train: bool
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        """([B] losses, (metrics [B] or scalar each, the net's other collections)); `params` are those to differentiate."""
        raise TypeError(f"{type(self).__name__} must define its loss")

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state for images shaped like the batch's."""
        args, kwargs = self.example(batch)
        return TrainState(step=jnp.zeros((), jnp.int32), nets={"net": self.net.init(rng, *args, **kwargs)})

    def train_step(self, state: TrainState, batch: Batch, rng: Array) -> tuple[TrainState, Metrics]:
        """Gradient of the mean loss (over all microbatches), one update."""
        w, net = state.view(), state.nets["net"]

        def part(vars: Variables, inputs: tuple[Batch, Array]) -> tuple[Variables, tuple[Metrics, PyTree]]:
            seen = replace(w, nets={**w.nets, "net": {"params": net.params, **vars}})
            small, key = inputs
            (loss, (metrics, vars)), grads = value_and_grads(lambda p: self.loss(p, seen, small, key, True), net.params)
            return vars, ({"loss": loss, **{k: jnp.mean(v) for k, v in metrics.items()}}, grads)

        if self.microbatches == 1:
            vars, (metrics, grads) = part(net.vars, (batch, rng))
        else:
            keys = jax.random.split(rng, self.microbatches)
            vars, parts = jax.lax.scan(part, net.vars, (microbatches(batch, self.microbatches), keys))
            metrics, grads = jax.tree.map(lambda v: v.mean(0), parts)  # keeps n gradients; n is small
        metrics["grad_norm"] = optax.global_norm(grads)
        net = self.net.update(net, grads, vars, step=state.step)
        return state.replace(step=state.step + 1, nets={**state.nets, "net": net}), metrics

    def eval_step(self, w: Weights, batch: Batch, rng: Array) -> PerExample:
        """The training loss without dropout, per example, and every per-example metric."""
        losses, (metrics, _) = self.loss(w.nets["net"]["params"], w, batch, rng, False)
        return {"loss": losses, **{k: v for k, v in metrics.items() if v.ndim == 1}}

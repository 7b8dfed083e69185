"""Methods: generative procedures over named Nets, as pure functions; and what a method can do besides training."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from jaxgen.net import Net
from jaxgen.parallel import microbatches
from jaxgen.state import Array, PyTree, TrainState, Variables, Weights

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

"""Optimizer specs -> optax chains: schedule, warm-up, clipping, decay, unit magnitude and freezing by regex."""

import re
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.ranges import BelowOne, Natural, NonNegative, Positive
from jaxgen.core.spec import RunLength
from jaxgen.core.state import Array, PyTree, path_name
from jaxgen.errors import UserError


def mask(pattern: str):
    """A function params -> tree of bools: True where the whole path (`Dense_0/kernel`) matches `pattern`."""
    rule = re.compile(pattern)

    def select(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda p, _: rule.fullmatch(path_name(p)) is not None, params)

    return select


def clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """optax's, as one product for each gradient: g * min(1, most / |g|)."""

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree = None):
        factor = jnp.minimum(1.0, most / jnp.maximum(optax.global_norm(updates), jnp.finfo(jnp.float32).tiny))
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def at_run_step(rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """-rate(step) times the update, where `step` is the run's clock: a critic updated five times a step has no other."""

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree = None, *, step: Array, **_: Any):
        return jax.tree.map(lambda u: -jnp.asarray(rate(step), u.dtype) * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def rising_trace(most: float, nesterov: bool, steps: int) -> optax.GradientTransformationExtraArgs:
    """optax.trace, whose momentum comes up from 0 to `most` in so many steps of the run."""

    def update(updates: PyTree, state: optax.TraceState, params: PyTree = None, *, step: Array, **_: Any):
        momentum = most * jnp.minimum(step / steps, 1.0)
        add = lambda g, t: g + momentum.astype(t.dtype) * t  # noqa: E731
        trace = jax.tree.map(add, updates, state.trace)
        return jax.tree.map(add, updates, trace) if nesterov else trace, optax.TraceState(trace)

    return optax.GradientTransformationExtraArgs(optax.trace(most).init, update)


def unit_magnitude(params: PyTree, pattern: str) -> PyTree:
    """The params [..., features] that match scaled to a root mean square of 1 per output feature; all else as it is."""

    def forced(chosen: bool, p: Array) -> Array:
        rms = jnp.sqrt(jnp.mean(jnp.square(p), tuple(range(p.ndim - 1)), keepdims=True))
        return p / jnp.maximum(rms, 1e-8) if chosen and p.ndim > 1 else p

    return jax.tree.map(forced, mask(pattern)(params), params)


def to_unit_magnitude(pattern: str) -> optax.GradientTransformation:
    """The update that ends where the given one does, put back to `unit_magnitude`."""

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree = None):
        after = unit_magnitude(optax.apply_updates(params, updates), pattern)
        return jax.tree.map(lambda a, p: a - p, after, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def to_within(bound: float) -> optax.GradientTransformation:
    """The update that ends where the given one does, every number brought back into [-bound, bound]."""

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree = None):
        return jax.tree.map(lambda u, p: jnp.clip(p + u, -bound, bound) - p, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class Careful(NamedTuple):
    """The state of `careful`."""

    inner: PyTree
    norms: Array  # [64] of the last gradients, the newest last; NaN before there were any
    in_a_row: Array  # int32 [], updates that were left out just now


def careful(tx: optax.GradientTransformation, most: float) -> optax.GradientTransformationExtraArgs:
    """No update where the gradient's norm is above `most` times the running median, but never more than 3 in a row.

    A fixed threshold can leave out every update for good (openai/vdvae, issue 25); what is left out counts in the median.
    """
    tx = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> Careful:
        return Careful(tx.init(params), jnp.full((64,), jnp.nan), jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Careful, params: PyTree = None, **more: Any):
        norm, known = optax.global_norm(updates), jnp.isfinite(state.norms).sum() >= 16
        skip = known & (norm > most * jnp.nanmedian(state.norms)) & (state.in_a_row < 3)
        change, inner = tx.update(updates, state.inner, params, **more)
        change, inner = jax.tree.map(
            lambda new, old: jnp.where(skip, old, new),
            (change, inner),
            (jax.tree.map(jnp.zeros_like, change), state.inner),
        )
        norms = jnp.append(state.norms[1:], norm.astype(jnp.float32))
        return change, Careful(inner, norms, jnp.where(skip, state.in_a_row + 1, 0))

    return optax.GradientTransformationExtraArgs(init, update)


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers share. Order: freeze -> clip -> scale -> decay -> learning rate -> unit magnitude -> bound."""

    lr: Positive = 1e-3
    warmup: Natural = 0  # steps of linear warm-up from 0
    schedule: str = "constant"  # constant | cosine, linear, half_linear, exponential (to lr * final) | inverse_sqrt
    final: NonNegative = 0.0
    hold: Natural = 0  # inverse_sqrt: lr / sqrt(max(step / hold, 1)) (EDM2, eq. 67)
    clip: NonNegative = 0.0  # global gradient norm; 0 switches it off
    weight_decay: NonNegative = 0.0  # decoupled (AdamW)
    decay: str = r".*kernel"  # regex of the params that weight decay touches
    unit: str = ""  # regex of the params kept at unit magnitude: forced weight normalisation (EDM2, section 2.3)
    skip: NonNegative = 0.0  # updates whose gradient has so many times the median norm are left out; 0 switches it off
    bound: NonNegative = 0.0  # every weight is kept within +-bound (WGAN); 0 switches it off
    train: str = r".*"  # regex of the params that are trained
    elementwise: ClassVar[bool] = False  # `scale` treats every number by itself; not inherited
    schedule_steps: RunLength = 0  # the step at which a schedule ends; 0: the run's length when it first started

    def rate(self) -> optax.Schedule:
        """step -> learning rate."""
        after = max(1, self.schedule_steps - self.warmup)
        shapes = {
            "constant": lambda: optax.constant_schedule(self.lr),
            "cosine": lambda: optax.cosine_decay_schedule(self.lr, after, alpha=self.final),
            "linear": lambda: optax.linear_schedule(self.lr, self.lr * self.final, after),
            "half_linear": lambda: optax.join_schedules(  # constant for the first half (pix2pix, CycleGAN)
                [
                    optax.constant_schedule(self.lr),
                    optax.linear_schedule(self.lr, self.lr * self.final, after - after // 2),
                ],
                [after // 2],
            ),
            "exponential": lambda: optax.exponential_decay(self.lr, after, self.final),
            "inverse_sqrt": lambda: lambda step: self.lr / jnp.sqrt(jnp.maximum((step + self.warmup) / self.hold, 1.0)),
        }
        if self.schedule not in shapes:
            raise UserError(f"optimizer.schedule={self.schedule!r} is unknown; there are: {', '.join(shapes)}")
        if self.schedule == "inverse_sqrt" and self.hold < 1:
            raise UserError(
                "optimizer.schedule='inverse_sqrt' needs the number of steps at the full learning rate; set optimizer.hold=1000"
            )
        if self.schedule == "exponential" and not self.final:
            raise UserError("optimizer.schedule='exponential' never ends at 0; set optimizer.final=0.01")
        if self.schedule in ("cosine", "linear", "half_linear", "exponential") and self.schedule_steps <= 0:
            raise UserError(
                f"optimizer.schedule={self.schedule!r} needs optimizer.schedule_steps, the length of the run"
            )
        body = shapes[self.schedule]()
        if self.warmup <= 0:
            return body
        rise = optax.linear_schedule(self.lr / (self.warmup + 1), self.lr, self.warmup)  # the first step moves too
        return optax.join_schedules([rise, body], [self.warmup])

    def scale(self) -> optax.GradientTransformation:
        """The preconditioner: gradients -> directions."""
        return optax.identity()

    def alike(self, path: str) -> Hashable:
        """What the param of that path shares with all that may lie in one vector with it; None: it stays alone."""
        whole = not type(self).__dict__.get("elementwise", False) or (self.unit and re.fullmatch(self.unit, path))
        return None if whole else tuple(re.fullmatch(rule, path) is not None for rule in (self.decay, self.train))

    def slowed(self, share: float) -> "Optimizer":
        """The same pace with 1 / share as many updates: the rate is multiplied by it, decays of moments are raised to it."""
        decays = {k: getattr(self, k) ** share for k in ("b1", "b2", "rho", "momentum") if hasattr(self, k)}
        return replace(self, lr=self.lr * share, **decays)

    def build(self) -> optax.GradientTransformation:
        """The whole chain. Clipping and decay keep no state and always have their place, so that a run may take them up."""
        clip = clip_by_global_norm(self.clip) if self.clip > 0 else optax.identity()
        decay = (
            optax.add_decayed_weights(self.weight_decay, mask(self.decay))
            if self.weight_decay > 0
            else optax.identity()
        )
        parts = [clip, self.scale(), decay, at_run_step(self.rate())]
        if self.unit:
            parts.append(to_unit_magnitude(self.unit))
        if self.bound:
            parts.append(to_within(self.bound))
        tx = optax.chain(*parts)
        if self.train != r".*":
            tx = self._trained(tx)
        return careful(tx, self.skip) if self.skip else tx

    def _trained(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """For the params that `train` names alone."""

        def labels(params: PyTree) -> PyTree:
            return jax.tree.map(lambda m: "train" if m else "freeze", mask(self.train)(params))

        return optax.multi_transform({"train": tx, "freeze": optax.set_to_zero()}, labels)


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Stochastic gradient descent with (Nesterov) momentum."""

    elementwise: ClassVar[bool] = True
    momentum: BelowOne = 0.0
    nesterov: bool = False
    rise: Natural = 0  # steps in which momentum comes up from 0 (LAPGAN)

    def scale(self) -> optax.GradientTransformation:
        """Momentum trace."""
        if self.momentum > 0 and self.rise:
            return rising_trace(self.momentum, self.nesterov, self.rise)
        return optax.trace(self.momentum, self.nesterov) if self.momentum > 0 else optax.identity()


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2014); AdamW when weight_decay > 0."""

    elementwise: ClassVar[bool] = True
    b1: BelowOne = 0.9
    b2: BelowOne = 0.999
    eps: Positive = 1e-8

    def scale(self) -> optax.GradientTransformation:
        """Bias-corrected moments."""
        return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclass(frozen=True)
class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020): momentum alone until the second moment is known well enough."""

    elementwise: ClassVar[bool] = True
    b1: BelowOne = 0.9
    b2: BelowOne = 0.999
    eps: Positive = 1e-8

    def scale(self) -> optax.GradientTransformation:
        """Rectified moments."""
        return optax.scale_by_radam(self.b1, self.b2, self.eps)


@dataclass(frozen=True)
class Adamax(Optimizer):
    """Adam by the largest gradient of the past in place of the mean square (Kingma & Ba 2014, algorithm 2)."""

    elementwise: ClassVar[bool] = True
    b1: BelowOne = 0.9
    b2: BelowOne = 0.999
    eps: Positive = 1e-8

    def scale(self) -> optax.GradientTransformation:
        """Bias-corrected momentum over a decaying maximum."""
        return optax.scale_by_adamax(self.b1, self.b2, self.eps)


@dataclass(frozen=True)
class RmsProp(Optimizer):
    """RMSProp (Tieleman & Hinton 2012) as PyTorch has it: g / (sqrt(v) + eps), v from 0. TensorFlow's is g / sqrt(v + eps)."""

    elementwise: ClassVar[bool] = True
    rho: BelowOne = 0.99
    eps: Positive = 1e-8
    eps_in_root: bool = False

    def scale(self) -> optax.GradientTransformation:
        """Root mean square of past gradients."""
        return optax.scale_by_rms(self.rho, self.eps, eps_in_sqrt=self.eps_in_root)

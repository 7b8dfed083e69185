"""Guidance: a conditional denoiser in, a sharper one out. Linear in x_0, hence in eps, v and score as well.

Every guide is D_guided = D_bad + scale (D_good - D_bad) for some worse denoiser, so scale 1 is the model itself. A model
with learned variance keeps the variance it has for the label.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from jaxgen.diffusion.process import Process, spread
from jaxgen.diffusion.solvers.table import Denoiser, Estimate, image
from jaxgen.errors import UserError

Array = jax.Array
CondDenoiser = Callable[[Array, Array, Array], Array | Estimate]  # (x_t, t, label [B]) -> x_0


def missing(x: Array, t: Array, label: Array) -> Array:
    """In place of a second model that nobody gave."""
    raise UserError(
        "method.guide needs a second model (auto: a weaker checkpoint; classifier: a noisy classifier); give one"
    )


class Guide(Protocol):
    """Turns D(x, t, label) into D(x, t) for the labels asked for; `null` is the label that means "any"."""

    evaluations: ClassVar[int]  # of a network for each call of the guided denoiser, at most
    labelled: ClassVar[bool]  # needs a conditional model that was trained with a null label

    def __call__(self, model: CondDenoiser, label: Array, null: int, other: CondDenoiser = missing) -> Denoiser:
        """The denoiser that the solver sees; `other` is the second model of guides that have one."""


def as_said(x0: Array, said: Array | Estimate) -> Array | Estimate:
    """x_0 with the learned variance that `said` may have."""
    return said._replace(x0=x0) if isinstance(said, Estimate) else x0


def both(model: CondDenoiser, x: Array, t: Array, label: Array, worse: Array) -> tuple[Array | Estimate, Array]:
    """(what is said for `label`, x_0 for the worse label), as one batch of 2B."""
    said = model(jnp.concatenate([x, x]), jnp.concatenate([t, t]), jnp.concatenate([worse, label]))
    without, with_label = jnp.split(image(said), 2)
    fraction = jnp.split(said.fraction, 2)[1] if isinstance(said, Estimate) else with_label
    return (Estimate(with_label, fraction) if isinstance(said, Estimate) else with_label), without


@dataclass(frozen=True)
class NoGuide:
    """The model as it is."""

    evaluations: ClassVar[int] = 1
    labelled: ClassVar[bool] = False

    def __call__(self, model: CondDenoiser, label: Array, null: int, other: CondDenoiser = missing) -> Denoiser:
        """D(x, t, label)."""
        return lambda x, t: model(x, t, label)


@dataclass(frozen=True)
class ClassifierFree:
    """(1 - scale) D_null + scale D_label in one doubled batch (Ho & Salimans 2022); scale = 1 + w of their eq. 6."""

    evaluations: ClassVar[int] = 2
    labelled: ClassVar[bool] = True
    scale: float = 1.5

    def __call__(self, model: CondDenoiser, label: Array, null: int, other: CondDenoiser = missing) -> Denoiser:
        """Both branches run as one batch of 2B."""

        def guided(x: Array, t: Array) -> Array | Estimate:
            said, without = both(model, x, t, label, jnp.full_like(label, null))
            return as_said((1.0 - self.scale) * without + self.scale * image(said), said)

        return guided


@dataclass(frozen=True)
class Negative:
    """Away from one label instead of from "any": (1 - scale) D_avoid + scale D_label."""

    evaluations: ClassVar[int] = 2
    labelled: ClassVar[bool] = True
    scale: float = 1.5
    avoid: int = 0

    def __call__(self, model: CondDenoiser, label: Array, null: int, other: CondDenoiser = missing) -> Denoiser:
        """Classifier-free guidance with `avoid` for the null label."""
        if not 0 <= self.avoid <= null:
            raise UserError(f"method.guide.avoid={self.avoid} must be a label, 0 .. {null - 1}")
        return ClassifierFree(self.scale)(model, label, self.avoid)


@dataclass(frozen=True)
class Interval:
    """Classifier-free guidance only for low <= t <= high (Kynkaanniemi et al. 2024); outside, one evaluation is enough."""

    evaluations: ClassVar[int] = 2
    labelled: ClassVar[bool] = True
    scale: float = 1.5
    low: float = 0.2
    high: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise UserError(f"method.guide.low={self.low}, high={self.high}: need 0 <= low < high <= 1")

    def __call__(self, model: CondDenoiser, label: Array, null: int, other: CondDenoiser = missing) -> Denoiser:
        """All images of a batch are at the same time."""
        guided, plain = ClassifierFree(self.scale)(model, label, null), NoGuide()(model, label, null)

        def choose(x: Array, t: Array) -> Array | Estimate:
            inside = jnp.all((self.low <= t) & (t <= self.high))
            return jax.lax.cond(inside, guided, plain, x, t)

        return choose


@dataclass(frozen=True)
class Rescaled:
    """Classifier-free guidance whose contrast is brought back to the model's own (Lin et al. 2024, eq. 14-16), in x_0."""

    evaluations: ClassVar[int] = 2
    labelled: ClassVar[bool] = True
    scale: float = 7.5
    share: float = 0.7  # of the rescaled image; the rest is the guided one

    def __call__(self, model: CondDenoiser, label: Array, null: int, other: CondDenoiser = missing) -> Denoiser:
        """share std(D_label) / std(D_guided) D_guided + (1 - share) D_guided."""

        def guided(x: Array, t: Array) -> Array | Estimate:
            said, without = both(model, x, t, label, jnp.full_like(label, null))
            sharp = (1.0 - self.scale) * without + self.scale * image(said)
            axes = tuple(range(1, x.ndim))
            ratio = jnp.std(image(said), axes, keepdims=True) / (jnp.std(sharp, axes, keepdims=True) + 1e-8)
            return as_said((self.share * ratio + 1 - self.share) * sharp, said)

        return guided


@dataclass(frozen=True)
class Autoguidance:
    """Away from a worse version of the same model: (1 - scale) D_worse + scale D (Karras et al. 2024, eq. 3)."""

    evaluations: ClassVar[int] = 2
    labelled: ClassVar[bool] = False
    scale: float = 2.0
    weak: object = ""  # the run (or an early checkpoint of one) that is the worse model

    def __call__(self, model: CondDenoiser, label: Array, null: int, other: CondDenoiser = missing) -> Denoiser:
        """`other` is the worse model: smaller, or an early checkpoint."""

        def guided(x: Array, t: Array) -> Array | Estimate:
            said, worse = model(x, t, label), image(other(x, t, label))
            return as_said((1.0 - self.scale) * worse + self.scale * image(said), said)

        return guided


@dataclass(frozen=True)
class ByClassifier:
    """Up the gradient of a classifier of noisy images (Dhariwal & Nichol 2021, algorithm 1 and eq. 14): D + (scale - 1) step.

    With a conditional model scale - 1 is their gradient scale s, so scale 1 is the model itself as for every guide.
    """

    evaluations: ClassVar[int] = 2
    labelled: ClassVar[bool] = False
    scale: float = 2.0
    judge: object = ""  # the run of a classifier of noisy images

    def __call__(self, model: CondDenoiser, label: Array, null: int, other: CondDenoiser = missing) -> Denoiser:
        """`other` gives the step in x_0, see `uphill`."""

        def guided(x: Array, t: Array) -> Array | Estimate:
            said = model(x, t, label)
            return as_said(image(said) + (self.scale - 1.0) * other(x, t, label), said)

        return guided


def uphill(log_prob: CondDenoiser, process: Process) -> CondDenoiser:
    """log p(label | x_t) [B] as a step of x_0: sigma^2 / alpha times its gradient, since D = (x + sigma^2 score) / alpha."""

    def step(x: Array, t: Array, label: Array) -> Array:
        slope = jax.grad(lambda x: log_prob(x, t, label).sum())(x)
        return spread(process.sigma(t) ** 2 / process.alpha(t), x) * slope

    return step

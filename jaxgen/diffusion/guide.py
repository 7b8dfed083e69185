"""Guidance: a conditional model in, a sharper one out, for any condition and any output.

Every guide is D_guided = D_bad + scale (D_good - D_bad) for some worse model, so scale 1 is the model itself. A denoiser's
output is linear in x_0, hence eps, v and score are guided alike; an `Estimate` keeps the variance of the conditions asked for;
any other output, such as logits, is guided as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.conditions import Cond, refuse_unknown
from jaxgen.core.ranges import Natural, NonNegative, Share
from jaxgen.core.spec import DataSpec, Spec
from jaxgen.diffusion.process import Process, spread
from jaxgen.diffusion.solvers.table import Estimate, x0_of
from jaxgen.errors import UserError

Array = jax.Array
Output = Array | Estimate
Model = Callable[..., Output]  # (*args) -> output; a denoiser's arguments are x [B, ...], t [B]
CondModel = Callable[..., Output]  # (*args, cond) -> output


def missing(*args: Any) -> Output:
    """In place of a second model that nobody gave."""
    raise UserError(
        "method.guide needs a second model (auto: a weaker checkpoint; classifier: a noisy classifier); give one"
    )


class Guide(Protocol):
    """Turns model(*args, cond) into model(*args) for the conditions asked for; arguments and conditions are arrays [B, ...].

    Numbers that a program is given, so that it serves for any of them, are listed in `inputs` (jaxgen.core.inputs).
    `null` is `cond` at what means "any". What a guide `needs` of the run is in jaxgen.diffusion.needs.
    """

    evaluations: ClassVar[int]  # of a network for each call of the guided model, at most

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """The model that the solver sees; `other` is the second model of guides that have one."""


def with_x0(out: Output, x0: Array) -> Output:
    """The output with another x_0 (or another value, where it has no other part)."""
    return out._replace(x0=x0) if isinstance(out, Estimate) else x0


def away_from(out: Output, worse: Array, scale: Array | float) -> Array:
    """worse + scale (x_0 - worse), written so that scale 1 is exact."""
    return (1.0 - scale) * worse + scale * x0_of(out)


def both(model: CondModel, args: tuple[Array, ...], cond: Cond, worse: Cond) -> tuple[Output, Array]:
    """(the output for `cond`, x_0 for `worse`), as one batch of 2B."""
    num = len(args[0])
    doubled = jax.tree.map(lambda *pair: jnp.concatenate(pair), (*args, worse), (*args, cond))
    out = model(*doubled)
    return jax.tree.map(lambda v: v[num:], out), x0_of(jax.tree.map(lambda v: v[:num], out))


@dataclass(frozen=True)
class NoGuide:
    """The model as it is."""

    evaluations: ClassVar[int] = 1

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """model(*args, cond)."""
        return lambda *args: model(*args, cond)


@dataclass(frozen=True)
class ClassifierFree:
    """(1 - scale) D_null + scale D_cond in one doubled batch (Ho & Salimans 2022); scale = 1 + w of their eq. 6."""

    evaluations: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("scale",)
    needs: ClassVar[tuple[str, ...]] = ("null",)
    scale: NonNegative = 1.5

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """Both branches run as one batch of 2B."""

        def guided(*args: Array) -> Output:
            out, without = both(model, args, cond, null)
            return with_x0(out, away_from(out, without, self.scale))

        return guided


@dataclass(frozen=True)
class Negative:
    """Away from some conditions instead of from "any": (1 - scale) D_avoid + scale D_cond."""

    evaluations: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("scale", "avoid")
    needs: ClassVar[tuple[str, ...]] = ("null",)
    scale: NonNegative = 1.5
    avoid: Natural | dict = 0  # condition -> its value; those left out mean "any". A number is a label
    spec: DataSpec = field(default_factory=Spec)  # conditions as the run asks for them: a text as tokens

    def __post_init__(self) -> None:
        if self.spec:
            refuse_unknown(self.spec, self.avoided, "method.guide.avoid")
        for name, value in self.avoided.items() if self.spec else ():
            known = self.spec[name]
            if np.shape(value) != known.shape:
                raise UserError(f"method.guide.avoid[{name!r}] has shape {np.shape(value)} and must have {known.shape}")
            if known.kind == "label" and not 0 <= value < known.values:
                raise UserError(
                    f"method.guide.avoid={value} must be a label, 0 .. {known.values - 1}; set method.guide.avoid=0"
                )

    def __hash__(self) -> int:
        return hash((self.scale, str(self.avoid), self.spec))

    @property
    def avoided(self) -> dict[str, Any]:
        """`avoid` by name."""
        if isinstance(self.avoid, dict):
            return self.avoid
        if not self.spec.label:
            raise UserError(
                f"method.guide.avoid={self.avoid} is a label, and the run is told none; set method.guide=none, or say "
                "by its name what to avoid (a text: --negative)"
            )
        return {self.spec.label: self.avoid}

    def against(self, null: Cond) -> Cond:
        """What is avoided, and null."""
        there = {k: v for k, v in self.avoided.items() if k in null}
        worse = {k: jnp.broadcast_to(jnp.asarray(v, null[k].dtype), null[k].shape) for k, v in there.items()}
        return {**null, **worse}

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """Classifier-free guidance with what is avoided in place of null."""
        return ClassifierFree(self.scale)(model, cond, self.against(null))


def worse(guide: Guide, null: Cond) -> Cond:
    """The conditions that a guide sets those asked for against: null, but for `Negative`."""
    return guide.against(null) if isinstance(guide, Negative) else null


@dataclass(frozen=True)
class Rising:
    """Classifier-free guidance that rises from none at t = 1 to `scale` at t = 0 (MUSE, Chang et al. 2023, section 2.7)."""

    evaluations: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("scale",)
    needs: ClassVar[tuple[str, ...]] = ("null",)
    scale: NonNegative = 3.0

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """The last argument is the time [B]."""

        def guided(*args: Array) -> Output:
            out, without = both(model, args, cond, null)
            scale = 1.0 + (self.scale - 1.0) * (1.0 - args[-1])
            return with_x0(out, away_from(out, without, spread(scale, without)))

        return guided


@dataclass(frozen=True)
class Interval:
    """Classifier-free guidance only for low <= t <= high (Kynkaanniemi et al. 2024); outside, one evaluation is enough."""

    evaluations: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("scale", "low", "high")
    needs: ClassVar[tuple[str, ...]] = ("null",)
    scale: NonNegative = 1.5
    low: Share = 0.2
    high: Share = 0.8

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise UserError(f"method.guide.low={self.low} is not below high={self.high}; set method.guide.low=0.0")

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """The last argument is the time [B], the same for all of a batch."""
        guided, plain = ClassifierFree(self.scale)(model, cond, null), NoGuide()(model, cond, null)

        def choose(*args: Array) -> Output:
            inside = jnp.all((self.low <= args[-1]) & (args[-1] <= self.high))
            return jax.lax.cond(inside, guided, plain, *args)

        return choose


@dataclass(frozen=True)
class Rescaled:
    """Classifier-free guidance whose contrast is brought back to the model's own (Lin et al. 2024, eq. 14-16).

    of: "start", the contrast of x_0; or "output", that of what the net says, as diffusers' guidance_rescale.
    """

    evaluations: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("scale", "share")
    needs: ClassVar[tuple[str, ...]] = ("null",)
    scale: NonNegative = 7.5
    share: Share = 0.7  # of the rescaled image; the rest is the guided one
    of: Literal["start", "output"] = "start"

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """share std(D_cond) / std(D_guided) D_guided + (1 - share) D_guided."""

        def guided(*args: Array) -> Output:
            out, without = both(model, args, cond, null)
            sharp = away_from(out, without, self.scale)
            axes = tuple(range(1, sharp.ndim))
            ratio = jnp.std(x0_of(out), axes, keepdims=True) / (jnp.std(sharp, axes, keepdims=True) + 1e-8)
            return with_x0(out, (self.share * ratio + 1 - self.share) * sharp)

        return guided


@dataclass(frozen=True)
class Autoguidance:
    """Away from a worse version of the same model: (1 - scale) D_worse + scale D (Karras et al. 2024, eq. 3)."""

    evaluations: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("scale",)
    scale: NonNegative = 2.0
    weak: Any = ""  # the lender of the worse model: another run, or an early checkpoint of this one

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """`other` is the worse model: smaller, or an early checkpoint."""

        def guided(*args: Array) -> Output:
            out = model(*args, cond)
            return with_x0(out, away_from(out, x0_of(other(*args, cond)), self.scale))

        return guided


@dataclass(frozen=True)
class ByClassifier:
    """Up the gradient of a classifier of noisy images (Dhariwal & Nichol 2021, algorithm 1 and eq. 14): D + (scale - 1) step.

    With a conditional model scale - 1 is their gradient scale s, so scale 1 is the model itself as for every guide.
    """

    evaluations: ClassVar[int] = 2
    inputs: ClassVar[tuple[str, ...]] = ("scale",)
    needs: ClassVar[tuple[str, ...]] = ("label",)
    scale: NonNegative = 2.0
    judge: Any = ""  # the lender of a classifier of noisy images

    def __call__(self, model: CondModel, cond: Cond, null: Cond, other: CondModel = missing) -> Model:
        """`other` gives the step in x_0, see `uphill`."""

        def guided(*args: Array) -> Output:
            out = model(*args, cond)
            return with_x0(out, x0_of(out) + (self.scale - 1.0) * other(*args, cond))

        return guided


def uphill(log_prob: Callable[[Array, Array, Cond], Array], process: Process) -> CondModel:
    """log p(cond | x_t) [B] as a step of x_0: sigma^2 / alpha times its gradient, since D = (x + sigma^2 score) / alpha."""

    def step(x: Array, t: Array, cond: Cond) -> Array:
        slope = jax.grad(lambda x: log_prob(x, t, cond).sum())(x)
        return spread(process.sigma(t) ** 2 / process.alpha(t), x) * slope

    return step

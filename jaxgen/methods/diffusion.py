"""Diffusion models (Ho et al. 2020, arXiv:2006.11239) as small objects: process, predict, weight, times, objective, solver, guide.

Training (algorithm 1): x_t = alpha(t) x_0 + sigma(t) eps;  L = E_{t, x_0, eps} w(t) |F(x_t, t) - target(x_0, eps, t)|^2.
Sampling (algorithm 2): x_1 ~ N(0, sigma(1)^2), then the solver follows the denoiser D(x_t, t) down to t = 0.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxgen.core.conditions import Cond, drop
from jaxgen.core.inputs import Input
from jaxgen.core.lender import Loan, Role
from jaxgen.core.method import JudgesNoise, Loss, LossMethod
from jaxgen.core.net import Net
from jaxgen.core.ranges import BelowOne
from jaxgen.core.spec import Spec
from jaxgen.core.state import BASE, Array, TrainState, Variables, Weights
from jaxgen.core.task import Batch, Measured
from jaxgen.core.text import encode, loans, loses_each, refuse_null
from jaxgen.diffusion.flow_likelihood import FlowLikelihood
from jaxgen.diffusion.guide import CondModel, Guide, NoGuide, missing, uphill, with_x0, worse
from jaxgen.diffusion.needs import refuse_unmet
from jaxgen.diffusion.objective import Objective, Predicted, Weighted
from jaxgen.diffusion.predict import Eps, Prediction
from jaxgen.diffusion.process import VP, Process, level_at
from jaxgen.diffusion.restorers.restorer import NoRestorer, Restorer
from jaxgen.diffusion.solvers.chain import Ancestral
from jaxgen.diffusion.solvers.table import Denoiser, Estimate, NegativeLogLikelihood, Solver, prepared, x0_of
from jaxgen.diffusion.times import Times, Uniform
from jaxgen.diffusion.weight import Simple, Weight
from jaxgen.errors import UserError
from jaxgen.images import from_levels, to_levels, within


def bounded(spec: Spec, x: Array) -> Array:
    """Samples of a spec's target: pictures cut off at [-1, 1], anything else as it is."""
    return within(x) if spec[spec.target].kind in ("image", "frames") else x


def learns_null(method: LossMethod) -> bool:
    """Whether a method with `condition_dropout` learns to do without conditions; a share or a net that cannot is a UserError."""
    share = method.condition_dropout
    if share and method.spec.label and not getattr(method.net.module, "null_label", True):
        raise UserError(f"method.condition_dropout={share} needs a label for none; set method.net.null_label=True")
    return bool(method.spec.conditions) and share > 0


def listened(net: Net, variables: Variables, cond: Cond) -> Cond:
    """The conditions with what the net's own encoder, where it has one, makes of the text: once for all steps of a solver."""
    if not getattr(net.module, "text", None):
        return cond
    return net.apply(variables, len(next(iter(cond.values()))), cond, method="listen")[0]


@dataclass(frozen=True, kw_only=True)
class Diffusion(LossMethod):
    """DDPM by default; other members of the parts make the other papers.

    The net is called as net(x [B, ..., C], clock [B], cond, train) -> [B, ..., C] (2 C with a learned variance); x comes
    scaled by predict.scale. The second model of a guide that has one is lent.
    """

    process: Process = field(default_factory=VP)
    predict: Prediction = field(default_factory=Eps)
    weight: Weight = field(default_factory=Simple)
    times: Times = field(default_factory=Uniform)
    objective: Objective = field(default_factory=Weighted)
    solver: Solver = field(default_factory=Ancestral)
    guide: Guide = field(default_factory=NoGuide)
    restorer: Restorer = field(default_factory=NoRestorer)  # of a picture of which something is told to samples alone
    measures: Measured = None
    nll: NegativeLogLikelihood = field(default_factory=FlowLikelihood)
    text_encoder: Any = None  # frozen ones, for a net that is told states of a text (jaxgen.core.text)
    condition_dropout: BelowOne = 0.0  # share of examples that lose their conditions in training: for guidance

    weighs: ClassVar[bool] = True  # the words of a text that it is asked for may have weights, and a text several rows

    def __post_init__(self) -> None:
        refuse_unmet(self)
        refuse_null(self.text_encoder, self.net.module)
        _ = self.nfe  # a solver refuses what it cannot do before anything is trained

    @property
    def kind(self) -> str:
        """As its way to a likelihood has it."""
        return self.nll.kind

    @property
    def levels(self) -> int:
        """Of the data."""
        return self.nll.levels

    @property
    def gives(self) -> tuple[str, ...]:
        """What net, data and dropout have for the parts."""
        uncertainty = hasattr(self.net.module, "uncertainty")
        there = {
            "null": learns_null(self) or loses_each(self.text_encoder),
            "label": self.spec.label,
            "uncertainty": uncertainty,
        }
        there |= {"seen": self.measures, "clean": not (self.measures and self.measures.noisy)}
        there |= {"pixels": self.spec[self.spec.target].kind in ("image", "frames")}
        return tuple(what for what, has in there.items() if has)

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of conditions: what the net takes, and tokens where they are encoded for it."""
        return (*super().takes, *(["tokens"] if self.text_encoder else []))

    def encoded(self, w: Weights, cond: Cond, rng: Array | None = None) -> Cond:
        """The conditions as the net is told them: frozen encoders have read the text. rng: of training."""
        return encode(self.text_encoder, self.spec, w.frozen, cond, rng) if self.text_encoder else cond

    @property
    def classes(self) -> int:
        """Labels that it can be asked for."""
        return self.spec.classes

    def example(self, batch: Batch) -> tuple:
        """Net arguments for a batch."""
        x = self.target(batch)
        return x, jnp.zeros(len(x)), self.conditions(batch)

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state; adaptive times remember losses in `extra`."""
        state, memory = super().init(rng, batch), self.times.start(self.process)
        return state.replace(extra={"times": memory}) if memory else state

    def split(self, out: Array) -> tuple[Array, Array | None]:
        """The net's output as (prediction, fraction of the log-variance's range or None)."""
        learned = "variance" in self.objective.gives
        channels = self.spec.shape[-1] * (2 if learned else 1)
        if out.shape[-1] != channels:
            raise UserError(
                f"method.net gives {out.shape[-1]} channels and method.objective ({type(self.objective).__name__}) needs "
                f"{channels}; set method.net.out_channels={channels}"
            )
        if not learned:
            return out, None
        prediction, fraction = jnp.split(out, 2, axis=-1)
        return prediction, (fraction + 1) / 2

    def when(self, w: Weights, rng: Array, num: int) -> tuple[Array, Array | float]:
        """(training times [num], factors of the losses there)."""
        return self.times.draw(self.process, w.extra.get("times", {}), rng, num)

    def couple(self, w: Weights, batch: Batch, t: Array, cond: Cond, rng: Array) -> tuple[Array, Array]:
        """(image, noise) to be told apart at times t: independent here, made by a teacher in distillation."""
        x0 = self.target(batch)
        return x0, jax.random.normal(rng, x0.shape)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """The objective's loss [B]; metrics are the mean squared error of the prediction and what the objective adds."""
        times_rng, noise_rng, drop_rng, net_rng = jax.random.split(rng, 4)
        cond, variables = self.conditions(batch), w.nets["net"]
        t, factor = self.when(w, times_rng, len(batch[self.spec.target]))
        if train:
            cond = drop(self.spec, cond, self.condition_dropout, drop_rng)
        cond = self.encoded(w, cond, drop_rng if train else None)
        x0, eps = self.couple(w, batch, t, cond, noise_rng)
        level, clock = level_at(self.process, t, x0), self.process.clock(t)
        x = level.noised(x0, eps)
        seen, rngs = x * self.predict.scale(level), {"dropout": net_rng}
        out, vars = self.net.apply(variables, seen, clock, cond, train=train, rngs=rngs)
        out, fraction = self.split(out)
        mse = jnp.mean((out - self.predict.target(x0, eps, level)) ** 2, axis=tuple(range(1, x0.ndim)))
        flat = level_at(self.process, t, t)
        error = self.weight(flat, self.predict.gain(flat)) * mse

        def uncertainty() -> Array:
            return self.net.apply(variables, clock, method="uncertainty")[0]

        levels = self.spec.levels or 256
        found = Predicted(self.process, self.predict, t, x0, x, out, fraction, error, uncertainty, levels)
        each, metrics = self.objective(found)
        extra = {}
        if train and "times" in w.extra:
            extra["times"] = self.times.learn(w.extra["times"], t, jax.lax.stop_gradient(each))
        return Loss(factor * each, {"mse": mse, **metrics}, vars, extra)

    def predicted(self, variables: Variables) -> CondModel:
        """F(x_t [B, ...], t [B], cond) -> what the net predicts with these variables."""

        def predict(x: Array, t: Array, cond: Cond) -> Array | Estimate:
            scale = self.predict.scale(level_at(self.process, t, x))
            out, _ = self.net.apply(variables, x * scale, self.process.clock(t), cond)
            out, fraction = self.split(out)
            return out if fraction is None else Estimate(out, fraction)

        return predict

    def denoised(self, out: Array | Estimate, x: Array, t: Array) -> Array | Estimate:
        """x_0 of a prediction."""
        return with_x0(out, self.predict.denoised(x0_of(out), x, level_at(self.process, t, x)))

    def unguided(self, variables: Variables) -> CondModel:
        """D(x_t [B, ...], t [B], cond) -> x_0 of these variables."""
        predict = self.predicted(variables)
        return lambda x, t, cond: self.denoised(predict(x, t, cond), x, t)

    def denoiser(self, w: Weights, cond: Cond) -> Denoiser:
        """D(x_t [B, ...], t [B]) -> x_0 for the conditions asked for, guided."""
        null = {name: self.spec[name].null(len(value)) for name, value in cond.items()}
        other = self.second(w)
        if getattr(self.net.module, "text", None) and other is missing:  # another net has an encoder of its own
            cond, null = (listened(self.net, w.nets["net"], said) for said in (cond, worse(self.guide, null)))
        elif self.text_encoder:
            cond, null = self.encoded(w, cond), self.encoded(w, worse(self.guide, null))
        if getattr(self.guide, "of", "start") == "output":
            guided = self.guide(self.predicted(w.nets["net"]), cond, null, other)
            return lambda x, t: self.denoised(guided(x, t), x, t)
        return self.guide(self.unguided(w.nets["net"]), cond, null, other)

    def loans(self) -> dict[str, Loan]:
        """The guide's second model, an encoder of text, the base of an adapter."""
        roles = {
            "weak": Role(Diffusion, "diffusion model", conditions=True, alike=("process",)),
            "judge": Role(JudgesNoise, "classifier of noisy images", alike=("process", "classes")),
        }
        there = [name for name in roles if hasattr(self.guide, name)]
        text = loans(self.text_encoder, self.spec) if self.text_encoder else {}
        if adapter := self.net.adapter:
            role = Role(Diffusion, "diffusion model", conditions=True, alike=("process", "predict"))
            text |= {BASE: Loan(adapter.run, role, "method.net.adapter.run")}
        return text | {name: Loan(getattr(self.guide, name), roles[name], f"method.guide.{name}") for name in there}

    def second(self, w: Weights) -> CondModel:
        """What the guide sets against the model: a worse model, or a classifier's slope."""
        if weak := w.frozen.get("weak"):
            return weak.model.unguided(weak.weights.nets["net"])
        if judge := w.frozen.get("judge"):
            log_prob = partial(judge.model.label_log_prob, judge.weights)
            return uphill(lambda x, t, cond: log_prob(x, t, cond[self.spec.label]), self.process)
        return missing

    @property
    def nfe(self) -> int:
        """Network evaluations per image of `sample`, guidance included."""
        return self.restorer.nfe(self.solver, self.process) * self.guide.evaluations

    def settings(self) -> dict[str, Input]:
        """Guide, solver, restorer."""
        process = self.process
        follow = {k: Input(prepared(v, process)) for k, v in (("solver", self.solver), ("restorer", self.restorer))}
        return {"guide": Input(self.guide), **follow}

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """float32 [num, *spec.shape]; pictures in [-1, 1]."""
        return self.from_latents(w, self.draw_latents(rng, num), cond, jax.random.split(rng)[1])

    def draw_latents(self, rng: Array, num: int) -> Array:
        """The noise that the solver begins with."""
        start, _ = jax.random.split(rng)
        return jax.random.normal(start, (num, *self.spec.shape)) * self.process.sigma(jnp.ones(()))

    def from_latents(self, w: Weights, z: Array, cond: Cond, rng: Array | None = None) -> Array:
        """Pictures of that noise; a solver that draws more on its way draws the same each time without rng."""
        rng = jax.random.key(0) if rng is None else rng
        told = {name: value for name, value in cond.items() if name in self.spec}
        seen = self.measures.linear(cond) if self.measures else None
        return bounded(self.spec, self.restorer(self.denoiser(w, told), self.solver, self.process, z, rng, seen))

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """[B] log-likelihood (or its bound, see `nll`) in nats, without guidance."""
        model, cond, x = self.unguided(w.nets["net"]), self.encoded(w, self.conditions(batch)), self.target(batch)
        if self.levels:  # of which uint8 holds the nearest whole number
            x = from_levels(to_levels(x, self.levels), self.levels)
        return -self.nll(lambda x, t: model(x, t, cond), self.process, x, rng)


TEACHER = Role(Diffusion, "diffusion model", conditions=True, alike=("process", "predict"))

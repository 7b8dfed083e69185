"""Diffusion models (Ho et al. 2020, arXiv:2006.11239) as six small objects: process, predict, weight, times, solver, guide.

Training (algorithm 1): x_t = alpha(t) x_0 + sigma(t) eps;  L = E_{t, x_0, eps} w(t) |F(x_t, t) - target(x_0, eps, t)|^2.
Sampling (algorithm 2): x_1 ~ N(0, sigma(1)^2), then the solver follows the denoiser D(x_t, t) down to t = 0.

With a learned variance (Nichol & Dhariwal 2021) the net has 2 C output channels, the second half says where the
log-variance lies between its bounds, and L_hybrid = L_simple + 0.001 T L_vlb with the mean held still in L_vlb.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.method import Batch, Borrowed, JudgesNoise, LossMethod, Method, Metrics
from jaxgen.core.state import Array, PyTree, TrainState, Variables, Weights
from jaxgen.diffusion.bound import ChainBound, bits_per_dim, log_variance, term
from jaxgen.diffusion.flow_likelihood import FlowLikelihood
from jaxgen.diffusion.guide import CondDenoiser, Guide, NoGuide, missing, uphill
from jaxgen.diffusion.predict import Eps, Prediction
from jaxgen.diffusion.process import VP, Process, as_chain, spread
from jaxgen.diffusion.solvers.chain import Ancestral, Solver
from jaxgen.diffusion.solvers.table import Denoiser, Estimate, NegativeLogLikelihood
from jaxgen.diffusion.times import Times, Uniform
from jaxgen.diffusion.weight import Simple, Weight
from jaxgen.errors import UserError
from jaxgen.images import to_float

MEMORY = "times"  # collection of the net's variables in which adaptive times keep their losses
OBJECTIVES = ("simple", "hybrid", "bound")


def must_be(kind: type, what: str, name: str, lender: Method) -> None:
    """A UserError unless the method of the run called `name` is of that kind."""
    if not isinstance(lender, kind):
        raise UserError(f"{name}.path names a run of method {type(lender).__name__}, which is no {what}; name another")


def drop_labels(label: Array, share: float, null: int, rng: Array) -> Array:
    """A share of the labels [B] replaced by the null label, for classifier-free guidance (Ho & Salimans 2022, algorithm 1)."""
    return jnp.where(jax.random.bernoulli(rng, share, label.shape), null, label) if share else label


def told(batch: Batch) -> Batch:
    """What a net is told of how its images were augmented: nothing, or augment [B, n]."""
    return {k: batch[k] for k in ("augment",) if k in batch}


@dataclass(frozen=True, kw_only=True)
class Diffusion(LossMethod):
    """DDPM by default; other members of the parts make the other papers.

    The net is called as net(x [B, H, W, C], clock [B], label [B] or None, train) -> [B, H, W, C] (2 C with a learned
    variance); x comes scaled by predict.scale. The second model of a guide that has one is borrowed from another run.
    """

    shape: tuple[int, int, int]  # [H, W, C] of the data
    classes: int = 0  # labels; 0 is an unconditional model
    process: Process = field(default_factory=VP)
    predict: Prediction = field(default_factory=Eps)
    weight: Weight = field(default_factory=Simple)
    times: Times = field(default_factory=Uniform)
    solver: Solver = field(default_factory=Ancestral)
    guide: Guide = field(default_factory=NoGuide)
    nll: NegativeLogLikelihood = field(default_factory=FlowLikelihood)
    label_dropout: float = 0.0  # share of labels replaced by the null label in training, for classifier-free guidance
    variance: str = "fixed"  # fixed | learned
    uncertainty: bool = False  # the loss is L / e^u + u with the net's own u (Karras et al. 2024, EDM2, eq. 21)
    objective: str = "simple"  # simple | hybrid: simple + 0.001 T bound | bound: T terms of L_vlb in bits per dimension

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_dropout < 1.0:
            raise UserError(f"method.label_dropout={self.label_dropout} must lie in [0, 1)")
        if self.guide.labelled and not (self.classes and self.label_dropout):
            raise UserError(
                "method.guide needs a conditional run trained with a null label; set data.labels=True, "
                "method.net.null_label=True and method.label_dropout=0.1, or method.guide.name=none"
            )
        for name, value, known in (
            ("variance", self.variance, ("fixed", "learned")),
            ("objective", self.objective, OBJECTIVES),
        ):
            if value not in known:
                raise UserError(f"method.{name}={value!r} is unknown; there are: {', '.join(known)}")
        if self.objective != "simple" and not isinstance(self.process, VP):
            raise UserError(
                f"method.objective={self.objective} is the bound of a chain, and method.process {type(self.process).__name__} "
                "is continuous; set method.process.name=vp or method.objective=simple"
            )
        if (self.variance == "learned") != (self.objective != "simple"):
            raise UserError(
                f"method.variance={self.variance} and method.objective={self.objective} do not go together: only the bound "
                "teaches a variance; set method.objective=hybrid (or bound) with method.variance=learned"
            )
        if self.uncertainty and not hasattr(self.net.module, "uncertainty"):
            raise UserError(
                f"method.uncertainty=True needs a net that estimates it, and {type(self.net.module).__name__} does not; set "
                "method.net.name=edm2_unet or method.uncertainty=False"
            )
        for name in ("solver", "nll"):
            if getattr(getattr(self, name), "variance", "small") == "learned" and self.variance != "learned":
                raise UserError(
                    f"method.{name}.variance=learned needs method.variance=learned, or choose large or small"
                )
        if isinstance(self.predict, Eps) and isinstance(self.process, VP) and self.process.zero_snr:
            raise UserError(
                "method.predict=eps says nothing where no signal is left (method.process.zero_snr=True); set method.predict=v"
            )
        _ = self.nfe  # a solver refuses what it cannot do before anything is trained
        if self.times.adaptive:
            self.times.start(self.process)  # as do these
        if isinstance(self.nll, ChainBound):
            as_chain(self.process, "method.nll=bound", " or method.nll=flow")

    def labels(self, batch: Batch) -> Array | None:
        """The batch's labels when the model is conditional."""
        return batch["label"] if self.classes else None

    @property
    def augment_labels(self) -> int:
        """In how many numbers the net is told how an image was augmented; 0: it is not."""
        return getattr(self.net.module, "augment", 0)

    def example(self, batch: Batch) -> tuple[tuple, dict]:
        """Net arguments for a batch."""
        x = to_float(batch["image"])
        return (x, jnp.zeros(x.shape[:1]), self.labels(batch)), {}

    def init(self, rng: Array, batch: Batch) -> TrainState:
        """A fresh state; adaptive times remember with the net's variables."""
        state = super().init(rng, batch)
        if not self.times.adaptive:
            return state
        net = state.nets["net"]
        net = net.replace(vars={**net.vars, MEMORY: self.times.start(self.process)})
        return state.replace(nets={**state.nets, "net": net})

    def level(self, t: Array, x: Array) -> tuple[Array, ...]:
        """(alpha, sigma, alpha', sigma') at t [B], broadcast against x."""
        values = (self.process.alpha(t), self.process.sigma(t), *self.process.rates(t))
        return tuple(spread(v, x) for v in values)

    def halves(self, out: Array) -> tuple[Array, Array]:
        """The net's output as (prediction, fraction of the log-variance's range)."""
        channels = self.shape[-1] * (2 if self.variance == "learned" else 1)
        if out.shape[-1] != channels:
            raise UserError(
                f"method.net gives {out.shape[-1]} channels and method.variance={self.variance} needs {channels}; "
                f"set method.net.out_channels={channels}"
            )
        if self.variance != "learned":
            return out, out
        said, fraction = jnp.split(out, 2, axis=-1)
        return said, (fraction + 1) / 2

    def when(self, w: Weights, rng: Array, num: int) -> Array:
        """Training times [num]."""
        return self.times.at(self.process, self.times(rng, num))

    def couple(self, w: Weights, batch: Batch, t: Array, label: Array | None, rng: Array) -> tuple[Array, Array]:
        """(image, noise) to be told apart at times t: independent here, made by a teacher in distillation."""
        x0 = to_float(batch["image"])
        return x0, jax.random.normal(rng, x0.shape)

    def loss(
        self, params: PyTree, w: Weights, batch: Batch, rng: Array, train: bool
    ) -> tuple[Array, tuple[Metrics, Variables]]:
        """Weighted mean squared error of the prediction, plus or instead the bound; [B]."""
        num = len(batch["image"])
        times_rng, noise_rng, drop_rng, net_rng = jax.random.split(rng, 4)
        vars = {k: v for k, v in w.nets["net"].items() if k not in ("params", MEMORY)}
        if self.times.adaptive:
            memory = w.nets["net"][MEMORY]
            t, share = self.times.draw(memory, times_rng, num)
        else:
            t = self.when(w, times_rng, num)
        label = self.labels(batch)
        if label is not None and train:
            label = drop_labels(label, self.label_dropout, self.classes, drop_rng)
        x0, eps = self.couple(w, batch, t, label, noise_rng)
        a, s, *rates = level = self.level(t, x0)
        x = a * x0 + s * eps
        out, vars = self.net.apply(
            params, vars, x * self.predict.scale(a, s), self.process.clock(t), label, train=train,
            rngs={"dropout": net_rng}, **told(batch),
        )  # fmt: skip
        said, fraction = self.halves(out)
        error = jnp.mean((said - self.predict.target(x0, eps, *level)) ** 2, axis=tuple(range(1, x0.ndim)))
        flat = [v.reshape(-1) for v in (a, s, *rates)]
        loss = self.weight(flat[0], flat[1], self.predict.gain(*flat)) * error
        metrics = {"mse": error}
        if self.objective != "simple":
            still = jax.lax.stop_gradient(said) if self.objective == "hybrid" else said
            guess = self.predict.denoised(still, x, *level)
            log_var = log_variance(self.process, t, Estimate(guess, fraction), x, "learned")
            bound = self.process.steps * bits_per_dim(term(self.process, x0, x, t, guess, log_var), x0)
            metrics["vlb"] = bound
            loss = loss + 0.001 * bound if self.objective == "hybrid" else bound
        if self.uncertainty:
            u, _ = self.net.apply(params, vars, self.process.clock(t), method="uncertainty")
            metrics["weighted"] = loss  # what u follows: the logged loss itself may fall below zero
            loss = loss * jnp.exp(-u) + u
        if self.times.adaptive:
            seen = self.times.learn(memory, t, jax.lax.stop_gradient(loss)) if train else memory
            loss, vars = share * loss, {**vars, MEMORY: seen}
        return loss, (metrics, vars)

    def model(self, variables: Variables) -> CondDenoiser:
        """D(x_t [B, ...], t [B], label [B] or None) -> x_0 of these variables, without guidance."""
        variables = {k: v for k, v in variables.items() if k != MEMORY}

        def model(x: Array, t: Array, label: Array | None) -> Array | Estimate:
            a, s, *rates = self.level(t, x)
            out = self.net.module.apply(
                variables, x * self.predict.scale(a, s), self.process.clock(t), label, train=False
            )
            said, fraction = self.halves(out)
            x0 = self.predict.denoised(said, x, a, s, *rates)
            return Estimate(x0, fraction) if self.variance == "learned" else x0

        return model

    def denoiser(self, w: Weights, label: Array | None) -> Denoiser:
        """D(x_t [B, ...], t [B]) -> x_0 for the labels asked for, guided."""
        return self.guide(self.model(w.nets["net"]), label, self.classes, self.second(w))

    def borrows(self) -> dict[str, Borrowed]:
        """The guide's second model."""
        return {name: getattr(self.guide, name) for name in ROLES if hasattr(self.guide, name)}

    def accept(self, name: str, lender: Method) -> None:
        """A UserError unless that run's method is what its role asks for, of the same parts."""
        role = ROLES[name]
        must_be(role.kind, role.what, name, lender)
        for part in role.alike:
            theirs, mine = getattr(lender, part), getattr(self, part)
            if theirs != mine:
                raise UserError(
                    f"{name}.path names a run with method.{part} {theirs}, and this run has {mine}; let them agree"
                )
        if role.labelled and not self.classes:
            raise UserError("method.guide.name=classifier needs labels to ask for; set data.labels=True")

    def second(self, w: Weights) -> CondDenoiser:
        """What the guide sets against the model: a worse model, or a classifier's slope."""
        if "weak" in w.frozen:
            return self.guide.weak.method.model(w.frozen["weak"].nets["net"])
        if "judge" in w.frozen:
            judge = self.guide.judge.method
            return uphill(lambda x, t, label: judge.label_log_prob(w.frozen["judge"], x, t, label), self.process)
        return missing

    @property
    def nfe(self) -> int:
        """Network evaluations per image of `sample`, guidance included."""
        return self.solver.nfe(self.process) * self.guide.evaluations

    def sample(self, w: Weights, rng: Array, num: int, cond: Batch) -> Array:
        """[num, H, W, C] in [-1, 1]; a conditional model needs cond["label"]."""
        start, noise = jax.random.split(rng)
        x = jax.random.normal(start, (num, *self.shape)) * self.process.sigma(jnp.ones(()))
        x = self.solver(self.denoiser(w, self.labels(cond)), self.process, x, noise)
        return jnp.clip(x, -1.0, 1.0)

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """[B] log-likelihood (or its bound, see `nll`) in nats of 8-bit images, without guidance."""
        model, label = self.model(w.nets["net"]), self.labels(batch)
        return -self.nll(lambda x, t: model(x, t, label), self.process, to_float(batch["image"]), rng)


class Role(NamedTuple):
    """What a borrowed run must be."""

    kind: type
    what: str
    alike: tuple[str, ...]  # parts of the method that must be this run's too
    labelled: bool = False


ROLES = {
    "teacher": Role(Diffusion, "diffusion model", ("process", "predict")),
    "weak": Role(Diffusion, "diffusion model", ("process",)),
    "judge": Role(JudgesNoise, "classifier of noisy images", ("process",), labelled=True),
}

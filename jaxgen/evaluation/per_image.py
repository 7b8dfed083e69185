"""Evaluators: what is measured and drawn while training and by `--mode=eval`. Each says which capability it needs."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import keys
from jaxgen.core.method import Encodes, Method, Quantizes, Reconstructs, Samples, Scores
from jaxgen.core.ranges import Count, Natural, Seed
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch
from jaxgen.data.pipeline import share
from jaxgen.data.sources import Source
from jaxgen.data.sources.source import warn_once
from jaxgen.errors import NotFinite, UserError
from jaxgen.evaluation.pictures import counter
from jaxgen.images import beside, to_float
from jaxgen.metrics import pixel
from jaxgen.metrics.bits_per_dim import bits_per_dim
from jaxgen.metrics.ssim import ssim
from jaxgen.runs.experiment import Experiment


@dataclass
class Report:
    """Figures and pictures of one evaluation."""

    scalars: dict[str, float] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)  # [N, H, W, C] each, drawn as grids
    columns: int = 0  # of the grids; 0 is near square
    captions: tuple[str, ...] = field(default=(), kw_only=True)  # of the columns
    about: dict[str, Any] = field(
        default_factory=dict, kw_only=True
    )  # what figures depend on besides: N, protocol, hashes
    note: str = field(default="", kw_only=True)  # what is printed behind every figure
    # what is kept beside the checkpoint, by name
    beside: dict[str, dict[str, Any]] = field(default_factory=dict, kw_only=True)

    def broken(self) -> list[str]:
        """The figures and pictures that hold NaN or infinity."""
        return [k for part in (self.scalars, self.images) for k, v in part.items() if not np.isfinite(v).all()]


class Evaluator(Protocol):
    """Runs on all hosts together; `source` is the held-out data (None when a method needs none)."""

    needs: ClassVar[Any]  # a capability of jaxgen.core.method
    reads: bool  # whether it needs held-out data
    every: int  # steps between runs while training; 0: only at the end and by --mode=eval

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """Measure."""


@runtime_checkable
class Prepares(Protocol):
    """An evaluator that needs something besides the run, and asks for it before the first step."""

    def prepare(self, exp: Experiment) -> None:
        """A UserError for what is missing."""


def examine(name: str, evaluator: Evaluator, exp: Experiment) -> None:
    """A UserError when the method lacks what the evaluator needs, or something else is missing."""
    if not isinstance(exp.method, evaluator.needs):
        kinds = " or ".join(kind.__name__ for kind in get_args(evaluator.needs) or (evaluator.needs,))
        raise UserError(
            f"config.eval.{name} needs a method that {kinds}, and {exp.config.method.name} does not; set config.eval.{name}=None"
        )
    if isinstance(evaluator, Prepares):
        evaluator.prepare(exp)


# Which way figures improve, by the start of their names; of the others (perplexity, d_real, ...) none is the best
RISING = re.compile(
    r"elbo|likelihood_nats|(.*_)?(psnr|ssim)|r?(is|precision|recall|density|coverage)|agreement|accuracy"
    r"|bleu_.|rouge_l|cider_d|(said|agree|real)_.*|retrieval_(?!shuffled_).*"
)
FALLING = re.compile(r"loss|mse|nll|vlb|(likelihood_)?bits_per_dim|r?(s?fid|fid_infinity|intra_fid|kid)")


def best(metric: str, values: list[float]) -> int:
    """Where the best value is; -1 for a figure that has no better."""
    head = re.split("[@:]", metric.rpartition("/")[2])[0]
    if metric.endswith("+-"):
        return -1
    if RISING.fullmatch(head):
        return int(np.argmax(values))
    return int(np.argmin(values)) if FALLING.fullmatch(head) else -1


def averages(
    exp: Experiment, w: Weights, source: Source, num: int, owner: Evaluator, function: Callable
) -> dict[str, float]:
    """Means of `function(w, seen, rng) -> dict of [B]` over a share of held-out data as the method sees it, each counted once.

    The `owner` is the evaluator with its options, which is all that the function depends on besides the run.
    """
    program = exp.jit((owner, "averages"), lambda w, batch, rng: function(w, *looked_at(exp, w, batch, rng)))
    totals: dict[str, float] = {}
    count = 0.0
    with counter("held out", drawn(source, num)["N"]) as bar:
        for i, (batch, mask) in enumerate(exp.held_out(source, num)):
            rng = keys.named(exp.root, "evaluation", i)  # the same noise at every evaluation
            for key, values in jax.device_get(program(w, batch, rng)).items():
                totals[key] = totals.get(key, 0.0) + float(np.sum(values.astype(np.float64)[mask > 0]))
            count += float(mask.sum())
            bar.update(int(mask.sum()))
    if not count:
        raise UserError(
            f"none of the {len(share(source, num))} held-out pictures that were chosen can be decoded; raise num"
        )
    return {key: total / count for key, total in totals.items()}


def drawn(source: Source, num: int, seed: int = 0) -> dict[str, Any]:
    """What a record says of a share of held-out data: its N, of how many, and the seed that chose it."""
    count = len(share(source, num, seed))
    return {"N": count, "share": {"of": len(source), "seed": seed}}


def looked_at(exp: Experiment, w: Weights, batch: Batch, rng: Array) -> tuple[Batch, Array]:
    """(a held-out batch of the data as the method sees it, a key for what is done with it)."""
    return exp.see(w.frozen, exp.own(batch), keys.named(rng, "tasks")), keys.named(rng, "use")


def first_pictures(exp: Experiment, w: Weights, source: Source, num: int, owner: Evaluator, function: Callable) -> list:
    """`function(w, seen, rng) -> pictures [B, ...] each` of some held-out examples, on the host."""
    batch, mask = next(exp.held_out(source, num))
    shown = min(num, int(mask.sum()))
    program = exp.jit((owner, "pictures"), lambda w, batch, rng: function(w, *looked_at(exp, w, batch, rng)))
    return [p[:shown] for p in jax.device_get(program(w, batch, keys.named(exp.root, "pictures")))]


@dataclass(frozen=True)
class Loss:
    """The method's own per-example figures on held-out data, with averaged weights."""

    needs: ClassVar[Any] = Method
    reads: ClassVar[bool] = True
    every: Natural = 1000
    num: Natural = 0  # images; 0: the whole held-out set

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """Means over the set."""
        figures = averages(exp, exp.settled(ema), source, self.num, self, exp.method.eval_step)
        return Report(figures, about=drawn(source, self.num))


@dataclass(frozen=True)
class Grid:
    """Sample grids from one seed, raw and averaged weights side by side as two files.

    Where the run is told pictures, these come first and the original last: what was given, what was made of it, the truth.
    """

    needs: ClassVar[Any] = Samples
    reads: ClassVar[bool] = False
    every: Natural = 1000
    num: Count = 64
    seed: Seed = 0

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """Labels run through 0 .. classes - 1, a column each where they fit."""
        columns = exp.spec.classes if exp.spec.classes <= 16 and not exp.from_data else 0
        num = max(1, self.num // columns) * columns if columns else self.num

        averaged = any(a is not b for a, b in zip(jax.tree.leaves(raw), jax.tree.leaves(ema), strict=True))
        drawn = {"ema": ema, "raw": raw} if averaged else {"raw": raw}
        made = {name: exp.sheet(exp.sample(w, num, self.seed, source=source)) for name, w in drawn.items()}
        return Report(
            images={name: pictures for name, (pictures, _) in made.items()},
            columns=made["raw"][1] or columns,
            captions=tuple(exp.spec[exp.spec.label].called(i) for i in range(columns)),
        )


def fidelity(y: Array, x: Array) -> dict[str, Array]:
    """mse in units of [-1, 1]; psnr in dB of the 0..255 scale; ssim from 11 pixels on: [B] each."""
    mse = pixel.mse(y, x)
    found = {"mse": mse, "psnr": -10.0 * jnp.log10(jnp.maximum(mse / 4.0, 1e-10))}
    return found | ({"ssim": ssim(y, x, (-1.0, 1.0))} if min(x.shape[-3:-1]) >= 11 else {})


@dataclass(frozen=True)
class Reconstruction:
    """Mean squared error, PSNR, SSIM and a grid of held-out images next to their reconstructions."""

    needs: ClassVar[Any] = Reconstructs
    reads: ClassVar[bool] = True
    every: Natural = 1000
    num: Natural = 0  # images measured; 0: the whole held-out set
    shown: Natural = 32

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """Averaged over images."""

        def pair(w: Weights, batch: Batch, rng: Array) -> tuple[Array, Array]:
            return to_float(batch[exp.spec.target]), exp.method.reconstruct(w, batch, rng)

        def errors(w: Weights, batch: Batch, rng: Array) -> dict[str, Array]:
            x, y = pair(w, batch, rng)
            return fidelity(y, x)

        figures = averages(exp, ema, source, self.num, self, errors)
        both = first_pictures(exp, ema, source, self.shown, self, pair)
        return Report(figures, {"reconstruction": beside(both)}, columns=8, about=drawn(source, self.num))


@dataclass(frozen=True)
class Codes:
    """How held-out images use the codebook."""

    needs: ClassVar[Any] = Quantizes
    reads: ClassVar[bool] = True
    every: Natural = 1000
    num: Natural = 0

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """usage: share of the codes that occur; perplexity: exp of their entropy, in codes; of a pyramid at each level too."""

        def chosen(w: Weights, batch: Batch, rng: Array) -> list[Array]:
            seen, rng = looked_at(exp, w, batch, rng)
            ids = jax.tree.leaves(exp.method.encode(w, seen[exp.spec.target], rng))
            count = jax.vmap(lambda row: jnp.bincount(row.ravel(), length=exp.method.codes))
            return [count(level) for level in ids]  # [B, K] each

        program, counts = exp.jit(self, chosen), []
        for batch, mask in exp.held_out(source, self.num):
            found = jax.device_get(program(ema, batch, exp.root))
            counts.append([(np.asarray(level) * mask[:, None]).sum(0) for level in found])
        levels = np.sum(counts, 0)  # [levels, K]
        figures = _occupied(levels.sum(0), "")
        for i, count in enumerate(levels if len(levels) > 1 else ()):
            figures |= _occupied(count, f"_{i}")
        return Report(figures, about=drawn(source, self.num))


def _occupied(count: np.ndarray, name: str) -> dict[str, float]:
    """usage and perplexity of codes that occur so often [K]."""
    used = count[count > 0] / count.sum()
    perplexity = float(np.exp(-(used * np.log(used)).sum()))
    return {f"usage{name}": len(used) / len(count), f"perplexity{name}": perplexity}


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of every channel of the latents, which are hardly ever 0 and 1; kept beside the checkpoint.

    Of codes the vectors count. A second stage that models the latents brings them to 0 and 1 by these numbers.
    """

    needs: ClassVar[Any] = Encodes
    reads: ClassVar[bool] = True
    every: Natural = 0
    num: Natural = 10_000  # images; 0: the whole held-out set

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """In float64, over examples and places: the mean of the channels' means, their standard deviation, the extremes."""

        def latents(w: Weights, batch: Batch, rng: Array) -> Array:
            seen, rng = looked_at(exp, w, batch, rng)
            z = exp.method.encode(w, seen[exp.spec.target], rng)
            levels = jax.tree.leaves(exp.method.vectors(w, z) if isinstance(exp.method, Quantizes) else z)
            return jnp.concatenate([level.reshape(len(level), -1, level.shape[-1]) for level in levels], 1)

        program, moments, least, most = exp.jit(self, latents), [], [], []
        for i, (batch, mask) in enumerate(exp.held_out(source, self.num)):
            z = jax.device_get(program(ema, batch, keys.named(exp.root, "latents", i)))[mask > 0].astype(np.float64)
            if not len(z):
                continue
            z = z.reshape(-1, z.shape[-1])
            moments.append((len(z), z.mean(0), z.var(0)))
            least.append(z.min(0))
            most.append(z.max(0))
        number, means, variances = (np.array(part) for part in zip(*moments, strict=True))
        share = (number / number.sum())[:, None]
        mean = (share * means).sum(0)
        std = np.sqrt((share * (variances + (means - mean) ** 2)).sum(0))
        low, high = np.min(least, 0), np.max(most, 0)
        scalars = {
            "latent_mean": mean.mean(),
            "latent_std": np.sqrt((std**2).mean()),
            "latent_min": low.min(),
            "latent_max": high.max(),
        }
        found = {"mean": mean.tolist(), "std": std.tolist(), "min": low.tolist(), "max": high.tolist()}
        about = drawn(source, self.num)
        return Report({k: float(v) for k, v in scalars.items()}, about=about, beside={"latents": {**found, **about}})


@dataclass(frozen=True)
class Likelihood:
    """Held-out log-likelihood (or its bound) in nats per image and in bits per dimension."""

    needs: ClassVar[Any] = Scores
    reads: ClassVar[bool] = True
    every: Natural = 0
    num: Natural = 0

    def prepare(self, exp: Experiment) -> None:
        """A UserError where the model is not one of pixels: latents have no grey levels."""
        if (kind := exp.spec[exp.spec.target].kind) not in ("image", "frames"):
            raise UserError(
                f"config.eval.likelihood is of the levels of pixels, and the run models {kind}; set config.eval.likelihood=None"
            )

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """likelihood_nats = mean log p(x); likelihood_bits_per_dim = -nats / (D ln 2), but of a density."""

        def scores(w: Weights, batch: Batch, rng: Array) -> dict[str, Array]:
            return {"nats": exp.method.log_prob(w, batch, rng)}

        nats = averages(exp, ema, source, self.num, self, scores)["nats"]
        if not np.isfinite(nats):
            # the method's other figures say where: of a flow, the first layer whose volume is none
            others = averages(exp, ema, source, self.num, Loss(num=self.num), exp.method.eval_step)
            broken = ["likelihood_nats", *(k for k, v in others.items() if not np.isfinite(v))]
            raise NotFinite(f"{', '.join(broken)} became NaN or infinite")
        figures, kind, levels = {"likelihood_nats": nats}, exp.method.kind, exp.method.levels
        note = f"{kind}, of a density on [-1, 1]"
        if levels:
            if source.lossy:
                warn_once(
                    "the likelihood is of pictures from JPEG files, whose levels their decoder made: bits per dimension compare "
                    "with no figure of lossless pictures"
                )
            figures["likelihood_bits_per_dim"] = bits_per_dim(nats, math.prod(exp.spec.shape))
            note = f"{kind}, of {levels} levels: {math.log2(levels):.4g} bits each if all were alike"
        return Report(figures, about={"kind": kind, "levels": levels, **drawn(source, self.num)}, note=note)

"""Evaluators that judge sets of images: sample quality, nearest neighbours, diversity, restoration."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config.registry import nearest
from jaxgen.core import keys
from jaxgen.core.given import FilePath
from jaxgen.core.method import Reconstructs, Restores, Samples
from jaxgen.core.ranges import Count, Natural, Range, Seed
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch
from jaxgen.data.sources import Source
from jaxgen.degradations.degradation import Degradation, called, degraded, refuse_smaller
from jaxgen.degradations.noise import Gaussian
from jaxgen.errors import UserError
from jaxgen.evaluation import features
from jaxgen.evaluation.per_image import Report, averages, drawn, fidelity, first_pictures, looked_at
from jaxgen.evaluation.pictures import Pictures, bar, counter
from jaxgen.images import beside, to_float, to_uint8, within
from jaxgen.metrics.pixel import PERFECT, l1, levels, luma, psnr, shave
from jaxgen.metrics.ssim import ssim
from jaxgen.pretrained.features import Lpips
from jaxgen.runs.experiment import Experiment

SPAN = (-1.0, 1.0)


@dataclass(frozen=True)
class SampleQuality:
    """FID and its kin between generated images and the data, under a named protocol (jaxgen.metrics.protocols).

    Generated images are quantised to uint8 as saved files are. `of="reconstructions"` judges the decoded held-out set
    against that set itself (rFID) instead of samples against `against`.
    """

    needs: ClassVar[Any] = Samples | Reconstructs
    every: Natural = 0
    num: Count = 50_000  # generated images
    measures: tuple = ("fid",)
    protocol: str = "pytorch"
    native: FilePath = ""  # protocol="native": the run directory of a classifier
    inception: FilePath = ""  # a file of Inception's weights, where they are not to be downloaded
    of: str = "samples"
    against: FilePath = "train"  # "train", "eval", or a file of statistics (.npz, .pkl)
    reference_num: Natural = 0  # images of the reference; 0: all of them
    batch: Count = 64
    seed: Seed = 0
    seeds: Count = 1  # sample sets; from two on, mean and standard deviation are reported
    raw: bool = False  # the raw weights instead of the averaged ones

    @property
    def reads(self) -> bool:
        """Samples are judged against the training data where nothing else is said."""
        return self.of == "reconstructions" or self.against == "eval"

    def prepare(self, exp: Experiment) -> None:
        """Names, weights and the classifier's run are checked before a run begins, not after hours of it."""
        features.needs_of(self.measures)
        rest = tuple(m for m in self.measures if m not in ("agreement", "intra_fid"))
        if len(rest) < len(self.measures) and not exp.spec.label:
            raise UserError(
                "agreement and intra_fid need a run that is told labels; set config.data.labels=True, or leave them out: set "
                f"config.eval.quality.measures={rest or ('fid',)}"
            )
        judge = features.open_judge(self.protocol, self.native, self.inception)
        if "agreement" in self.measures and judge.classes != (names := exp.spec[exp.spec.label].names):
            raise UserError(
                f"agreement compares labels by their place, and {self.native} tells {', '.join(judge.classes[:5])} ... apart "
                f"where the run knows {', '.join(names[:5])} ...; name a classifier of the same data, or leave agreement out"
            )
        if self.of not in ("samples", "reconstructions"):
            raise UserError(f"of={self.of!r} is unknown{nearest(self.of, ['samples', 'reconstructions'])}")
        if self.of == "reconstructions" and not isinstance(exp.method, Reconstructs):
            raise UserError(f"of='reconstructions' needs a method that reconstructs; {exp.config.method.name} does not")
        if self.of == "samples" and self.against not in ("train", "eval"):
            features.from_file(self.against, judge)
            if "rows" in features.needs_of(self.measures):
                raise UserError(
                    f"config.eval: {', '.join(self.measures)} compare single images, and {self.against} holds statistics only; "
                    "set against='train' or 'eval', or measures=('fid',)"
                )
        images = jax.ShapeDtypeStruct((1, *exp.pictures.shape), np.uint8)
        jax.eval_shape(judge.see, judge.frozen, images)  # refuses what it cannot see

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """Figures by their full names, and where they come from."""
        needs = features.needs_of(self.measures)
        judge = features.open_judge(self.protocol, self.native, self.inception)
        viewer = features.Viewer(judge, exp.mesh, self.batch)
        w = raw if self.raw else ema
        if self.of == "reconstructions":
            real = self._reference(viewer, source, needs)
            sets = [self._reconstructed(exp, w, source)]
        else:
            real = self._reference(viewer, self._source(exp), needs)
            label = exp.spec.label
            made = lambda seed: ((m.images, m.cond.get(label)) for m in exp.samples(w, self.num, seed))  # noqa: E731
            sets = [made(self.seed + i) for i in range(self.seeds)]
        found = []
        for batches in sets:
            quantised = ((to_uint8(images), labels) for images, labels in batches)
            summary = features.summarise(viewer, bar(self.of, self.num)(quantised), needs)
            found.append(features.compare(self.measures, summary, real, judge.protocol))
        prefix = "r" if self.of == "reconstructions" else ""
        scalars = {prefix + k: float(np.mean([f[k] for f in found])) for k in found[0]}
        if len(found) > 1:
            scalars |= {f"{k} +-": float(np.std([f[k] for f in found], ddof=1)) for k in found[0]}
        about = {
            "N": summary.count,
            "protocol": asdict(judge.protocol),
            "weights": judge.weights,
            "reference": {"of": self.against if self.of == "samples" else "eval", **real.origin},
            "precision": "float32 (highest)",
            "seeds": [self.seed + i for i in range(len(found))],
            "averaged": not self.raw,
        }
        return Report(scalars, about=about)

    def _source(self, exp: Experiment) -> Source | Path:
        if self.against in ("train", "eval"):
            return exp.open_pictures(self.against)
        return Path(self.against)

    def _reference(self, viewer: features.Viewer, source: Source | Path, needs: frozenset[str]) -> features.Summary:
        if isinstance(source, Path):
            return features.from_file(source, viewer.judge)
        pictures, num = Pictures.of(source, "the reference"), self.reference_num
        return features.reference(viewer, pictures, needs, num, progress=bar("reference", num or len(pictures)))

    def _reconstructed(self, exp: Experiment, w: Weights, source: Source) -> Iterator:
        program = exp.jit(
            (self, "reconstruct"), lambda w, batch, rng: exp.method.reconstruct(w, *looked_at(exp, w, batch, rng))
        )
        for i, (batch, mask) in enumerate(exp.held_out(source, self.reference_num)):
            images = jax.device_get(program(w, batch, keys.named(exp.root, "reconstruct", i)))
            yield images[mask > 0], None


@dataclass(frozen=True)
class Neighbours:
    """Do samples repeat the training set? Distances to the nearest training images, in pixels of [0, 1].

    A model that copies has samples nearer to the training set than held-out images are.
    """

    needs: ClassVar[Any] = Samples
    reads: ClassVar[bool] = True
    every: Natural = 0
    num: Count = 256
    shown: Natural = 8  # samples in the picture, each followed by its `near` nearest training images
    near: Count = 5
    seed: Seed = 0

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """Medians over samples and over held-out images, their ratio, and a picture."""
        train = exp.open_pictures("train")
        made = to_uint8(exp.sample(ema, self.num, self.seed).images)
        held = np.concatenate([images for images, _ in features.source_batches(source, self.num)])
        watch = bar("neighbours", len(train))
        distance, rows = nearest_rows(np.concatenate([made, held]), watch(features.source_batches(train)), self.near)
        mine, theirs = np.median(distance[: len(made), 0]), np.median(distance[len(made) :, 0])
        shown = [np.concatenate([made[i : i + 1], np.stack([train[int(j)][exp.data.target] for j in rows[i]])])
                 for i in range(min(self.shown, len(made)))]  # fmt: skip
        figures = {"nearest": mine, "nearest_of_held_out": theirs, "nearest_ratio": mine / max(theirs, 1e-12)}
        return Report(
            {k: float(v) for k, v in figures.items()},
            {"neighbours": np.concatenate(shown)},
            self.near + 1,
            about={"N": len(made), "seeds": [self.seed], "held_out": drawn(source, self.num)},
        )


def nearest_rows(images: np.ndarray, batches: Iterable, near: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images [N, H, W, C], data in batches -> (distances [N, near], indices [N, near]), Euclidean over pixels in [0, 1].

    Holds one batch of the data at a time.
    """

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1) / 255.0  # float64: the difference of large squares is what counts

    mine = flat(images)
    own = (mine**2).sum(1)[:, None]
    best = np.full((len(images), near), np.inf)
    found, start = np.zeros((len(images), near), np.int64), 0
    for batch, _ in batches:
        other = flat(batch)
        squared = np.maximum(own + (other**2).sum(1)[None] - 2 * mine @ other.T, 0)
        both = np.concatenate([best, squared], 1)
        index = np.concatenate([found, np.broadcast_to(start + np.arange(len(other)), squared.shape)], 1)
        order = np.argsort(both, axis=1)[:, :near]
        best, found = (np.take_along_axis(x, order, 1) for x in (both, index))
        start += len(other)
    return np.sqrt(best), found


@dataclass(frozen=True)
class Diversity:
    """Mean distance between pairs of samples, over that between pairs of real images: near 0 when a generator collapses.

    distance: "pixels" (mean absolute difference in [0, 1]) or LPIPS's "alex", "vgg", "squeeze". Pairs share their label
    where the run is labelled.
    """

    needs: ClassVar[Any] = Samples
    reads: ClassVar[bool] = True
    every: Natural = 0
    num: Annotated[int, Range(least=2)] = 1000  # samples, half as many pairs
    distance: str = "pixels"
    weights: FilePath = ""  # a file of the LPIPS trunk's weights, where they are not to be downloaded
    seed: Seed = 0

    def prepare(self, exp: Experiment) -> None:
        """A UserError for a distance that is not known, or whose weights are not there."""
        _distance(self.distance, self.weights)

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """diversity, diversity_of_data and their ratio."""
        compare = _distance(self.distance, self.weights)
        made, label = exp.sample(ema, self.num, self.seed), exp.spec.label
        images, real = to_uint8(made.images), list(features.source_batches(source, self.num))
        labels = np.concatenate([known for _, known in real]) if label else None
        mine = _pairs(compare, images, made.cond[label] if label else None)
        theirs = _pairs(compare, np.concatenate([pictures for pictures, _ in real]), labels)
        return Report(
            {"diversity": mine, "diversity_of_data": theirs, "diversity_ratio": mine / max(theirs, 1e-12)},
            about={
                "N": len(images),
                "seeds": [self.seed],
                "held_out": drawn(source, self.num),
                "distance": self.distance,
            },
        )


def _distance(name: str, weights: str) -> Callable[[Array, Array], Array]:
    """(a, b) [B, H, W, C] in [-1, 1] -> [B]."""
    if name == "pixels":
        return lambda a, b: l1(a, b) / 2.0
    lpips = features.borrow(Lpips(name, weights))

    def measured(a: Array, b: Array) -> Array:
        a, b = (jnp.broadcast_to(x, (*x.shape[:3], 3)) for x in (a, b))
        with jax.default_matmul_precision("highest"):
            return lpips(a, b)

    return measured


def _pairs(compare: Callable, images: np.ndarray, labels: np.ndarray | None, batch: int = 128) -> float:
    """Mean distance of disjoint pairs within each label."""
    labels = np.zeros(len(images), int) if labels is None else labels
    order = np.argsort(labels, kind="stable")
    pairs = np.array([(a, b) for a, b in zip(order[::2], order[1::2], strict=False) if labels[a] == labels[b]])
    if not len(pairs):
        raise UserError(f"diversity needs pairs of images of one label, and {len(images)} images hold none; raise num")
    found = []
    for start in range(0, len(pairs), batch):
        a, b = (to_float(jnp.asarray(images[side])) for side in pairs[start : start + batch].T)
        found.append(np.asarray(compare(a, b)))
    return float(np.concatenate(found).mean())


@dataclass(frozen=True)
class Restoration:
    """Held-out images degraded (the table `degradation`), and restored by the method.

    PSNR and SSIM of the restored and of the degraded images; `y` measures luma alone and `border` leaves out pixels on
    every side, as papers on super-resolution do.
    """

    needs: ClassVar[Any] = Restores
    reads: ClassVar[bool] = True
    every: Natural = 0
    num: Natural = 0
    degradation: Degradation | tuple[Degradation, ...] = field(default_factory=lambda: Gaussian(sigma=0.25))
    y: bool = False
    border: Natural = 0
    shown: Natural = 16

    def prepare(self, exp: Experiment) -> None:
        """A UserError for a degradation that changes the size."""
        refuse_smaller(self.degradation, "config.eval.restoration.degradation")

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """psnr, ssim, and psnr_degraded: what doing nothing would give."""
        target = exp.spec.target

        def seen(x: Array) -> Array:
            x = levels(within(x), SPAN, quantise=True)  # as a file would hold it
            return shave(luma(x) if self.y else x, self.border)

        def restore(w: Weights, batch: Batch, rng: Array) -> tuple[Array, Array, Array]:
            x = to_float(batch[target])
            bad_rng, restore_rng = jax.random.split(rng)
            bad, _ = degraded(self.degradation, x, bad_rng)
            return x, bad, exp.method.restore(w, {**batch, target: bad}, restore_rng)

        def figures(w: Weights, batch: Batch, rng: Array) -> dict[str, Array]:
            x, bad, good = (seen(v) for v in restore(w, batch, rng))
            found = {k: jnp.minimum(psnr(y, x), PERFECT) for k, y in (("psnr", good), ("psnr_degraded", bad))}
            return found | ({"ssim": ssim(good, x)} if min(x.shape[1:3]) >= 11 else {})

        name = f"{called(self.degradation)}_"
        scalars = averages(exp, ema, source, self.num, self, figures)
        pictures = beside(first_pictures(exp, ema, source, self.shown, self, restore))
        about = {
            **drawn(source, self.num),
            "degradation": repr(self.degradation),
            "luma": self.y,
            "border": self.border,
        }
        return Report({name + k: v for k, v in scalars.items()}, {name + "restoration": pictures}, 6, about=about)


@dataclass(frozen=True)
class FromConditions:
    """Held-out pictures made again from what the run is told of them: hidden parts restored, small pictures enlarged.

    PSNR (SSIM from 11 pixels on) against the originals, as the data are: where a codec works, decoded pixels are judged. The
    `baseline` of the same measures leaves a condition of the pictures' own size as it is, and enlarges a smaller one (bicubic).
    """

    needs: ClassVar[Any] = Samples
    reads: ClassVar[bool] = True
    every: Natural = 0
    num: Count = 256
    seed: Seed = 0

    def prepare(self, exp: Experiment) -> None:
        """A UserError for a run that is told no pictures."""
        if not exp.from_data:
            raise UserError(
                "config.eval.from_conditions needs a run that is told pictures; set config.tasks.hide={}, or "
                "config.eval.from_conditions=None"
            )

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """mse, psnr, ssim of the samples, and of the baseline."""
        about = {**drawn(source, self.num), "seeds": [self.seed]}
        given = next((k for k in exp.from_data if exp.spec[k].kind == "image"), "")
        total: dict[str, list[np.ndarray]] = {}
        with counter("from conditions", about["N"]) as bar:
            for part in exp.samples(ema, about["N"], self.seed, source=source):
                truth = to_float(jnp.asarray(part.data[exp.made]))
                found = {"": to_float(jnp.asarray(to_uint8(part.images)))}  # as a file would hold it
                if given:
                    found["baseline_"] = jax.image.resize(part.cond[given], truth.shape, "cubic")
                for prefix, x in found.items():
                    for key, value in fidelity(within(x), truth).items():
                        total.setdefault(prefix + key, []).append(np.asarray(value))
                bar.update(len(truth))
        return Report({k: float(np.concatenate(v).mean()) for k, v in total.items()}, about=about)

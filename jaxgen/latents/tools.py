"""What can be done with the latents of a trained run: each class is a tool, its fields are its keys."""

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import numpy as np

from jaxgen.config.registry import nearest
from jaxgen.core.given import FilePath
from jaxgen.core.ranges import Count, NonNegative, Number, Range
from jaxgen.errors import UserError
from jaxgen.evaluation import features
from jaxgen.evaluation.pictures import Pictures, bar
from jaxgen.images import to_uint8
from jaxgen.latents import vectors
from jaxgen.latents.space import Name, Points, Space
from jaxgen.latents.tool import NEEDS_W, Outcome, judged, label_names, labels_of, named, number_of, with_label


@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Pictures on the way from one latent to the next; the ends of every row are the samples themselves."""

    space: Name = ""  # z, w or w+; empty: w where the net has it
    pictures: str = "0,1,2,3"  # numbers in --mode=sample; 7:2 is picture 2 of seed 7, FILE.npz:0 one of a file
    line: Literal["", "lerp", "slerp"] = ""  # straight, or along an arc; empty: an arc in z, straight in w
    frames: Annotated[int, Range(least=2)] = 9  # of every way, both ends among them
    without_w: ClassVar[str] = NEEDS_W

    def __call__(self, space: Space) -> Outcome:
        """A row for each way, and a film of all; where labels differ, they change halfway."""
        ends = space.points(self.pictures, "--tool.pictures")
        if len(ends.latents) < 2:
            raise UserError(
                f"--tool.pictures={self.pictures} must be two pictures at least, such as --tool.pictures=0,1"
            )
        t = np.linspace(0.0, 1.0, self.frames)
        line = vectors.PATHS[self.line or ("lerp" if space.styled else "slerp")]
        latents = np.concatenate([line(a, b, t) for a, b in zip(ends.latents, ends.latents[1:], strict=False)])
        told = np.concatenate([i + (t > 0.5) for i in range(len(ends.latents) - 1)]).astype(int)
        made = space.render(ends[told].moved(latents))
        film = np.concatenate([made[:1], *(row[1:] for row in np.split(made, len(ends.latents) - 1))])
        return Outcome(images={"": made}, columns=self.frames, frames=film[:, None])


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Rows of pictures that take some layers' styles from the picture above (Karras et al. 2018, figure 3)."""

    rows: str = "0,1,2,3"  # pictures that are changed: see `pictures` of interpolate
    columns: str = "4,5,6,7"  # pictures whose styles they take
    layers: str = ""  # the layers that are taken, such as 0-3,6, the coarsest first; empty: the first half
    space: ClassVar[Name] = "w"
    without_w: ClassVar[str] = "--tool=interpolate goes from one picture to another in z"

    def __call__(self, space: Space) -> Outcome:
        """The grid; both sets stand at its edges."""
        rows, columns = space.points(self.rows, "--tool.rows"), space.points(self.columns, "--tool.columns")
        taken = vectors.places(self.layers or f"0-{(space.layers - 1) // 2}", space.layers, "--tool.layers")
        mixed = np.where(taken[:, None], columns.latents[None], rows.latents[:, None])
        every = rows[np.repeat(np.arange(len(rows.latents)), len(columns.latents))]
        made = space.render(every.moved(mixed.reshape(-1, *rows.latents.shape[1:])))
        left, above = space.render(rows), space.render(columns)
        body = np.concatenate([left[:, None], made.reshape(len(left), len(above), *made.shape[1:])], 1)
        whole = np.concatenate([np.full_like(above[:1], 255), above, body.reshape(-1, *made.shape[1:])])
        return Outcome(images={"": whole}, columns=len(above) + 1)


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Sums and differences of latents (Radford et al. 2015, section 6.3.2): the mean of each term, and what they come to."""

    space: Name = ""  # z, w or w+; empty: w where the net has it
    formula: str = "0 - 1 + 2"  # terms with spaces between: pictures (3,5,7: their mean) or label:NAME
    native: FilePath = ""  # the run of a classifier, which finds the label of a sample where the net is not told it
    num: Count = 1024  # samples in which a label is looked for
    without_w: ClassVar[str] = NEEDS_W

    def __call__(self, space: Space) -> Outcome:
        """The result is told (where the net is told anything) what the first picture of the last term is."""
        words = re.split(r"\s+([+-])\s+", self.formula.strip())
        means = [self._mean(space, word) for word in words[::2]]
        total = means[0].latents
        for sign, mean in zip(words[1::2], means[1:], strict=True):
            total = total + mean.latents if sign == "+" else total - mean.latents
        every = [*means, means[-1].moved(total)]
        made = space.render(Points(*jax.tree.map(lambda *parts: np.concatenate(parts), *map(tuple, every))))
        captions = [words[0], *(f"{s} {word}" for s, word in zip(words[1::2], words[2::2], strict=True)), "="]
        kept = {"w" if space.styled else "z": total.astype(np.float32), **named(space, means[-1])}
        return Outcome(images={"": made}, columns=len(made), captions=tuple(captions), arrays=kept)

    def _mean(self, space: Space, word: str) -> Points:
        """Of a term."""
        if word.startswith("label:"):
            found = with_label(space, word.removeprefix("label:"), self.num, self.native)
        else:
            found = space.points(word, "--tool.formula")
        return found[:1].moved(found.latents.astype(np.float64).mean(0, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Directions along which something measurable of the pictures grows, by ridge regression on samples."""

    space: Name = ""  # z, w or w+; empty: w where the net has it
    to: str = "ink,slant"  # of ink (sum of the pixels), slant (second moment), label:NAME, labels (each of them)
    native: FilePath = ""  # the run of a classifier, which finds the label of a sample where the net is not told it
    num: Annotated[int, Range(least=20)] = 4096  # samples, four of five to learn from, the last to measure R^2
    penalty: NonNegative = 1.0  # of the squared length of the regression's vector
    walked: Count = 64  # pictures that are moved by -3 ... 3 standard deviations along each
    steps: Annotated[int, Range(least=3)] = 7  # pictures of a walk
    shown: Count = 8  # walks in the picture
    without_w: ClassVar[str] = NEEDS_W

    def __call__(self, space: Space) -> Outcome:
        """Of each: R^2, rank correlation along the walk, labels kept (where a classifier tells); and walks."""
        points = space.drawn(np.arange(self.num), space.seed)
        x = points.latents.astype(np.float64)
        x = x[:, 0] if space.styled else x
        images = space.render(points)
        sigmas = np.linspace(-3.0, 3.0, self.steps)
        out = Outcome(columns=self.steps, captions=tuple(f"{s:g}" for s in sigmas), about={"N": self.num})
        for name in self._names(space):
            inner, y = x, self._values(space, name, points, images)
            if space.label and name in vectors.MEASURES:  # what a label does is not its latent's doing
                inner, y = (vectors.within(v, points.cond[space.label]) for v in (x, y))
            cut = self.num * 4 // 5
            v, constant = vectors.ridge(inner[:cut], y[:cut], self.penalty)
            unit = v / np.linalg.norm(v)
            steps = sigmas * (inner @ unit).std()
            walk = points.latents[: self.walked, None] + (steps[:, None] * unit)[:, *[None] * space.styled]
            base = points[np.repeat(np.arange(len(walk)), self.steps)]
            made = space.render(base.moved(walk.reshape(-1, *walk.shape[2:])))
            out.scalars[f"{name}_r2"] = vectors.r_squared(y[cut:], inner[cut:] @ v + constant)
            out.scalars |= {f"{name}_{k}": value for k, value in self._along(space, name, made).items()}
            out.images[name] = made[: self.shown * self.steps]
            out.arrays[name] = unit[None].astype(np.float32)
        return out

    def _names(self, space: Space) -> list[str]:
        """What `to` asks for."""
        names = []
        for word in self.to.split(","):
            if word == "labels":
                names += [f"label:{name}" for name in label_names(space, self.native)]
            elif word in vectors.MEASURES or word.startswith("label:"):
                names.append(word)
            else:
                known = [*vectors.MEASURES, "labels", "label:NAME"]
                raise UserError(f"--tool.to={word!r} is unknown{nearest(word, known)}")
        return names

    def _values(self, space: Space, name: str, points: Points, images: np.ndarray) -> np.ndarray:
        """What the direction is to raise, of every sample [N]."""
        if name in vectors.MEASURES:
            y = vectors.MEASURES[name](images)
        else:
            labels = labels_of(space, points, images, self.native)
            y = (labels == number_of(space, name.removeprefix("label:"), self.native)).astype(np.float64)
        if y.min() == y.max():
            what = "the same" if name in vectors.MEASURES else "of one class as far as this label goes"
            raise UserError(
                f"--tool.to={name}: all {len(y)} samples are {what}, which shows no direction; "
                "ask for other labels or raise --tool.num"
            )
        return y

    def _along(self, space: Space, name: str, made: np.ndarray) -> dict[str, float]:
        """Figures of walks [pictures x steps]."""
        rows = lambda v: v.reshape(-1, self.steps)  # noqa: E731
        found = {}
        if self.native:
            _, views = judged(space, self.native, made)
            labels = rows(views["logits"].argmax(-1))
            found["label_kept"] = float((labels == labels[:, self.steps // 2 : self.steps // 2 + 1]).mean())
        if name in vectors.MEASURES:
            grown = rows(vectors.MEASURES[name](made))
        elif self.native:
            grown = rows(views["logits"][:, number_of(space, name.removeprefix("label:"), self.native)])
            del found["label_kept"]
        else:
            return found
        each = [vectors.rank_correlation(np.arange(self.steps), values) for values in grown]
        ends = {"at_least": float(grown[:, 0].mean()), "at_most": float(grown[:, -1].mean())}
        return {"rank_correlation": float(np.mean(each)), **ends, **found}


@dataclass(frozen=True, kw_only=True)
class Truncate:
    """Figures and samples by psi: w drawn towards its mean makes better pictures, and less different ones."""

    psi: tuple[Number, ...] = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)  # 0: the mean itself, 1: no truncation
    native: FilePath = ""  # the run of a classifier of the data, which judges; without it pictures are drawn only
    num: Annotated[int, Range(least=8)] = 2048  # samples of every psi
    shown: Count = 10  # samples in the picture
    space: ClassVar[Name] = "w"
    without_w: ClassVar[str] = "--config.method.truncate=latent draws z nearer to 0 (--mode=sample, --mode=eval)"
    measures: ClassVar[tuple[str, ...]] = ("fid", "precision_recall")

    def __call__(self, space: Space) -> Outcome:
        """fid, precision and recall to the training data; a row of samples for every psi."""
        exp, pictures = space.exp, {}
        out = Outcome(columns=self.shown, about={"N": self.num})
        if self.native:
            needs = features.needs_of(self.measures)
            judge = features.native_judge(self.native)
            viewer = features.Viewer(judge, exp.mesh)
            source = Pictures.of(exp.open_source("train"), "the reference")
            real = features.reference(viewer, source, needs, progress=bar("reference", len(source)))
        for psi in self.psi:
            other = space.trained.changed({"method.truncate": "style", "method.truncate.psi": psi})
            num = self.num if self.native else self.shown
            made = [to_uint8(part.images) for part in other.exp.samples(space.weights, num, space.seed, space.asked)]
            pictures[psi] = np.concatenate(made)
            if self.native:
                mine = features.summarise(viewer, bar(f"psi {psi:g}", num)((x, None) for x in made), needs)
                found = features.compare(self.measures, mine, real, judge.protocol)
                out.scalars |= {f"{k}, psi {psi:g}": value for k, value in found.items()}
        out.images[""] = np.concatenate([x[: self.shown] for x in pictures.values()])
        return out

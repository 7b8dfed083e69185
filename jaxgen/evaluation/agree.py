"""Whether pictures show what their captions ask for: a judge trained on scenes says what it sees, set against the words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from jaxgen.core.given import FilePath
from jaxgen.core.lender import Frozen, Lender, weights_hash
from jaxgen.core.method import Answers, Samples
from jaxgen.core.ranges import Count, Natural, Seed, Share
from jaxgen.core.state import Array, Weights
from jaxgen.data import scenes
from jaxgen.data.pipeline import share
from jaxgen.data.sources import Source
from jaxgen.data.sources.tokenized import NAME
from jaxgen.errors import UserError
from jaxgen.evaluation.captions import means
from jaxgen.evaluation.features import Judge, Viewer, borrow
from jaxgen.evaluation.per_image import Report, drawn
from jaxgen.evaluation.retrieval import asked_for, ranker_of, real_pictures, through_codec
from jaxgen.metrics.protocols import NATIVE
from jaxgen.runs.cascade import Cascade, enlarging
from jaxgen.runs.experiment import Experiment
from jaxgen.runs.frozen import FrozenRun

Judged = list[dict[str, float]]  # of every picture, what agrees


@dataclass(frozen=True)
class Agree:
    """Samples for held-out captions, judged by a run of judge_shapes on pictures of this size and so many shapes.

    agree_kind, agree_colour, ...: the share of shapes that agree; agree_all: of pictures in which everything does; agree_binding,
    of those with several shapes: none has another's colour. agree_seen_... and agree_unseen_...: of captions whose pairs of colour
    and kind all occur in training, and of the others. Beside them the same of real pictures (real_...), of these through the codec
    where there is one (coded_...), and of samples with the caption of another (shuffled_...). Samples of a run that enlarges are
    those of the whole cascade, where the runs before it are named.
    """

    needs: ClassVar[Any] = Samples
    reads: ClassVar[bool] = True
    every: Natural = 0
    num: Count = 1000  # captions
    judge: Lender = field(default_factory=FrozenRun)
    least: Share = 0.99  # of every attribute that a judge must tell in real pictures
    cascade: tuple[FilePath, ...] = ()  # the directories of the runs before this one
    batch: Count = 64
    best_of: Count = 1  # samples of a caption, of which `ranker` chooses one
    ranker: Lender = field(default_factory=FrozenRun)  # a run of clip_shapes
    seed: Seed = 0

    def prepare(self, exp: Experiment) -> None:
        """The judge and the captions are looked at before a run begins."""
        if exp.tokenizer is None or NAME not in exp.spec.conditions:
            raise UserError("config.eval.agree asks by captions, and the run is told none; set config.eval.agree=None")
        if not self.judge.path:
            raise UserError(
                "config.eval.agree.judge.path is empty: train one (configs/judge_shapes.py) and name its run directory "
                "(config.eval.agree.judge.path=DIR)"
            )
        lender = self.judge
        lender.refuse_absent("config.eval.agree.judge.path")
        missing = (
            {*scenes.attributes(1)} - {*lender.spec.conditions} if isinstance(lender.method, Answers) else {"kind"}
        )
        if missing or lender.spec.shape != exp.pictures.shape:
            raise UserError(
                f"{lender.path} judges {lender.spec}, and pictures {exp.pictures.shape} are to be judged by all that captions say; "
                "name a run of judge_shapes on such pictures"
            )
        ranker_of(self, exp, "agree")

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """Figures of the samples, and those that stand beside them."""
        pictures = exp.as_pictures(source, "eval")
        rows, captions = [int(i) for i in share(source, self.num)], pictures.captions
        texts = [captions[i][0] for i in rows]
        true = [scenes.read(text) for text in texts]
        if not all(true):
            raise UserError(
                f"agree reads captions of scenes, and {texts[true.index(None)]!r} is none; set config.eval.agree=None"
            )
        viewer = self._viewer(exp)
        real = self._told(viewer, real_pictures(pictures, rows))
        beside = {"real": self._judged(real, true)}
        self._refuse_weak(means(beside["real"]))
        if any(stage.task.last for stage in exp.stages):
            beside["coded"] = self._judged(self._told(viewer, through_codec(exp, ema, source, self.num, self)), true)
        ranker, small = ranker_of(self, exp, "agree"), {}
        if self.cascade:
            each = [text for text in texts for _ in range(self.best_of)]
            made = Cascade.open(self.cascade).sample(len(each), prompt=each, seed=self.seed)
            small = enlarging(exp, made, "this run", self.seed)
        told = self._told(viewer, asked_for(exp, ema, texts, self.seed, source, self.best_of, ranker, small))
        judged = self._judged(told, true)
        beside["shuffled"] = self._judged(
            told, [true[i] for i in np.roll(np.random.default_rng(0).permutation(len(true)), 1)]
        )
        scalars = named("agree", judged)
        shown = _pairs(scenes.read(text) for several in exp.open_pictures("train").captions for text in several)
        new = [not _pairs([one]) <= shown for one in true]
        for name, chosen in (("agree_seen", False), ("agree_unseen", True)) if any(new) else ():
            scalars |= named(name, [one for one, is_new in zip(judged, new, strict=True) if is_new == chosen])
        for name, each in beside.items():
            scalars |= named(name, each)
        about = {**drawn(source, self.num), "unseen": sum(new), "weights": viewer.judge.weights, "seed": self.seed}
        about |= {"best_of": self.best_of} if ranker else {}
        note = f"{sum(new):,} of {len(new):,} captions unseen" if any(new) else ""
        return Report(scalars, about=about, note=note)

    def _viewer(self, exp: Experiment) -> Viewer:
        """The judge on all devices."""
        frozen = borrow(self.judge)

        def see(frozen: Frozen, images: Array) -> dict[str, Array]:
            return frozen.model.answers(frozen.weights, images)

        return Viewer(Judge(NATIVE, see, frozen, weights_hash(frozen.weights.nets)), exp.mesh, self.batch)

    def _told(self, viewer: Viewer, pictures: np.ndarray) -> list[scenes.Told]:
        """What the judge sees in uint8 pictures [N, H, W, C]."""
        labels = self.judge.spec.conditions.of("label")
        seen = {name: logits.argmax(-1) for name, logits in viewer(pictures).items()}
        return [
            scenes.answered({name: labels[name].names[seen[name][i]] for name in labels}) for i in range(len(pictures))
        ]

    def _judged(self, told: Sequence[scenes.Told], true: Sequence[scenes.Told]) -> Judged:
        return [scenes.agreement(one, other) for one, other in zip(told, true, strict=True)]

    def _refuse_weak(self, real: dict[str, float]) -> None:
        """A UserError for a judge that errs about real pictures."""
        weak = min((name for name in real if name != "all"), key=real.get)
        if real[weak] < self.least:
            raise UserError(
                f"config.eval.agree.judge: {self.judge.path} is right about the {weak} of {real[weak]:.1%} of real held-out "
                f"pictures, and a judge must be about {self.least:.0%}; train it longer, or on as many shapes"
            )


def named(name: str, each: Judged) -> dict[str, float]:
    """The means, called by that name and the attribute."""
    return {f"{name}_{k}": v for k, v in means(each).items()}


def _pairs(told: Any) -> set[tuple[str, str]]:
    """The (colour, kind) of the things that are told."""
    return {(thing.colour, thing.kind) for one in told if one for thing in one.things}

"""Pictures and texts that find each other, by a contrastive model: `retrieval`, and the best of several samples of a text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax
import numpy as np

from jaxgen.core import keys
from jaxgen.core.lender import Frozen, Lender, weights_hash
from jaxgen.core.method import Compares, Samples
from jaxgen.core.ranges import Count, Natural, Seed
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch
from jaxgen.data.pipeline import share
from jaxgen.data.sources import Source
from jaxgen.data.sources.tokenized import NAME
from jaxgen.data.tokenize import Tokenizer
from jaxgen.errors import UserError
from jaxgen.evaluation.features import Judge, Viewer, borrow
from jaxgen.evaluation.per_image import Report, drawn, looked_at
from jaxgen.evaluation.pictures import counter
from jaxgen.images import to_uint8
from jaxgen.metrics.protocols import NATIVE
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment, Made, build_tokenizers
from jaxgen.runs.frozen import FrozenRun


@dataclass(frozen=True)
class Matcher:
    """A run of `contrastive` on all devices: unit vectors of pictures and of texts, whose products say how well they match."""

    lender: FrozenRun
    exp: Experiment  # whose pictures it looks at

    @staticmethod
    def of(lender: Lender, exp: Experiment, key: str) -> "Matcher":
        """A UserError where it cannot look at the pictures of a run; `key` holds the lender."""
        if not lender.path:
            raise UserError(
                f"{key} is empty: train a contrastive model on such pictures (configs/clip_shapes.py) and name its run ({key}=DIR)"
            )
        lender.refuse_absent(key)
        if not isinstance(lender.method, Compares) or lender.spec.shape != exp.pictures.shape:
            raise UserError(
                f"{key}: {lender.path} is {type(lender.method).__name__} of {lender.spec}, and pictures {exp.pictures.shape} are "
                "to be compared with texts; name a run of contrastive on such pictures (configs/clip_shapes.py)"
            )
        return Matcher(lender, exp)

    @cached_property
    def frozen(self) -> Frozen:
        """On the host."""
        return borrow(self.lender)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its own: its numbers are not those of the run that it looks at."""
        return build_tokenizers(self.lender.config, RunDir(self.lender.path).path / "frozen")[0]

    @cached_property
    def viewer(self) -> Viewer:
        """Of pictures."""

        def see(frozen: Frozen, images: Array) -> dict[str, Array]:
            return {"features": frozen.model.embed_pictures(frozen.weights, images)}

        return Viewer(Judge(NATIVE, see, self.frozen, weights_hash(self.frozen.weights.nets)), self.exp.mesh)

    @cached_property
    def embed_texts(self) -> Callable[[Weights, np.ndarray], Array]:
        """The program of texts."""
        return jax.jit(self.frozen.model.embed_texts)

    def pictures(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C] -> [N, D]."""
        return self.viewer(images)["features"]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D]; each text that differs is looked at once."""
        each = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        ids = self.tokenizer.encode(list(each))
        found = jax.device_get(self.embed_texts(self.frozen.weights, ids))
        return found[[each[text] for text in texts]]


def best(made: Iterator[Made], texts: Sequence[str], of: int, matcher: Matcher) -> Iterator[Made]:
    """Of every `of` samples in a row the one that matches its text best; group i was asked for texts[i], in turn."""
    vectors, group, left = matcher.texts(texts), 0, None
    for batch in made:
        left = batch if left is None else Made.joined([left, batch])
        if not (num := len(left.images) // of):
            continue
        seen = matcher.pictures(to_uint8(left.images[: num * of])).reshape(num, of, -1)
        scores = np.einsum("gnd,gd->gn", seen, vectors[(group + np.arange(num)) % len(texts)])
        yield _rows(left, np.arange(num) * of + scores.argmax(1))
        left, group = _rows(left, slice(num * of, None)), group + num


def _rows(made: Made, which: Any) -> Made:
    return jax.tree.map(lambda x: x[which], made)


def asked_for(
    exp: Experiment,
    w: Weights,
    texts: Sequence[str],
    seed: int,
    source: Source,
    of: int = 1,
    matcher: Matcher | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """uint8 pictures, one of every text: the best of `of` samples. more: other conditions of each sample."""
    asked = {**exp.tokens([text for text in texts for _ in range(of)]), **(more or {})}
    batches = exp.samples(w, of * len(texts), seed, asked, source)
    found = []
    with counter("samples", len(texts)) as bar:
        for batch in best(batches, texts, of, matcher) if of > 1 else batches:
            found.append(to_uint8(batch.images))
            bar.update(len(batch.images))
    return np.concatenate(found)


def real_pictures(source: Source, rows: Sequence[int]) -> np.ndarray:
    """uint8 [N, H, W, C] of the data."""
    return np.stack([source[i][source.spec.target] for i in rows])


def through_codec(exp: Experiment, w: Weights, source: Source, num: int, owner: Any) -> np.ndarray:
    """uint8: a share of held-out pictures through the codec and back."""

    def through(w: Weights, batch: Batch, rng: Array) -> Array:
        seen, _ = looked_at(exp, w, batch, rng)
        return exp.show(w.frozen, seen[exp.spec.target])

    program, found = exp.jit((owner, "coded"), through), []
    for i, (batch, mask) in enumerate(exp.held_out(source, num)):
        shown = jax.device_get(program(w, batch, keys.named(exp.root, "evaluation", i)))
        found.append(to_uint8(shown[mask > 0]))
    return np.concatenate(found)


def recalls(pictures: np.ndarray, texts: np.ndarray, said: Sequence, of: int, shift: int = 0) -> dict[str, float]:
    """text_1, text_5: how often the own text is the nearest to a picture, or among the nearest five, of so many; picture_1, ...

    Unit vectors [N, D] both, in groups of `of`, of which a last one with fewer is left out. said: the texts [N, ...] themselves;
    those that are equal count as one, and others that are as near as the own count against it. shift: by how many places of its
    group the text is another's.
    """
    of = min(of, len(pictures))
    _, which = np.unique(np.asarray(said), axis=0, return_inverse=True)
    which = which.reshape(-1)
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(pictures) - of + 1, of):
        own = start + np.roll(np.arange(of), shift)
        scores = pictures[start : start + of].astype(np.float64) @ texts[own].astype(np.float64).T
        others = which[own, None] != which[own]
        for name, one in (("text", scores), ("picture", scores.T)):
            rank = ((one >= np.diagonal(one)[:, None]) & others).sum(1)
            for k in (1, 5):
                found.setdefault(f"{name}_{k}", []).append(rank < k)
    return {k: float(np.mean(v)) for k, v in found.items()}


@dataclass(frozen=True)
class Retrieval:
    """R@1 and R@5 of `of` pictures and texts (Radford et al. 2021, section 3.1.4): chance is 1 / of and 5 / of.

    Of a contrastive run held-out pictures: retrieval_text_1 is how often a picture finds its text. Of a run that is told texts its
    samples, by the contrastive run `judge`; beside them real pictures (retrieval_real_text_1), these through the codec where there
    is one (..._coded_...), and the samples with another's text (..._shuffled_...).
    """

    needs: ClassVar[Any] = Samples | Compares
    reads: ClassVar[bool] = True
    every: Natural = 0
    num: Count = 1000
    of: Count = 100
    judge: Lender = field(default_factory=FrozenRun)
    best_of: Count = 1  # samples of a text, of which `ranker` chooses one
    ranker: Lender = field(default_factory=FrozenRun)
    seed: Seed = 0

    def prepare(self, exp: Experiment) -> None:
        """Captions and judges are looked at before a run begins."""
        if isinstance(exp.method, Compares):
            return
        if exp.tokenizer is None or NAME not in exp.spec.conditions:
            raise UserError(
                "config.eval.retrieval asks by captions, and the run is told none; set config.eval.retrieval=None"
            )
        Matcher.of(self.judge, exp, "config.eval.retrieval.judge")
        ranker_of(self, exp, "retrieval")

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """See above."""
        about = {**drawn(source, self.num), "of": self.of, "seed": self.seed}
        if isinstance(exp.method, Compares):
            return Report(called("", recalls(*self._own(exp, ema, source), self.of)), about=about)
        pictures, rows = exp.as_pictures(source, "eval"), [int(i) for i in share(source, self.num)]
        texts = [pictures.captions[i][0] for i in rows]
        judge = Matcher.of(self.judge, exp, "config.eval.retrieval.judge")
        said = judge.texts(texts)
        made = asked_for(exp, ema, texts, self.seed, source, self.best_of, ranker_of(self, exp, "retrieval"))
        seen = judge.pictures(made)
        told = (said, texts, self.of)
        scalars = called("", recalls(seen, *told)) | called("shuffled_", recalls(seen, *told, shift=1))
        scalars |= called("real_", recalls(judge.pictures(real_pictures(pictures, rows)), *told))
        if any(stage.task.last for stage in exp.stages):
            coded = judge.pictures(through_codec(exp, ema, source, self.num, self))
            scalars |= called("coded_", recalls(coded, *told))
        return Report(scalars, about=about | {"weights": judge.viewer.judge.weights, "best_of": self.best_of})

    def _own(self, exp: Experiment, w: Weights, source: Source) -> tuple[np.ndarray, ...]:
        """Unit vectors of held-out pictures and of their texts, by the run itself, and the texts as tokens."""

        def both(w: Weights, batch: Batch, rng: Array) -> tuple[Array, ...]:
            seen, _ = looked_at(exp, w, batch, rng)
            pictures, ids = exp.method.embed_pictures(w, seen[exp.spec.target]), seen[next(iter(exp.spec.texts))]
            return pictures, exp.method.embed_texts(w, ids), ids

        program, found = exp.jit((self, "own"), both), []
        for i, (batch, mask) in enumerate(exp.held_out(source, self.num)):
            parts = jax.device_get(program(w, batch, keys.named(exp.root, "evaluation", i)))
            found.append([part[mask > 0] for part in parts])
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def ranker_of(evaluator: Any, exp: Experiment, name: str) -> Matcher | None:
    """What chooses the best of several samples; None where an evaluator asks for one of each."""
    return Matcher.of(evaluator.ranker, exp, f"config.eval.{name}.ranker") if evaluator.best_of > 1 else None


def called(beginning: str, found: dict[str, float]) -> dict[str, float]:
    """The figures by their names in a record."""
    return {f"retrieval_{beginning}{k}": v for k, v in found.items()}

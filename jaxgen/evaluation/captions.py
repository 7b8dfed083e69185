"""What a run says of pictures: captions, their figures, and where it looks for each word."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from jaxgen.core import keys, parallel
from jaxgen.core.method import Describes
from jaxgen.core.ranges import Natural
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch
from jaxgen.data import scenes
from jaxgen.data.pipeline import share
from jaxgen.data.sources import Source
from jaxgen.errors import UserError
from jaxgen.evaluation.per_image import Report, drawn
from jaxgen.evaluation.pictures import counter
from jaxgen.images import to_uint8
from jaxgen.metrics import caption
from jaxgen.runs.experiment import Experiment


class Said(NamedTuple):
    """What is said of a picture."""

    text: str
    tokens: np.ndarray  # int32 [L]
    shares: np.ndarray  # [L, h, w]: where it looks while it says each of them
    pieces: list[str]  # the words, or parts of words, of the tokens up to the end


def say(exp: Experiment, w: Weights, pictures: Sequence[np.ndarray]) -> Iterator[Said]:
    """Of uint8 pictures [H, W, C] as the data are, in batches of the config's size over all devices."""

    def describe(w: Weights, batch: Batch, rng: Array) -> tuple[Array, Array]:
        seen = exp.see(w.frozen, batch, keys.named(rng, "tasks"))
        words = exp.method.describe(w, seen)
        return words, exp.method.looked(w, seen, words)

    program, size = exp.jit("describe", describe), exp.spread(exp.feed.batch)
    own = size // jax.process_count()
    mine = slice(jax.process_index() * own, (jax.process_index() + 1) * own)
    silent = {k: np.asarray(f.null(own)).astype(f.dtype) for k, f in exp.read_spec.items() if k != exp.data.target}
    for start in range(0, len(pictures), size):
        part = np.stack([pictures[i] for i in range(start, min(start + size, len(pictures)))])
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])[mine]
        found = jax.device_get(program(w, parallel.put_batch(exp.mesh, {exp.data.target: filled, **silent}), exp.root))
        for words, shares in zip(*(x[: len(part)] for x in found), strict=True):
            yield Said(exp.tokenizer.decode(words), words, shares, exp.tokenizer.spelled(words))


def figures(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """bleu_1 to bleu_4, rouge_l, cider_d, distinct_1 and distinct_2; where all references tell scenes, said_kind and the like.

    said_all: the share of captions in which everything is right.
    """
    found = {f"bleu_{n}": one.mean for n, one in enumerate(caption.bleu(said, references), 1)}
    found |= {"rouge_l": caption.rouge_l(said, references).mean, "cider_d": caption.cider_d(said, references).mean}
    found |= {f"distinct_{n}": caption.distinct(said, n) for n in (1, 2)}
    true = [scenes.read(refs[0]) for refs in references]
    if all(true):
        each = [scenes.agreement(scenes.read(text), told) for text, told in zip(said, true, strict=True)]
        found |= {f"said_{k}": v for k, v in means(each).items()}
    return found


def means(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of every figure over those that have it."""
    names = dict.fromkeys(name for one in each for name in one)
    return {name: float(np.mean([one[name] for one in each if name in one])) for name in names}


@dataclass(frozen=True)
class Captions:
    """Captions of held-out pictures against theirs, and what is looked at for each word: a row for each of the first pictures."""

    needs: ClassVar[Any] = Describes
    reads: ClassVar[bool] = True
    every: Natural = 1000
    num: Natural = 1000  # pictures; 0: the whole held-out set
    shown: Natural = 4

    def __call__(self, exp: Experiment, raw: Weights, ema: Weights, source: Source | None) -> Report:
        """See `figures`."""
        rows, said = [int(i) for i in share(source, self.num)], []
        pictures = [source[i][exp.data.target] for i in rows]
        with counter("captions", len(rows)) as bar:
            for one in say(exp, ema, pictures):
                said.append(one)
                bar.update()
        kept = [n for n, i in enumerate(rows) if source.sound(i)]
        if not kept:
            raise UserError(f"none of the {len(rows)} held-out pictures that were chosen can be decoded; raise num")
        captions = source.captions
        scalars = figures([said[n].text for n in kept], [captions[rows[n]] for n in kept])
        maps = [looked(pictures[n], said[n]) for n in kept[: self.shown]]
        images = {"attention": np.concatenate(maps)} if maps else {}
        told = [f'"{said[n].text}"' for n in kept[:1]]
        return Report(scalars, images, columns=exp.spec.shape[0] + 1, about=drawn(source, self.num) | {"first": told})


def looked(picture: np.ndarray, said: Said) -> np.ndarray:
    """uint8 [1 + L, H, W, C]: the picture, then for each token what is looked at in its own light, the rest dark."""
    height, width = picture.shape[:2]
    shares = said.shares / np.maximum(said.shares.max((1, 2), keepdims=True), 1e-9)
    rows, columns = (np.arange(side) * n // side for side, n in zip((height, width), shares.shape[1:], strict=True))
    light = shares[:, rows][:, :, columns][..., None]
    return np.concatenate([picture[None], to_uint8(picture[None] / 127.5 * (0.15 + 0.85 * light) - 1.0)])

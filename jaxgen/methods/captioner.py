"""Captioning: p(words | picture), trained word by word on the true words before (Vinyals et al. 2014, arXiv:1411.4555).

    L = mean over words of -sum_k q_k log p(k | words before, picture),   q = (1 - s) [k = word] + s / V
        + attend_all mean over places of (1 - sum over words of its share)^2        (Xu et al. 2015, arXiv:1502.03044, eq. 14)

Words are found by a beam (Wu et al. 2016, arXiv:1609.08144, section 7): of all that a beam's texts go on to, those are kept
whose log p / ((5 + n) / 6)^length_penalty is the greatest, n words with the end. A beam of 1 takes the likeliest word each time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.method import Loss, LossMethod
from jaxgen.core.ranges import BelowOne, Count, NonNegative
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch
from jaxgen.errors import UserError
from jaxgen.methods.tokens import log_probs

Step = Callable[
    [Array, Array, Any], tuple[Array, Any]
]  # (the tokens before [B], their place, state) -> (logits [B, V], state)


class Marks(NamedTuple):
    """The tokens around a text."""

    before: tuple[int, ...]  # those that every text begins with
    end: int
    pad: int

    @property
    def begin(self) -> int:
        """What the first word is told to follow: the token before it, or the pad (as in T5)."""
        return self.before[-1] if self.before else self.pad


class Beam(NamedTuple):
    """What a search carries from word to word; all [B, width, ...]."""

    ids: Array  # int32 [..., L]
    score: Array  # log p
    words: Array  # int32, with the end
    done: Array  # bool


def search(
    step: Step, state: Any, num: int, width: int, places: int, penalty: float, marks: Marks
) -> tuple[Array, Array]:
    """(int32 [num, places], log p [num]): the best text of every picture, in one loop that ends where all have theirs.

    `state` is that of num * width texts, a picture's side by side. The last place is the end's: longer texts are cut there.
    """

    def some(carry: tuple) -> Array:
        place, beam, _ = carry
        return (place < places) & ~beam.done.all()

    def one(carry: tuple) -> tuple:
        place, beam, state = carry
        before = jnp.where(place == 0, marks.begin, beam.ids[:, :, place - 1])
        logits, state = step(before.reshape(-1), place, state)
        k = jnp.arange(logits.shape[-1])
        word = (k != marks.begin) & (k != marks.pad) & ((place < places - 1) | (k == marks.end)) | (k == marks.end)
        log_p = jnp.where(word, jax.nn.log_softmax(logits), -jnp.inf).reshape(num, width, -1)
        log_p = jnp.where(beam.done[..., None], jnp.where(k == marks.pad, 0.0, -jnp.inf), log_p)  # it goes on with pads
        score, words = beam.score[..., None] + log_p, beam.words + ~beam.done
        rank = score / ((5.0 + words[..., None]) / 6.0) ** penalty
        _, best = jax.lax.top_k(rank.reshape(num, -1), width)
        parent, token = best // len(k), (best % len(k)).astype(jnp.int32)
        of = lambda x: jnp.take_along_axis(x, parent.reshape(num, width, *[1] * (x.ndim - 2)), 1)  # noqa: E731
        score = jnp.take_along_axis(score.reshape(num, -1), best, 1)
        done = of(beam.done) | (token == marks.end)
        ids = of(beam.ids).at[:, :, place].set(token)
        state = jax.tree.map(lambda x: of(x.reshape(num, width, *x.shape[1:])).reshape(x.shape), state)
        return place + 1, Beam(ids, score, of(words), done), state

    alone = jnp.broadcast_to(jnp.where(jnp.arange(width), -jnp.inf, 0.0), (num, width))  # at first all texts are one
    none = jnp.zeros((num, width), jnp.int32)
    start = Beam(jnp.full((num, width, places), marks.pad, jnp.int32), alone, none, none > 0)
    _, beam, _ = jax.lax.while_loop(some, one, (jnp.zeros((), jnp.int32), start, state))
    return beam.ids[:, 0], beam.score[:, 0]  # the beam is in order


@dataclass(frozen=True, kw_only=True)
class Captioner(LossMethod):
    """The net is one of jaxgen.nets.captioner."""

    makes: ClassVar[tuple[str, ...]] = ("tokens",)

    smoothing: BelowOne = 0.1  # s
    attend_all: NonNegative = 1.0  # how much every place should be looked at
    beam: Count = 3
    length_penalty: NonNegative = 0.6

    def __post_init__(self) -> None:
        field = self.spec[self.spec.target]
        if field.end < 0:
            raise UserError(
                f"method captioner says texts, and {self.spec.target!r} is none; set config.tasks.describe.name=describe"
            )
        if len(self.spec.conditions.of("image")) != 1:
            raise UserError(
                f"method captioner looks at one picture, and it is told {self.spec.conditions or 'nothing'}"
            )

    @property
    def marks(self) -> Marks:
        """Of the texts."""
        field = self.spec[self.spec.target]
        at = field.empty.index(field.end)
        return Marks(field.empty[:at], field.end, (*field.empty, field.end)[at + 1])

    @property
    def places(self) -> int:
        """Words of a text, with its end."""
        return self.spec.shape[0] - len(self.marks.before)

    def words(self, ids: Array) -> tuple[Array, Array, Array]:
        """Texts [B, L] -> (what each word follows, the words, whether they are of the text: up to its end), [B, N] each."""
        begin, end = len(self.marks.before), self.marks.end
        words = ids[:, begin:].astype(jnp.int32)
        first = jnp.full_like(words[:, :1], self.marks.begin)
        ended = jnp.cumsum(words == end, -1) - (words == end)
        return jnp.concatenate([first, words[:, :-1]], 1), words, ended == 0

    def example(self, batch: Batch) -> tuple:
        """What the words follow, and the picture."""
        return self.words(batch[self.spec.target])[0], self.conditions(batch)

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """The mean over a text's words, [B]; nll in nats of a word, accuracy: of words, given the true ones before."""
        before, words, real = self.words(batch[self.spec.target])
        (logits, shares), vars = self.net.apply(
            w.nets["net"], before, self.conditions(batch), train=train, rngs={"dropout": rng}
        )
        over = lambda x: jnp.where(real, x, 0.0).sum(-1) / real.sum(-1)  # noqa: E731
        nll = -log_probs(logits, words)
        even = jax.nn.logsumexp(logits, -1) - logits.mean(-1)  # against words that are all as likely
        each = over((1.0 - self.smoothing) * nll + self.smoothing * even)
        looked = jnp.where(real[:, :, None, None], shares, 0.0).sum(1)
        unseen = jnp.square(1.0 - looked).mean((1, 2))
        right = (logits.argmax(-1) == words).astype(jnp.float32)
        return Loss(
            each + self.attend_all * unseen, {"nll": over(nll), "accuracy": over(right), "unseen": unseen}, vars
        )

    def describe(self, w: Weights, batch: Batch) -> Array:
        """int32 [B, L]: the words found for every picture."""
        net, cond = w.nets["net"], self.conditions(batch)
        memory, _ = self.net.apply(net, cond, method="seen")
        memory = jnp.repeat(memory, self.beam, 0)
        state, _ = self.net.apply(net, memory, method="begin")

        def step(before: Array, place: Array, state: Any) -> tuple[Array, Any]:
            return self.net.apply(net, before, place, memory, state, method="step")[0]

        num = len(memory) // self.beam
        words, _ = search(step, state, num, self.beam, self.places, self.length_penalty, self.marks)
        begin = jnp.broadcast_to(jnp.array(self.marks.before, jnp.int32), (num, len(self.marks.before)))
        return jnp.concatenate([begin, words], 1)

    def looked(self, w: Weights, batch: Batch, words: Array) -> Array:
        """float32 [B, L, h, w]: where it looks while it says each of those words."""
        before, _, _ = self.words(words)
        (_, shares), _ = self.net.apply(w.nets["net"], before, self.conditions(batch))
        return jnp.pad(shares, ((0, 0), (len(self.marks.before), 0), (0, 0), (0, 0)))

"""Models of discrete tokens: a picture's codes of a first stage (VQGAN, Esser et al. 2020, arXiv:2012.09841), or its pixels.

    causal   log p(x) = sum_i log p(x_i | x_1 .. x_{i-1})      in reading order, each token drawn in its turn
    masked   L = E sum_{i hidden} -log p(x_i | those shown)     MaskGIT (Chang et al. 2022, arXiv:2202.04200)

MaskGIT hides a share cos(pi u / 2), u ~ U(0, 1), of the tokens while it is trained, and draws all in T passes: after pass t
the share cos(pi t / 2T) is still hidden. What is shown then are the tokens drawn with the greatest confidence

    log p(x_i) + doubt (1 - t / T) gumbel noise

or those whose turn it is in a Halton sequence (Besnier et al. 2025, arXiv:2503.17076). A token once shown is never drawn again.

Told a part of a picture (the task `hide`; a codec makes tokens of it), both draw the rest: the causal model goes on with a
beginning, the masked one takes any part for what has been shown.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.conditions import Cond, drop, nulls
from jaxgen.core.inputs import Input
from jaxgen.core.method import Loss, LossMethod
from jaxgen.core.ranges import BelowOne, Count, Natural, NonNegative, Range, Share
from jaxgen.core.state import Array, Weights
from jaxgen.core.task import Batch
from jaxgen.diffusion.guide import Guide, NoGuide, worse
from jaxgen.diffusion.needs import refuse_unmet
from jaxgen.errors import UserError
from jaxgen.images import from_levels, to_levels
from jaxgen.methods.diffusion import learns_null, listened
from jaxgen.nets.transformer import behind

BLOCK = 32  # tokens that are drawn at least before the cache grows
BLOCKS = 8  # of a picture, at most: each is a loop of its own to compile


def narrowed(logits: Array, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Array:
    """bool [..., V]: the tokens that are left to be drawn; one at least, and of equals the first ones.

    top_k: the so many likeliest; 0: all. top_p (Holtzman et al. 2019, arXiv:1904.09751): of these the fewest whose probability
    together is at least top_p. min_p (Nguyen et al. 2024, arXiv:2407.01082): of these all that are at least min_p times as
    likely as the likeliest.
    """
    places = jnp.arange(logits.shape[-1])
    order = jnp.argsort(-logits, -1, stable=True)
    falling = jnp.take_along_axis(logits, order, -1)
    left = jnp.broadcast_to(places < (top_k or len(places)), logits.shape)
    shares = jax.nn.softmax(jnp.where(left, falling, -jnp.inf))
    left &= (jnp.cumsum(shares, -1) - shares < top_p) & (shares >= min_p * shares[..., :1])
    # by how many are left, not by the least of them: XLA may compute a logit twice, and not to the same bit
    return jnp.argsort(order, -1) < jnp.maximum(left.sum(-1, keepdims=True), 1)


@dataclass(frozen=True)
class Draw:
    """How a token is drawn from its logits: softened by `temperature` (0: the likeliest), then `narrowed`."""

    inputs: ClassVar[tuple[str, ...]] = ("temperature",)

    temperature: NonNegative = 1.0
    top_k: Natural = 0
    top_p: Annotated[float, Range(above=0, most=1)] = 1.0
    min_p: Share = 0.0

    def __call__(self, logits: Array, rng: Array) -> Array:
        """Logits [..., V] -> int32 [...]."""
        noisy = logits + self.temperature * jax.random.gumbel(rng, logits.shape)
        if (self.top_k, self.top_p, self.min_p) != (0, 1.0, 0.0):
            soft = logits / jnp.maximum(self.temperature, 1e-5)
            noisy = jnp.where(narrowed(soft, self.top_k, self.top_p, self.min_p), noisy, -jnp.inf)
        return jnp.argmax(noisy, -1).astype(jnp.int32)


@dataclass(frozen=True, kw_only=True)
class Tokens(LossMethod):
    """What both models are. The target is a map of tokens [...] with so many values, or a picture on levels."""

    makes: ClassVar[tuple[str, ...]] = ("tokens", "image")
    causal: ClassVar[bool]
    completes: ClassVar[bool] = True  # of what is shown the net is not told: the task `hide` may come after training

    draw: Draw = field(default_factory=Draw)
    guide: Guide = field(default_factory=NoGuide)
    condition_dropout: BelowOne = 0.0  # share of examples that lose their conditions in training: for guidance

    def __post_init__(self) -> None:
        refuse_unmet(self)
        if not self.spec.vocabulary:
            raise UserError(f"the pixels of {self.spec} have no levels to be tokens; set config.tasks.levels.num=256")
        if getattr(self.net.module, "causal", None) != self.causal:
            wanted = "causal_transformer" if self.causal else "masked_transformer"
            raise UserError(f"method.net must be a transformer of this order; set config.method.net.name={wanted}")
        if self.draw.top_k > self.spec.vocabulary:
            raise UserError(
                f"method.draw.top_k={self.draw.top_k} is more than there are tokens; "
                f"set method.draw.top_k={self.spec.vocabulary}"
            )
        if hasattr(self.guide, "weak") or hasattr(self.guide, "judge"):
            raise UserError("method.guide needs a second net, which tokens are not drawn by; set method.guide=none")

    @property
    def takes(self) -> tuple[str, ...]:
        """What the net is told, and a part of a picture; a text is for a net that listens."""
        return (*super().takes, "image", "mask", *([] if self.spec.texts else ["tokens"]))

    @property
    def gives(self) -> tuple[str, ...]:
        """What net, data and dropout have for the guide."""
        there = {"null": learns_null(self), "label": self.spec.label}
        return tuple(what for what, has in there.items() if has)

    @property
    def places(self) -> int:
        """Tokens of an example."""
        return math.prod(self.spec.shape)

    @property
    def pixels(self) -> bool:
        """Whether the tokens are the levels of pixels."""
        return self.spec[self.spec.target].kind == "image"

    def ids(self, x: Array) -> Array:
        """The target [B, ...] as tokens int32 [B, N], in reading order."""
        x = to_levels(x, self.spec.levels) if self.pixels else x
        return x.reshape(len(x), -1).astype(jnp.int32)

    def shown(self, ids: Array) -> Array:
        """Tokens [B, N] as the target [B, ...]: pictures in [-1, 1]."""
        x = ids.reshape(-1, *self.spec.shape)
        return from_levels(x, self.spec.levels) if self.pixels else x

    def example(self, batch: Batch) -> tuple:
        """Tokens, and what the net is told."""
        return self.ids(batch[self.spec.target]), self.heard(self.conditions(batch))

    def heard(self, cond: Cond) -> Cond:
        """What the net is told of it."""
        kinds = super().takes
        return {k: v for k, v in cond.items() if self.spec[k].kind in kinds}

    def told(self, batch: Batch, train: bool, rng: Array) -> Cond:
        """What the net is told of a batch: in training, some examples lose it."""
        return self.heard(drop(self.spec, self.conditions(batch), self.condition_dropout if train else 0.0, rng))

    def settings(self) -> dict[str, Input]:
        """Guide and draw."""
        return {"guide": Input(self.guide), "draw": Input(self.draw)}

    def known(self, cond: Cond, num: int) -> Array:
        """The tokens that are given, int32 [num, N]; `vocabulary` where they are to be drawn."""
        told, nothing = self.spec.conditions, self.spec.vocabulary
        alike = told.where(lambda name, field: field.shape == self.spec.shape and name not in told.texts)
        if given := list(alike.of("tokens")):
            return cond[given[0]].reshape(num, -1)
        if not (told.of("mask") and alike.of("image")):
            return jnp.full((num, self.places), nothing, jnp.int32)
        shown, mask = cond[next(iter(alike.of("image")))], cond[next(iter(told.of("mask")))]
        return jnp.where(jnp.broadcast_to(mask > 0, shown.shape).reshape(num, -1), nothing, self.ids(shown))

    def sample(self, w: Weights, rng: Array, num: int, cond: Cond) -> Array:
        """The target [num, ...]: pictures in [-1, 1], or int32 tokens. What is given of it stays."""
        return self.shown(self.drawn(w, rng, self.known(cond, num), self.heard(cond)))

    def drawn(self, w: Weights, rng: Array, known: Array, cond: Cond) -> Array:
        """Tokens [B, N]: those `known`, and others where it is `vocabulary`."""
        raise TypeError(f"{type(self).__name__} must say how its tokens are drawn: drawn(w, rng, known, cond) -> ids")


def log_probs(logits: Array, ids: Array) -> Array:
    """log p of each token: logits [..., V], ids [...] -> [...]."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], -1)[..., 0]


@dataclass(frozen=True, kw_only=True)
class CausalTokens(Tokens):
    """The net is called as net(ids [B, N], cond, train) -> logits [B, N, V] of each token given those before it."""

    causal: ClassVar[bool] = True
    kind: ClassVar[str] = "exact"

    @property
    def levels(self) -> int:
        """Values of a pixel; 0 for codes, whose likelihood says nothing about pixels."""
        return self.spec.levels

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """-log p, [B]: the mean over tokens, in nats."""
        drop_rng, net_rng = jax.random.split(rng)
        ids, cond = self.ids(batch[self.spec.target]), self.told(batch, train, drop_rng)
        logits, vars = self.net.apply(w.nets["net"], ids, cond, train=train, rngs={"dropout": net_rng})
        nll = -log_probs(logits, ids).mean(-1)
        return Loss(nll, {"bits_per_dim": nll / math.log(2)} if self.pixels else {"nll": nll}, vars)

    def log_prob(self, w: Weights, batch: Batch, rng: Array) -> Array:
        """log p of all tokens, exact, [B] nats."""
        ids = self.ids(batch[self.spec.target])
        logits, _ = self.net.apply(w.nets["net"], ids, self.heard(self.conditions(batch)))
        return log_probs(logits, ids).sum(-1)

    def refuse(self, cond: dict[str, np.ndarray]) -> None:
        """A UserError where a token to be drawn comes before one that is given."""
        if cond and {*self.spec.conditions.of("image", "mask", "tokens")} <= {*cond}:
            hidden = np.asarray(self.known(cond, len(next(iter(cond.values())))) == self.spec.vocabulary)
            if (np.diff(hidden.astype(int)) < 0).any():
                raise UserError(
                    "tokens are drawn in reading order, and one that is hidden comes before one that is shown; set "
                    "tasks.hide.shape=lower, or take a run of masked_tokens"
                )

    def drawn(self, w: Weights, rng: Array, known: Array, cond: Cond) -> Array:
        """Tokens [B, N] in reading order, each by a key of its own."""
        num, variables = len(known), w.nets["net"]
        null = self.heard(nulls(self.spec, num))
        sides = [cond] if self.guide.evaluations == 1 else [cond, worse(self.guide, null)]
        asked = {k: jnp.concatenate([side[k] for side in sides]) for k in cond}  # one batch of both
        side = [jnp.full(num, i) for i in range(len(sides))]

        def choose(both: Array, time: Array, cond: Cond) -> Array:
            return jnp.take_along_axis(both, cond["side"][:, None, None], 1)[:, 0]

        guided = self.guide(choose, {**cond, "side": side[0]}, {**null, "side": side[-1]})
        (first, frozen), _ = self.net.apply(variables, len(sides) * num, asked, method="begin")

        def one(carry: tuple, inputs: tuple, frozen: Any) -> tuple[tuple, Array]:
            (before, cache), (place, given) = carry, inputs
            args = (jnp.tile(before, len(sides)), place, first, frozen, cache)
            (logits, cache), _ = self.net.apply(variables, *args, method="step")
            both = logits.reshape(len(sides), num, -1).swapaxes(0, 1)
            time = jnp.full(num, 1.0 - place / self.places)
            new = self.draw(guided(both, time), jax.random.fold_in(rng, place))
            new = jnp.where(given == self.spec.vocabulary, new, given)
            return (new, cache), new

        module, length = self.net.module, max(BLOCK, -(-self.places // BLOCKS))
        before, found = jnp.zeros(num, jnp.int32), []
        for start in range(0, self.places, length):
            part = np.arange(start, min(start + length, self.places))
            cache = module.cache(len(sides) * num, len(part))
            body = lambda carry, inputs, frozen=frozen: one(carry, inputs, frozen)  # noqa: E731
            (before, cache), new = jax.lax.scan(body, (before, cache), (part, known[:, part].T))
            frozen = jax.tree.map(lambda a, b: jnp.concatenate([a, b], -2), frozen, cache)
            found.append(new)
        return jnp.concatenate(found).T


@dataclass(frozen=True, kw_only=True)
class TextImageTokens(CausalTokens):
    """DALL-E (Ramesh et al. 2021, arXiv:2102.12092, section 2.2): one model of texts and of the tokens of their pictures.

        L = s text + (1 - s) image, s = 1/8, each the mean over its tokens

    Pads of a text are none of its tokens. The net has both(ids, cond, train) -> logits of the picture's tokens and of the text's.
    """

    text_share: Share = 1 / 8  # s

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.net.module, "both"):
            raise UserError(
                "method.net knows nothing of texts; set config.method.net=text_image_transformer, or "
                "config.method=causal_tokens"
            )

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """L [B] in nats; nll of the picture's tokens and nll_text."""
        drop_rng, net_rng = jax.random.split(rng)
        ids, cond = self.ids(batch[self.spec.target]), self.told(batch, train, drop_rng)
        options = dict(train=train, rngs={"dropout": net_rng}, method="both")
        (logits, text), vars = self.net.apply(w.nets["net"], ids, cond, **options)
        name, field = next(iter(self.spec.texts.items()))
        real = ~behind(cond[name], field.end)
        nll_text = -(log_probs(text, cond[name]) * real).sum(-1) / real.sum(-1)
        nll = -log_probs(logits, ids).mean(-1)
        each = self.text_share * nll_text + (1.0 - self.text_share) * nll
        return Loss(each, {"nll": nll, "nll_text": nll_text}, vars)


def halton(shape: tuple[int, ...]) -> np.ndarray:
    """The turn [N] of each place: places come as a Halton sequence of bases 2 and 3 first meets their cells of the unit square."""
    rows, columns = (1, *shape) if len(shape) == 1 else (shape[0], math.prod(shape[1:]))

    def radical(i: int, base: int) -> float:
        value, part = 0.0, 1.0
        while i:
            part /= base
            value, i = value + part * (i % base), i // base
        return value

    turn: dict[int, int] = {}
    i = 0
    while len(turn) < rows * columns:
        i += 1
        turn.setdefault(int(radical(i, 2) * rows) * columns + int(radical(i, 3) * columns), len(turn))
    return np.array([turn[place] for place in range(rows * columns)])


def ranks(x: Array) -> Array:
    """The rank [B, N] of every number of a row, the greatest 0; equals in the order of their places."""
    return jnp.argsort(jnp.argsort(-x, -1, stable=True), -1)


@dataclass(frozen=True, kw_only=True)
class MaskedTokens(Tokens):
    """The net is called as net(ids [B, N], cond, train) -> logits [B, N, V]; a hidden token has the id V.

    passes: of `sample`. doubt: the greater, the less confidence decides which tokens are shown first. first: those of which the
    net is surest, or places spread by a Halton sequence.
    """

    causal: ClassVar[bool] = False
    weighs: ClassVar[bool] = True  # the words of a text, as in diffusion

    smoothing: BelowOne = 0.1  # share of a target's probability that all tokens have alike
    passes: Count = 8
    doubt: NonNegative = 4.5
    first: Literal["sure", "halton"] = "sure"

    def hide(self, rng: Array, num: int) -> Array:
        """bool [num, N]: what training hides, at least one token of each."""
        share_rng, place_rng = jax.random.split(rng)
        share = jnp.cos(0.5 * math.pi * jax.random.uniform(share_rng, (num, 1)))
        count = jnp.clip(jnp.ceil(share * self.places), 1, self.places)
        return ranks(jax.random.uniform(place_rng, (num, self.places))) < count

    def loss(self, w: Weights, batch: Batch, rng: Array, train: bool) -> Loss:
        """Cross-entropy of the hidden tokens, [B], over their number in the mean of all examples: each token counts alike."""
        hide_rng, drop_rng, net_rng = jax.random.split(rng, 3)
        ids, cond = self.ids(batch[self.spec.target]), self.told(batch, train, drop_rng)
        hidden = self.hide(hide_rng, len(ids))
        seen = jnp.where(hidden, self.spec.vocabulary, ids)
        logits, vars = self.net.apply(w.nets["net"], seen, cond, train=train, rngs={"dropout": net_rng})
        nll = -log_probs(logits, ids)
        even = jax.nn.logsumexp(logits, -1) - logits.mean(-1)  # against tokens that are all as likely
        smooth = (1.0 - self.smoothing) * nll + self.smoothing * even
        usual = self.places * 2.0 / math.pi  # the mean of cos(pi u / 2) is 2 / pi
        over = lambda x: jnp.where(hidden, x, 0.0).sum(-1) / usual  # noqa: E731
        return Loss(over(smooth), {"nll": over(nll)}, vars)

    def drawn(self, w: Weights, rng: Array, known: Array, cond: Cond) -> Array:
        """Tokens [B, N] in `passes` passes; after each, exactly as many are hidden as the schedule says."""
        num, nothing, null = len(known), self.spec.vocabulary, self.heard(nulls(self.spec, len(known)))
        cond, null = (listened(self.net, w.nets["net"], said) for said in (cond, worse(self.guide, null)))
        show = jnp.asarray(shown_by(self.places, self.passes))[(known == nothing).sum(-1)]  # [B, passes]

        def model(ids: Array, time: Array, cond: Cond) -> Array:
            return self.net.apply(w.nets["net"], ids, cond)[0]

        guided, turn = self.guide(model, cond, null), halton(self.spec.shape)

        def one(ids: Array, inputs: tuple) -> tuple[Array, None]:
            done, count, key = inputs
            draw_rng, doubt_rng = jax.random.split(key)
            logits = guided(ids, jnp.full(num, 1.0 - done))
            new = self.draw(logits, draw_rng)
            noise = self.doubt * (1.0 - done - 1.0 / self.passes) * jax.random.gumbel(doubt_rng, ids.shape)
            sure = log_probs(logits, new) + noise if self.first == "sure" else -jnp.asarray(turn, jnp.float32)
            hidden = ids == nothing
            chosen = hidden & (ranks(jnp.where(hidden, sure, -jnp.inf)) < count[:, None])
            return jnp.where(chosen, new, ids), None

        done = np.arange(self.passes, dtype=np.float32) / self.passes
        return jax.lax.scan(one, known, (done, show.T, jax.random.split(rng, self.passes)))[0]


def shown_by(most: int, passes: int) -> np.ndarray:
    """How many tokens each pass shows where so many are hidden at first, int32 [1 + most, passes].

    floor(hidden cos(pi t / 2T)) of them are left after pass t, and one less than before at the most.
    """

    def row(hidden: int) -> np.ndarray:
        left = [hidden]
        for t in range(1, passes + 1):
            share = math.cos(0.5 * math.pi * t / passes) if t < passes else 0.0
            left.append(max(0, min(math.floor(hidden * share), left[-1] - 1)))
        return -np.diff(left)

    return np.array([row(hidden) for hidden in range(most + 1)], np.int32)

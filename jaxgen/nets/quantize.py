"""Vector quantisation (van den Oord et al. 2017, arXiv:1711.00937): features -> codes of a codebook, and codebooks that live.

Codebook e [K, D], encodings z [N, D].

    k(z) = argmin_j |z - e_j|^2                                                                                (eq. 1)
    count_j <- g count_j + (1 - g) n_j,  sum_j <- g sum_j + (1 - g) sum of z with k(z) = j,  e_j = sum_j / count_j (A.1)

with Laplace-smoothed counts in the last division, so that an unused code stays finite.

    ema, gradient   nearest codes; their codebook follows by averages (A.1) or by gradients (eq. 3)
    gumbel          codes drawn by logits (Jang et al. 2016, arXiv:1611.01144; Ramesh et al. 2021, arXiv:2102.12092)
    multiscale      codes of what is left of the features, from coarse to fine (Tian et al. 2024, arXiv:2404.02905)
    fsq             every number is rounded: no codebook is learned (Mentzer et al. 2023, arXiv:2309.15505)

All arithmetic is float32: the straight-through sum of bfloat16 numbers, z + sg[e - z], is not e.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from jaxgen.core.ranges import BelowOne, Count, Natural, NonNegative, Positive, Share
from jaxgen.core.spec import RunLength
from jaxgen.errors import UserError
from jaxgen.nets.layers import Conv, Dense

Array = jax.Array
Ids = Any  # int32 [B, ...], or a tuple of such maps, coarse first: a pyramid
hold = jax.lax.stop_gradient


@struct.dataclass
class Quantized:
    """What a quantiser returns for features [B, ..., D]; errors are means over an example's elements."""

    codes: Array  # float32 [B, ..., D], with the gradient of the features (straight-through); of a pyramid of features a tuple
    ids: Ids
    loss: Array  # [B]: what training adds to its loss
    metrics: dict[str, Array]  # [B] or scalar each: perplexity and usage of the batch, and what the loss consists of


@struct.dataclass
class Codebook:
    """Exponential averages of the encodings that chose each code."""

    embed: Array  # [K, D]
    count: Array  # [K]
    sum: Array  # [K, D]


def nearest(z: Array, embed: Array) -> Array:
    """Index of the nearest code of each row: z [N, D], embed [K, D] -> int32 [N] (eq. 1)."""
    cross = jnp.matmul(z, embed.T, precision="highest")  # distances are small differences of large numbers
    distance = (z**2).sum(-1, keepdims=True) - 2.0 * cross + (embed**2).sum(-1)
    # two minima in place of argmin, whose reduction of pairs is slow on a CPU: the first of equals wins in both
    least = distance.min(-1, keepdims=True)
    return jnp.where(distance == least, jnp.arange(len(embed)), len(embed) - 1).min(-1).astype(jnp.int32)


def assigned(z: Array, ids: Array, codes: int) -> tuple[Array, Array]:
    """How many rows chose each code [K], and their sum [K, D]; one product, which shards over rows."""
    chosen = jax.nn.one_hot(ids, codes, dtype=z.dtype)  # [N, K]
    return chosen.sum(0), jnp.matmul(chosen.T, z, precision="highest")


def follow(book: Codebook, z: Array, ids: Array, decay: float, eps: float) -> Codebook:
    """One step of the averages (appendix A.1)."""
    number, total = assigned(z, ids, book.count.shape[0])
    count = decay * book.count + (1.0 - decay) * number
    sum = decay * book.sum + (1.0 - decay) * total
    mass = count.sum()
    smooth = (count + eps) / (mass + count.shape[0] * eps) * mass
    return Codebook(sum / smooth[:, None], count, sum)


def draw_rows(rng: Array, z: Array, num: int) -> Array:
    """`num` random rows of z [N, D], distinct if there are enough."""
    return z[jax.random.choice(rng, z.shape[0], (num,), replace=z.shape[0] < num)]


def fresh(embed: Array, rows: int) -> Codebook:
    """Averages that would have led to `embed` had `rows` encodings been shared equally."""
    count = jnp.full(embed.shape[0], rows / embed.shape[0])
    return Codebook(embed, count, embed * count[:, None])


def restart(book: Codebook, z: Array, rng: Array, least: float) -> Codebook:
    """Codes chosen less than `least` times their share move onto random rows of z; the others stay."""
    share = z.shape[0] / book.count.shape[0]
    dead = book.count < least * share

    def revive() -> Codebook:
        new = fresh(draw_rows(rng, z, book.count.shape[0]), z.shape[0])
        return jax.tree.map(lambda n, o: jnp.where(dead.reshape(-1, *(1,) * (o.ndim - 1)), n, o), new, book)

    return jax.lax.cond(dead.any(), revive, lambda: book)


def kmeans(rng: Array, z: Array, codes: int, iterations: int = 10) -> Array:
    """Lloyd's algorithm from random rows: z [N, D] -> centres [K, D]; a centre that nobody chose stays."""

    def lloyd(_: int, centres: Array) -> Array:
        number, total = assigned(z, nearest(z, centres), codes)
        return jnp.where(number[:, None] > 0, total / jnp.maximum(number, 1.0)[:, None], centres)

    return jax.lax.fori_loop(0, iterations, lloyd, draw_rows(rng, z, codes))


def _uniform(rng: Array, codes: int, dim: int) -> Array:
    return jax.random.uniform(rng, (codes, dim), minval=-1.0, maxval=1.0) / codes  # near 0: all codes are found early


STARTS = {  # (rng, encodings [N, D], codes) -> embed [codes, D]
    "kmeans": kmeans,
    "data": draw_rows,
    "normal": lambda rng, z, codes: jax.random.normal(rng, (codes, z.shape[1])),
    "uniform": lambda rng, z, codes: _uniform(rng, codes, z.shape[1]),
}


def straight_through(z: Array, codes: Array) -> Array:
    """The codes, to the bit, with the gradient of z."""
    return hold(codes) + (z - hold(z))


def error(a: Array, b: Array) -> Array:
    """Mean squared difference of every example, [B]."""
    return ((a - b) ** 2).reshape(a.shape[0], -1).mean(-1)


def occupancy(ids: Array, codes: int, name: str = "") -> dict[str, Array]:
    """How a batch uses the codes: perplexity (exp of their entropy, in codes) and usage (the share of them that occurs)."""
    share = jnp.bincount(ids.reshape(-1), length=codes) / ids.size
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-10))).sum()
    return {f"perplexity{name}": jnp.exp(entropy), f"usage{name}": (share > 0).mean(dtype=jnp.float32)}


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))


class Quantizer(nn.Module):
    """Has `codes` different codes for features of `dim` numbers.

    In training it may need the rng "codebook", and `step` says how far the run is. What it carries along is in the collection
    "codebook".
    """

    def __call__(self, z: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """z [B, ..., dim] -> codes; training quantises with the codes as they were and then moves them."""
        raise TypeError(f"{type(self).__name__} must quantise: __call__(z, train, step)")

    def vectors(self, ids: Ids) -> Array:
        """ids [...] -> entries of the codebook, float32 [..., d]."""
        raise TypeError(f"{type(self).__name__} must say its entries: vectors(ids)")

    def nearest(self, z: Array) -> Ids:
        """The inverse, also for vectors between the entries: [..., d] -> ids int32 [...]."""
        raise TypeError(f"{type(self).__name__} must find its entries: nearest(z)")

    def lookup(self, ids: Ids) -> Array:
        """ids [...] -> features [..., dim], as a decoder sees them."""
        return self.vectors(ids)


class NearestQuantizer(Quantizer):
    """Features are replaced by the nearest of `codes` vectors.

    start: where the codes begin: "kmeans" of the first training batch's encodings, random rows of it ("data"), "normal", or
        "uniform" in +-1/codes.
    """

    codes: Count = 512  # entries of the codebook
    dim: Count = 64  # numbers of a feature
    project: Natural = 0  # numbers to which features are projected first, and codes back (ViT-VQGAN: 8); 0: not
    cosine: bool = False  # features and codes have length one
    beta: NonNegative = 0.25  # of the commitment |z - sg[e]|^2, which draws the encoder to its codes
    start: str = "kmeans"
    dead: NonNegative = 0.03  # a code chosen less often than this part of its share is drawn anew; 0: never
    decay: BelowOne = 0.99  # of the counts by which a code is dead, and of the averages

    def setup(self) -> None:
        if self.start not in STARTS:
            raise UserError(f"start={self.start!r} is unknown; there are: {', '.join(STARTS)}")
        if self.project:
            self.down, self.up = Dense(self.project), Dense(self.dim)
        self.hold_book((self.codes, self.project or self.dim))
        self.ready = self.variable("codebook", "ready", lambda: jnp.zeros((), bool))

    def hold_book(self, shape: tuple[int, int]) -> None:
        """Make the variables of the codebook [codes, d]."""
        raise TypeError(f"{type(self).__name__} must hold its codebook: hold_book(shape)")

    def held(self) -> Codebook:
        """As it is; no gradient."""
        raise TypeError(f"{type(self).__name__} must say what it holds: held()")

    def keep(self, book: Codebook) -> None:
        """Hold this one from now on."""
        raise TypeError(f"{type(self).__name__} must keep what it is given: keep(book)")

    def moved(self, book: Codebook, flat: Array, ids: Array) -> Codebook:
        """The codebook after rows [N, d] have chosen."""
        return follow(book, flat, ids, self.decay, 1e-5)

    def book(self) -> Array:
        """The entries [codes, d], with their gradient."""
        return _unit(self.held().embed) if self.cosine else self.held().embed

    def lowered(self, z: Array) -> Array:
        """Features [..., dim] as they are compared with the codes, float32 [..., d]."""
        z = z.astype(jnp.float32)
        z = self.down(z) if self.project else z
        return _unit(z) if self.cosine else z

    def vectors(self, ids: Ids) -> Array:
        """ids [...] -> entries [..., d]."""
        return self.book()[ids]

    def nearest(self, z: Array) -> Ids:
        """Vectors [..., d] -> ids int32 [...] of the entries nearest to them."""
        z = _unit(z) if self.cosine else z
        return nearest(z.reshape(-1, z.shape[-1]), self.book()).reshape(z.shape[:-1])

    def lookup(self, ids: Ids) -> Array:
        """ids [...] -> features [..., dim]."""
        return self.raised(self.vectors(ids))

    def raised(self, codes: Array) -> Array:
        """Codes [..., d] as features [..., dim]."""
        return self.up(codes) if self.project else codes

    def begin(self, flat: Array) -> None:
        """In the first training step: the codes begin where `start` says, of the batch's rows [N, d]."""
        if self.start == "kmeans" and len(flat) < self.codes:
            raise UserError(
                f"{len(flat)} encodings in a batch are too few for k-means of {self.codes} codes; set start=data"
            )
        if self.is_initializing():
            return
        rng, start = self.make_rng("codebook"), STARTS[self.start]
        book = self.held()
        begun = lambda: fresh(start(rng, flat, self.codes), len(flat))  # noqa: E731
        self.keep(jax.lax.cond(self.ready.value, lambda: book, begun))
        self.ready.value = jnp.ones((), bool)

    def live(self, flat: Array, ids: Array) -> None:
        """After a training step whose rows [N, d] chose `ids` [N]: averages move, dead codes start anew."""
        book = self.moved(self.held(), flat, ids)
        self.keep(restart(book, flat, self.make_rng("codebook"), self.dead) if self.dead > 0 else book)

    def terms(self, z: Array, codes: Array) -> tuple[Array, dict[str, Array]]:
        """(the loss [B] of features and the codes that replace them, what it consists of)."""
        commitment = error(z, hold(codes))
        return self.beta * commitment, {"commitment": commitment}

    def __call__(self, z: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """z [B, ..., dim]."""
        z = self.lowered(z)
        flat = hold(z).reshape(-1, z.shape[-1])
        if train or self.is_initializing():
            self.begin(flat)
        book = self.book()
        ids = nearest(flat, hold(book))
        codes = book[ids].reshape(z.shape)
        loss, metrics = self.terms(z, codes)
        out = self.raised(straight_through(z, codes))
        if train:
            self.live(flat, ids)
        return Quantized(out, ids.reshape(z.shape[:-1]), loss, metrics | occupancy(ids, self.codes))


class EmaQuantizer(NearestQuantizer):
    """Codes are running means of the encodings that chose them (appendix A.1)."""

    eps: Positive = 1e-5  # added to the counts

    def hold_book(self, shape: tuple[int, int]) -> None:
        """In the collection "codebook"."""
        self.embed = self.variable("codebook", "embed", lambda: jax.random.normal(self.make_rng("params"), shape))
        self.count = self.variable("codebook", "count", jnp.ones, shape[:1])
        self.sum = self.variable("codebook", "sum", lambda: self.embed.value)

    def held(self) -> Codebook:
        """The averages."""
        return Codebook(self.embed.value, self.count.value, self.sum.value)

    def keep(self, book: Codebook) -> None:
        """The averages."""
        self.embed.value, self.count.value, self.sum.value = book.embed, book.count, book.sum

    def moved(self, book: Codebook, flat: Array, ids: Array) -> Codebook:
        """One step of the averages."""
        return follow(book, flat, ids, self.decay, self.eps)


class GradientQuantizer(NearestQuantizer):
    """Codes are parameters, moved by the second term of eq. 3, |sg[z] - e|^2.

    No gradient can set a code anew: what start and restarts moved it by is in the collection "codebook", and added.
    """

    legacy: bool = False  # beta weighs that term, not the commitment: taming-transformers' first order

    def hold_book(self, shape: tuple[int, int]) -> None:
        """A parameter, and by how much it was moved."""
        self.embed = self.param("embed", lambda rng: _uniform(rng, *shape))
        self.offset = self.variable("codebook", "offset", jnp.zeros, shape)
        self.count = self.variable("codebook", "count", jnp.ones, shape[:1])

    def book(self) -> Array:
        """The entries [codes, d]."""
        embed = jnp.asarray(self.embed) + self.offset.value  # what was imported is numpy's
        return _unit(embed) if self.cosine else embed

    def held(self) -> Codebook:
        """Without sums: gradients move the codes."""
        embed = hold(self.embed) + self.offset.value
        return Codebook(embed, self.count.value, embed)

    def keep(self, book: Codebook) -> None:
        """Codes that are where they were stay to the bit."""
        self.offset.value += book.embed - self.held().embed
        self.count.value = book.count

    def moved(self, book: Codebook, flat: Array, ids: Array) -> Codebook:
        """Counts alone."""
        number = jnp.bincount(ids, length=self.codes)
        return book.replace(count=self.decay * book.count + (1.0 - self.decay) * number)

    def terms(self, z: Array, codes: Array) -> tuple[Array, dict[str, Array]]:
        """Both terms of eq. 3."""
        commitment, towards = error(z, hold(codes)), error(hold(z), codes)
        weighed = commitment + self.beta * towards if self.legacy else towards + self.beta * commitment
        return weighed, {"commitment": commitment}


class GumbelQuantizer(Quantizer):
    """A code is drawn by logits of the features, in training by the Gumbel-softmax, which gradients pass.

    The temperature falls from `hot` to `cold` by half a cosine over `anneal` steps (DALL-E: 1 to 1/16).
    """

    codes: Count = 512  # entries of the codebook
    dim: Count = 64  # numbers of a feature
    kl_weight: NonNegative = 5e-4  # of KL(q | uniform), mean over positions, in nats
    kl_ramp: Natural = 0  # steps in which that weight rises from 0, by half a cosine (DALL-E: 5000)
    hard: bool = True  # the forward pass sees one code, the gradient the soft mixture
    hot: Positive = 1.0  # the first temperature
    cold: Positive = 1 / 16  # the last
    anneal: RunLength = 0  # steps between them; 0: the run's length

    def setup(self) -> None:
        self.embed = self.param("embed", nn.initializers.normal(1.0), (self.codes, self.dim))
        self.logits = Dense(self.codes)

    def temperature(self, step: Array | int) -> Array:
        """At a step."""
        done = jnp.clip(step / max(self.anneal, 1), 0.0, 1.0)
        return self.cold + (self.hot - self.cold) * 0.5 * (1.0 + jnp.cos(math.pi * done))

    def weight(self, step: Array | int) -> Array:
        """Of the KL at a step."""
        done = jnp.clip(step / self.kl_ramp, 0.0, 1.0) if self.kl_ramp else 1.0
        return self.kl_weight * 0.5 * (1.0 - jnp.cos(math.pi * done))

    def vectors(self, ids: Ids) -> Array:
        """ids [...] -> entries [..., dim]."""
        return self.embed[ids]

    def nearest(self, z: Array) -> Ids:
        """Vectors [..., dim] -> ids int32 [...] of the entries nearest to them."""
        return nearest(z.reshape(-1, self.dim), self.embed).reshape(z.shape[:-1])

    def __call__(self, z: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """z [B, ..., dim]; outside of training the likeliest code."""
        logits = self.logits(z.astype(jnp.float32))
        ids = logits.argmax(-1).astype(jnp.int32)
        log_q = jax.nn.log_softmax(logits)
        kl = (jnp.exp(log_q) * (log_q + math.log(self.codes))).sum(-1).reshape(len(z), -1).mean(-1)
        metrics = {"kl": kl, **occupancy(ids, self.codes)}
        if not train:
            return Quantized(self.vectors(ids), ids, self.kl_weight * kl, metrics)
        noise = jax.random.gumbel(self.make_rng("codebook"), logits.shape)
        metrics["temperature"] = self.temperature(step)
        soft = jax.nn.softmax((logits + noise) / metrics["temperature"])
        if self.hard:
            soft = straight_through(soft, jax.nn.one_hot(soft.argmax(-1), self.codes))
        return Quantized(jnp.matmul(soft, self.embed, precision="highest"), ids, self.weight(step) * kl, metrics)


def area(n: int, size: int) -> np.ndarray:
    """[size, n]: means over as even parts of n places as there are (torch's adaptive average pooling)."""
    rows = np.zeros((size, n), np.float32)
    for i in range(size):
        first, end = i * n // size, -(-(i + 1) * n // size)
        rows[i, first:end] = 1.0 / (end - first)
    return rows


def cubic(n: int, size: int) -> np.ndarray:
    """[size, n]: n places interpolated to more by cubics, as torch does (a = -3/4, edges repeated)."""
    rows, a = np.zeros((size, n), np.float64), -0.75
    for i in range(size):
        x = (i + 0.5) * n / size - 0.5
        for j in range(math.floor(x) - 1, math.floor(x) + 3):
            d = abs(x - j)
            near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
            rows[i, min(max(j, 0), n - 1)] += near if d <= 1 else far
    return rows.astype(np.float32)


def resized(x: Array, size: tuple[int, int], how: Any) -> Array:
    """[B, h, w, D] -> [B, *size, D] by `area` or `cubic` in either direction."""
    if x.shape[1:3] == tuple(size):
        return x
    rows, columns = (jnp.asarray(how(n, s)) for n, s in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("bhwd,ih,jw->bijd", x, rows, columns, precision="highest")


class _Read(NamedTuple):
    """What a pyramid is made of, by scale."""

    ids: tuple[Array, ...]
    sums: list[Array]  # what is said up to a scale, [B, H, W, D]
    rows: list[Array]  # what chose, [N, D]


class MultiscaleQuantizer(GradientQuantizer):
    """Features [B, H, W, dim] as a pyramid of codes: maps of `sizes`, coarse first, each of what the earlier ones leave.

    What is left is averaged to a map's size, its codes are enlarged by cubics to H x W and corrected by a 3x3 convolution phi:
    h -> (1 - mix) h + mix phi(h). The loss is the mean over scales.
    """

    sizes: tuple[Count, ...] = (1, 2, 3, 4)  # sides of the maps; the last is that of the features
    share: Count = 4  # convolutions that serve all scales
    mix: Share = 0.5  # of the convolution

    def setup(self) -> None:
        super().setup()
        if any(b <= a for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise UserError(f"sizes={self.sizes} must grow; set sizes={tuple(sorted({*self.sizes}))}")
        if self.project:
            raise UserError("project is not for pyramids; set project=0")
        self.phi = [Conv(self.dim, 3, padding=1) for _ in range(self.share)]

    def _said(self, codes: Array, scale: int, size: tuple[int, int]) -> Array:
        """What the codes [B, s, s, D] of a scale add to the features."""
        h = resized(codes, size, cubic)
        third = 1 / 3 / self.share if self.share == 4 else 1 / 2 / self.share
        ticks = np.linspace(third, 1 - third, self.share)
        phi = self.phi[int(np.argmin(np.abs(ticks - scale / max(len(self.sizes) - 1, 1))))]
        return (1 - self.mix) * h + self.mix * phi(h)

    def _read(self, z: Array, book: Array) -> _Read:
        """Features [B, H, W, D] -> their pyramid."""
        if (size := z.shape[1:3]) != (self.sizes[-1],) * 2:
            raise UserError(
                f"the last of sizes={self.sizes} must be that of the features, {size[0]}x{size[1]}; set "
                f"sizes={(*(s for s in self.sizes if s < size[0]), size[0])}"
            )
        left, said, ids, sums, rows = hold(z), jnp.zeros_like(z), [], [], []
        for i, s in enumerate(self.sizes):
            small = resized(left, (s, s), area)
            rows.append(small.reshape(-1, self.dim))
            ids.append(nearest(_unit(rows[-1]) if self.cosine else rows[-1], hold(book)).reshape(small.shape[:-1]))
            added = self._said(book[ids[-1]], i, size)
            said, left = said + added, left - hold(added)
            sums.append(said)
        return _Read(tuple(ids), sums, rows)

    def sums(self, ids: Ids) -> list[Array]:
        """What a pyramid says up to every scale, [B, H, W, dim] each."""
        said, found = 0.0, []
        for i, level in enumerate(ids):
            said = said + self._said(self.book()[level], i, (self.sizes[-1],) * 2)
            found.append(said)
        return found

    def vectors(self, ids: Ids) -> Array:
        """A pyramid -> the features that it says, [B, H, W, dim]."""
        return self.sums(ids)[-1]

    def inputs(self, ids: Ids) -> Array:
        """What a model of pyramids is told before every scale but the first: the sum so far, averaged to the scale's size,
        all places in a row, [B, places, dim]."""
        pairs = zip(self.sums(ids), self.sizes[1:], strict=False)
        return jnp.concatenate([resized(x, (s, s), area).reshape(len(x), -1, self.dim) for x, s in pairs], 1)

    def nearest(self, z: Array) -> Ids:
        """Features [B, H, W, dim] -> their pyramid."""
        return self._read(z, self.book()).ids

    def lookup(self, ids: Ids) -> Array:
        """As the decoder sees it."""
        return self.vectors(ids)

    def __call__(self, z: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """z [B, H, W, dim]."""
        z = z.astype(jnp.float32)
        if train or self.is_initializing():
            maps = [resized(hold(z), (s, s), area).reshape(-1, self.dim) for s in self.sizes]
            self.begin(jnp.concatenate(maps))
        found = self._read(z, self.book())
        losses, metrics = zip(*(self.terms(z, said) for said in found.sums), strict=True)
        codes, rows = straight_through(z, found.sums[-1]), jnp.concatenate(found.rows)
        chosen = jnp.concatenate([ids.reshape(-1) for ids in found.ids])
        if train:
            self.live(rows, chosen)
        told = {k: sum(m[k] for m in metrics) / len(metrics) for k in metrics[0]} | occupancy(chosen, self.codes)
        for ids, s in zip(found.ids, self.sizes, strict=True):
            told[f"usage_{s}"] = occupancy(ids, self.codes)["usage"]
        return Quantized(codes, found.ids, sum(losses) / len(losses), told)


class FsqQuantizer(Quantizer):
    """Number i of a feature is bounded and rounded to one of `levels[i]` values, from -1 to about 1; a code is all of them."""

    levels: tuple[Count, ...] = (8, 5, 5, 5)  # of each number

    @property
    def codes(self) -> int:
        """Of all combinations."""
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        """Numbers of a feature."""
        return len(self.levels)

    def vectors(self, ids: Ids) -> Array:
        """ids [...] -> [..., dim]."""
        levels, basis = np.asarray(self.levels), np.cumprod([1, *self.levels[:-1]])
        return (ids[..., None] // basis % levels - levels // 2) / np.maximum(levels // 2, 1).astype(np.float32)

    def nearest(self, z: Array) -> Ids:
        """Vectors [..., dim] -> ids int32 [...]."""
        levels, basis = np.asarray(self.levels), np.cumprod([1, *self.levels[:-1]])
        digits = jnp.round(z * np.maximum(levels // 2, 1)) + levels // 2
        return (jnp.clip(digits, 0, levels - 1) * basis).sum(-1).astype(jnp.int32)

    def __call__(self, z: Array, train: bool = False, step: Array | int = 0) -> Quantized:
        """z [B, ..., dim]."""
        levels = np.asarray(self.levels, np.float32)
        half, even = (levels - 1) * 1.001 / 2, 0.5 * (levels % 2 == 0)
        shift = np.arctanh(even / np.maximum(half, 0.5005)).astype(np.float32)
        bounded = jnp.tanh(z.astype(jnp.float32) + shift) * half - even
        scale = np.maximum(levels // 2, 1)
        codes = straight_through(bounded, jnp.round(bounded)) / scale
        ids = self.nearest(codes)
        return Quantized(codes, ids, jnp.zeros(len(z)), occupancy(ids, self.codes))

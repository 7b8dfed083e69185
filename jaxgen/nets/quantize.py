"""Vector quantisation (van den Oord et al. 2017, arXiv:1711.00937): nearest codes, and codebooks that follow the data.

Codebook e [K, D], encodings z [N, D].

    k(z) = argmin_j |z - e_j|^2                                                                                (eq. 1)
    count_j <- g count_j + (1 - g) n_j,  sum_j <- g sum_j + (1 - g) sum of z with k(z) = j,  e_j = sum_j / count_j (A.1)

with Laplace-smoothed counts in the last division, so that an unused code stays finite.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxgen.core.ranges import BelowOne, Count, NonNegative, Positive
from jaxgen.errors import UserError

Array = jax.Array


@struct.dataclass
class Quantized:
    """What a quantiser returns for features [B, ..., D]; errors are means over an example's elements."""

    codes: Array  # [B, ..., D], with the gradient of the features (straight-through)
    ids: Array  # int32 [B, ...]
    commitment: Array  # [B] |z - sg[e]|^2: draws the encoder to its code
    codebook: Array  # [B] |sg[z] - e|^2: draws the code to the encoder; zeros where averages move it
    metrics: dict[str, Array]  # scalars


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


STARTS = {  # (rng, encodings [N, D], codes) -> embed [codes, D]
    "kmeans": kmeans,
    "data": draw_rows,
    "normal": lambda rng, z, codes: jax.random.normal(rng, (codes, z.shape[1])),
}


def quantized(z: Array, ids: Array, embed: Array, moved: bool) -> Quantized:
    """Features z [B, ..., D] replaced by their codes; `moved` says that gradients train the codebook."""
    codes = embed[ids]
    hold = jax.lax.stop_gradient

    def error(a: Array, b: Array) -> Array:
        return ((a - b) ** 2).reshape(z.shape[0], -1).mean(-1)

    share = jnp.bincount(ids.reshape(-1), length=embed.shape[0]) / ids.size
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-10))).sum()
    return Quantized(
        codes=z + hold(codes - z),
        ids=ids,
        commitment=error(z, hold(codes)),
        codebook=error(hold(z), codes) if moved else jnp.zeros(z.shape[0]),
        metrics={"perplexity": jnp.exp(entropy), "usage": (share > 0).mean(dtype=jnp.float32)},
    )


class Quantizer(nn.Module):
    """A codebook of `codes` vectors of `dim` numbers."""

    codes: Count = 512
    dim: Count = 64

    def book(self) -> Array:
        """Its entries [codes, dim]."""
        raise TypeError(f"{type(self).__name__} must say its entries: book()")

    def lookup(self, ids: Array) -> Array:
        """ids [...] -> entries [..., dim]."""
        return self.book()[ids]

    def nearest(self, z: Array) -> Array:
        """Vectors [..., dim] -> ids int32 [...] of the entries nearest to them."""
        return nearest(z.reshape(-1, self.dim), self.book()).reshape(z.shape[:-1])


class EmaQuantizer(Quantizer):
    """Codes are running means of the encodings that chose them; they live in the collection "codebook".

    start: where the codes begin. "kmeans" of the first training batch's encodings, random rows of it ("data"), or
    "normal". `dead`: a code chosen less often than this part of its equal share is drawn anew from the batch; 0 never.
    Training needs the rng "codebook".
    """

    decay: BelowOne = 0.99
    eps: Positive = 1e-5
    start: str = "kmeans"
    dead: NonNegative = 0.03

    def setup(self) -> None:
        if self.start not in STARTS:
            raise UserError(f"quantizer.start={self.start!r} is unknown; there are: {', '.join(STARTS)}")
        shape = (self.codes, self.dim)
        self.embed = self.variable("codebook", "embed", lambda: jax.random.normal(self.make_rng("params"), shape))
        self.count = self.variable("codebook", "count", jnp.ones, shape[:1])
        self.sum = self.variable("codebook", "sum", lambda: self.embed.value)
        self.ready = self.variable("codebook", "ready", lambda: jnp.zeros((), bool))

    def book(self) -> Array:
        """As its averages have it."""
        return self.embed.value

    def __call__(self, z: Array, train: bool = False) -> Quantized:
        """z float32 [B, ..., D]; training quantises with the codes as they were and then moves them."""
        flat = jax.lax.stop_gradient(z).reshape(-1, self.dim)  # [N, D]
        book = Codebook(self.embed.value, self.count.value, self.sum.value)
        if train:
            start_rng, dead_rng = jax.random.split(self.make_rng("codebook"))
            begin = STARTS[self.start]
            book = jax.lax.cond(
                self.ready.value, lambda: book, lambda: fresh(begin(start_rng, flat, self.codes), flat.shape[0])
            )
        ids = nearest(flat, book.embed)
        out = quantized(z, ids.reshape(z.shape[:-1]), book.embed, moved=False)
        if train:
            book = follow(book, flat, ids, self.decay, self.eps)
            book = restart(book, flat, dead_rng, self.dead) if self.dead > 0 else book
            self.embed.value, self.count.value, self.sum.value = book.embed, book.count, book.sum
            self.ready.value = jnp.ones((), bool)
        return out


class GradientQuantizer(Quantizer):
    """Codes are parameters, moved by the second term of eq. 3."""

    def setup(self) -> None:
        self.embed = self.param("embed", _uniform_codes, (self.codes, self.dim))

    def book(self) -> Array:
        """As gradients have it."""
        return self.embed

    def __call__(self, z: Array, train: bool = False) -> Quantized:
        """z float32 [B, ..., D]."""
        return quantized(z, self.nearest(jax.lax.stop_gradient(z)), self.embed, moved=True)


def _uniform_codes(key: Array, shape: tuple[int, int]) -> Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0) / shape[0]  # near 0: all codes are found early

"""JPEG there and back on the device, with the bits of libjpeg: baseline, the "slow" integer DCT, fancy upsampling.

ITU-T T.81; Loeffler, Ligtenberg & Moschytz 1989 (the DCT).

    RGB -> YCbCr -> chroma halved (4:2:0) -> DCT of 8x8 -> / table, rounded -> * table -> inverse DCT -> chroma doubled -> RGB

All is integer arithmetic of 32 bits. Huffman's code loses nothing, and is left out. Past the border columns are repeated before
chroma is halved, rows after it.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Range
from jaxgen.degradations.degradation import Degradation
from jaxgen.errors import UserError
from jaxgen.images import from_levels, to_levels

Array = jax.Array
Quality = Annotated[int, Range(least=1, most=100)]

LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
CHROMA = np.full((8, 8), 99)  # both tables: T.81, annex K.1
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# cosines and their sums in units of 2^-13, as the two passes share them
BITS, PASS = 13, 2
C = {name: round(value * 2**BITS) for name, value in {
    "a": 0.541196100, "b": 0.765366865, "c": 1.847759065, "d": 1.175875602, "e": 0.298631336, "f": 2.053119869, "g": 3.072711026,
    "h": 1.501321110, "i": 0.899976223, "j": 2.562915447, "k": 1.961570560, "l": 0.390180644,
}.items()}  # fmt: skip


def tables(quality: Array) -> tuple[Array, Array]:
    """Quality [B] in 1..100 -> what coefficients are divided by, of luma and of chroma, int32 [B, 8, 8]."""
    quality = jnp.clip(quality.astype(jnp.int32), 1, 100)
    scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None]
    return tuple(jnp.clip((jnp.asarray(t, jnp.int32) * scale + 50) // 100, 1, 255) for t in (LUMA, CHROMA))


def _odd(p: list[Array]) -> list[Array]:
    """The four odd outputs of a pass, not yet scaled, out of four numbers; the same for both directions."""
    z1, z2, z3, z4 = p[0] + p[3], p[1] + p[2], p[0] + p[2], p[1] + p[3]
    z5 = (z3 + z4) * C["d"]
    z1, z2, z3, z4 = -z1 * C["i"], -z2 * C["j"], z5 - z3 * C["k"], z5 - z4 * C["l"]
    return [
        p[0] * C["e"] + z1 + z3, p[1] * C["f"] + z2 + z4, p[2] * C["g"] + z2 + z3, p[3] * C["h"] + z1 + z4,
    ]  # fmt: skip


def _rounded(x: Array, bits: int) -> Array:
    return (x + (1 << (bits - 1))) >> bits


def _forward(x: Array, last: bool) -> Array:
    """A pass over the last axis of [..., 8]: 2^2 times as large between the passes, 2^3 times behind both."""
    v = [x[..., i] for i in range(8)]
    sums, offs = [v[i] + v[7 - i] for i in range(4)], [v[i] - v[7 - i] for i in range(4)]
    even, odd = [sums[0] + sums[3], sums[1] + sums[2]], [sums[0] - sums[3], sums[1] - sums[2]]
    shift = BITS + PASS if last else BITS - PASS
    flat = (lambda y: _rounded(y, PASS)) if last else (lambda y: y << PASS)
    z = (odd[0] + odd[1]) * C["a"]
    o = _odd([offs[3], offs[2], offs[1], offs[0]])
    out = [
        flat(even[0] + even[1]), _rounded(o[3], shift), _rounded(z + odd[0] * C["b"], shift), _rounded(o[2], shift),
        flat(even[0] - even[1]), _rounded(o[1], shift), _rounded(z - odd[1] * C["c"], shift), _rounded(o[0], shift),
    ]  # fmt: skip
    return jnp.stack(out, -1)


def _inverse(x: Array, last: bool) -> Array:
    """The way back, over the last axis."""
    v = [x[..., i] for i in range(8)]
    z = (v[2] + v[6]) * C["a"]
    low, high = z - v[6] * C["c"], z + v[2] * C["b"]
    zero, four = (v[0] + v[4]) << BITS, (v[0] - v[4]) << BITS
    even = [zero + high, four + low, four - low, zero - high]
    odd = _odd([v[7], v[5], v[3], v[1]])[::-1]
    shift = BITS + PASS + 3 if last else BITS - PASS
    out = [even[i] + odd[i] for i in range(4)] + [even[i] - odd[i] for i in (3, 2, 1, 0)]
    return jnp.stack([_rounded(y, shift) for y in out], -1)


def _coded(x: Array, table: Array) -> Array:
    """A channel [B, H, W] of 0..255, sides multiples of 8, through its table [B, 8, 8] and back."""
    b, h, w = x.shape
    blocks = (x - 128).reshape(b, h // 8, 8, w // 8, 8).swapaxes(2, 3)
    # along rows, then along columns
    found = _forward(_forward(blocks, False).swapaxes(-1, -2), True).swapaxes(-1, -2)
    by = 8 * table[:, None, None]
    kept = jnp.sign(found) * ((jnp.abs(found) + by // 2) // by) * table[:, None, None]
    back = _inverse(_inverse(kept.swapaxes(-1, -2), False).swapaxes(-1, -2), True)
    return jnp.clip(back.swapaxes(2, 3).reshape(b, h, w) + 128, 0, 255)


def _filled(x: Array, rows: int, columns: int) -> Array:
    """[B, H, W] with its last row and column repeated."""
    return jnp.pad(x, ((0, 0), (0, rows - x.shape[1]), (0, columns - x.shape[2])), "edge")


def _up(n: int, m: int) -> int:
    return -(-n // m) * m


def _halved(x: Array) -> Array:
    """Means of 2x2 of [B, H, W], rounded by 1 and 2 in turn along a row."""
    b, h, w = x.shape
    sums = x.reshape(b, h // 2, 2, w // 2, 2).sum((2, 4))
    return (sums + 1 + jnp.arange(w // 2) % 2) >> 2


def _doubled(x: Array) -> Array:
    """[B, H, W] -> [B, 2 H, 2 W]: 3/4 of the nearer and 1/4 of the farther row, then column; narrow channels are repeated."""
    if x.shape[2] <= 2:
        return x.repeat(2, 1).repeat(2, 2)
    above, below = (jnp.concatenate(p, 1) for p in ((x[:, :1], x[:, :-1]), (x[:, 1:], x[:, -1:])))
    rows = jnp.stack([3 * x + above, 3 * x + below], 2).reshape(x.shape[0], -1, x.shape[2])
    before, after = (jnp.concatenate(p, 2) for p in ((rows[..., :1], rows[..., :-1]), (rows[..., 1:], rows[..., -1:])))
    both = jnp.stack([(3 * rows + before + 8) >> 4, (3 * rows + after + 7) >> 4], 3)
    return both.reshape(*rows.shape[:2], -1)


def ycc(x: Array) -> list[Array]:
    """RGB int32 [..., 3] of 0..255 -> Y, Cb, Cr, in 16 bits behind the point."""
    r, g, b = (x[..., i] for i in range(3))
    half, centre = 1 << 15, (128 << 16) + (1 << 15) - 1
    return [
        (19595 * r + 38470 * g + 7471 * b + half) >> 16,
        (-11059 * r - 21709 * g + 32768 * b + centre) >> 16,
        (32768 * r - 27439 * g - 5329 * b + centre) >> 16,
    ]


def rgb(y: Array, cb: Array, cr: Array) -> Array:
    """The way back, cut off at 0 and 255."""
    cb, cr, half = cb - 128, cr - 128, 1 << 15
    red, blue = y + ((91881 * cr + half) >> 16), y + ((116130 * cb + half) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    return jnp.clip(jnp.stack([red, green, blue], -1), 0, 255)


def through(x: Array, quality: Array, half: bool = True) -> Array:
    """Pictures int32 [B, H, W, 1 | 3] of 0..255 -> what a JPEG of quality [B] keeps of them; half: chroma is 4:2:0, else 4:4:4."""
    if x.shape[-1] not in (1, 3):
        raise UserError(f"degradation jpeg needs grey pictures or RGB, not {x.shape[-1]} channels; leave it out")
    height, width = x.shape[1:3]
    luma, chroma = tables(quality)

    def plane(v: Array, table: Array) -> Array:
        h, w = v.shape[1:]
        return _coded(_filled(v, _up(h, 8), _up(w, 8)), table)[:, :h, :w]

    if x.shape[-1] == 1:
        return plane(x[..., 0], luma)[..., None]
    y, *colours = ycc(x)
    y = plane(y, luma)
    if not half:
        return rgb(y, *(plane(v, chroma) for v in colours))
    h, w = -(-height // 2), -(-width // 2)
    small = [_halved(_filled(v, 2 * h, 2 * _up(w, 8))) for v in colours]
    found = [_coded(_filled(v, _up(h, 8), _up(w, 8)), chroma)[:, :h, :w] for v in small]
    return rgb(y, *(_doubled(v)[:, :height, :width] for v in found))


@dataclass(frozen=True)
class Jpeg(Degradation):
    """What a JPEG of a `quality` 1..100 keeps; pictures of one channel or of three, put on their 256 levels first."""

    strength: ClassVar[str] = "quality"
    quality: Quality | tuple[Quality, ...] = 40
    chroma: Literal["4:2:0", "4:4:4"] = "4:2:0"

    def level(self, rng: Array, num: int) -> Array:
        """A whole number of the range."""
        low, high = self.span
        return jax.random.randint(rng, (num,), low, high + 1).astype(jnp.float32)

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Whole levels, as floats."""
        return from_levels(through(to_levels(x, 256), level, self.chroma == "4:2:0"), 256).astype(jnp.float32)

"""Hide: a part of the picture is to be made anew from the rest (Pathak et al. 2016, arXiv:1604.07379, section 3.3)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.given import FilePath
from jaxgen.core.lender import Frozen
from jaxgen.core.linear import Linear, masked
from jaxgen.core.ranges import Inside
from jaxgen.core.spec import Field, Spec
from jaxgen.core.task import Batch, Task, picture_target, with_conditions
from jaxgen.errors import UserError
from jaxgen.images import read_mask, to_float

Array = jax.Array
# (size, height, width, num, rng) -> bool [num, H, W], True: hidden
Shape = Callable[[float, int, int, int, Array], Array]


def _between(height: int, width: int, top: Array, bottom: Array, left: Array, right: Array) -> Array:
    """Rectangles of pixels from first row to end of the rows, first column to end of the columns; [num] or one for all."""
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    top, bottom, left, right = (jnp.reshape(at, (-1, 1, 1)) for at in (top, bottom, left, right))
    return (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)


def _box(size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """A box with `size` of both sides, anywhere."""
    rows, columns = round(size * height), round(size * width)
    room = jnp.array([height - rows + 1, width - columns + 1])
    top, left = jax.random.randint(rng, (num, 2), 0, room).T  # examples first: a fuller batch moves no box
    return _between(height, width, top, top + rows, left, left + columns)


def _centre(size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """A box with `size` of both sides, in the middle."""
    rows, columns = round(size * height), round(size * width)
    top, left = (height - rows) // 2, (width - columns) // 2
    return _between(height, width, top, top + rows, left, left + columns)


def _expand(size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """All but a box in the middle, the sides of which are shorter by `size`: the picture is to be continued."""
    return ~_centre(1.0 - size, height, width, num, rng)


def _half(size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """A band with `size` of one side, along any of the four borders."""
    rows, columns = round(size * height), round(size * width)
    bands = [
        (0, rows, 0, width), (height - rows, height, 0, width),
        (0, height, 0, columns), (0, height, width - columns, width),
    ]  # fmt: skip
    return _between(height, width, *jnp.array(bands)[jax.random.randint(rng, (num,), 0, len(bands))].T)


def _lower(size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """A band with `size` of the height, along the lower border."""
    return _between(height, width, height - round(size * height), height, 0, width)


def _lines(size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """Every second row."""
    return jnp.broadcast_to(jnp.arange(height)[:, None] % 2 == 1, (1, height, width))


def _pixels(size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """All but every second pixel of every second row."""
    return (jnp.arange(height)[:, None] % 2 + jnp.arange(width) % 2 > 0)[None]


def _salt(size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """Every pixel with the probability `size`."""
    return jax.random.bernoulli(rng, size, (num, height, width))


class Brush(NamedTuple):
    """Ranges of LaMa's strokes, in pixels of a picture of 256 (Suvorov et al. 2021, arXiv:2109.07161, and its program)."""

    least: int  # strokes
    most: int
    width: int  # of a brush of 5 .. 4 + width
    length: int  # of a segment of 10 .. 9 + length; a stroke has 1 .. 5


def _strokes(brush: Brush, size: float, height: int, width: int, num: int, rng: Array) -> Array:
    """Broken lines. Those of a picture turn one way and the other in turn; what would hide more than half of it is left out."""
    keys, scale = jax.random.split(rng, 7), min(height, width) / 256
    many, sides = (num, brush.most, 5), jnp.array([height, width])
    times = jax.random.randint(keys[0], (num, 1), brush.least, brush.most + 1)
    there = jnp.arange(brush.most) < times
    there = there[..., None] & (jnp.arange(5) < jax.random.randint(keys[1], (num, brush.most, 1), 1, 6))
    starts = jax.random.randint(keys[2], (num, brush.most, 1, 2), 0, sides).astype(jnp.float32)
    angles = 0.01 + jax.random.randint(keys[3], many, 0, 4)
    angles = jnp.where(jnp.arange(brush.most)[:, None] % 2 == 0, 2 * math.pi - angles, angles)
    lengths = scale * (10 + jax.random.randint(keys[4], many, 0, brush.length))
    reach = jnp.maximum(0.5 * scale * (5 + jax.random.randint(keys[5], many, 0, brush.width)), 0.5)
    ways = lengths[..., None] * jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
    places = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).astype(jnp.float32)
    spread = lambda v: v.reshape(num, 1, 1, -1)  # noqa: E731

    def draw(carry: tuple[Array, Array], told: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        place, hidden = carry
        first, start, way, reach, there = told
        place = jnp.where(first, start, place)
        end = jnp.clip(place + way, 0, sides)
        along, off = spread(end - place), places - spread(place)
        share = (off * along).sum(-1, keepdims=True) / jnp.maximum((along**2).sum(-1, keepdims=True), 1e-6)
        far = jnp.linalg.norm(off - jnp.clip(share, 0.0, 1.0) * along, axis=-1)
        more = hidden | ((far <= spread(reach)[..., 0]) & spread(there)[..., 0])
        fits = more.mean((1, 2), keepdims=True) <= 0.5
        return (end, jnp.where(fits, more, hidden)), None

    turn = lambda v: jnp.moveaxis(v.reshape(num, brush.most * 5, *v.shape[3:]), 1, 0)  # noqa: E731
    firsts = jnp.arange(brush.most * 5) % 5 == 0
    told = (firsts, turn(jnp.broadcast_to(starts, (*many, 2))), turn(ways), turn(reach), turn(there))
    (_, hidden), _ = jax.lax.scan(draw, (jnp.zeros((num, 2)), jnp.zeros((num, height, width), bool)), told)
    return hidden


SIZED: dict[str, Shape] = {"box": _box, "half": _half, "lower": _lower, "centre": _centre, "expand": _expand}
SHAPES: dict[str, Shape] = {
    **SIZED, "salt": _salt, "lines": _lines, "pixels": _pixels,
    "thin": partial(_strokes, Brush(4, 50, 10, 40)),
    "medium": partial(_strokes, Brush(4, 5, 50, 100)),
    "thick": partial(_strokes, Brush(1, 5, 100, 200)),
}  # fmt: skip
FILE = "file"


@lru_cache(maxsize=8)
def _read(file: str) -> np.ndarray:
    """bool [H, W] of a mask's file."""
    return read_mask(file)


@dataclass(frozen=True)
class Hide(Task):
    """Adds the conditions `mask` [H, W, 1], 1 where the picture is hidden, and `shown`, the picture with that part grey.

    Every example has a place of its own; all frames of a clip share it.
    """

    # box: anywhere; centre; half: along one of the four borders; lower: the lower one; expand: all around; thin, medium, thick:
    # strokes; lines: every second row; pixels: all but every second of these; salt: pixels here and there; file
    shape: str = "box"
    size: Inside = 0.5  # of what is hidden, in sides of the picture; of salt the share of the pixels; others have none
    file: FilePath = ""  # of shape=file: a picture that is white where others are hidden

    def __post_init__(self) -> None:
        if self.shape not in (*SHAPES, FILE):
            raise UserError(f"task hide: shape={self.shape!r} is unknown; there are: {', '.join((*SHAPES, FILE))}")
        if bool(self.file) != (self.shape == FILE):
            cure = "set tasks.hide.shape=file" if self.file else "set tasks.hide.file=FILE, or tasks.hide.shape=box"
            raise UserError(f"task hide: shape={self.shape!r} and file={self.file!r} do not belong together; {cure}")

    def spec(self, spec: Spec) -> Spec:
        """With mask and shown; a UserError where there is no picture, or less than a pixel would be hidden."""
        field = picture_target(spec, self)
        height, width = field.shape[-3:-1]
        if self.shape in SIZED and not all(0 < round(self.size * side) < side for side in (height, width)):
            raise UserError(
                f"task hide: size={self.size} hides no pixel of {height}x{width}, or all; set tasks.hide.size=0.5"
            )
        if self.shape == FILE:
            hidden = _read(self.file)
            if hidden.shape != (height, width):
                raise UserError(
                    f"tasks.hide.file={self.file} is {hidden.shape[0]}x{hidden.shape[1]} and the pictures are {height}x{width}; "
                    "name a mask of that size"
                )
            if hidden.all() or not hidden.any():
                raise UserError(
                    f"tasks.hide.file={self.file} hides {'all' if hidden.all() else 'nothing'} of the picture; paint white what is "
                    "to be made anew, and the rest black"
                )
        mask = Field((*field.shape[:-1], 1), "float32", "mask")
        return with_conditions(spec, self, mask=mask, shown=Field(field.shape, "float32", field.kind))

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The batch with mask and shown; the target stays whole."""
        x = to_float(batch[spec.target])
        num, (height, width) = len(x), x.shape[-3:-1]
        if self.shape == FILE:
            hidden = jnp.asarray(_read(self.file))[None]
        else:
            hidden = SHAPES[self.shape](self.size, height, width, num, rng)
        hidden = hidden.reshape(-1, *[1] * (x.ndim - 4), height, width, 1)
        mask = jnp.broadcast_to(hidden, (*x.shape[:-1], 1)).astype(jnp.float32)
        return {**batch, "mask": mask, "shown": jnp.where(hidden, 0.0, x).astype(jnp.float32)}

    def given(self, spec: Spec) -> Field:
        """A picture of the target's size."""
        return spec[spec.target]

    def ask(self, images: Array, known: Array | None = None) -> Batch:
        """mask and shown of pictures [B, ..., H, W, C] with what is to be made anew."""
        if known is None:
            raise UserError("task hide needs a mask that says which part of the picture is to be made anew; give one")
        known = jnp.broadcast_to(known, (*images.shape[:-1], 1)) > 0
        return {"mask": 1.0 - known.astype(jnp.float32), "shown": jnp.where(known, images, 0.0).astype(jnp.float32)}

    def finish(self, cond: Batch, made: Array) -> Array:
        """What is shown stays."""
        return jnp.where(cond["mask"] > 0, made, cond["shown"])

    @property
    def noisy(self) -> bool:
        """Never."""
        return False

    def linear(self, cond: Batch) -> Linear:
        """The pixels that are shown."""
        return masked(cond["shown"], 1.0 - cond["mask"])

"""Hide: a part of the picture is to be made anew from the rest (Pathak et al. 2016, arXiv:1604.07379, section 3.3)."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.lender import Frozen
from jaxgen.core.linear import Linear, masked
from jaxgen.core.ranges import Inside
from jaxgen.core.spec import Field, Spec
from jaxgen.core.task import Batch, Task, picture_target, with_conditions
from jaxgen.errors import UserError
from jaxgen.images import to_float

Array = jax.Array
Area = tuple[Array, Array, Array, Array]  # int32 [B] each: first row, end of the rows, first column, end of the columns


def _box(size: float, height: int, width: int, num: int, rng: Array) -> Area:
    """A box with `size` of both sides, anywhere."""
    rows, columns = round(size * height), round(size * width)
    room = jnp.array([height - rows + 1, width - columns + 1])
    top, left = jax.random.randint(rng, (num, 2), 0, room).T  # examples first: a fuller batch moves no box
    return top, top + rows, left, left + columns


def _half(size: float, height: int, width: int, num: int, rng: Array) -> Area:
    """A band with `size` of one side, along any of the four borders."""
    rows, columns = round(size * height), round(size * width)
    bands = [
        (0, rows, 0, width), (height - rows, height, 0, width),
        (0, height, 0, columns), (0, height, width - columns, width),
    ]  # fmt: skip
    return tuple(jnp.array(bands)[jax.random.randint(rng, (num,), 0, len(bands))].T)


def _lower(size: float, height: int, width: int, num: int, rng: Array) -> Area:
    """A band with `size` of the height, along the lower border."""
    return tuple(jnp.full((num,), at) for at in (height - round(size * height), height, 0, width))


SHAPES: dict[str, Callable[[float, int, int, int, Array], Area]] = {"box": _box, "half": _half, "lower": _lower}


@dataclass(frozen=True)
class Hide(Task):
    """Adds the conditions `mask` [H, W, 1], 1 where the picture is hidden, and `shown`, the picture with that part grey.

    Every example has a place of its own; all frames of a clip share it.
    """

    shape: str = "box"  # "box": anywhere; "half": along one of the four borders; "lower": the lower one
    size: Inside = 0.5  # of what is hidden, in sides of the picture

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UserError(f"task hide: shape={self.shape!r} is unknown; there are: {', '.join(SHAPES)}")

    def spec(self, spec: Spec) -> Spec:
        """With mask and shown; a UserError where there is no picture, or less than a pixel would be hidden."""
        field = picture_target(spec, self)
        if not all(0 < round(self.size * side) < side for side in field.shape[-3:-1]):
            raise UserError(
                f"task hide: size={self.size} hides no pixel of {field.shape[-3]}x{field.shape[-2]}, or all; "
                "set tasks.hide.size=0.5"
            )
        mask = Field((*field.shape[:-1], 1), "float32", "mask")
        return with_conditions(spec, self, mask=mask, shown=Field(field.shape, "float32", field.kind))

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The batch with mask and shown; the target stays whole."""
        x = to_float(batch[spec.target])
        num, (height, width) = len(x), x.shape[-3:-1]
        top, bottom, left, right = (at[:, None] for at in SHAPES[self.shape](self.size, height, width, num, rng))
        rows, columns = jnp.arange(height), jnp.arange(width)
        hidden = ((top <= rows) & (rows < bottom))[:, :, None] & ((left <= columns) & (columns < right))[:, None]
        hidden = hidden.reshape(num, *[1] * (x.ndim - 4), height, width, 1)
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

    def linear(self, cond: Batch) -> Linear:
        """The pixels that are shown."""
        return masked(cond["shown"], 1.0 - cond["mask"])

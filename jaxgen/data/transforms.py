"""Augmentations on the host, one example at a time; Grain hands each a generator that is fixed by (seed, position).

A transform is given what of an example has places, [..., H, W, C] by name, and moves all of it by one draw.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxgen.core.ranges import Natural, Share
from jaxgen.errors import UserError

Pictures = dict[str, np.ndarray]


class Transform(Protocol):
    """A frozen dataclass of options."""

    def __call__(self, pictures: Pictures, rng: np.random.Generator) -> Pictures:
        """The same names, shapes and dtypes."""


@dataclass(frozen=True)
class Flip:
    """Mirror left-right with probability `p`."""

    p: Share = 0.5

    def __call__(self, pictures: Pictures, rng: np.random.Generator) -> Pictures:
        """All pictures mirrored, or none."""
        return {name: x[..., ::-1, :] for name, x in pictures.items()} if rng.random() < self.p else pictures


@dataclass(frozen=True)
class Crop:
    """Pad by reflection on every side and cut out the original size at a random place."""

    pad: Natural = 4

    def __call__(self, pictures: Pictures, rng: np.random.Generator) -> Pictures:
        """All pictures cut at one place; those of several sizes are a UserError."""
        sizes = {x.shape[-3:-1] for x in pictures.values()}
        if len(sizes) > 1:
            listed = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
            raise UserError(f"transform crop needs pictures of one size, not {listed}; use data.augment's crop")
        dy, dx = rng.integers(-self.pad, self.pad, 2, endpoint=True)
        ((height, width),) = sizes
        rows, columns = _mirrored(dy, height)[:, None], _mirrored(dx, width)
        return {name: x[..., rows, columns, :] for name, x in pictures.items()}


def _mirrored(shift: int, length: int) -> np.ndarray:
    """Rows shift .. shift + length of an image continued by reflection: a cut without building the padded image."""
    last = max(length - 1, 1)
    return np.minimum(np.abs((np.arange(length) + shift + last) % (2 * last) - last), length - 1)

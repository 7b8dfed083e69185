"""Augmentations on the host, one image at a time; Grain hands each a generator that is fixed by (seed, position)."""

from dataclasses import dataclass

import grain
import numpy as np


@dataclass(frozen=True)
class Flip(grain.transforms.RandomMap):
    """Mirror left-right with probability `p`."""

    p: float = 0.5

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        """dict(image=[H, W, C], ...) -> the same keys and shapes."""
        return {**element, "image": element["image"][:, ::-1]} if rng.random() < self.p else element


@dataclass(frozen=True)
class Crop(grain.transforms.RandomMap):
    """Pad by reflection on every side and cut out the original size at a random place."""

    pad: int = 4

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        """dict(image=[H, W, C], ...) -> the same keys and shapes."""
        image = element["image"]
        dy, dx = rng.integers(-self.pad, self.pad, 2, endpoint=True)
        rows, columns = _mirrored(dy, image.shape[0]), _mirrored(dx, image.shape[1])
        return {**element, "image": image[rows[:, None], columns]}


def _mirrored(shift: int, length: int) -> np.ndarray:
    """Rows shift .. shift + length of an image continued by reflection: a cut without building the padded image."""
    last = max(length - 1, 1)
    return np.minimum(np.abs((np.arange(length) + shift + last) % (2 * last) - last), length - 1)

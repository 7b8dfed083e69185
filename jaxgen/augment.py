"""Augmentations on the device, inside the training step: a pure function of the step's key, so exactly resumable."""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxgen.method import Batch
from jaxgen.state import Array


class Augment(Protocol):
    """Images in, images of the same shape and dtype out."""

    def __call__(self, batch: Batch, rng: Array) -> Batch:
        """Draws one transformation per example."""


@dataclass(frozen=True)
class Flip:
    """Mirror left-right with probability `p`."""

    p: float = 0.5

    def __call__(self, batch: Batch, rng: Array) -> Batch:
        """[B, H, W, C]."""
        x = batch["image"]
        flip = jax.random.bernoulli(rng, self.p, (x.shape[0], 1, 1, 1))
        return {**batch, "image": jnp.where(flip, x[:, :, ::-1], x)}


@dataclass(frozen=True)
class Crop:
    """Pad by reflection on every side and cut out the original size at a random place."""

    pad: int = 4

    def __call__(self, batch: Batch, rng: Array) -> Batch:
        """[B, H, W, C]."""
        x = batch["image"]
        padded = jnp.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)), mode="reflect")
        offsets = jax.random.randint(rng, (x.shape[0], 2), 0, 2 * self.pad + 1)

        def cut(image: Array, offset: Array) -> Array:
            return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), x.shape[1:])

        return {**batch, "image": jax.vmap(cut)(padded, offsets)}

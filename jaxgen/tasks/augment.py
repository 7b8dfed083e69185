"""Augmentations on the device, inside the training step: a pure function of the step's key, so exactly resumable."""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from jaxgen.core.method import Batch
from jaxgen.core.state import Array
from jaxgen.errors import UserError
from jaxgen.images import to_float


class Augment(Protocol):
    """Images in, images of the same shape out; one that has `labels` says in batch["augment"] what was done to each."""

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


# scaling filter of the wavelet sym6 (Daubechies, "Ten Lectures on Wavelets"): orthonormal to its shifts by two
SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
CENTRE = float(np.arange(len(SYM6)) @ SYM6 / SYM6.sum())  # where it leaves what is smooth
MARGIN = len(SYM6) // 2  # pixels beyond the border that an output pixel depends on


def finer(side: int) -> np.ndarray:
    """[side, 2 side + 10]: pixels to samples twice as dense, sample m at pixel (m - CENTRE) / 2; its transpose goes back."""
    out = np.zeros((side, 2 * side + len(SYM6) - 2), np.float32)
    for i in range(side):
        out[i, 2 * i : 2 * i + len(SYM6)] = SYM6
    return out


def warp(x: Array, inverse: Array) -> Array:
    """x [B, H, W, C] float moved by affine maps given by their inverses [B, 2, 3] in pixels (row, column) from the centre.

    Bilinear between samples twice as dense, low-passed by a wavelet on both ways (Karras et al. 2020, arXiv:2006.06676,
    appendix B), so that the identity changes nothing; beyond its border the image goes on mirrored.
    """
    einsum = functools.partial(jnp.einsum, precision="highest")  # on an accelerator too, or the identity would blur
    sides = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="reflect")
    rows, columns = (finer(side + 2 * MARGIN) for side in sides)
    fine = einsum("bhwc,hi,wj->bcij", padded, rows, columns)
    pixels = [(np.arange(2 * side + len(SYM6) - 2) - CENTRE) / 2 - (side - 1) / 2 for side in sides]
    to = jnp.stack([*jnp.meshgrid(*pixels, indexing="ij"), jnp.ones([len(p) for p in pixels])])
    source = einsum("bkl,lij->kbij", inverse, to)

    def sample_at(u: Array, side: int) -> Array:  # where a pixel lies among the dense samples
        u = u + (side - 1) / 2
        last = max(side - 1, 1)
        folded = last - jnp.abs(jnp.mod(u, 2 * last) - last)
        u = jnp.where((u > -MARGIN / 2) & (u < last + MARGIN / 2), u, folded)
        return 2 * (u + MARGIN) + CENTRE

    at = jnp.stack([sample_at(u, side) for u, side in zip(source, sides, strict=True)], 1)  # [B, 2, I, J]
    each = jax.vmap(lambda channel, at: map_coordinates(channel, list(at), order=1, mode="nearest"), (0, None))
    moved = jax.vmap(each)(fine, at)
    rows, columns = (finer(side) for side in sides)
    return einsum("bcij,hi,wj->bhwc", moved, rows, columns)


@dataclass(frozen=True)
class Geometric:
    """Mirrored, scaled, turned, stretched and shifted images, of which the net is told (Karras et al. 2022, EDM, table 6).

    The net has a field `augment` of 9: 0 for "as it is", which is what sampling asks for, so that nothing leaks into the
    samples. p: probability of each transformation (the paper: 0.12 on CIFAR-10, 0.15 at 64 x 64), but of left-right
    mirroring, which is always a fair coin.
    """

    p: float = 0.12
    scale: float = 0.2  # standard deviation of log2 of the size
    stretch: float = 0.2  # of log2 of the size along a random direction, and of its inverse across
    shift: float = 0.125  # standard deviation in sides of the image
    turn: float = 1.0  # largest angle, in units of pi
    upside: float = 0.5  # share of the chosen that is mirrored top-bottom

    labels: ClassVar[int] = 9

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise UserError(f"config.data.augment: p={self.p} of geometric must lie in [0, 1]")

    def __call__(self, batch: Batch, rng: Array) -> Batch:
        """[B, H, W, C] -> float32 in about [-1, 1], and augment [B, 9]."""
        x = to_float(batch["image"])
        keys = iter(jax.random.split(rng, 12))
        num = len(x)

        def sometimes(value: Array) -> Array:
            chosen = jax.random.bernoulli(next(keys), self.p, (num,))
            return jnp.where(chosen.reshape(-1, *[1] * (value.ndim - 1)), value, 0.0)

        angle = lambda: jax.random.uniform(next(keys), (num,), minval=-math.pi, maxval=math.pi)  # noqa: E731
        mirror = jax.random.bernoulli(next(keys), 0.5, (num,)).astype(jnp.float32)
        upside = sometimes(jax.random.bernoulli(next(keys), self.upside, (num,)).astype(jnp.float32))
        size = sometimes(jax.random.normal(next(keys), (num,)))
        turn = sometimes(self.turn * angle())
        along, stretch = angle(), sometimes(jax.random.normal(next(keys), (num,)))
        shift = sometimes(jax.random.normal(next(keys), (num, 2)))

        x = jnp.where(mirror[:, None, None, None] > 0, x[:, :, ::-1], x)
        x = jnp.where(upside[:, None, None, None] > 0, x[:, ::-1], x)
        # scaled, turned, stretched, shifted: the inverse undoes the last first
        inverse = jnp.exp2(-self.scale * size)[:, None, None] * rotation(-turn)
        factors = jnp.exp2(self.stretch * jnp.stack([-stretch, stretch], -1))
        moved = shift * self.shift * jnp.array(x.shape[1:3])
        with jax.default_matmul_precision("highest"):
            inverse = inverse @ (rotation(along) * factors[:, None]) @ rotation(-along)
            inverse = jnp.concatenate([inverse, -inverse @ moved[..., None]], -1)
        x = warp(x, inverse)
        told = [
            mirror, upside, size, jnp.cos(turn) - 1, jnp.sin(turn), stretch * jnp.cos(along), stretch * jnp.sin(along),
            shift[:, 0], shift[:, 1],
        ]  # fmt: skip
        return {**batch, "image": x, "augment": jnp.stack(told, -1)}


def rotation(angle: Array) -> Array:
    """[B] -> [B, 2, 2]."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, -s], -1), jnp.stack([s, c], -1)], -2)

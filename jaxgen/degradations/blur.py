"""Blur of pictures [B, H, W, C], a kernel for every example; the border is continued.

A kernel has the size of the largest strength of its range, so that a program serves all.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.ranges import Positive, Range
from jaxgen.degradations.degradation import Degradation, Maps, wide
from jaxgen.errors import UserError
from jaxgen.metrics.resize import resize

Array = jax.Array


def blurred(x: Array, kernels: Array) -> Array:
    """Pictures [B, H, W, C] correlated each with its kernel [B, k, k], k odd, through Fourier's transform."""
    reach = kernels.shape[-1] // 2
    h, w = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "edge")
    size = x.shape[1:3]
    pictures = jnp.fft.rfft2(jnp.moveaxis(x, -1, 1), size)
    y = jnp.fft.irfft2(pictures * jnp.conj(jnp.fft.rfft2(kernels, size))[:, None], size)
    return jnp.moveaxis(y[:, :, :h, :w], 1, -1)


def gaussian_taps(sigma: Array, reach: int) -> Array:
    """[B] -> [B, 2 reach + 1], sums of 1."""
    taps = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1) / sigma[:, None]) ** 2)
    return taps / taps.sum(-1, keepdims=True)


def along_both(x: Array, taps: Array) -> Array:
    """Pictures [B, H + k - 1, W + k - 1, C] correlated with taps [B or 1, k] along both sides -> [B, H, W, C]."""
    num = taps.shape[-1]
    height, width = (side - num + 1 for side in x.shape[1:3])
    x = sum(wide(taps[:, i]) * x[:, i : i + height] for i in range(num))
    return sum(wide(taps[:, i]) * x[:, :, i : i + width] for i in range(num))


@dataclass(frozen=True)
class Blur(Degradation):
    """A Gaussian of deviation `sigma` pixels, cut off at three of them."""

    strength: ClassVar[str] = "sigma"
    sigma: Positive | tuple[Positive, ...] = 1.6

    @property
    def reach(self) -> int:
        """Pixels to each side."""
        return max(1, int(3 * self.span[1] + 0.5))

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Along rows, then along columns."""
        n = self.reach
        return along_both(jnp.pad(x, ((0, 0), (n, n), (n, n), (0, 0)), "edge"), gaussian_taps(level, n))

    def maps(self, shape: tuple[int, ...]) -> Maps:
        """A band matrix for each axis."""
        low, high = self.span
        if low != high:
            raise UserError(f"degradation blur is one linear map with one sigma; set sigma={high}")
        taps = np.exp(-0.5 * (np.arange(-self.reach, self.reach + 1) / high) ** 2)
        taps /= taps.sum()

        def along(size: int) -> np.ndarray:
            table = np.zeros((size, size))
            for i, tap in enumerate(taps):
                np.add.at(table, (np.arange(size), np.clip(np.arange(size) + i - self.reach, 0, size - 1)), tap)
            return table

        return Maps(along(shape[0]), along(shape[1]))


@dataclass(frozen=True)
class Defocus(Degradation):
    """A disc of so many pixels, its edge shared out by area: a lens that looks elsewhere."""

    strength: ClassVar[str] = "radius"
    radius: Positive | tuple[Positive, ...] = 3.0

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Means over the disc."""
        reach = math.ceil(self.span[1])
        fine = (jnp.arange(4 * (2 * reach + 1)) + 0.5) / 4 - reach - 0.5  # four by four places of a pixel
        inside = fine[:, None] ** 2 + fine**2 <= level[:, None, None] ** 2
        side = 2 * reach + 1
        kernels = inside.reshape(-1, side, 4, side, 4).sum((2, 4)).astype(jnp.float32)
        kernels = kernels.at[:, reach, reach].add(jnp.where(kernels.sum((1, 2)) > 0, 0.0, 1.0))
        return blurred(x, kernels / kernels.sum((1, 2), keepdims=True))


@dataclass(frozen=True)
class Motion(Degradation):
    """A camera that shakes: the kernel is a random path of `length` pixels (after Boracchi & Foi 2012, as DeblurGAN has it,
    arXiv:1711.07064, sec. 4.1).

    Speed and direction drift, are drawn back to the start, and change at once now and then. shake=0: a straight line.
    """

    strength: ClassVar[str] = "length"
    length: Positive | tuple[Positive, ...] = 12.0
    shake: Annotated[float, Range(least=0, most=1)] = 0.5

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """Means along the path."""
        reach = math.ceil(self.span[1] / 2) + 1
        paths = jax.vmap(partial(_path, shake=self.shake))(level, jax.random.split(rng, len(x)))
        kernels = jax.vmap(partial(_splat, reach=reach))(jnp.clip(paths, -reach + 1.0, reach - 1.0))
        return blurred(x, kernels)


STEPS = 96  # of a path


def _path(length: Array, rng: Array, shake: float) -> Array:
    """Places [STEPS, 2] around their mean; the path is `length` long."""
    angle_rng, drift_rng, jump_rng, turn_rng = jax.random.split(rng, 4)
    angle = jax.random.uniform(angle_rng, minval=0.0, maxval=2 * jnp.pi)
    drift = shake * jax.random.normal(drift_rng, (STEPS, 2))
    jump = jax.random.bernoulli(jump_rng, 2.0 * shake / STEPS, (STEPS,))
    turn = jax.random.uniform(turn_rng, (STEPS,), minval=-jnp.pi, maxval=jnp.pi)

    def step(carry: tuple[Array, Array], drawn: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (place, speed), (push, jumps, by) = carry, drawn
        back = -0.7 * shake * place / length
        speed = speed + 0.3 * push + back
        cos, sin = jnp.cos(by), jnp.sin(by)
        turned = jnp.stack([cos * speed[0] - sin * speed[1], sin * speed[0] + cos * speed[1]])
        speed = jnp.where(jumps, turned, speed)
        speed = speed / jnp.maximum(jnp.linalg.norm(speed), 1e-6)
        place = place + speed * length / (STEPS - 1)
        return (place, speed), place

    start = (jnp.zeros(2), jnp.stack([jnp.cos(angle), jnp.sin(angle)]))
    places = jax.lax.scan(step, start, (drift, jump, turn))[1]
    return places - places.mean(0)


def _splat(places: Array, reach: int) -> Array:
    """Places [n, 2] -> a kernel [2 reach + 1, 2 reach + 1] of sum 1: each is shared by the four pixels around it."""
    grid = jnp.arange(-reach, reach + 1)
    rows, columns = (jnp.maximum(0.0, 1.0 - jnp.abs(places[:, i, None] - grid)) for i in (0, 1))
    return jnp.einsum("nh,nw->hw", rows, columns, precision=jax.lax.Precision.HIGHEST) / len(places)


@dataclass(frozen=True)
class Downsample(Degradation):
    """Made smaller by `factor` and large again, by a way of jaxgen.metrics.resize: what super-resolution must undo."""

    factor: Annotated[float, Range(least=1)] = 2.0
    how: str = "pil_bicubic"

    def level(self, rng: Array, num: int) -> Array:
        """The factor."""
        return jnp.full((num,), self.factor)

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """There and back."""
        height, width = x.shape[-3:-1]
        small = (max(1, round(height / self.factor)), max(1, round(width / self.factor)))
        return resize(resize((x + 1.0) * 127.5, small, self.how), (height, width), self.how) / 127.5 - 1.0

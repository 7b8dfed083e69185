"""The second-order degradation of Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833, section 3): twice blur, resize, noise and JPEG,
then small, with rings (sinc) and JPEG in either order. Every example draws its own kernels, sizes and strengths.

Sizes that are drawn keep one program: a picture lies at the upper left of a canvas of the largest size, its last row and column go
on behind it, and a resize is a product with a matrix that is built from its sizes on the device.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from jaxgen.core.ranges import NonNegative, Positive, Range, Share
from jaxgen.degradations.blur import blurred
from jaxgen.degradations.degradation import Degradation, bright, wide
from jaxgen.degradations.jpeg import Quality, through
from jaxgen.errors import UserError
from jaxgen.images import from_levels, to_levels

Array = jax.Array

KINDS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)  # shares: Gaussian, generalised, plateau; each round and oval
REACH = 10  # kernels have 7 to 21 pixels a side
WAYS = 3  # area, bilinear, bicubic: each as often


@dataclass(frozen=True)
class SecondOrder(Degradation):
    """Pictures of 1 / `factor` of the size. Ranges (low, high) of the first round, and of the second where a name ends in 2."""

    factor: Annotated[int, Range(least=1)] = 4
    sigma: tuple[Positive, ...] = (0.2, 3.0)  # of kernels, pixels
    sigma2: tuple[Positive, ...] = (0.2, 1.5)
    size: tuple[Positive, ...] = (0.15, 1.5)  # of the picture, in its sides
    size2: tuple[Positive, ...] = (0.3, 1.2)  # in sides of what is made
    noise: tuple[NonNegative, ...] = (1 / 127.5, 30 / 127.5)  # deviation of pixels in [-1, 1]
    noise2: tuple[NonNegative, ...] = (1 / 127.5, 25 / 127.5)
    shot: tuple[NonNegative, ...] = (0.05, 3.0)  # times the noise of 256 photons
    shot2: tuple[NonNegative, ...] = (0.05, 2.5)
    quality: tuple[Quality, ...] = (30, 95)
    grey: Share = 0.4  # of noise that all channels share
    rings: Share = 0.1  # of kernels that are sinc
    blur2: Share = 0.8  # of pictures that are blurred a second time
    rings2: Share = 0.8  # of pictures that ring at the end

    @property
    def shrinks(self) -> int:
        """The factor."""
        return self.factor

    def __post_init__(self) -> None:
        for name in ("sigma", "sigma2", "size", "size2", "noise", "noise2", "shot", "shot2", "quality"):
            span = getattr(self, name)
            if len(span) != 2 or span[0] > span[1]:
                raise UserError(
                    f"degradation second_order: {name}={span} is no range; set {name}={type(self).__dict__[name]}"
                )

    def __call__(self, x: Array, level: Array, rng: Array) -> Array:
        """[B, H, W, C] -> [B, H / factor, W / factor, C], on 256 levels."""
        keys = iter(jax.random.split(rng, 24))
        num, (height, width) = len(x), x.shape[1:3]
        whole = jnp.broadcast_to(jnp.array([height, width]), (num, 2))
        last = (height // self.factor, width // self.factor)
        small = jnp.broadcast_to(jnp.array(last), (num, 2))

        x = blurred(x, kernels(next(keys), num, self.sigma, self.rings))
        drawn = _drawn(next(keys), num, self.size, (0.2, 0.7))
        first = jnp.maximum(jnp.round(whole * drawn[:, None]).astype(jnp.int32), self.factor)
        canvas = [math.ceil(side * max(self.size[1], 1.0)) for side in (height, width)]
        x = resized(x, whole, first, tuple(canvas), next(keys))
        x = _continued(self.noisy(x, self.noise, self.shot, next(keys)), first)
        x = self.compressed(x, next(keys))

        soft = blurred(_continued(x, first), kernels(next(keys), num, self.sigma2, self.rings))
        x = jnp.where(wide(jax.random.bernoulli(next(keys), self.blur2, (num,))), soft, x)
        drawn = _drawn(next(keys), num, self.size2, (0.3, 0.4))
        second = jnp.maximum(jnp.round(small * drawn[:, None]).astype(jnp.int32), 1)
        canvas = [math.ceil(side * max(self.size2[1], 1.0)) for side in last]
        x = resized(x, first, second, tuple(canvas), next(keys))
        x = _continued(self.noisy(x, self.noise2, self.shot2, next(keys)), second)

        early = wide(jax.random.bernoulli(next(keys), 0.5, (num,)))  # JPEG before the last resize, or behind the rings
        x = jnp.where(early, self.compressed(x, next(keys)), x)
        x = resized(x, second, small, last, next(keys))
        ringing = blurred(x, sinc(*_rings(next(keys), num, jnp.pi / 3)))
        x = jnp.where(wide(jax.random.bernoulli(next(keys), self.rings2, (num,))), ringing, x)
        x = jnp.where(early, x, self.compressed(x, next(keys)))
        return from_levels(to_levels(x, 256), 256).astype(jnp.float32)

    def noisy(self, x: Array, sigma: tuple[float, ...], shot: tuple[float, ...], rng: Array) -> Array:
        """Gaussian noise or shot noise (by its normal limit), by the toss of a coin, cut off."""
        keys = jax.random.split(rng, 5)
        num = (len(x),)
        alike = wide(jax.random.bernoulli(keys[0], self.grey, num))
        eps = jax.random.normal(keys[1], x.shape)
        eps = jnp.where(alike, eps[..., :1], eps)
        light = jnp.clip(bright(x), 0.0, 1.0)
        light = jnp.where(alike, light.mean(-1, keepdims=True), light)
        white = wide(jax.random.uniform(keys[2], num, minval=sigma[0], maxval=sigma[1]))
        shots = 2.0 * wide(jax.random.uniform(keys[3], num, minval=shot[0], maxval=shot[1])) * jnp.sqrt(light / 256.0)
        coin = wide(jax.random.bernoulli(keys[4], 0.5, num))
        return jnp.clip(x + jnp.where(coin, white, shots) * eps, -1.0, 1.0)

    def compressed(self, x: Array, rng: Array) -> Array:
        """Through JPEG."""
        quality = jax.random.randint(rng, (len(x),), self.quality[0], self.quality[1] + 1)
        return from_levels(through(to_levels(x, 256), quality), 256).astype(jnp.float32)


def _drawn(rng: Array, num: int, span: tuple[float, ...], shares: tuple[float, float]) -> Array:
    """Factors [num]: a share is larger than 1, a share smaller, the rest 1."""
    kind_rng, rng = jax.random.split(rng)
    up, down = shares
    kind, u = jax.random.uniform(kind_rng, (num,)), jax.random.uniform(rng, (num,))
    low, high = min(span[0], 1.0), max(span[1], 1.0)
    return jnp.where(kind < up, 1.0 + u * (high - 1.0), jnp.where(kind < up + down, low + u * (1.0 - low), 1.0))


def _continued(x: Array, size: Array) -> Array:
    """Canvases [B, H, W, C] whose pictures are so large [B, 2]: the last row and column go on behind them."""
    rows, columns = (jnp.minimum(jnp.arange(n), size[:, i, None] - 1) for i, n in enumerate(x.shape[1:3]))
    return jax.vmap(lambda one, r, c: one[r][:, c])(x, rows, columns)


def resized(x: Array, size: Array, out: Array, canvas: tuple[int, int], rng: Array) -> Array:
    """Canvases with pictures of that size [B, 2] -> canvases with pictures of size `out` [B, 2], each by a way that is drawn."""
    way = jax.random.randint(rng, (len(x),), 0, WAYS)
    rows, columns = (
        jax.vmap(lambda n, m, w, have=x.shape[1 + i], want=canvas[i]: matrix(n, m, have, want, w))(
            size[:, i], out[:, i], way
        )
        for i in (0, 1)
    )
    x = jnp.einsum("boh,bhwc->bowc", rows, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("bow,bhwc->bhoc", columns, x, precision=jax.lax.Precision.HIGHEST)


def matrix(size: Array, out: Array, have: int, want: int, way: Array) -> Array:
    """Weights [want, have] of torch's `interpolate` from `size` to `out` pixels, not antialiased: 0 area, 1 bilinear, 2 bicubic.

    Rows from `out` on are the last one.
    """
    o = jnp.minimum(jnp.arange(want), out - 1)[:, None].astype(jnp.float32)
    i, pitch = jnp.arange(have)[None], size / out
    whole = jnp.minimum(jnp.arange(want), out - 1)[:, None]
    inside = (i >= whole * size // out) & (i < -(-(whole + 1) * size // out))
    area = inside / inside.sum(1, keepdims=True)
    place = (o + 0.5) * pitch - 0.5
    linear = jnp.maximum(0.0, 1.0 - jnp.abs(jnp.clip(place, 0.0, size - 1.0) - i))
    cubic, first = jnp.zeros((want, have)), jnp.floor(place)
    for tap in range(-1, 3):
        source = first + tap
        cubic += _cubic(jnp.abs(place - source)) * (jnp.clip(source, 0, size - 1) == i)
    return jnp.where(way == 0, area, jnp.where(way == 1, linear, cubic))


def _cubic(d: Array, a: float = -0.75) -> Array:
    """Keys' kernel at a distance."""
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = a * (((d - 5.0) * d + 8.0) * d - 4.0)
    return jnp.where(d < 1.0, near, jnp.where(d < 2.0, far, 0.0))


def kernels(rng: Array, num: int, sigma: tuple[float, ...], rings: float) -> Array:
    """Kernels [num, 21, 21] of sum 1: Gaussians, generalised ones, plateaus, round and oval, or a sinc."""
    keys = jax.random.split(rng, 8)
    kind = jax.random.choice(keys[0], len(KINDS), (num,), p=jnp.array(KINDS))
    draw = lambda key, low, high: jax.random.uniform(key, (num, 1, 1), minval=low, maxval=high)  # noqa: E731
    across, along, turn = (draw(keys[1], *sigma), draw(keys[2], *sigma), draw(keys[3], -jnp.pi, jnp.pi))
    oval = (kind % 2 == 1)[:, None, None]
    along = jnp.where(oval, along, across)
    y, x = jnp.meshgrid(jnp.arange(-REACH, REACH + 1), jnp.arange(-REACH, REACH + 1), indexing="ij")
    u, v = jnp.cos(turn) * x + jnp.sin(turn) * y, jnp.cos(turn) * y - jnp.sin(turn) * x
    square = (u / across) ** 2 + (v / along) ** 2
    sharp, flat = draw(keys[4], 0.5, 4.0), draw(keys[5], 1.0, 2.0)
    whole = kind[:, None, None] // 2
    power = jnp.where(whole == 1, sharp, 1.0)
    found = jnp.where(whole == 2, 1.0 / (square**flat + 1.0), jnp.exp(-0.5 * jnp.maximum(square, 1e-12) ** power))
    half, cut = _rings(keys[6], num)
    found = found * _inside(half)
    found = found / found.sum((1, 2), keepdims=True)
    ring = jax.random.bernoulli(keys[7], rings, (num, 1, 1))
    return jnp.where(ring, sinc(half, cut), found)


def _rings(rng: Array, num: int, least: float = jnp.pi / 5) -> tuple[Array, Array]:
    """(half a kernel's side [num], 3 to 10 pixels; the frequency at which a sinc cuts off [num]: from pi / 3, of kernels
    of 13 pixels and more from `least`)."""
    size_rng, cut_rng = jax.random.split(rng)
    half = jax.random.randint(size_rng, (num,), 3, REACH + 1)
    low = jnp.where(half < 6, jnp.pi / 3, least)
    return half, low + jax.random.uniform(cut_rng, (num,)) * (jnp.pi - low)


def _inside(half: Array) -> Array:
    """1 where a kernel of that half side has pixels, [num, 21, 21]."""
    far = jnp.abs(jnp.arange(-REACH, REACH + 1))
    return (jnp.maximum(far[:, None], far) <= half[:, None, None]).astype(jnp.float32)


def sinc(half: Array, cut: Array) -> Array:
    """The ideal low pass of a disc of frequencies, w J1(w r) / (2 pi r), cut off and of sum 1: [num, 21, 21]."""
    axis = jnp.arange(-REACH, REACH + 1)
    r = jnp.sqrt(axis[:, None] ** 2.0 + axis**2.0)
    w = cut[:, None, None]
    turns = jnp.arange(128) * (2 * jnp.pi / 128)  # Bessel's integral: the mean over a period, exact to rounding
    bessel = jnp.cos(turns - (w * r)[..., None] * jnp.sin(turns)).mean(-1)
    found = jnp.where(r == 0, w**2 / (4 * jnp.pi), w * bessel / (2 * jnp.pi * jnp.where(r == 0, 1.0, r)))
    found = found * _inside(half)
    return found / found.sum((1, 2), keepdims=True)

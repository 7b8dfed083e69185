"""The hierarchical VAE of Child 2020 (arXiv:2011.10650, "Very Deep VAE"), which is the ladder of Soenderby et al. 2016 made deep.

Groups of latents are drawn one after the other, from the coarsest grid to the picture's own. The state h of a grid is what has
been drawn so far; with the encoder's features e of that grid

    q(z_i | z_<i, x) = N(f(h, e)),   p(z_i | z_<i) = N(g(h)),   h <- r(h + g'(h) + W z_i)                        (figure 3)

Nets are written as in the authors' program: `32x11` is 11 blocks on a grid of 32 rows, `32d2` one that is then halved (encoder),
`8m4` one whose state takes up that of the grid of 4 rows (decoder).
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Inside, Natural, Precision
from jaxgen.core.spec import TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.autoencoder import Group, Inferred
from jaxgen.nets.conditioning import image_shape
from jaxgen.nets.convolution import sum2x2, upsample2x
from jaxgen.nets.layers import Conv, Initializer, torch_kernel_init

Array = jax.Array


def blocks(text: str, letter: str, height: int) -> tuple[tuple[int, int], ...]:
    """`32x2,32d2` -> (32, 0), (32, 0), (32, 2): rows of each block's grid, and the number behind `letter` or 0."""
    found: list[tuple[int, int]] = []
    for word in text.split(","):
        match = re.fullmatch(rf"([1-9]\d*)(?:(x|{letter})([1-9]\d*))?", word.strip())
        if not match:
            raise UserError(f"{word.strip()!r} is no block, such as 8x2 or 8{letter}2; {cure(height)}")
        rows, many, number = int(match[1]), match[2] != letter, int(match[3] or 1)
        found += [(rows, 0)] * number if many else [(rows, number)]
    return tuple(found)


def cure(height: int) -> str:
    """A net for pictures of that height."""
    half = height // 2
    return (
        f"set enc='{height}x1,{height}d2,{half}x1' dec='{half}x1,{height}m{half}'"
        if height % 2 == 0
        else f"set enc='{height}x1' dec='{height}x1'"
    )


def scaled(share: float) -> Initializer:
    """torch's default times the root of `share`: of what is added to a sum of 1 / share terms."""
    return lambda key, shape, dtype=jnp.float32: math.sqrt(share) * torch_kernel_init(key, shape, dtype)


def shrunk(x: Array, by: int) -> Array:
    """Means of by x by."""
    while by % 2 == 0:
        x, by = sum2x2(x) / 4, by // 2
    b, h, w, c = x.shape
    return x.reshape(b, h // by, by, w // by, by, c).mean((2, 4)) if by > 1 else x


def grown(x: Array, by: int) -> Array:
    """Every place by x by times."""
    while by % 2 == 0:
        x, by = upsample2x(x), by // 2
    return x.repeat(by, 1).repeat(by, 2) if by > 1 else x


class Block(nn.Module):
    """GELU and a convolution, four times: 1x1 to `middle` channels, two of kernel `size`, 1x1 to `features`."""

    middle: int
    features: int
    size: int  # 3, or 1 on grids of two rows and less
    residual: bool = False
    down: int = 0
    last_init: Initializer = torch_kernel_init
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x
        for features, size in ((self.middle, 1), (self.middle, self.size), (self.middle, self.size)):
            y = Conv(features, size, dtype=self.dtype)(nn.gelu(y, approximate=False))
        y = Conv(self.features, 1, dtype=self.dtype, kernel_init=self.last_init)(nn.gelu(y, approximate=False))
        y = x + y if self.residual else y
        return shrunk(y, self.down) if self.down else y


class Draw(nn.Module):
    """One group: its posterior (where there is a picture), its prior, and what its latents do to the state."""

    z: int
    middle: int
    size: int
    share: float  # 1 / the number of groups
    dtype: str = "float32"

    @nn.compact
    def __call__(self, h: Array, e: Array | None, noise: Array) -> tuple[Array, Array, Group | None]:
        """h, e [B, h, w, C], noise ~ N(0, I) [B, h, w, z] -> (h, z as the prior counts, the distributions)."""
        width = h.shape[-1]
        sizes: dict[str, Any] = dict(middle=self.middle, size=self.size, dtype=self.dtype)
        last = scaled(self.share)
        about = Block(features=2 * self.z + width, last_init=nn.initializers.zeros, name="prior", **sizes)(h)
        prior, more = jnp.split(about, [2 * self.z], -1)
        prior_mean, prior_log_std = jnp.split(prior.astype(jnp.float32), 2, -1)
        if e is None:
            group, white = None, noise
            z = prior_mean + jnp.exp(prior_log_std) * noise
        else:
            found = Block(features=2 * self.z, name="posterior", **sizes)(jnp.concatenate([h, e], -1))
            mean, log_std = jnp.split(found.astype(jnp.float32), 2, -1)
            z = mean + jnp.exp(log_std) * noise
            white = (z - prior_mean) * jnp.exp(-prior_log_std)
            group = Group(mean, 2 * log_std, prior_mean, 2 * prior_log_std)
        h = h + more + Conv(width, 1, dtype=self.dtype, kernel_init=last, name="project")(z)
        return Block(features=width, residual=True, last_init=last, name="resnet", **sizes)(h), white, group


class Ends(nn.Module):
    """The last state -> parameters of p(x | z)."""

    @nn.compact
    def __call__(self, h: Array, channels: int) -> Array:
        scale = self.param("scale", nn.initializers.ones, h.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, h.shape[-1:])
        return Conv(channels, 1)(h.astype(jnp.float32) * scale + bias)


class Vdvae(nn.Module):
    """q(z | x) and p(x | z) with groups of latents [B, h, w, z]; all together are a vector [B, latent] of a prior N(0, I)."""

    shape: TargetShape = (32, 32, 3)
    width: Count = 384
    z: Count = 16  # latents of every place and group
    bottleneck: Inside = 0.25  # channels within blocks, as a share of width
    enc: str = "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3"
    dec: str = "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21"
    learned: Natural = 64  # grids of no more rows begin with a learned state, larger ones with zeros
    dtype: Precision = "float32"

    def setup(self) -> None:
        down, draws = blocks(self.enc, "d", self.shape[0]), self.draws
        self._refuse(down, draws)
        parts: dict[str, Any] = dict(middle=max(1, int(self.width * self.bottleneck)), dtype=self.dtype)
        size = lambda rows: 3 if rows > 2 else 1  # noqa: E731
        self.first = Conv(self.width, 3, dtype=self.dtype)
        self.down = [
            Block(
                features=self.width, size=size(rows), residual=True, down=by, last_init=scaled(1 / len(down)), **parts
            )
            for rows, by in down
        ]
        self.draw = [Draw(z=self.z, size=size(rows), share=1 / len(draws), **parts) for rows, _ in draws]
        begins = {rows for rows, _ in draws if rows <= self.learned}
        self.start = {
            f"{rows}": self.param(f"start_{rows}", nn.initializers.zeros, (*self.grid(rows), self.width))
            for rows in sorted(begins)
        }
        self.ends = Ends()

    @property
    def draws(self) -> tuple[tuple[int, int], ...]:
        """Rows of every group's grid, and of the grid whose state it takes up."""
        return blocks(self.dec, "m", self.shape[0])

    def grid(self, rows: int) -> tuple[int, int]:
        """(rows, columns)."""
        return rows, rows * self.shape[1] // self.shape[0]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Latents of every group, the upper first."""
        return tuple(math.prod(self.grid(rows)) * self.z for rows, _ in self.draws)

    @property
    def latent(self) -> int:
        """All latents of a picture."""
        return sum(self.sizes)

    def _refuse(self, down: tuple, draws: tuple) -> None:
        """A UserError for grids that do not follow one another."""
        height, width, _ = image_shape(self.shape, self)
        rows, seen, drawn = height, {height}, set()
        for at, by in down:
            if at != rows or (by and (at % by or self.grid(at)[1] % by)):
                raise UserError(
                    f"enc={self.enc!r}: {at} rows cannot follow {rows} of pictures of {height}, or be divided; {cure(height)}"
                )
            rows = at // by if by else at
            seen.add(rows)
        for at, taken in draws:
            if at not in seen or at * width % height or (taken and (taken not in drawn or at % taken)):
                raise UserError(
                    f"dec={self.dec!r}: {at} rows are none of enc={self.enc!r}, or take up {taken} not drawn; {cure(height)}"
                )
            drawn.add(at)
        if at != height:
            raise UserError(f"dec={self.dec!r} ends in {at} rows, and pictures have {height}; {cure(height)}")

    def encode(self, x: Array, cond: Cond | None = None, train: bool = False) -> dict[int, Array]:
        """Rows of a grid -> the last features there."""
        x = self.first(x.astype(self.dtype))
        seen = {x.shape[1]: x}
        for block in self.down:
            x = block(x)
            seen[x.shape[1]] = x
        return seen

    def infer(
        self, seen: dict[int, Array], noise: Array, channels: int, cond: Cond | None = None, train: bool = False
    ) -> Inferred:
        """What `encode` saw, and noise ~ N(0, I) [B, latent] -> a draw of q(z | x)."""
        h, white, groups = self._drawn(seen, noise)
        return Inferred(self.ends(h, channels), white, groups)

    def decode(self, z: Array, channels: int, cond: Cond | None = None, train: bool = False) -> Array:
        """Parameters of p(x | z), [B, H, W, channels]; z [B, latent] of a prior N(0, I)."""
        return self.ends(self._drawn({}, z)[0], channels)

    def __call__(self, x: Array, channels: int, cond: Cond | None = None, train: bool = False) -> Array:
        """The mean's decoding: touches every parameter."""
        return self.infer(self.encode(x, cond, train), jnp.zeros((len(x), self.latent)), channels).out

    def _drawn(self, seen: dict[int, Array], noise: Array) -> tuple[Array, Array, tuple[Group, ...]]:
        """All groups in turn -> the last state, latents as the prior counts [B, latent], distributions."""
        num = len(noise)
        states = {int(k): jnp.broadcast_to(v.astype(self.dtype), (num, *v.shape)) for k, v in self.start.items()}
        parts = jnp.split(noise, np.cumsum(self.sizes)[:-1], axis=-1)
        found = []
        for draw, (rows, taken), part in zip(self.draw, self.draws, parts, strict=True):
            grid = self.grid(rows)
            h = states.get(rows, jnp.zeros((num, *grid, self.width), self.dtype))
            h = h + grown(states[taken], rows // taken) if taken else h
            states[rows], *rest = draw(h, seen.get(rows), part.reshape(num, *grid, self.z))
            found.append(rest)
        white = jnp.concatenate([z.reshape(num, -1) for z, _ in found], -1)
        return states[self.draws[-1][0]], white, tuple(group for _, group in found if group)

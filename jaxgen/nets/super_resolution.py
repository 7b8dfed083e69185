"""Nets that enlarge: SRCNN, EDSR, SRResNet, RRDB. All are told a small picture, and see no size.

SRCNN     the picture enlarged by bicubic interpolation -> k1 | k2 | k3                       (arXiv:1501.00092, eq. 1-3)
EDSR      conv -> x + r conv(relu(conv(x))), no norm -> + -> conv, pixel shuffle -> conv      (arXiv:1707.02921, sec. 3)
SRResNet  the same with a leaky relu around, plus the picture enlarged bilinearly: BasicSR's without norms (MSRResNet), which
          is what SRGAN and ESRGAN begin from there; that of arXiv:1609.04802 has batch norm
RRDB      conv -> blocks of three dense blocks, each added by a fifth -> + -> doubled twice   (arXiv:1809.00219, sec. 3.1)
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import Count, Positive
from jaxgen.errors import UserError
from jaxgen.nets.layers import Conv, Initializer, UpConv, pixel_shuffle, pixel_unshuffle, torch_kernel_init
from jaxgen.nets.restorer import Restorer, answer, filled_up

Array = jax.Array

DIV2K = (0.4488, 0.4371, 0.4040)  # mean colour of its training pictures, which EDSR takes off


def _steps(scale: int, net: nn.Module) -> list[int]:
    """The factors of its tail: 4 is 2 and 2."""
    if scale not in (1, 2, 3, 4, 8):
        raise UserError(f"{type(net).__name__} enlarges 1, 2, 3, 4 or 8 times, not {scale}; set method.net.scale=4")
    return [scale] if scale == 3 else [2] * (scale.bit_length() - 1)


def _scaled(share: float) -> Initializer:
    """He's normal values, times `share`: residual branches begin small (arXiv:1809.00219, sec. 3.1)."""
    return nn.initializers.variance_scaling(2.0 * share**2, "fan_in", "normal")


def _keys(d: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel (1981, eq. 4: a = -1/2) at a distance."""
    return np.where(d < 1, (1.5 * d - 2.5) * d * d + 1, np.where(d < 2, ((2.5 - 0.5 * d) * d - 4) * d + 2, 0.0))


INTERPOLATIONS = {"cubic": _keys, "linear": lambda d: np.maximum(0.0, 1.0 - d)}


def enlarged(x: Array, scale: int, how: str) -> Array:
    """[B, h, w, C] -> [B, scale h, scale w, C]: "cubic" or "linear"; the last pixel goes on past the border.

    Every output is a sum of the few pixels around it, and of no other: a tile with a halo is the picture's.
    """
    for axis in (1, 2):
        side, reach = x.shape[axis], 2
        padded = jnp.pad(x, [(reach, reach) if i == axis else (0, 0) for i in range(4)], "edge")
        phases = []
        for phase in range(scale):
            far = np.abs((phase + 0.5) / scale - 0.5 - np.arange(-reach, reach + 1))
            shares = INTERPOLATIONS[how](far)
            taps = [jax.lax.slice_in_dim(padded, t, t + side, axis=axis) for t in range(2 * reach + 1)]
            phases.append(sum(float(w) * tap for w, tap in zip(shares, taps, strict=True) if abs(w) > 1e-12))
        x = jnp.stack(phases, axis + 1).reshape(*x.shape[:axis], scale * side, *x.shape[axis + 1 :])
    return x


class Srcnn(Restorer, kw_only=True):
    """Three convolutions on the picture enlarged before: 9-1-5 is `kernels=(9, 1, 5)`, the better 9-5-5 `kernels=(9, 5, 5)`.

    scale=1: pictures that have their size already, as AR-CNN's. Past the border the picture goes on, at every layer.
    """

    scale: Count = 3
    kernels: tuple[Count, ...] = (9, 1, 5)
    widths: tuple[Count, ...] = (64, 32)

    @nn.compact
    def __call__(self, cond: Cond | None, train: bool = False) -> Array:
        if any(k % 2 == 0 for k in self.kernels) or len(self.kernels) != len(self.widths) + 1:
            raise UserError(
                f"Srcnn has an odd kernel for each of {len(self.widths)} widths and one more, not {self.kernels}; "
                "set method.net.kernels=(9, 1, 5) and method.net.widths=(64, 32)"
            )
        x = self.pictures(cond)
        x = enlarged(x, self.scale, "cubic") if self.scale > 1 else x
        for i, (size, width) in enumerate(zip(self.kernels, (*self.widths, self.channels), strict=True)):
            reach = size // 2
            x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "edge") if reach else x
            x = Conv(width, size, padding=0, dtype=self.dtype, name=f"conv{i + 1}")(nn.relu(x) if i else x)
        return answer(x)


class Edsr(Restorer, kw_only=True):
    """The baseline by default; the paper's large net has blocks=32, width=256, res_scale=0.1. It works on [0, 255]."""

    scale: Count = 4
    blocks: Count = 16
    width: Count = 64
    res_scale: Positive = 1.0

    @nn.compact
    def __call__(self, cond: Cond | None, train: bool = False) -> Array:
        options = dict(padding=1, dtype=self.dtype)
        told = self.pictures(cond)
        colour = DIV2K if self.channels == 3 else (float(np.mean(DIV2K)),) * self.channels
        mean = jnp.asarray([*colour, *[0.0] * (told.shape[-1] - self.channels)])
        x = Conv(self.width, name="conv_first", **options)(255.0 * (told - mean))
        y = x
        for i in range(self.blocks):
            inner = nn.relu(Conv(self.width, name=f"body{i}_conv1", **options)(y))
            y = y + self.res_scale * Conv(self.width, name=f"body{i}_conv2", **options)(inner)
        x = x + Conv(self.width, name="conv_body", **options)(y)
        for i, n in enumerate(_steps(self.scale, self)):
            x = pixel_shuffle(Conv(n * n * self.width, name=f"up{i}", **options)(x), n)
        y = Conv(self.channels, name="conv_last", **options)(x).astype(jnp.float32)
        return answer(y / 255.0 + jnp.asarray(colour))


class SrResNet(Restorer, kw_only=True):
    """What is to be added to the picture enlarged bilinearly: [B, h, w, C] -> [B, scale h, scale w, C]."""

    scale: Count = 4
    blocks: Count = 16
    width: Count = 64

    @nn.compact
    def __call__(self, cond: Cond | None, train: bool = False) -> Array:
        options = dict(padding=1, dtype=self.dtype, kernel_init=_scaled(0.1))
        leaky = lambda x: nn.leaky_relu(x, 0.1)  # noqa: E731
        told = self.pictures(cond)
        x = leaky(Conv(self.width, name="conv_first", **options)(told))
        for i in range(self.blocks):
            inner = nn.relu(Conv(self.width, name=f"body{i}_conv1", **options)(x))
            x = x + Conv(self.width, name=f"body{i}_conv2", **options)(inner)
        for i, n in enumerate(_steps(self.scale, self)):
            x = leaky(pixel_shuffle(Conv(n * n * self.width, name=f"up{i}", **options)(x), n))
        x = leaky(Conv(self.width, name="conv_hr", **options)(x))
        x = Conv(self.channels, name="conv_last", **options)(x).astype(jnp.float32)
        base = told[..., : self.channels]
        return answer(x + (enlarged(base, self.scale, "linear") if self.scale > 1 else base))


class _Dense(nn.Module):
    """x + y / 5, y of five convolutions, each of all before it."""

    width: int
    grow: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        options = dict(padding=1, dtype=self.dtype, kernel_init=_scaled(0.1))
        seen = x
        for i in range(1, 5):
            new = nn.leaky_relu(Conv(self.grow, name=f"conv{i}", **options)(seen), 0.2)
            seen = jnp.concatenate([seen, new], -1)
        return x + 0.2 * Conv(self.width, name="conv5", **options)(seen)


class Rrdb(Restorer, kw_only=True):
    """ESRGAN's generator, and Real-ESRGAN's (arXiv:2107.10833), whose nets for 2 and 1 times see the picture in pieces, as more
    channels at a half or a quarter of its size."""

    scale: Literal[1, 2, 4] = 4
    blocks: Count = 23
    width: Count = 64
    grow: Count = 32

    @nn.compact
    def __call__(self, cond: Cond | None, train: bool = False) -> Array:
        told, n = self.pictures(cond), 4 // self.scale
        height, width = told.shape[1:3]
        options = dict(dtype=self.dtype, kernel_init=torch_kernel_init)
        leaky = lambda x: nn.leaky_relu(x, 0.2)  # noqa: E731
        x = pixel_unshuffle(filled_up(told, n), n) if n > 1 else told
        x = Conv(self.width, padding=1, name="conv_first", **options)(x)
        y = x
        for i in range(self.blocks):
            inner = y
            for j in range(1, 4):
                inner = _Dense(self.width, self.grow, self.dtype, name=f"body{i}_rdb{j}")(inner)
            y = y + 0.2 * inner
        x = x + Conv(self.width, padding=1, name="conv_body", **options)(y)
        for i in (1, 2):
            x = leaky(UpConv(self.width, name=f"conv_up{i}", **options)(x))
        x = leaky(Conv(self.width, padding=1, name="conv_hr", **options)(x))
        x = Conv(self.channels, padding=1, name="conv_last", **options)(x)
        return answer(x)[:, : self.scale * height, : self.scale * width]

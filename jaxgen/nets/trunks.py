"""Feature trunks of image classifiers, in torchvision's layouts: what LPIPS and style losses compare images by.

VGG-16 (Simonyan & Zisserman 2015, arXiv:1409.1556), AlexNet (Krizhevsky 2014, "One weird trick", arXiv:1404.5997) and
SqueezeNet 1.1 (Iandola et al. 2016, arXiv:1602.07360). Each maps images [B, H, W, 3], scaled as its weights expect, to
the list of the feature maps that `taps` names; by default those of LPIPS (Zhang et al. 2018). Layers after the last tap
are left out, in time and in parameters. precision: of every product; metrics ask for "highest".
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.errors import UserError
from jaxgen.nets.layers import Conv
from jaxgen.nets.pool import max_pool

Layers = Iterator[tuple[str, Array]]  # what a trunk shows on its way, in order


def _tapped(layers: Layers, taps: Sequence[str], precision: str) -> list[Array]:
    """The values that `taps` names; the walk ends with the last of them."""
    seen: dict[str, Array] = {}
    with jax.default_matmul_precision(precision):
        for name, value in layers:
            seen[name] = value
            if all(tap in seen for tap in taps):
                return [seen[tap] for tap in taps]
    unknown = next(tap for tap in taps if tap not in seen)
    raise UserError(f"no tap {unknown!r} in this net; it has {', '.join(seen)}")


def _conv(x: Array, name: str, features: int, size: int = 3, stride: int = 1, padding: int = 0) -> Array:
    return nn.relu(Conv(features, size, stride, padding, kernel_init=nn.initializers.he_normal(), name=name)(x))


class VGG16(nn.Module):
    """Taps relu1_1, relu1_2, relu2_1, ..., relu5_3 of width 64, 128, 256, 512, 512; halved before every new level."""

    taps: tuple[str, ...] = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        return _tapped(self.layers(x), self.taps, self.precision)

    def layers(self, x: Array) -> Layers:
        for level, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
            x = max_pool(x, 2, 2) if level > 1 else x
            for i in range(1, depth + 1):
                x = _conv(x, f"conv{level}_{i}", width, padding=1)
                yield f"relu{level}_{i}", x


class AlexNet(nn.Module):
    """Taps relu1 to relu5 of width 64, 192, 384, 256, 256; images of at least 31 pixels."""

    taps: tuple[str, ...] = ("relu1", "relu2", "relu3", "relu4", "relu5")
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        return _tapped(self.layers(x), self.taps, self.precision)

    def layers(self, x: Array) -> Layers:
        x = _conv(x, "conv1", 64, 11, 4, 2)
        yield "relu1", x
        x = _conv(max_pool(x), "conv2", 192, 5, padding=2)
        yield "relu2", x
        x = max_pool(x)
        for i, width in ((3, 384), (4, 256), (5, 256)):
            x = _conv(x, f"conv{i}", width, padding=1)
            yield f"relu{i}", x


class Fire(nn.Module):
    """Squeeze to `width` channels, expand to two times `expand`: [B, H, W, C] -> [B, H, W, 2 expand]."""

    width: int
    expand: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _conv(x, "squeeze", self.width, 1)
        one, three = _conv(x, "expand1x1", self.expand, 1), _conv(x, "expand3x3", self.expand, padding=1)
        return jnp.concatenate([one, three], -1)


class SqueezeNet(nn.Module):
    """Taps relu1 (64 channels), fire2 to fire9; pools keep the last, partly filled window (torch's ceil_mode)."""

    taps: tuple[str, ...] = ("relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")
    precision: str = "highest"

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        return _tapped(self.layers(x), self.taps, self.precision)

    def layers(self, x: Array) -> Layers:
        x = _conv(x, "conv1", 64, stride=2)
        yield "relu1", x
        for i, width, expand in (
            (2, 16, 64), (3, 16, 64), (4, 32, 128), (5, 32, 128), (6, 48, 192), (7, 48, 192), (8, 64, 256), (9, 64, 256)
        ):  # fmt: skip
            x = max_pool(x, ceil=True) if i in (2, 4, 6) else x
            x = Fire(width, expand, name=f"fire{i}")(x)
            yield f"fire{i}", x

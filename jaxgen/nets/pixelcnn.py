"""PixelCNN (van den Oord et al. 2016, arXiv:1601.06759) and gated PixelCNN (van den Oord et al. 2016, arXiv:1606.05328).

    PixelCNN   x + conv1x1(relu(conv3x3(relu(conv1x1(relu(x)))))), all masked: 2h -> h -> h -> 2h features    (section 3.3)
    gated      v' = gate(conv(v)), h' = h + conv1x1(gate(conv(h) + conv1x1(conv(v)))), gate(a, b) = tanh(a) sigmoid(b)   (eq. 2)

The gated net's vertical stack v sees all rows above, its horizontal stack h the row so far: together they see every pixel before,
where masks alone leave a blind spot.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Precision
from jaxgen.core.spec import Conditions
from jaxgen.nets.causal import Around, CausalConv, MaskA, Place, Pointwise, RowConv, once_a_row
from jaxgen.nets.conditioning import add_vectors
from jaxgen.nets.layers import Dropout, torch_kernel_init


def told(conditions: Conditions, cond: Cond | None, num: int, width: int) -> Array | None:
    """All conditions as one vector [num, width]; None where there are none."""
    if not conditions or not conditions.of("label", "embedding"):
        return None
    return add_vectors(jnp.zeros((num, width)), conditions, cond, True, nn.initializers.normal(1.0), torch_kernel_init)


class Head(nn.Module):
    """The parameters of every value: two more layers of 1x1."""

    hidden: Count
    channels: Count
    order: Count
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Pointwise(self.hidden, self.order, dtype=self.dtype)(nn.relu(x))
        return Pointwise(self.channels, self.order, dtype=self.dtype)(nn.relu(x)).astype(jnp.float32)


class Residual(nn.Module):
    """width -> width / 2 -> width features."""

    width: Count
    kernel: Count
    order: Count
    dropout: BelowOne
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, told: Array | None, train: bool) -> Array:
        reach = self.kernel // 2
        window = dict(rows=reach, left=reach, right=reach, back=reach)
        y = Pointwise(max(1, self.width // 2), self.order, dtype=self.dtype)(nn.relu(x))
        y = CausalConv(max(1, self.width // 2), self.order, **window, dtype=self.dtype)(nn.relu(y), told)
        y = Dropout(self.dropout)(nn.relu(y), train)
        return x + Pointwise(self.width, self.order, dtype=self.dtype)(y)


class CausalNet(nn.Module):
    """What nets of pixels are: __call__(around, channels, order, cond) -> [B, H, W, channels], by the layers of `out`."""

    conditions: Conditions = ()
    width: Count = 128
    dropout: BelowOne = 0.0
    dtype: Precision = "float32"

    takes = ("label", "embedding")
    orders = True  # channels can be made in turn
    border = False  # a further channel of ones

    @nn.compact
    def __call__(
        self,
        around: Around,
        channels: int,
        order: int = 1,
        cond: Cond | None = None,
        train: bool = False,
        at: Place = None,
    ) -> Array:
        vector = told(self.conditions, cond, len(around.own), self.width)
        return self.out(around, channels, order, vector, train, at)

    def out(self, around: Around, channels: int, order: int, vector: Array | None, train: bool, at: Place) -> Array:
        """The layers, told a vector [B, width]."""
        raise TypeError(f"{type(self).__name__} must have layers: out(around, channels, order, vector, train, at)")


class PixelCnn(CausalNet):
    """The paper's sizes for CIFAR-10."""

    width: Count = 256
    depth: Count = 15
    kernel: Count = 3
    hidden: Count = 1024

    def out(self, around: Around, channels: int, order: int, vector: Array | None, train: bool, at: Place) -> Array:
        """The layers."""
        y = MaskA(self.width, order=order, dtype=self.dtype)(around, vector)
        for _ in range(self.depth):
            y = Residual(self.width, self.kernel, order, self.dropout, self.dtype)(y, vector, train)
        return Head(self.hidden, channels, order, self.dtype)(y)


def gate(x: Array) -> Array:
    """tanh of the first half of the features, times the sigmoid of the second."""
    a, b = jnp.split(x, 2, -1)
    return jnp.tanh(a) * jax.nn.sigmoid(b)


class GatedPixelCnn(CausalNet):
    """The paper's sizes for CIFAR-10."""

    depth: Count = 15
    kernel: Count = 3
    hidden: Count = 1024

    def out(self, around: Around, channels: int, order: int, vector: Array | None, train: bool, at: Place) -> Array:
        """The layers."""
        two, reach = 2 * self.width, self.kernel // 2
        turn = dict(order=order, dtype=self.dtype)

        def vertical() -> list[Array]:
            links, v = [], around.up
            for i in range(self.depth + 1):
                window = dict(rows=reach, side=reach) if i else dict(rows=2, side=3)  # the first sees 7x7 taps
                a = RowConv(two, **window, dtype=self.dtype, name=f"vertical_{i}")(v, vector)
                links.append(Pointwise(two, dtype=self.dtype, name=f"link_{i}")(a))
                v = gate(a)
            return links

        links = once_a_row(self, "links", vertical)
        a = links[0] + CausalConv(two, back=2, dtype=self.dtype, name="horizontal_0")(around.left, vector)
        if order > 1:
            a += Pointwise(two, parts=2, strict=True, **turn, name="own")(around.own)
        h = Pointwise(self.width, **turn, name="out_0")(gate(a))
        for i, link in enumerate(links[1:], 1):
            a = CausalConv(two, parts=2, back=reach, **turn, name=f"horizontal_{i}")(h, vector)
            y = Dropout(self.dropout, name=f"drop_{i}")(gate(a + link), train)
            h += Pointwise(self.width, **turn, name=f"out_{i}")(y)
        return Head(self.hidden, channels, order, self.dtype)(h)

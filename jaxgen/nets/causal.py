"""Layers that see a picture in raster order, and the scan that makes one pixel after the other.

The layers of a net have three forms with the same values. Training sees the whole picture. Sampling goes through it once: what
depends on the rows above alone is computed where a row begins, for all of its columns, and a pixel costs one product a layer
(Ramachandran et al. 2017, arXiv:1704.06001). The forms are told apart by the collection that the caller lets a net change:

    fixed   kernels as they are used (masked, normalised) and what the conditions add: made once, by a pass over the whole
    row     [B, n, W, ...]: the last rows as the layers saw them, and what those say of every pixel of the row that begins
    pixel   [B, 1, n, ...]: the last pixels of this row as the layers saw them

Channels that are made in turn (`order` of them; 1: a pixel is made at once) are masked as in van den Oord et al. 2016
(arXiv:1601.06759), section 3.4: feature k of a layer belongs to channel k modulo `order`, and sees features of its own channel and
of those before, in the first layer (mask A) of those before only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array, lax

from jaxgen.core.ranges import Count, Natural
from jaxgen.nets.convolution import conv2d, conv_transpose2d, dense
from jaxgen.nets.layers import Dense, kept, torch_kernel_init

Collections = dict[str, Any]
Place = tuple[Array, Array | None] | None  # row and column of a pixel; of a row; of a whole picture


class Around(NamedTuple):
    """What a net is given of a picture [B, H, W, C], a row or a pixel of it: three pictures that share a place."""

    up: Array  # the pixel above
    left: Array  # the pixel before
    own: Array  # the pixel itself, of which masks let through the channels before

    @staticmethod
    def of(x: Array) -> "Around":
        """Of a whole picture; beyond the border is zero."""
        up = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
        return Around(up, jnp.pad(x[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0))), x)


def form(module: nn.Module) -> str:
    """whole, fixed (whole, and what sampling needs is noted), row or pixel."""
    if module.is_initializing():
        return "whole"
    return next((name for name in ("fixed", "row", "pixel") if module.is_mutable_collection(name)), "whole")


def fixed(module: nn.Module, name: str, make: Callable[[], Any]) -> Any:
    """What does not depend on the picture: made once before sampling."""
    if form(module) in ("row", "pixel"):
        return module.get_variable("fixed", name)
    found = make()
    if form(module) == "fixed":
        module.put_variable("fixed", name, found)
    return found


def once_a_row(module: nn.Module, name: str, make: Callable[[], Any]) -> Any:
    """What depends on the rows above alone, [B, H, W, ...] leaves: at a pixel it is what was found where the row began."""
    if form(module) == "pixel":
        return module.get_variable("row", name)
    found = make()
    if form(module) != "whole":
        module.put_variable("row", name, jax.tree.map(lambda v: v[:, :1], found))
    return found


def order_mask(inputs: int, outputs: int, order: int, parts: int = 1, strict: bool = False) -> Array | None:
    """[inputs, outputs], 1 where a feature may see another; None where all see all. `parts`: of the outputs, each in order."""
    if order == 1 and not strict:
        return None
    seen, sees = jnp.arange(inputs) % order, jnp.arange(outputs) % (outputs // parts) % order
    return (sees > seen[:, None] if strict else sees >= seen[:, None]).astype(jnp.float32)


class Product(nn.Module):
    """A product with a kernel [taps, C, features], a bias, and a bias that a vector of the conditions gives.

    normed: weight normalisation (Salimans & Kingma 2016, arXiv:1602.07868); outputs of the first batch are given mean 0 and the
    standard deviation `gain`.
    """

    features: Count
    order: Count = 1
    parts: Count = 1  # of the features, such as gates
    strict: bool = False  # mask A
    normed: bool = False
    gain: float = 1.0
    dtype: Any = jnp.float32

    def product(self, x: Array, taps: int, run: Callable[[Array, Array], Array], told: Array | None = None) -> Array:
        """run(x, kernel) with all that belongs to it; `run` is linear in the kernel. told: [B, D]."""

        def make() -> tuple[Array, Array, Array | None]:
            init = nn.initializers.normal(0.05) if self.normed else torch_kernel_init
            kernel = self.param("kernel", init, (taps, x.shape[-1], self.features))
            bias, scale = self.param("bias", nn.initializers.zeros, (self.features,)), None
            mask = order_mask(x.shape[-1], self.features, self.order, self.parts, self.strict)
            if mask is not None:
                kernel = kernel.at[-1].multiply(mask)  # the last tap is the pixel itself
            if self.normed:
                kernel *= lax.rsqrt(jnp.maximum((kernel * kernel).sum((0, 1)), 1e-12))
                scale = self.param("length", nn.initializers.ones, (self.features,))
            if told is not None:
                bias += Dense(self.features, use_bias=False, name="told")(told)[:, None, None]
            return kernel.astype(self.dtype), bias, scale

        kernel, bias, scale = fixed(self, "weights", make)
        y = run(x.astype(self.dtype), kernel)
        if self.normed:
            first = self.variable("start", "unit", jnp.ones, (self.features,))
            shift = self.variable("start", "shift", jnp.zeros, (self.features,))
            if self.is_mutable_collection("start") and not self.is_initializing():
                rows = y.astype(jnp.float32).reshape(-1, self.features)
                first.value = self.gain * lax.rsqrt(rows.var(0) + 1e-8)
                shift.value = -rows.mean(0) * first.value
            y, bias = y * (scale * first.value).astype(self.dtype), bias + shift.value
        return kept(y + bias.astype(self.dtype))


class Pointwise(Product):
    """[B, H, W, C] -> [B, H, W, features]."""

    @nn.compact
    def __call__(self, x: Array, told: Array | None = None) -> Array:
        return self.product(x, 1, lambda x, kernel: dense(x, kernel[0]), told)


class CausalConv(Product):
    """Taps on `rows` rows above, from `left` columns before to `right` after, and in its own row on `back` pixels and itself.

    With a stride of 2 the whole picture gives every other pixel of every other row; a row and a pixel are given as they are.
    """

    rows: Natural = 0
    left: Natural = 0
    right: Natural = 0
    back: Natural = 0
    stride: Count = 1

    @nn.compact
    def __call__(self, x: Array, told: Array | None = None) -> Array:
        above = self.rows * (self.left + 1 + self.right)
        return self.product(x, above + self.back + 1, self._run, told)

    def _run(self, x: Array, kernel: Array) -> Array:
        c, columns = x.shape[-1], self.left + 1 + self.right
        up = kernel[: self.rows * columns].reshape(self.rows, columns, c, self.features)
        own = kernel[self.rows * columns :].reshape(1, self.back + 1, c, self.features)
        if form(self) == "row":
            if self.rows:
                seen = self.get_variable("row", "rows")
                self.put_variable("row", "above", conv2d(seen, up, 1, ((0, 0), (self.left, self.right))))
            return jnp.zeros((*x.shape[:2], x.shape[2] // self.stride, self.features), x.dtype)  # nobody looks at it
        if form(self) == "pixel":
            seen = jnp.concatenate([self.get_variable("pixel", "back"), x], 2) if self.back else x
            y = dense(seen.reshape(len(x), 1, 1, -1), own.reshape(-1, self.features))
            if self.back:
                self.put_variable("pixel", "back", seen[:, :, 1:])
            if not self.rows:
                return y
            self.put_variable("pixel", "now", x)
            return y + self.get_variable("row", "above")
        if form(self) == "fixed":
            note(self, x, self.rows, self.back)
            self.put_variable("row", "above", jnp.zeros((len(x), 1, x.shape[2], self.features), x.dtype))
        if not self.rows:
            return conv2d(x, own, self.stride, ((0, 0), (self.back, 0)))
        if (self.left, self.right) == (self.back, 0):
            kernel = jnp.concatenate([up, own])
            return conv2d(x, kernel, self.stride, ((self.rows, 0), (self.back, 0)))
        y = conv2d(x[:, :-1], up, self.stride, ((self.rows, 0), (self.left, self.right)))
        return y + conv2d(x, own, self.stride, ((0, 0), (self.back, 0)))


def note(module: nn.Module, x: Array, rows: int, back: int) -> None:
    """Room for the last rows and pixels of x as sampling will see them: zeros, as beyond the border."""
    b, _, w, c = x.shape
    room = {"row": {"rows": (b, rows, w, c)}, "pixel": {"back": (b, 1, back, c), "now": (b, 1, min(rows, 1), c)}}
    for collection, shapes in room.items():
        for name, shape in shapes.items():
            if 0 not in shape:
                module.put_variable(collection, name, jnp.zeros(shape, x.dtype))


class RowConv(Product):
    """A layer of what is run once a row: taps on `rows` rows above and on its own, from `side` columns before to `side` after."""

    rows: Natural = 0
    side: Natural = 0
    stride: Count = 1

    @nn.compact
    def __call__(self, x: Array, told: Array | None = None) -> Array:
        return self.product(x, (self.rows + 1) * (2 * self.side + 1), self._run, told)

    def _run(self, x: Array, kernel: Array) -> Array:
        kernel = kernel.reshape(self.rows + 1, 2 * self.side + 1, x.shape[-1], self.features)
        sides = (self.side, self.side)
        if form(self) == "row":
            if self.rows:
                x = jnp.concatenate([self.get_variable("row", "rows"), x], 1)
                self.put_variable("row", "rows", x[:, 1:])
            return conv2d(x, kernel, self.stride, ((0, 0), sides))
        if form(self) == "fixed" and self.rows:
            self.put_variable("row", "rows", jnp.zeros((len(x), self.rows, *x.shape[2:]), x.dtype))
        return conv2d(x, kernel, self.stride, ((self.rows, 0), sides))


class RowUp(Product):
    """Twice the rows and columns of what is run once a row: the transpose of a 2x3 convolution of stride 2."""

    @nn.compact
    def __call__(self, x: Array, at: Place) -> Array:
        def run(x: Array, kernel: Array) -> Array:
            kernel = kernel.reshape(2, 3, x.shape[-1], self.features)
            if form(self) == "row":
                return conv_transpose2d(x, kernel[at[0] % 2][None], (1, 2), (0, 1), (0, 1))
            return conv_transpose2d(x, kernel, 2, (0, 1), (0, 1))

        return self.product(x, 6, run)


class PixelUp(Product):
    """Twice the rows and columns: every pixel becomes 2x2, the transpose of a 2x2 convolution of stride 2."""

    @nn.compact
    def __call__(self, x: Array, at: Place) -> Array:
        def run(x: Array, kernel: Array) -> Array:
            if form(self) == "pixel":
                return dense(x, kernel[at[0] % 2 * 2 + at[1] % 2])
            if form(self) == "row":
                return jnp.zeros((*x.shape[:2], 2 * x.shape[2], self.features), x.dtype)  # nobody looks at it
            (b, h, w, c), f = x.shape, self.features
            y = dense(x, kernel.transpose(1, 0, 2).reshape(c, 4 * f)).reshape(b, h, w, 2, 2, f)
            return y.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, f)

        return self.product(x, 4, run)


class MaskA(nn.Module):
    """The first layer: `size` x `size` taps on all that was made before (van den Oord et al. 2016, mask A)."""

    features: Count
    size: Count = 7
    order: Count = 1
    parts: Count = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Around, told: Array | None = None) -> Array:
        reach = self.size // 2
        row = RowConv(self.features, rows=reach - 1, side=reach, dtype=self.dtype)
        y = once_a_row(self, "above", lambda: row(x.up))
        y = y + CausalConv(self.features, back=reach - 1, dtype=self.dtype)(x.left, told)
        if self.order == 1:
            return y
        own = Pointwise(self.features, order=self.order, parts=self.parts, strict=True, dtype=self.dtype, name="own")
        return y + own(x.own)


def raster(
    apply: Callable[[Collections, Around, Place, list[str]], tuple[Array, Collections]],
    look: Callable[[Array], Array],
    draw: Callable[[Array, Array], Array],
    given: Array,
    shown: Array,
    order: int = 1,
) -> Array:
    """Pictures [B, H, W, C], a value after the other in one scan; where `shown` [B, H, W, 1] they are those given.

    apply(collections, around, place, what it may change) runs the net; look(x) is what it sees of values; draw(out, n) makes all
    values of a pixel of the net's output [B, 1, 1, ...], of which those of the n-th draw are kept.
    """
    num, height, width, channels = given.shape
    _, begun = apply({}, Around.of(look(given)), None, ["fixed", "row", "pixel"])
    begun = {k: begun.get(k, {}) for k in ("fixed", "row", "pixel")}
    fixed, start = begun["fixed"], jax.tree.map(jnp.zeros_like, begun["pixel"])
    beyond = jnp.zeros_like(look(given[:, :1]))  # the row above the first, and its first pixel that before it

    def one_row(carry: tuple, i: Array) -> tuple[tuple, Array]:
        row, above = carry
        blank = jnp.zeros_like(above)
        row = apply({"fixed": fixed, "row": row}, Around(above, blank, blank), (i, None), ["row"])[1].get("row", {})

        def one_pixel(carry: tuple, j: Array) -> tuple[tuple, tuple]:
            pixel, before = carry
            here = jax.tree.map(lambda v: lax.dynamic_slice_in_dim(v, j * v.shape[2] // width, 1, 2), row)
            place = lambda v: lax.dynamic_slice(v, (0, i, j, 0), (num, 1, 1, v.shape[3]))  # noqa: E731
            keep = place(shown) > 0
            own = jnp.where(keep, place(given), 0.0)
            for turn in range(order):
                seen = Around(before, before, look(own))
                out, new = apply({"fixed": fixed, "row": here, "pixel": pixel}, seen, (i, j), ["pixel"])
                mine = ~keep & (jnp.arange(channels) % order == turn)
                own = jnp.where(mine, draw(out, (i * width + j) * order + turn), own)
            pixel = new.get("pixel", {})
            now = {k: v for k, v in flatten_dict(pixel).items() if k[-1] == "now"}
            return (pixel, look(own)), (own, now)

        _, (line, now) = lax.scan(one_pixel, (start, beyond[:, :, :1]), jnp.arange(width))
        line, now = jax.tree.map(lambda v: jnp.moveaxis(v[:, :, 0, 0], 0, 1)[:, None], (line, now))
        return (remembered(row, now, i), look(line)), line[:, 0]

    _, lines = lax.scan(one_row, (jax.tree.map(jnp.zeros_like, begun["row"]), beyond), jnp.arange(height))
    return jnp.moveaxis(lines, 0, 1)


def remembered(row: Collections, now: Collections, i: Array) -> Collections:
    """The rows that layers saw, with the i-th [B, 1, W, ...]; layers at a lower resolution saw some of its pixels."""
    row = flatten_dict(row)
    for path, line in now.items():
        rows = row[(*path[:-1], "rows")]
        step = line.shape[2] // rows.shape[2]
        later = jnp.concatenate([rows[:, 1:], line[:, :, ::step]], 1)
        row[(*path[:-1], "rows")] = jnp.where(i % step == 0, later, rows)
    return unflatten_dict(row)

"""StyleGAN2 (Karras et al. 2019, arXiv:1912.04958), with the nets of its ADA paper (2020, arXiv:2006.06676).

    mapping     z / rms(z), the labels' projection / rms, `layers` dense layers -> w, one for each place of the synthesis
    synthesis   a constant grid, then 3x3 convolutions whose input channels w scales; each doubles its grid by a FIR filter

Weights are N(0, 1) and scaled at run time by 1 / sqrt(fan in), so that Adam's steps have one relative size everywhere;
`lr_mul` makes those of a layer so much smaller. Modules have the names that published files have.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from jaxgen.core.conditions import Cond
from jaxgen.core.ranges import BelowOne, Count, Natural, NonNegative, Number, Positive, Share
from jaxgen.core.spec import TargetShape
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import image_shape, value
from jaxgen.nets.convolution import conv2d, conv_transpose2d, dense
from jaxgen.nets.fir import of_sum_1, upfirdn
from jaxgen.nets.gan import Player, pyramid
from jaxgen.nets.layers import minibatch_std

# name -> (function, the gain that keeps a variance of 1)
ACTIVATIONS = {
    "linear": (lambda x: x, 1.0),
    "relu": (nn.relu, math.sqrt(2)),
    "lrelu": (lambda x: nn.leaky_relu(x, 0.2), math.sqrt(2)),
    "tanh": (jnp.tanh, 1.0),
    "sigmoid": (nn.sigmoid, 1.0),
    "elu": (nn.elu, 1.0),
    "selu": (nn.selu, 1.0),
    "softplus": (nn.softplus, 1.0),
    "swish": (nn.swish, math.sqrt(2)),
}
Activation = Literal["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]
Architecture = Literal["skip", "resnet", "orig"]
Noise = Literal["random", "const", "none"]
Taps = tuple[Number, ...]
Way = Literal["same", "up", "down"]
SKIP_GAIN = math.sqrt(0.5)  # of both branches of a residual block


def activate(x: Array, kind: str, gain: float = 1.0, clamp: float = 0.0) -> Array:
    """The activation of that name times its gain and `gain`, then cut to +-clamp (0: not), of any shape."""
    function, own = ACTIVATIONS[kind]
    x = function(x)
    x = x if own * gain == 1 else x * (own * gain)
    return jnp.clip(x, -clamp, clamp) if clamp else x


def unit_rms(x: Array) -> Array:
    """x [B, C] / its root mean square over C."""
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-8)


def resampled_conv(x: Array, kernel: Array, way: Way = "same", taps: Taps = (1, 3, 3, 1)) -> Array:
    """Convolution of x [B, H, W, C] with kernel [k, k, C, O], k odd, that keeps, doubles or halves H and W.

    "up": zeros between the pixels, the kernel, the filter times 4; "down": the filter, the kernel on every second pixel. A
    1x1 kernel works on the smaller of both grids.
    """
    k, n = len(kernel), len(taps)
    line = of_sum_1(taps)
    if way == "same":
        return conv2d(x, kernel, 1, k // 2)
    if way == "down":
        edges = (k // 2 + (n - 1) // 2, k // 2 + (n - 2) // 2)
        if k == 1:
            return dense(upfirdn(x, line, down=(2, 2), padding=(edges, edges)), kernel[0, 0])
        return conv2d(upfirdn(x, line, padding=(edges, edges)), kernel, 2, 0)
    edges = ((n + 1) // 2 - k // 2, (n - 2) // 2 - k // 2 + (k > 1))
    if k == 1:
        return upfirdn(dense(x, kernel[0, 0]), line, up=(2, 2), padding=(edges, edges), gain=4.0)
    return upfirdn(conv_transpose2d(x, kernel, 2, 0), line, padding=(edges, edges), gain=4.0)


def modulated_conv(
    x: Array, kernel: Array, style: Array, demodulate: bool = True, way: Way = "same", taps: Taps = (1, 3, 3, 1)
) -> Array:
    """`resampled_conv` with a kernel of each example's own: kernel x style [B, C], then each output channel of norm 1.

    Both are done to x and to the output (Karras et al. 2019, section 2.2), so that all examples share one kernel.
    """
    y = resampled_conv(x * style[:, None, None].astype(x.dtype), kernel.astype(x.dtype), way, taps)
    if demodulate:
        norm = lax.rsqrt((style * style) @ (kernel * kernel).sum((0, 1)) + 1e-8)  # [B, O], float32
        y = y * norm[:, None, None].astype(y.dtype)
    return y


class EqualDense(nn.Module):
    """[B, C] -> [B, features], float32."""

    features: int
    lr_mul: float = 1.0
    activation: str = "linear"
    bias: float = 0.0  # the first one

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.normal(1 / self.lr_mul), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,))
        x = dense(x, kernel * (self.lr_mul / math.sqrt(x.shape[-1]))) + bias * self.lr_mul
        return activate(x, self.activation)


class EqualConv(nn.Module):
    """[B, H, W, C] -> [B, H', W', features] in x's dtype."""

    features: int
    size: int = 3
    way: Way = "same"
    taps: Taps = (1, 3, 3, 1)
    use_bias: bool = True
    activation: str = "linear"
    gain: float = 1.0
    clamp: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape) / math.sqrt(math.prod(shape[:-1]))
        x = resampled_conv(x, kernel.astype(x.dtype), self.way, self.taps)
        if self.use_bias:
            x += self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return activate(x, self.activation, self.gain, self.clamp * self.gain)


class Mapping(Player):
    """(z [B, Z] or nothing, labels) -> w [B, width]."""

    width: int = 512
    layers: int = 8
    lr_mul: float = 0.01
    activation: str = "lrelu"

    @nn.compact
    def __call__(self, z: Array | None, cond: Cond | None, num: int) -> Array:
        x = [] if z is None else [unit_rms(z.astype(jnp.float32))]
        if self.conditions:
            x.append(unit_rms(EqualDense(self.width, name="embed")(self.one_hot(cond, num))))
        x = jnp.concatenate(x, -1)
        for i in range(self.layers):
            x = EqualDense(self.width, self.lr_mul, self.activation, name=f"fc{i}")(x)
        return x


class StyledConv(nn.Module):
    """Modulated 3x3 convolution of x [B, H, W, C] by w [B, D], noise of learned strength, bias, activation."""

    features: int
    way: Way = "same"
    taps: Taps = (1, 3, 3, 1)
    activation: str = "lrelu"
    clamp: float = 0.0

    @nn.compact
    def __call__(self, x: Array, w: Array, noise: str, gain: float = 1.0) -> Array:
        style = EqualDense(x.shape[-1], bias=1.0, name="affine")(w)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features))
        x = modulated_conv(x, kernel, style, True, self.way, self.taps)
        draw = lambda: jax.random.normal(self.make_rng("params"), x.shape[1:3])  # noqa: E731
        const = self.variable("noise", "noise_const", draw)
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        if noise == "random" and not self.is_initializing():
            x += (strength * jax.random.normal(self.make_rng("noise"), (*x.shape[:3], 1))).astype(x.dtype)
        elif noise != "none":
            x += (strength * const.value[..., None]).astype(x.dtype)  # [h, w], or one for each example
        x += self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return activate(x, self.activation, gain, self.clamp * gain)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to the image's channels, not demodulated; float32."""

    features: int
    clamp: float = 0.0

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        channels = x.shape[-1]
        style = EqualDense(channels, bias=1.0, name="affine")(w) / math.sqrt(channels)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, channels, self.features))
        x = modulated_conv(x, kernel, style, demodulate=False)
        x += self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return activate(x, "linear", clamp=self.clamp).astype(jnp.float32)


class SynthesisBlock(nn.Module):
    """One resolution: (x, image) of half the size, None for the first, and ws [B, its convolutions + 1, D] -> (x, image)."""

    grid: tuple[int, int]
    features: int
    channels: int  # of the image
    first: bool
    last: bool
    architecture: str
    taps: Taps
    activation: str
    clamp: float
    dtype: str

    @nn.compact
    def __call__(self, x: Array | None, image: Array | None, ws: Array, noise: str) -> tuple[Array, Array | None]:
        layer = dict(features=self.features, taps=self.taps, activation=self.activation, clamp=self.clamp)
        if self.first:
            const = self.param("const", nn.initializers.normal(1.0), (*self.grid, self.features))
            x = jnp.broadcast_to(const, (len(ws), *const.shape)).astype(self.dtype)
            x = StyledConv(**layer, name="conv1")(x, ws[:, 0], noise)
        else:
            residual = self.architecture == "resnet"
            x = x.astype(self.dtype)
            if residual:
                shortcut = EqualConv(self.features, 1, "up", self.taps, False, gain=SKIP_GAIN, name="skip")(x)
            x = StyledConv(**layer, way="up", name="conv0")(x, ws[:, 0], noise)
            x = StyledConv(**layer, name="conv1")(x, ws[:, 1], noise, SKIP_GAIN if residual else 1.0)
            x = shortcut + x if residual else x
            image = None if image is None else doubled(image, self.taps)
        if self.last or self.architecture == "skip":
            made = ToImage(self.channels, self.clamp, name="torgb")(x, ws[:, -1])
            image = made if image is None else image + made
        return x, image


def doubled(x: Array, taps: Taps) -> Array:
    """x [B, H, W, C] -> [B, 2H, 2W, C] by the filter."""
    edges = ((len(taps) + 1) // 2, (len(taps) - 2) // 2)
    return upfirdn(x, of_sum_1(taps), up=(2, 2), padding=(edges, edges), gain=4.0)


def halved(x: Array, taps: Taps) -> Array:
    """x [B, H, W, C] -> [B, H/2, W/2, C] by the filter."""
    edges = ((len(taps) - 1) // 2, (len(taps) - 2) // 2)
    return upfirdn(x, of_sum_1(taps), down=(2, 2), padding=(edges, edges))


def grids(shape: tuple[int, int, int], base: int) -> list[tuple[int, int]]:
    """Image shape -> (height, width) of every resolution, the coarsest first; a UserError if that is far from `base`."""
    (h, w), doublings = pyramid(shape, base)
    if min(h, w) >= 2 * base:
        unit = 2 ** max(0, int(math.log2(min(shape[:2]) / base)))
        near = [f"{f(shape[0] / unit) * unit}x{f(shape[1] / unit) * unit}" for f in (math.floor, math.ceil)]
        raise UserError(
            f"StyleGAN2 doubles a grid of about {base}x{base}, and {shape[0]}x{shape[1]} halves no further than {h}x{w}; "
            f"make the images {' or '.join(near)} (data.size), or set base={min(h, w)} of both nets"
        )
    return [(h << i, w << i) for i in range(doublings + 1)]


def block_name(grid: tuple[int, int]) -> str:
    """As published: b32; b48x32 where the sides differ."""
    return f"b{grid[0]}" if grid[0] == grid[1] else f"b{grid[0]}x{grid[1]}"


class Synthesis(nn.Module):
    """ws [B, 2 resolutions, D] -> image [B, H, W, C]."""

    grids: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    channels: int
    architecture: str
    taps: Taps
    activation: str
    clamp: float

    @nn.compact
    def __call__(self, ws: Array, noise: str) -> Array:
        x = image = None
        for i, (grid, features, dtype) in enumerate(zip(self.grids, self.widths, self.dtypes, strict=True)):
            block = SynthesisBlock(
                grid, features, self.channels, i == 0, i == len(self.grids) - 1, self.architecture,
                self.taps, self.activation, self.clamp, dtype, name=block_name(grid),
            )  # fmt: skip
            start = max(0, 2 * i - 1)  # the image's style is that of the next block's first convolution
            x, image = block(x, image, ws[:, start : 2 * i + 2], noise)
        return image


class StyleGan2Generator(Player):
    """z [B, Z] -> images [B, H, W, C] by way of ws [B, L, w_dim]: `map`, `truncate` and `synthesize` are its stages.

    channel_base, channel_max: a resolution of n pixels has channel_base / n channels, at most channel_max.
    mixing: share of images in training whose styles, from a random place on, are those of another z, where two are given.
    beta: decay of the mean of w, which truncation pulls to; every label has a mean of its own. It follows the weights that are
        trained, and averages of the net share it, as in the published programs, whose pictures it reproduces.
    noise: in sampling as in training; "const" adds the same to every image.
    clamp: of what the layers give; 0: none. half: so many of the highest resolutions are bfloat16.
    """

    shape: TargetShape = (32, 32, 3)
    base: Count = 4
    channel_base: Count = 16384
    channel_max: Count = 512
    w_dim: Count = 512
    layers: Count = 8
    lr_mul: Positive = 0.01
    architecture: Architecture = "skip"
    filter: Taps = (1.0, 3.0, 3.0, 1.0)
    activation: Activation = "lrelu"
    clamp: NonNegative = 0.0
    half: Natural = 0
    noise: Noise = "random"
    mixing: Share = 0.9
    beta: BelowOne = 0.995

    def setup(self) -> None:
        sizes = grids(image_shape(self.shape, self), self.base)
        self.mapping = Mapping(self.conditions, self.w_dim, self.layers, self.lr_mul, self.activation)
        self.synthesis = Synthesis(
            tuple(sizes), widths(sizes, self.channel_base, self.channel_max), dtypes(len(sizes), self.half),
            self.shape[-1], self.architecture, self.filter, self.activation, self.clamp,
        )  # fmt: skip
        self.places = 2 * len(sizes)
        self.mean_w = self.variable("mean_w", "mean_w", jnp.zeros, (max(1, self.conditions.classes), self.w_dim))

    def __call__(
        self,
        z: Array,
        cond: Cond | None = None,
        train: bool = False,
        psi: float | Array = 1.0,
        cutoff: int | None = None,
        noise: str | None = None,
    ) -> Array:
        """Images [B, H, W, C] of latents z [B, Z], in about [-1, 1]; z [B, 2, Z]: `map`; psi, cutoff: `truncate`."""
        ws = self.map(z, cond, train)
        if not (isinstance(psi, (int, float)) and psi == 1):
            ws = self.truncate(ws, cond, psi, cutoff)
        return self.synthesize(ws, train, noise)

    def map(self, z: Array, cond: Cond | None = None, train: bool = False) -> Array:
        """z [B, Z] -> ws [B, L, w_dim]; in training the mean of w moves.

        z [B, 2, Z], two latents of each image: in training styles of both are mixed by the rng "style".
        """
        z, *others = [z] if z.ndim == 2 else [z[:, 0], z[:, 1]]
        w = self.mapping(z, cond, len(z))
        if train and self.is_mutable_collection("mean_w"):
            told = jax.nn.one_hot(self._label(cond, len(z)), len(self.mean_w.value))  # [B, K]
            count = told.sum(0)[:, None]
            mean = told.T @ lax.stop_gradient(w) / jnp.maximum(count, 1)
            self.mean_w.value += jnp.where(count > 0, (1 - self.beta) * (mean - self.mean_w.value), 0)
        ws = jnp.broadcast_to(w[:, None], (len(w), self.places, self.w_dim))
        if train and self.mixing and others:
            share_rng, place_rng = jax.random.split(self.make_rng("style"))
            other = self.mapping(others[0], cond, len(z))[:, None]
            place = jax.random.randint(place_rng, (len(z), 1, 1), 1, self.places)
            mixed = jax.random.bernoulli(share_rng, self.mixing, place.shape)
            ws = jnp.where(mixed & (jnp.arange(self.places)[:, None] >= place), other, ws)
        return ws

    def truncate(
        self, ws: Array, cond: Cond | None = None, psi: float | Array = 1.0, cutoff: int | None = None
    ) -> Array:
        """mean + psi (w - mean) at the first `cutoff` places (all of them without one), the mean that of the label."""
        mean = self.mean_w.value[self._label(cond, len(ws))][:, None]
        near = jnp.arange(self.places)[:, None] < (self.places if cutoff is None else cutoff)
        return jnp.where(near, mean + psi * (ws - mean), ws)

    def synthesize(self, ws: Array, train: bool = False, noise: str | None = None) -> Array:
        """Images [B, H, W, C] of ws [B, L, w_dim]; random noise is drawn from the rng "noise"."""
        return self.synthesis(ws, noise or self.noise)

    def _label(self, cond: Cond | None, num: int) -> Array:
        """The rows [B] of `mean_w`."""
        name = self.conditions.label
        return value(self.conditions, cond, name, num, has_null=False) if name else jnp.zeros(num, jnp.int32)


def widths(sizes: list[tuple[int, int]], channel_base: int, channel_max: int) -> tuple[int, ...]:
    """Channels of each resolution."""
    return tuple(max(1, min(channel_base // max(grid), channel_max)) for grid in sizes)


def dtypes(resolutions: int, half: int) -> tuple[str, ...]:
    """Of each resolution, the coarsest first, which is always float32."""
    return tuple("bfloat16" if i > 0 and resolutions - i <= half else "float32" for i in range(resolutions))


class DiscriminatorBlock(nn.Module):
    """One resolution: (features, image) -> both of half the size; `first` and "skip" read the image."""

    features: int
    out: int
    first: bool
    architecture: str
    taps: Taps
    activation: str
    clamp: float
    dtype: str

    @nn.compact
    def __call__(self, x: Array | None, image: Array) -> tuple[Array, Array]:
        conv = dict(taps=self.taps, activation=self.activation, clamp=self.clamp)
        if self.first or self.architecture == "skip":
            read = EqualConv(self.features, 1, **conv, name="fromrgb")(image.astype(self.dtype))
            x = read if x is None else x.astype(self.dtype) + read
            image = halved(image, self.taps) if self.architecture == "skip" else image
        x = x.astype(self.dtype)
        if residual := self.architecture == "resnet":
            shortcut = EqualConv(self.out, 1, "down", self.taps, False, gain=SKIP_GAIN, name="skip")(x)
        x = EqualConv(self.features, **conv, name="conv0")(x)
        x = EqualConv(self.out, way="down", gain=SKIP_GAIN if residual else 1.0, **conv, name="conv1")(x)
        return (shortcut + x if residual else x), image


class DiscriminatorEnd(nn.Module):
    """The coarsest resolution: (features, image) -> [B, out], float32."""

    features: int
    out: int
    first: bool
    architecture: str
    group: int
    group_channels: int
    activation: str
    clamp: float

    @nn.compact
    def __call__(self, x: Array | None, image: Array, train: bool) -> Array:
        conv = dict(activation=self.activation, clamp=self.clamp)
        if self.first or self.architecture == "skip":
            read = EqualConv(self.features, 1, **conv, name="fromrgb")(image)
            x = read if x is None else x + read
        if self.group_channels:
            x = minibatch_std(x, self.group, self.group_channels, train)
        x = EqualConv(self.features, **conv, name="conv")(x)
        x = EqualDense(self.features, activation=self.activation, name="fc")(x.reshape(len(x), -1))
        return EqualDense(self.out, name="out")(x)


class StyleGan2Discriminator(Player):
    """[B, H, W, C] -> logits [B]: halving blocks, minibatch standard deviation, two layers; labels by projection.

    group, group_channels: of `minibatch_std`; 0 channels: none. layers, lr_mul: of the labels' mapping.
    The other fields are those of the generator.
    """

    base: Count = 4
    channel_base: Count = 16384
    channel_max: Count = 512
    architecture: Architecture = "resnet"
    filter: Taps = (1.0, 3.0, 3.0, 1.0)
    activation: Activation = "lrelu"
    clamp: NonNegative = 0.0
    half: Natural = 0
    group: Count = 4
    group_channels: Natural = 1
    layers: Count = 8
    lr_mul: Positive = 0.1

    @nn.compact
    def __call__(self, x: Array, cond: Cond | None = None, train: bool = False) -> Array:
        sizes = grids(image_shape(x.shape[1:], self), self.base)
        features, kinds = widths(sizes, self.channel_base, self.channel_max), dtypes(len(sizes), self.half)
        image, x = x, None
        for i in range(len(sizes) - 1, 0, -1):
            block = DiscriminatorBlock(
                features[i], features[i - 1], x is None, self.architecture, self.filter, self.activation, self.clamp,
                kinds[i], name=block_name(sizes[i]),
            )  # fmt: skip
            x, image = block(x, image)
        told = bool(self.conditions)
        x = DiscriminatorEnd(
            features[0], features[0] if told else 1, x is None, self.architecture, self.group, self.group_channels,
            self.activation, self.clamp, name=block_name(sizes[0]),
        )(x if x is None else x.astype(jnp.float32), image, train)  # fmt: skip
        if not told:
            return x[:, 0]
        label = Mapping(self.conditions, features[0], self.layers, self.lr_mul, name="mapping")(None, cond, len(x))
        return (x * label).sum(-1) / math.sqrt(features[0])

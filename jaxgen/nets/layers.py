"""Layers of every net: convolution, dense, norms, attention, embeddings, initialisers.

XLA's CPU backend loses a factor of 2 to 25 on some gradients of convolutions, and more inside `lax.scan`; the cures are
exact rewrites, and this file is the only one that knows them.

A convolution is the trilinear form T(x, k, y) = <conv(x, k), y>. Its three partial derivatives are three bilinear
primitives, closed under differentiation of any order and mode:

    conv(x, k) = dT/dy      input_grad(y, k) = dT/dx  (a transposed convolution)      kernel_grad(x, y) = dT/dk

Each is lowered by platform: `lax` on GPU and TPU, a form that keeps to the fast path on CPU.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxgen.errors import UserError

Padding = int | str | Sequence[tuple[int, int]]
Pair = int | tuple[int, int]
Initializer = Callable[..., Array]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _explicit(padding: Padding, size, kernel, stride) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding as ((top, bottom), (left, right)); "SAME" and "VALID" as in XLA."""
    if isinstance(padding, str):
        return tuple(lax.padtype_to_pads(size, kernel, stride, padding.upper()))
    if isinstance(padding, int):
        return ((padding, padding),) * 2
    return tuple((int(lo), int(hi)) for lo, hi in padding)


# ----------------------------------------------------------------------------------------------------------------------
# The three primitives. Static parameters: stride, padding, and the sizes that the operands alone do not determine.


def _lax_conv(x, k, *, stride, padding, precision):
    return lax.conv_general_dilated(x, k, stride, padding, dimension_numbers=_LAYOUT, precision=precision)


def _lax_input_grad(y, k, *, size, **geometry):
    x = jax.ShapeDtypeStruct((y.shape[0], *size, k.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _lax_conv(x, k, **geometry), x)(y)[0]


def _lax_kernel_grad(x, y, *, window, **geometry):
    k = jax.ShapeDtypeStruct((*window, x.shape[3], y.shape[3]), x.dtype)
    return jax.linear_transpose(lambda k: _lax_conv(x, k, **geometry), k)(y)[0]


def _cpu_conv(x, k, **geometry):
    return _lax_conv(x, k, **geometry)


def _cpu_input_grad(y, k, *, size, stride, padding, precision):
    """Output pixels s q + r, of phase r, see the taps k[r::s] only: all phases are one stride-1 convolution."""
    taps = [-(-n // s) for n, s in zip(k.shape[:2], stride, strict=True)]
    (jh, jw), (sh, sw), (c, o) = taps, stride, k.shape[2:]
    if (sh, sw) == (1, 1):
        edges = tuple(
            (n - 1 - lo, m + lo - out)
            for n, m, (lo, _), out in zip(k.shape[:2], size, padding, y.shape[1:3], strict=True)
        )
        return _cpu_conv(y, k[::-1, ::-1].swapaxes(2, 3), stride=stride, padding=edges, precision=precision)
    k = jnp.pad(k, [(0, jh * sh - k.shape[0]), (0, jw * sw - k.shape[1]), (0, 0), (0, 0)])
    k = k.reshape(jh, sh, jw, sw, c, o)[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4).reshape(jh, jw, o, sh * sw * c)
    z = _cpu_conv(y, k, stride=(1, 1), padding=((jh - 1,) * 2, (jw - 1,) * 2), precision=precision)
    b, n, m, _ = z.shape
    z = z.reshape(b, n, m, sh, sw, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, n * sh, m * sw, c)
    crop = [(-lo, lo + want - have) for (lo, _), want, have in zip(padding, size, z.shape[1:3], strict=True)]
    return lax.pad(z, jnp.zeros((), z.dtype), [(0, 0, 0), *((lo, hi, 0) for lo, hi in crop), (0, 0, 0)])


def _cpu_kernel_grad(x, y, *, window, stride, padding, precision):
    """A convolution of x by y with explicit transposes: the layout that stays fast inside `lax.scan`."""
    edges = [
        (lo, (out - 1) * s + n - size - lo)
        for (lo, _), out, s, n, size in zip(padding, y.shape[1:3], stride, window, x.shape[1:3], strict=True)
    ]
    x, y = x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3)  # [C, H, W, B], [H', W', B, O]
    k = lax.conv_general_dilated(
        x, y, (1, 1), edges, rhs_dilation=stride, dimension_numbers=_LAYOUT, precision=precision
    )  # [C, kh, kw, O]
    return k.transpose(1, 2, 0, 3)


def _conv_shape(x, k, *, stride, padding, precision):
    out = [
        (n + lo + hi - w) // s + 1 for n, w, s, (lo, hi) in zip(x.shape[1:3], k.shape, stride, padding, strict=False)
    ]
    return (x.shape[0], *out, k.shape[3])


def _input_shape(y, k, *, size, **_):
    return (y.shape[0], *size, k.shape[2])


def _kernel_shape(x, y, *, window, **_):
    return (*window, x.shape[3], y.shape[3])


def _bilinear(name, shape, default, cpu, foldable):
    """A primitive bilinear in two operands. `foldable`: a vmapped first operand can be folded into the batch."""
    p = Primitive(name)
    eager = jax.jit(lambda a, b, params: p.bind(a, b, **dict(params)), static_argnums=2)
    p.def_impl(lambda a, b, **params: eager(a, b, tuple(params.items())))
    p.def_abstract_eval(lambda a, b, **params: a.update(shape=shape(a, b, **params), weak_type=False))
    mlir.register_lowering(p, mlir.lower_fun(default, multiple_results=False))
    mlir.register_lowering(p, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")

    def batch(operands, dims, **params):
        a, b = operands
        if foldable and not isinstance(dims[1], int):
            a = jnp.moveaxis(a, dims[0], 0)
            out = p.bind(a.reshape(-1, *a.shape[2:]), b, **params)
            return out.reshape(*a.shape[:2], *out.shape[1:]), 0
        return jax.vmap(partial(default, **params), dims)(a, b), 0

    batching.primitive_batchers[p] = batch
    return p


_conv_p = _bilinear("conv", _conv_shape, _lax_conv, _cpu_conv, True)
_input_grad_p = _bilinear("conv_input_grad", _input_shape, _lax_input_grad, _cpu_input_grad, True)
_kernel_grad_p = _bilinear("conv_kernel_grad", _kernel_shape, _lax_kernel_grad, _cpu_kernel_grad, False)


def _without(params, name):
    return {key: value for key, value in params.items() if key != name}


ad.defbilinear(
    _conv_p,
    lambda y, x, k, **p: _input_grad_p.bind(y, k, size=x.aval.shape[1:3], **p),
    lambda y, x, k, **p: _kernel_grad_p.bind(x, y, window=k.aval.shape[:2], **p),
)
ad.defbilinear(
    _input_grad_p,
    lambda x, y, k, **p: _conv_p.bind(x, k, **_without(p, "size")),
    lambda x, y, k, **p: _kernel_grad_p.bind(x, y, window=k.aval.shape[:2], **_without(p, "size")),
)
ad.defbilinear(
    _kernel_grad_p,
    lambda k, x, y, **p: _input_grad_p.bind(y, k, size=x.aval.shape[1:3], **_without(p, "window")),
    lambda k, x, y, **p: _conv_p.bind(x, k, **_without(p, "window")),
)


def _same_axes(x: Array, k: Array) -> tuple[Array, Array]:
    """Inside `shard_map`, let both operands vary over the same mesh axes, as a bilinear primitive needs."""
    axes = [jax.typeof(a).manual_axis_type.varying for a in (x, k)]
    missing = [tuple((axes[0] | axes[1]) - own) for own in axes] if axes[0] != axes[1] else [(), ()]
    x, k = (lax.pcast(a, names, to="varying") if names else a for a, names in zip((x, k), missing, strict=True))
    return x, k


def conv2d(x: Array, kernel: Array, stride: Pair = 1, padding: Padding = "SAME") -> Array:
    """Cross-correlation of x [B, H, W, C] with kernel [kh, kw, C, O]; equals `lax.conv_general_dilated`.

    padding: pixels on every side, "SAME" / "VALID" (XLA's rule), or ((top, bottom), (left, right)).
    torch's `Conv2d(padding=p)` is `padding=p`; it differs from "SAME" when stride > 1.
    """
    stride = _pair(stride)
    padding = _explicit(padding, x.shape[1:3], kernel.shape[:2], stride)
    geometry = dict(stride=stride, padding=padding, precision=jax.config.jax_default_matmul_precision)
    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        x = x[:, :: stride[0], :: stride[1]]
        return dense(x, kernel[0, 0])
    return _conv_p.bind(*_same_axes(x, kernel), **geometry)


def conv_transpose2d(x: Array, kernel: Array, stride: Pair = 2, padding: Pair = 1, output_padding: Pair = 0) -> Array:
    """torch's `ConvTranspose2d`: y[s i + a - p] += x[i] kernel[a]; H' = (H - 1) s - 2 p + k + output_padding.

    x [B, H, W, C], kernel [kh, kw, C, O] -> [B, H', W', O]. A torch weight [C, O, kh, kw] is transposed (2, 3, 0, 1),
    without a flip.
    """
    stride, padding, extra = _pair(stride), _pair(padding), _pair(output_padding)
    size = tuple(
        (n - 1) * s - 2 * p + k + e
        for n, s, p, k, e in zip(x.shape[1:3], stride, padding, kernel.shape, extra, strict=False)
    )
    edges = tuple((p, p - e) for p, e in zip(padding, extra, strict=True))
    params = dict(size=size, stride=stride, padding=edges, precision=jax.config.jax_default_matmul_precision)
    return _input_grad_p.bind(*_same_axes(x, kernel.swapaxes(2, 3)), **params)


def upsample2x(x: Array) -> Array:
    """Nearest-neighbour doubling: [B, H, W, C] -> [B, 2H, 2W, C]."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def upsample2x_conv(x: Array, kernel: Array) -> Array:
    """`conv2d(upsample2x(x), kernel, 1, 1)` for a 3x3 kernel [3, 3, C, O]: [B, H, W, C] -> [B, 2H, 2W, O]."""
    if jax.default_backend() != "cpu":
        return conv2d(upsample2x(x), kernel, 1, 1)
    # Two of three taps fall on the same source pixel: a transposed 4x4 convolution with 16/36 of the work.
    for axis in (0, 1):
        a, b, c = jnp.split(kernel, 3, axis)
        kernel = jnp.concatenate([c, b + c, a + b, a], axis)
    return conv_transpose2d(x, kernel, 2, 1)


def dense(x: Array, kernel: Array) -> Array:
    """x [..., C] @ kernel [C, F] as one 2-D product: XLA's CPU gradients of batched contractions are slow."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


# ----------------------------------------------------------------------------------------------------------------------
# Initialisers


def torch_kernel_init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default for `Linear` and `Conv2d` (HWIO or [in, out])."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_bias_init(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default bias of a layer with that fan-in."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def ddpm_init(scale: float = 1.0) -> Initializer:
    """Ho et al. 2020: uniform of variance scale / fan_avg; scale 0 gives zeros (the paper's 1e-10)."""
    return nn.initializers.variance_scaling(scale, "fan_avg", "uniform") if scale else nn.initializers.zeros


dcgan_init: Initializer = nn.initializers.normal(0.02)  # Radford et al. 2016, section 3


# ----------------------------------------------------------------------------------------------------------------------
# Modules. `dtype` is the compute dtype; parameters and statistics are float32.


class Dense(nn.Module):
    """[..., C] -> [..., features]."""

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = dense(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return y


class Conv(nn.Module):
    """[B, H, W, C] -> [B, H', W', features]; kernel [kh, kw, C, features]. See `conv2d` for `padding`."""

    features: int
    kernel_size: Pair = 3
    stride: Pair = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (*_pair(self.kernel_size), x.shape[-1], self.features))
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return y


class UpConv(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution: [B, H, W, C] -> [B, 2H, 2W, features]."""

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        y = upsample2x_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return y


class ConvTranspose(nn.Module):
    """[B, H, W, C] -> [B, (H-1) s - 2p + k + output_padding, ..., features]: torch's `ConvTranspose2d`.

    The defaults double the image (k4 s2 p1, DCGAN); k3 s2 p1 op1 does too (pix2pix, CycleGAN).
    """

    features: int
    kernel_size: Pair = 4
    stride: Pair = 2
    padding: Pair = 1
    output_padding: Pair = 0
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = dcgan_init
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (*_pair(self.kernel_size), x.shape[-1], self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = conv_transpose2d(x, kernel, self.stride, self.padding, self.output_padding)
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return y


def _moments(x: Array, shift: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean of x - shift and of its square in one pass over float32; a shift near the mean prevents cancellation."""
    x = x - shift
    return x.mean(axes), (x * x).mean(axes)


class GroupNorm(nn.Module):
    """Wu & He 2018: [B, ..., C] normalised over positions and the channels of a group, then scaled and shifted.

    One pass for both moments, then a single affine map per (example, channel) that XLA fuses with what follows.
    """

    groups: int = 32
    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        if c % self.groups:
            raise UserError(f"group norm: {self.groups} groups do not divide {c} channels; set groups to a divisor")
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        a, b = self.affine(x, scale, bias)
        return (x * a + b).astype(self.dtype)

    def affine(self, x: Array, scale: Array, bias: Array) -> tuple[Array, Array]:
        """The map x -> a x + b, a and b [B, 1, ..., 1, C] float32."""
        batch, c = x.shape[0], x.shape[-1]
        wide = (batch, *(1,) * (x.ndim - 2), c)
        x = x.astype(jnp.float32).reshape(batch, -1, c)  # [B, N, C]

        def over_group(v):  # [B, C] -> [B, C]: the mean over each group's channels
            v = v.reshape(batch, self.groups, -1).mean(-1, keepdims=True)
            return jnp.broadcast_to(v, (batch, self.groups, c // self.groups)).reshape(batch, c)

        shift = over_group(lax.stop_gradient(x[:, 0]))
        first, second = _moments(x, shift[:, None], (1,))  # [B, C]
        mean = over_group(first)
        var = over_group(second) - mean * mean
        a = scale * lax.rsqrt(jnp.maximum(var, 0) + self.eps)
        return a.reshape(wide), (bias - (mean + shift) * a).reshape(wide)


class LayerNorm(nn.Module):
    """Ba et al. 2016, over the last axis; `affine=False` leaves out the learned scale and bias (adaLN)."""

    eps: float = 1e-6
    affine: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * lax.rsqrt((x * x).mean(-1, keepdims=True) + self.eps)
        if self.affine:
            x = x * self.param("scale", nn.initializers.ones, (c,)) + self.param("bias", nn.initializers.zeros, (c,))
        return x.astype(self.dtype)


class BatchNorm(nn.Module):
    """Ioffe & Szegedy 2015, with torch's conventions: running = (1 - momentum) running + momentum batch, the running
    variance unbiased. Statistics over all axes but the last, in the collection "batch_stats"; under jit they are those
    of the global batch. `train=False` normalises by the running ones.
    """

    momentum: float = 0.1
    eps: float = 1e-5
    dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        c = x.shape[-1]
        scale = self.param("scale", self.scale_init, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,))
        mean, var = running_mean.value, running_var.value
        if train:
            rows = x.astype(jnp.float32).reshape(-1, c)
            shift = lax.stop_gradient(rows[0])
            first, second = _moments(rows, shift, (0,))
            mean, var = first + shift, jnp.maximum(second - first * first, 0)
            if not self.is_initializing():
                unbiased = var * (len(rows) / max(len(rows) - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        a = scale * lax.rsqrt(var + self.eps)
        return (x * a + (bias - mean * a)).astype(self.dtype)


# ----------------------------------------------------------------------------------------------------------------------
# Attention


@cache
def _cudnn_attention_works(dtype: Any, head_dim: int) -> bool:
    """Whether cuDNN's fused attention compiles here; it depends on the card, on cuDNN and on the driver."""
    spec = jax.ShapeDtypeStruct((1, 64, 1, head_dim), dtype)
    try:
        jax.jit(partial(jax.nn.dot_product_attention, implementation="cudnn")).lower(spec, spec, spec).compile()
    except Exception:  # any failure, of whatever type, has the same cure: XLA's own kernels
        return False
    return True


def attention(q: Array, k: Array, v: Array) -> Array:
    """softmax(q k^T / sqrt(d)) v with q [B, N, heads, d] and k, v [B, M, heads, d] -> [B, N, heads, d].

    The softmax is float32.
    """
    platform, d = jax.default_backend(), q.shape[-1]
    if platform == "cpu":  # head-major products are 1.4 to 1.9 times faster than jax.nn's
        q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))  # [B, h, N, d]
        scores = jnp.einsum("bhnd,bhmd->bhnm", q, k).astype(jnp.float32) / math.sqrt(d)
        return (jax.nn.softmax(scores).astype(v.dtype) @ v).swapaxes(1, 2)
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    fused = platform == "gpu" and half and d % 8 == 0 and d <= 128 and _cudnn_attention_works(q.dtype, d)
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn" if fused else "xla")


# ----------------------------------------------------------------------------------------------------------------------
# Embeddings of time


def timestep_embedding(
    t: Array, dim: int, flip_sin_to_cos: bool = False, freq_shift: float = 1.0, max_period: float = 10_000.0
) -> Array:
    """Sinusoids of t [B] -> [B, dim] float32: sines then cosines (flipped: cosines first), zero-padded if dim is odd.

    Several times t [B, K] (MeanFlow has two) give theirs side by side, [B, K * dim].

    Frequencies max_period^(-i / (dim/2 - freq_shift)). Ho et al. 2020: no flip, freq_shift 1.
    """
    half = dim // 2
    freqs = jnp.exp(-math.log(max_period) / (half - freq_shift) * jnp.arange(half))
    angles = t.astype(jnp.float32).reshape(len(t), -1, 1) * freqs  # [B, K, dim / 2]
    waves = [jnp.sin(angles), jnp.cos(angles)]
    emb = jnp.concatenate(waves[::-1] if flip_sin_to_cos else waves, -1)
    return jnp.pad(emb, ((0, 0), (0, 0), (0, dim % 2))).reshape(len(t), -1)


class GaussianFourier(nn.Module):
    """Tancik et al. 2020 as in Song et al. 2021: sines and cosines of 2 pi w log t, w ~ N(0, scale^2) never trained.

    t [B] > 0 -> [B, 2 features] float32; `log=False` takes t as it is, of any sign. The frequencies live in the
    collection "fourier".
    """

    features: int
    scale: float = 16.0
    flip_sin_to_cos: bool = False
    log: bool = True

    @nn.compact
    def __call__(self, t: Array) -> Array:
        draw = lambda: self.scale * jax.random.normal(self.make_rng("params"), (self.features,))  # noqa: E731
        w = self.variable("fourier", "frequencies", draw).value
        t = t.astype(jnp.float32)
        angles = 2 * math.pi * (jnp.log(t) if self.log else t)[:, None] * w
        waves = [jnp.sin(angles), jnp.cos(angles)]
        return jnp.concatenate(waves[::-1] if self.flip_sin_to_cos else waves, -1)

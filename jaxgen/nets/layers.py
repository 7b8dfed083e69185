"""Layers of every net: dense, convolution, norms, attention, embeddings of time, initialisers."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from jaxgen.core.ranges import Remat
from jaxgen.errors import UserError
from jaxgen.nets.convolution import Padding, Pair, conv2d, conv_transpose2d, dense, pair, upsample2x_conv
from jaxgen.nets.spectral import normalised

Initializer = Callable[..., Array]

# ----------------------------------------------------------------------------------------------------------------------
# Initialisers


def torch_kernel_init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default for `Linear` and `Conv2d` (HWIO or [in, out])."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_transposed_kernel_init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """torch's default for `ConvTranspose2d`, whose fan-in is the second axis of its weight [in, out, kh, kw]: out * kh * kw."""
    bound = 1 / math.sqrt(math.prod(shape[:-2]) * shape[-1])
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
# Memory of the backward pass


def kept(y: Array) -> Array:
    """y, marked as what `remat="cheap"` keeps: it is dear to compute again, or small."""
    return checkpoint_name(y, "kept")


def remat(module: type[nn.Module], how: Remat, **options: Any) -> type[nn.Module]:
    """The module, whose backward pass computes again what its forward pass did not keep.

    False: all is kept. "cheap": its inputs are, what dense layers and convolutions give, and statistics; norms, activations,
    dropout, resampling and attention's weights are made again. True: its inputs alone are. options: those of `nn.remat`.
    """
    policy = jax.checkpoint_policies.save_only_these_names("kept") if how == "cheap" else None
    return nn.remat(module, policy=policy, **options) if how else module


# ----------------------------------------------------------------------------------------------------------------------
# Modules. `dtype` is the compute dtype; parameters and statistics are float32. `spectral`: the kernel is divided by its norm.


class Dropout(nn.Module):
    """flax's Dropout with the same bits; the mask is drawn as one row, of which XLA's CPU backend makes much less code."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if not train or self.rate == 0:
            return x
        keep = 1.0 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, (x.size,)).reshape(x.shape)
        return jnp.where(mask, x / keep, 0)


def product(x: Array, kernel: Any, dtype: Any) -> Array:
    """x @ kernel in that type; a kernel that is trained by an adapter says itself how (`jaxgen.core.adapter.Sum`)."""
    if hasattr(kernel, "product"):
        return kernel.product(x, dense, dtype)
    return dense(x, kernel.astype(dtype))


class Dense(nn.Module):
    """[..., C] -> [..., features]."""

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer = nn.initializers.zeros
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        kernel = normalised(self, jnp.asarray(kernel)) if self.spectral else kernel
        y = product(x.astype(self.dtype), kernel, self.dtype)
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return kept(y)


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
    spectral: bool = False
    weight_norm: bool = False  # every output's kernel has a length of its own, "scale" (Salimans & Kingma 2016, eq. 2)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (*pair(self.kernel_size), x.shape[-1], self.features))
        kernel = normalised(self, kernel) if self.spectral else kernel
        if self.weight_norm:
            length = jnp.sqrt((kernel * kernel).sum((0, 1, 2)))
            kernel *= self.param("scale", lambda _: length) / length
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return kept(y)


class UpConv(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution: [B, H, W, C] -> [B, 2H, 2W, features]."""

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer = nn.initializers.zeros
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        kernel = normalised(self, kernel) if self.spectral else kernel
        y = upsample2x_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return kept(y)


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
    kernel_init: Initializer = torch_transposed_kernel_init
    bias_init: Initializer = nn.initializers.zeros
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (*pair(self.kernel_size), x.shape[-1], self.features))
        kernel = normalised(self, kernel) if self.spectral else kernel
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = conv_transpose2d(x, kernel, self.stride, self.padding, self.output_padding)
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return kept(y)


def _moments(x: Array, shift: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean of x - shift and of its square in one pass over float32; a shift near the mean prevents cancellation."""
    x = x - shift
    return kept(x.mean(axes)), kept((x * x).mean(axes))


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
            raise UserError(
                f"group norm: {self.groups} groups do not divide {c} channels; set groups={math.gcd(self.groups, c)}"
            )
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


def instance_norm(x: Array, eps: float = 1e-5) -> Array:
    """Ulyanov et al. 2016 (arXiv:1607.08022), with nothing learned: every channel of every example [B, H, W, C] is normalised."""
    wide = x.astype(jnp.float32)
    shift = lax.stop_gradient(wide[:, :1, :1])
    first, second = (m[:, None, None] for m in _moments(wide, shift, (1, 2)))
    var = jnp.maximum(second - first * first, 0)
    return ((wide - (first + shift)) * lax.rsqrt(var + eps)).astype(x.dtype)


class LayerNorm(nn.Module):
    """Ba et al. 2016, over the last axis; `affine=False` has no learned scale and bias (adaLN), `use_bias=False` no bias."""

    eps: float = 1e-6
    affine: bool = True
    dtype: Any = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        x = x.astype(jnp.float32)
        x = x - kept(x.mean(-1, keepdims=True))
        x = x * lax.rsqrt(kept((x * x).mean(-1, keepdims=True)) + self.eps)
        if self.affine:
            x = x * self.param("scale", nn.initializers.ones, (c,))
            x = x + self.param("bias", nn.initializers.zeros, (c,)) if self.use_bias else x
        return x.astype(self.dtype)


class RmsNorm(nn.Module):
    """Zhang & Sennrich 2019 (arXiv:1910.07467), over the last axis: x / sqrt(mean x^2), times a learned scale."""

    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return (x * lax.rsqrt(kept((x * x).mean(-1, keepdims=True)) + self.eps) * scale).astype(self.dtype)


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


def pixel_unshuffle(x: Array, n: int = 2) -> Array:
    """[B, H, W, C] -> [B, H/n, W/n, n n C]; channel n n c + n i + j is channel c of row i and column j, as torch has it."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // n, n, w // n, n, c).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(b, h // n, w // n, n * n * c)


def pixel_shuffle(x: Array, n: int = 2) -> Array:
    """The inverse: [B, H, W, n n C] -> [B, n H, n W, C] (Shi et al. 2016, arXiv:1609.05158, eq. 4)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // n**2, n, n).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, n * h, n * w, c // n**2)


def minibatch_std(x: Array, group: int, features: int = 1, train: bool = False) -> Array:
    """Karras et al. 2017 (arXiv:1710.10196), section 3: x [B, H, W, C] with how much its group differs behind its channels.

    Example i is compared with i + B/G, i + 2 B/G, ..., G the largest divisor of B that is at most `group`: the standard
    deviation (biased) of every number over the group, its mean over the places and each of `features` parts of the channels.
    A UserError in training where that is no group at all.
    """
    b, h, w, c = x.shape
    size = next(n for n in range(min(group, b), 0, -1) if b % n == 0)
    if train and size == 1 < min(group, b):
        raise UserError(f"no group of 2 to {group} examples divides a batch of {b}; set data.batch={b + 1}")
    if c % features:
        raise UserError(f"{features} parts do not divide {c} channels; set group_channels=1")
    y = x.astype(jnp.float32).reshape(size, b // size, h, w, features, c // features)
    std = jnp.sqrt(jnp.var(y, 0) + 1e-8).mean((1, 2, 4))  # [B/G, features]
    plane = jnp.tile(std, (size, 1))[:, None, None].astype(x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(plane, (b, h, w, features))], -1)


# ----------------------------------------------------------------------------------------------------------------------
# Attention


def split_heads(x: Array, heads: int, parts: int = 3) -> list[Array]:
    """Queries, keys and values side by side, or so many of them, [B, N, parts * D] -> [B, N, heads, D / heads] each."""
    x = x.reshape(*x.shape[:2], parts, heads, x.shape[-1] // (parts * heads))
    return [x[:, :, i] for i in range(parts)]


def merge_heads(x: Array) -> Array:
    """[B, N, heads, d] -> [B, N, D]."""
    return x.reshape(*x.shape[:2], -1)


@cache
def _cudnn_attention_works(dtype: Any, head_dim: int, masked: bool) -> bool:
    """Whether cuDNN's fused attention and its gradient compile here; it depends on the card, on cuDNN and on the driver."""
    spec = jax.ShapeDtypeStruct((1, 64, 1, head_dim), dtype)
    mask = jax.ShapeDtypeStruct((1, 1, 64, 64), bool) if masked else None

    def loss(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn").astype(jnp.float32).sum()

    try:
        jax.jit(jax.grad(loss, (0, 1, 2))).lower(spec, spec, spec, mask).compile()
    except Exception:  # any failure, of whatever type, has the same cure: XLA's own kernels
        return False
    return True


def attention(q: Array, k: Array, v: Array, mask: Array | None = None, causal: bool = False) -> Array:
    """softmax(q k^T / sqrt(d)) v with q [B, N, heads, d] and k, v [B, M, heads, d] -> [B, N, heads, d].

    mask: bool [B, N or 1, M], True = look; a query that may look nowhere gives zero. The softmax is float32.
    causal: query i looks at the keys 0 .. i, in place of a mask.
    """
    if mask is not None:
        some = mask.any(-1)[:, :, None, None]  # [B, N or 1, 1, 1]
        mask = jnp.broadcast_to(mask, (len(q), q.shape[1], k.shape[1]))[:, None]  # [B, 1, N, M]
        return jnp.where(some, _attention(q, k, v, mask), 0)
    return _attention(q, k, v, None, causal)


def _attention(q: Array, k: Array, v: Array, mask: Array | None, causal: bool = False) -> Array:
    """`attention` on the fastest path of the platform, mask [B, 1, N, M]."""
    platform, d = jax.default_backend(), q.shape[-1]
    if platform == "cpu":  # head-major products, and the softmax's division after the second: twice as fast as jax.nn's
        q, k, v = (a.swapaxes(1, 2) for a in (q / math.sqrt(d), k, v))  # [B, h, N, d]
        scores = jnp.einsum("bhnd,bhmd->bhnm", q, k).astype(jnp.float32)
        mask = np.tri(*scores.shape[2:], dtype=bool) if causal else mask
        scores = scores if mask is None else jnp.where(mask, scores, 0.7 * jnp.finfo(jnp.float32).min)
        shares = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        return ((shares.astype(v.dtype) @ v) / shares.sum(-1, keepdims=True).astype(v.dtype)).swapaxes(1, 2)
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    even = mask is None or not (q.shape[1] % 2 or k.shape[1] % 2)  # cuDNN trains masked sequences of even length only
    fused = platform == "gpu" and half and d % 8 == 0 and d <= 256 and even
    fused = fused and _cudnn_attention_works(q.dtype, d, mask is not None)
    implementation = "cudnn" if fused else "xla"
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation=implementation)


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
    if half <= freq_shift:
        raise UserError(
            f"a net of width={dim} is too narrow for waves of the time; set width={2 * int(freq_shift) + 2}"
        )
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
        if self.features < 1:
            raise UserError("a net of width=1 is too narrow for waves of the time; set width=2")
        draw = lambda: self.scale * jax.random.normal(self.make_rng("params"), (self.features,))  # noqa: E731
        w = self.variable("fourier", "frequencies", draw).value
        t = t.astype(jnp.float32)
        angles = 2 * math.pi * (jnp.log(t) if self.log else t)[:, None] * w
        waves = [jnp.sin(angles), jnp.cos(angles)]
        return jnp.concatenate(waves[::-1] if self.flip_sin_to_cos else waves, -1)

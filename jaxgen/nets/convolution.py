"""Convolutions and dense products that are fast on every backend.

XLA's CPU backend loses a factor of 2 to 25 on some gradients of convolutions, and more inside `lax.scan`; the cures are
exact rewrites, and this file is the only one that knows them.

A convolution is the trilinear form T(x, k, y) = <conv(x, k), y>. Its three partial derivatives are three bilinear
primitives, closed under differentiation of any order and mode:

    conv(x, k) = dT/dy      input_grad(y, k) = dT/dx  (a transposed convolution)      kernel_grad(x, y) = dT/dk

Each is lowered by platform: `lax` on GPU and TPU, a form that keeps to the fast path on CPU.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxgen.errors import UserError

Padding = int | str | Sequence[tuple[int, int]]
Pair = int | tuple[int, int]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def pair(value: Pair) -> tuple[int, int]:
    """(value, value) of one number; a pair passes."""
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


@partial(jax.jit, static_argnums=1)
def _transpose(x, axes):
    return x.transpose(axes)


def _transposed(x, *axes):
    """x.transpose(axes) by a loop of its own: fused with what made x, as a norm and an activation, that
    would be computed again, at a stride, several times slower."""
    with set_xla_metadata(inlineable="false"):
        return _transpose(x, axes)


def _cpu_kernel_grad(x, y, *, window, stride, padding, precision):
    """A convolution of the larger operand by the smaller with explicit transposes: what stays fast inside `lax.scan`."""
    sizes = zip(padding, y.shape[1:3], stride, window, x.shape[1:3], strict=True)
    conv = partial(lax.conv_general_dilated, window_strides=(1, 1), dimension_numbers=_LAYOUT, precision=precision)
    if stride == (1, 1) and x.size > y.size:  # the first operand is the one whose transpose costs
        edges = [(n - 1 - lo, size - out + lo) for (lo, _), out, _, n, size in sizes]
        k = conv(_transposed(y, 3, 1, 2, 0), _transposed(x, 1, 2, 0, 3), padding=edges)  # [O, kh, kw, C], reversed
        return k[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    edges = [(lo, (out - 1) * s + n - size - lo) for (lo, _), out, s, n, size in sizes]
    k = conv(_transposed(x, 3, 1, 2, 0), _transposed(y, 1, 2, 0, 3), padding=edges, rhs_dilation=stride)
    return k.transpose(1, 2, 0, 3)  # from [C, kh, kw, O]


def _conv_shape(x, k, *, stride, padding, precision):
    out = [
        (n + lo + hi - w) // s + 1 for n, w, s, (lo, hi) in zip(x.shape[1:3], k.shape, stride, padding, strict=False)
    ]
    return (x.shape[0], *out, k.shape[3])


def _input_shape(y, k, *, size, **_):
    return (y.shape[0], *size, k.shape[2])


def _kernel_shape(x, y, *, window, **_):
    return (*window, x.shape[3], y.shape[3])


def _primitive(name, shape, default, cpu):
    """A primitive of one result, of the first operand's dtype; `shape`, `default` and `cpu` take operands and parameters."""
    p = Primitive(name)
    eager = jax.jit(lambda *operands, params: p.bind(*operands, **dict(params)), static_argnames="params")
    p.def_impl(lambda *operands, **params: eager(*operands, params=tuple(params.items())))
    p.def_abstract_eval(lambda a, *b, **params: a.update(shape=shape(a, *b, **params), weak_type=False))
    mlir.register_lowering(p, mlir.lower_fun(default, multiple_results=False))
    mlir.register_lowering(p, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    return p


def _folded(p, dim, a, *rest, **params):
    """A vmapped first operand, folded into the batch."""
    a = jnp.moveaxis(a, dim, 0)
    out = p.bind(a.reshape(-1, *a.shape[2:]), *rest, **params)
    return out.reshape(*a.shape[:2], *out.shape[1:]), 0


def _bilinear(name, shape, default, cpu, foldable):
    """A primitive bilinear in two operands. `foldable`: a vmapped first operand can be folded into the batch."""
    p = _primitive(name, shape, default, cpu)

    def batch(operands, dims, **params):
        if foldable and not isinstance(dims[1], int):
            return _folded(p, dims[0], *operands, **params)
        return jax.vmap(partial(default, **params), dims)(*operands), 0

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


def _varying(a: Array) -> frozenset[str]:
    """The mesh axes over which a value differs, inside `shard_map`."""
    kind = jax.typeof(a)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # jax < 0.10


def _vary(a: Array, names: tuple[str, ...]) -> Array:
    """Let a value differ over more mesh axes."""
    return lax.pcast(a, names, to="varying") if hasattr(lax, "pcast") else lax.pvary(a, names)  # jax < 0.8


def _same_axes(x: Array, k: Array) -> tuple[Array, Array]:
    """Inside `shard_map`, let both operands vary over the same mesh axes, as a bilinear primitive needs."""
    axes = [_varying(a) for a in (x, k)]
    missing = [tuple((axes[0] | axes[1]) - own) for own in axes] if axes[0] != axes[1] else [(), ()]
    x, k = (_vary(a, names) if names else a for a, names in zip((x, k), missing, strict=True))
    return x, k


def conv2d(x: Array, kernel: Array, stride: Pair = 1, padding: Padding = "SAME") -> Array:
    """Cross-correlation of x [B, H, W, C] with kernel [kh, kw, C, O]; equals `lax.conv_general_dilated`.

    padding: pixels on every side, "SAME" / "VALID" (XLA's rule), or ((top, bottom), (left, right)).
    torch's `Conv2d(padding=p)` is `padding=p`; it differs from "SAME" when stride > 1.
    """
    if x.ndim != 4:
        raise UserError(
            f"a convolution of images takes images [B, H, W, C], not {list(x.shape)}; clips need another net"
        )
    stride = pair(stride)
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
    stride, padding, extra = pair(stride), pair(padding), pair(output_padding)
    size = tuple(
        (n - 1) * s - 2 * p + k + e
        for n, s, p, k, e in zip(x.shape[1:3], stride, padding, kernel.shape, extra, strict=False)
    )
    edges = tuple((p, p - e) for p, e in zip(padding, extra, strict=True))
    params = dict(size=size, stride=stride, padding=edges, precision=jax.config.jax_default_matmul_precision)
    return _input_grad_p.bind(*_same_axes(x, kernel.swapaxes(2, 3)), **params)


def _doubled(x):
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def _windows(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c)


def _cpu_sums(x):
    """By slices: a reduction of two axes, of two numbers each, is a loop that XLA's CPU backend does not vectorise."""
    x = _windows(x)
    return x[:, :, 0, :, 0] + x[:, :, 0, :, 1] + x[:, :, 1, :, 0] + x[:, :, 1, :, 1]


def _scaled(scale):
    return lambda x: (x.shape[0], int(x.shape[1] * scale), int(x.shape[2] * scale), x.shape[3])


# Each is the other's transpose, so that gradients of any order are one of the two.
_double_p = _primitive("upsample2x", _scaled(2), _doubled, _doubled)
_sum_p = _primitive("sum2x2", _scaled(0.5), lambda x: _windows(x).sum((2, 4)), _cpu_sums)
for _p, _transpose_p in ((_double_p, _sum_p), (_sum_p, _double_p)):
    ad.deflinear2(_p, lambda y, _, p=_transpose_p: [p.bind(y)])
    batching.primitive_batchers[_p] = lambda operands, dims, p=_p: _folded(p, dims[0], *operands)


def upsample2x(x: Array) -> Array:
    """Nearest-neighbour doubling: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return _double_p.bind(x)


def sum2x2(x: Array) -> Array:
    """Sums of windows: [B, H, W, C] -> [B, H/2, W/2, C], H and W even."""
    return _sum_p.bind(x)


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

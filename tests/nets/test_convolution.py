"""Convolutions equal their definition in jax.lax: values, gradients of any order, inside scans and under vmap."""

import jax
import jax.numpy as jnp
import pytest
from arrays import close, normal
from jax import lax
from jax.test_util import check_grads

from jaxgen.errors import UserError
from jaxgen.nets.convolution import conv2d, conv_transpose2d, sum2x2, upsample2x, upsample2x_conv

pytestmark = pytest.mark.usefixtures("highest_precision")
LAYOUT = ("NHWC", "HWIO", "NHWC")


def lax_conv(x, k, stride, padding):
    padding = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    stride = (stride, stride) if isinstance(stride, int) else stride
    return lax.conv_general_dilated(x, k, stride, padding, dimension_numbers=LAYOUT)


def lax_transpose(x, k, stride, padding, extra):
    """Zero-stuffing by the definition, on the flipped kernel."""
    size = k.shape[:2]
    edges = [(n - 1 - padding, n - 1 - padding + extra) for n in size]
    return lax.conv_general_dilated(
        x, k[::-1, ::-1], (1, 1), edges, lhs_dilation=(stride, stride), dimension_numbers=LAYOUT
    )


def value_and_grads(f, x, k):
    y, pull = jax.vjp(f, x, k)
    return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))


CONVS = [
    ((8, 8), 3, 1, "SAME"),
    ((7, 5), 3, 1, 1),
    ((9, 6), 3, 2, 1),
    ((8, 8), 3, 2, "SAME"),
    ((7, 7), 3, 2, "SAME"),
    ((8, 8), 3, 2, ((0, 1), (0, 1))),
    ((9, 7), 3, 2, 0),
    ((8, 6), 4, 2, 1),
    ((7, 9), 4, 2, "SAME"),
    ((8, 8), 2, 2, "VALID"),
    ((8, 8), 4, 1, ((1, 2), (2, 1))),
    ((10, 11), 5, 3, 2),
    ((6, 6), 1, 1, "SAME"),
    ((7, 6), 1, 2, 0),
    ((9, 9), (3, 5), (1, 2), ((0, 2), (3, 1))),
    ((4, 4), 4, 1, 0),
    ((6, 6), 3, 1, ((3, 2), (2, 4))),
    ((8, 8), 2, 3, 0),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), CONVS)
def test_conv_equals_lax(size, kernel, stride, padding):
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    x, k = normal(0, 3, *size, 5), normal(1, *kernel, 5, 4)
    got = value_and_grads(jax.jit(lambda x, k: conv2d(x, k, stride, padding)), x, k)
    close(got, value_and_grads(lambda x, k: lax_conv(x, k, stride, padding), x, k))


@pytest.mark.parametrize(("channels", "features"), [(16, 16), (3, 32), (48, 64), (64, 3)])
@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_conv_widths(channels, features, size):
    x, k = normal(0, 2, *size, channels), normal(1, 3, 3, channels, features)
    got = value_and_grads(jax.jit(lambda x, k: conv2d(x, k, 1, 1)), x, k)
    close(got, value_and_grads(lambda x, k: lax_conv(x, k, 1, 1), x, k))


TRANSPOSED = [
    ((4, 4), 4, 2, 1, 0),
    ((5, 3), 3, 2, 1, 1),
    ((5, 4), 4, 2, 1, 1),
    ((1, 1), 4, 1, 0, 0),
    ((4, 5), 3, 1, 1, 0),
    ((3, 3), 5, 2, 2, 1),
    ((3, 4), 2, 2, 0, 0),
    ((3, 3), 3, 3, 0, 1),
    ((3, 3), 2, 3, 0, 0),
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "extra"), TRANSPOSED)
def test_transposed_conv_equals_zero_stuffing(size, kernel, stride, padding, extra):
    x, k = normal(0, 2, *size, 6), normal(1, kernel, kernel, 6, 5)
    got = value_and_grads(jax.jit(lambda x, k: conv_transpose2d(x, k, stride, padding, extra)), x, k)
    want = value_and_grads(lambda x, k: lax_transpose(x, k, stride, padding, extra), x, k)
    assert got[0].shape[1] == (size[0] - 1) * stride - 2 * padding + kernel + extra
    close(got, want)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 2)])
def test_upsampling_conv(size):
    x, k = normal(0, 2, *size, 6), normal(1, 3, 3, 6, 5)
    doubled = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    close(upsample2x(x), doubled)
    got = value_and_grads(jax.jit(upsample2x_conv), x, k)
    close(got, value_and_grads(lambda x, k: lax_conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), k, 1, 1), x, k))


ROUND_TRIPS = {
    "conv": (lambda x, k: conv2d(x, k, 1, 1), lambda x, k: lax_conv(x, k, 1, 1)),
    "strided": (
        lambda x, k: upsample2x(conv2d(x, k, 2, 1)),
        lambda x, k: jnp.repeat(jnp.repeat(lax_conv(x, k, 2, 1), 2, 1), 2, 2),
    ),
    "transposed": (
        lambda x, k: conv_transpose2d(x, k, 2, 1, 1)[:, ::2, ::2],
        lambda x, k: lax_transpose(x, k, 2, 1, 1)[:, ::2, ::2],
    ),
    "upsampled": (
        lambda x, k: upsample2x_conv(x, k)[:, 1::2, 1::2],
        lambda x, k: lax_conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), k, 1, 1)[:, 1::2, 1::2],
    ),
    "resampled": (
        lambda x, k: conv2d(jnp.sin(upsample2x(jnp.sin(sum2x2(x)))), k, 1, 1),
        lambda x, k: lax_conv(
            jnp.sin(
                jnp.repeat(
                    jnp.repeat(jnp.sin(lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")), 2, 1),
                    2,
                    2,
                )
            ),
            k,
            1,
            1,
        ),
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_inside_a_scan(name):
    """Three layers with shared weights in a loop, and the gradient through the loop."""
    x, k = normal(0, 2, 8, 8, 4), 0.3 * normal(1, 3, 3, 4, 4)

    def loop(f):
        def run(x, k):
            return lax.scan(lambda x, _: (jnp.tanh(f(x, k)), None), x, length=3)[0]

        return jax.jit(lambda x, k: value_and_grads(run, x, k))

    ours, theirs = ROUND_TRIPS[name]
    close(loop(ours)(x, k), loop(theirs)(x, k))


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_second_order_forward_mode_and_vmap(name):
    """What gradient penalties, Hutchinson's trace, consistency models and per-example gradients ask for."""
    x, k = normal(0, 3, 4, 6, 4), 0.3 * normal(1, 3, 3, 4, 4)

    def everything(f):
        def energy(x, k):
            return jnp.sum(jnp.tanh(f(x, k)) ** 2)

        def penalty(x, k):
            return jnp.sum(jax.grad(energy)(x, k) ** 2) + jnp.sum(jax.grad(energy, 1)(x, k) ** 3)

        def all_of(x, k):
            second = jax.grad(penalty, (0, 1))(x, k)
            forward = jax.jvp(jax.grad(energy), (x, k), (jnp.sin(x), jnp.cos(k)))
            each = jax.vmap(jax.grad(energy, 1), (0, None))(x[:, None], k)
            outer = jax.vmap(f, (1, None), 2)(jnp.stack([x, 2 * x], 1), k)
            kernels = jax.vmap(f, (None, 0))(x, jnp.stack([k, -k]))
            return second, forward, each, outer, kernels

        return jax.jit(all_of)

    ours, theirs = ROUND_TRIPS[name]
    close(everything(ours)(x, k), everything(theirs)(x, k), 3e-5)


def test_conv_gradients_against_finite_differences():
    x, k = normal(0, 1, 5, 4, 2), normal(1, 3, 3, 2, 2)

    def loss(x, k):
        return jnp.sum(jnp.tanh(conv2d(x, k, 2, 1)))

    check_grads(loss, (x, k), 2, modes=("rev", "fwd"), eps=1e-2, rtol=2e-2)


def test_convolutions_under_shard_map():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    x, k = normal(0, 2, 4, 4, 3), normal(1, 3, 3, 3, 3)

    def loss(x, k):
        return lax.psum(jnp.sum(conv2d(x, k, 2, 1) ** 2) + jnp.sum(conv_transpose2d(x, k) ** 3), "data")

    mapped = jax.shard_map(jax.grad(loss, 1), mesh=mesh, in_specs=(spec("data"), spec()), out_specs=spec())
    want = jax.grad(lambda k: jnp.sum(lax_conv(x, k, 2, 1) ** 2) + jnp.sum(lax_transpose(x, k, 2, 1, 0) ** 3))(k)
    close(jax.jit(mapped)(x, k), want)


def test_other_ranks_are_named():
    with pytest.raises(UserError, match=r"takes images \[B, H, W, C\], not \[2, 3, 4, 4, 1\]"):
        conv2d(jnp.zeros((2, 3, 4, 4, 1)), jnp.zeros((3, 3, 1, 1)))

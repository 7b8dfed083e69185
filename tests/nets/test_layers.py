"""Every owned layer equals its definition in jax.lax or torch: values, gradients, inside scans and under vmap."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from jaxgen.nets import layers
from jaxgen.nets.layers import conv2d, conv_transpose2d, upsample2x, upsample2x_conv

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN", Path(__file__).parents[2] / "../shared/golden"))
LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def close(got, want, tolerance=1e-5):
    """Largest error against the largest value wanted."""
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        assert np.abs(np.asarray(g) - np.asarray(w)).max() <= tolerance * max(np.abs(np.asarray(w)).max(), 1e-3)


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


def test_dense_flattens():
    x = normal(0, 2, 3, 4, 5)
    module = layers.Dense(6)
    v = module.init(jax.random.key(0), x)
    close(module.apply(v, x), x @ v["params"]["kernel"] + v["params"]["bias"])


def group_norm_by_definition(x, groups, eps):
    g = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean, var = g.mean((1, 3), keepdims=True), g.var((1, 3), keepdims=True)
    return ((g - mean) / jnp.sqrt(var + eps)).reshape(x.shape)


@pytest.mark.parametrize("shape", [(2, 4, 6, 16), (3, 7, 16), (2, 1, 1, 16)])
def test_group_norm(shape):
    x = normal(0, *shape) * 3 + 1
    module = layers.GroupNorm(4, eps=1e-5)
    v = module.init(jax.random.key(0), x)
    v = jax.tree.map(lambda a: a + 0.1 * normal(2, *a.shape), v)
    p = v["params"]

    def want(x, p):
        return group_norm_by_definition(x, 4, 1e-5) * p["scale"] + p["bias"]

    close(value_and_grads(lambda x, p: module.apply({"params": p}, x), x, p), value_and_grads(want, x, p), 3e-5)


def test_group_norm_survives_a_large_mean():
    """E[x^2] - E[x]^2 in float32 would lose everything at mean 3000, deviation 1."""
    x = normal(0, 2, 8, 8, 8) + 3000.0
    module = layers.GroupNorm(2, eps=1e-6)
    got = module.apply(module.init(jax.random.key(0), x), x)
    want = group_norm_by_definition(np.asarray(x, np.float64), 2, 1e-6)
    assert np.abs(np.asarray(got) - np.asarray(want)).max() < 2e-3


def test_layer_norm():
    x = normal(0, 3, 5, 8) * 2 + 1
    v = layers.LayerNorm(eps=1e-5).init(jax.random.key(0), x)
    want = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    close(layers.LayerNorm(eps=1e-5).apply(v, x), want)
    assert not layers.LayerNorm(affine=False).init(jax.random.key(0), x)


def test_batch_norm_follows_torch():
    torch = pytest.importorskip("torch")
    x = np.asarray(normal(0, 4, 3, 5, 6) * 2 + 7)
    theirs = torch.nn.BatchNorm2d(6)
    module = layers.BatchNorm()
    v = module.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(v["batch_stats"]["mean"], 0)
    for _ in range(2):
        want = theirs(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
        got, updated = module.apply(v, x, train=True, mutable=["batch_stats"])
        v = v | updated
        np.testing.assert_allclose(got, want, atol=2e-5)
    np.testing.assert_allclose(v["batch_stats"]["mean"], theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(v["batch_stats"]["var"], theirs.running_var.numpy(), rtol=1e-5)
    want = theirs.eval()(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    np.testing.assert_allclose(module.apply(v, x), want, atol=2e-5)


def test_attention():
    q, k, v = normal(0, 2, 7, 3, 8), normal(1, 2, 5, 3, 8), normal(2, 2, 5, 3, 8)

    def want(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(8))
        return jnp.einsum("bhnm,bmhd->bnhd", weights, v)

    close(layers.attention(q, k, v), want(q, k, v))
    grads = [jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1, 2))(q, k, v) for f in (layers.attention, want)]
    close(*grads)


def test_timestep_embedding_by_hand():
    t = jnp.array([0.0, 3.0])
    got = layers.timestep_embedding(t, 5, freq_shift=1.0)
    angles = np.array([[0, 0], [3, 3e-4]])
    want = np.concatenate([np.sin(angles), np.cos(angles), np.zeros((2, 1))], 1)
    np.testing.assert_allclose(got, want, atol=1e-6)
    flipped = layers.timestep_embedding(t, 4, flip_sin_to_cos=True, freq_shift=0.0)
    np.testing.assert_allclose(flipped[1], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03)], atol=1e-6)


def test_gaussian_fourier_is_not_trained():
    module = layers.GaussianFourier(8)
    v = module.init(jax.random.key(0), jnp.ones(2))
    assert "params" not in v
    w = v["fourier"]["frequencies"]
    got = module.apply(v, jnp.array([2.0]))
    angles = 2 * np.pi * np.log(2.0) * np.asarray(w)
    np.testing.assert_allclose(got[0], np.concatenate([np.sin(angles), np.cos(angles)]), atol=1e-4)


def test_initialisers():
    key = jax.random.key(0)
    k = layers.torch_kernel_init(key, (3, 3, 16, 64))
    assert abs(float(jnp.abs(k).max()) - 1 / 12) < 1e-3
    b = layers.torch_bias_init(100)(key, (1000,))
    assert 0.09 < float(jnp.abs(b).max()) <= 0.1
    assert not layers.ddpm_init(0.0)(key, (3, 3, 4, 4)).any()
    assert abs(float(layers.ddpm_init()(key, (64, 64)).std()) - 1 / 8) < 0.01
    assert abs(float(layers.dcgan_init(key, (64, 64)).std()) - 0.02) < 1e-3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_compute_dtype(dtype):
    x = normal(0, 2, 4, 4, 8)
    for module in (
        layers.Conv(8, stride=2, padding=1, dtype=dtype),
        layers.ConvTranspose(8, dtype=dtype),
        layers.UpConv(8, dtype=dtype),
        layers.Dense(8, dtype=dtype),
        layers.GroupNorm(4, dtype=dtype),
        layers.LayerNorm(dtype=dtype),
        layers.BatchNorm(dtype=dtype),
    ):
        v = module.init(jax.random.key(0), x)
        assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(v))
        assert module.apply(v, x).dtype == dtype
        grads = jax.grad(lambda v, m=module: m.apply(v, x).astype(jnp.float32).sum())(v)
        assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def torch_ops():
    case = GOLDEN / "torch_ops"
    if not case.is_dir():
        pytest.skip(f"no golden case torch_ops under {GOLDEN} (set JAXGEN_GOLDEN)")
    return dict(np.load(case / "io.npz")), json.loads((case / "case.json").read_text())["tolerance"]


def nhwc(a):
    return jnp.asarray(a.transpose(0, 2, 3, 1))


TORCH_OPS = {
    "conv_s1_p0": lambda o: conv2d(nhwc(o["x"]), o["w"].transpose(2, 3, 1, 0), 1, 0) + o["b"],
    "conv_s1_p1": lambda o: conv2d(nhwc(o["x"]), o["w"].transpose(2, 3, 1, 0), 1, 1) + o["b"],
    "conv_s2_p0": lambda o: conv2d(nhwc(o["x"]), o["w"].transpose(2, 3, 1, 0), 2, 0) + o["b"],
    "conv_s2_p1": lambda o: conv2d(nhwc(o["x"]), o["w"].transpose(2, 3, 1, 0), 2, 1) + o["b"],
    "convT_s2_p1": lambda o: conv_transpose2d(nhwc(o["x"]), o["w_transpose"].transpose(2, 3, 0, 1)),
    "convT_k4_s2_p1_op1": lambda o: conv_transpose2d(nhwc(o["x"]), o["w_transpose"].transpose(2, 3, 0, 1), 2, 1, 1),
    "convT_k3_s2_p1_op1": lambda o: conv_transpose2d(
        nhwc(o["x"]), o["w_transpose"][:, :, :3, :3].transpose(2, 3, 0, 1), 2, 1, 1
    ),
    "nearest_2x": lambda o: upsample2x(nhwc(o["x"])),
    "group_norm4": lambda o: layers.GroupNorm(4, eps=1e-5).apply(
        {"params": {"scale": o["g"], "bias": o["g"] * 0.5}}, nhwc(o["x"])
    ),
    "sdpa": lambda o: layers.attention(*(jnp.asarray(o[n]).swapaxes(1, 2) for n in "qkv")),
}


@pytest.mark.parametrize("name", TORCH_OPS)
def test_against_torch(torch_ops, name):
    arrays, tolerance = torch_ops
    got = np.asarray(TORCH_OPS[name](arrays))
    got = got.transpose(0, 2, 1, 3) if name == "sdpa" else got.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, arrays[name], **tolerance)

"""Every owned layer equals its definition, or torch's."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import close, normal
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.nets import layers
from jaxgen.nets.autoencoder import ConvDecoder
from jaxgen.nets.convolution import conv2d, conv_transpose2d, upsample2x
from jaxgen.nets.gan import DcganGenerator

pytestmark = pytest.mark.usefixtures("highest_precision")
GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN", Path(__file__).parents[2] / "../shared/golden"))


def value_and_grads(f, x, k):
    y, pull = jax.vjp(f, x, k)
    return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))


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


def test_instance_norm():
    x = normal(0, 2, 5, 7, 6) * 3 + 1

    def want(x, k):
        mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        return k * (x - mean) / jnp.sqrt(var + 1e-5)

    k = jnp.float32(2.0)
    close(value_and_grads(lambda x, k: k * layers.instance_norm(x), x, k), value_and_grads(want, x, k), 3e-5)


@pytest.mark.parametrize(
    "batch, group, channels, members",
    [(8, 4, 1, 4), (6, 4, 1, 3), (5, 4, 2, 1), (4, 64, 1, 4), (12, 6, 3, 6), (7, 7, 1, 7)],
)
def test_minibatch_std_by_its_definition(batch, group, channels, members):
    """Example i is with i + B / members, ...; biased deviation of each position and channel, then their mean."""
    x = normal(0, batch, 3, 5, 6)
    got = layers.minibatch_std(x, group, channels)
    np.testing.assert_array_equal(got[..., :6], x)
    stride = batch // members
    for i in range(batch):
        deviation = np.sqrt(np.asarray(x)[i % stride :: stride].var(0) + 1e-8)
        want = [part.mean() for part in np.split(deviation, channels, -1)]
        np.testing.assert_allclose(got[i, ..., 6:], np.broadcast_to(want, (3, 5, channels)), rtol=1e-5, atol=1e-6)


def test_minibatch_std_wants_groups():
    with pytest.raises(UserError, match=r"no group of 2 to 4 examples divides a batch of 5; set data.batch=6"):
        layers.minibatch_std(normal(0, 5, 2, 2, 4), 4, train=True)
    with pytest.raises(UserError, match="3 parts do not divide 4 channels"):
        layers.minibatch_std(normal(0, 4, 2, 2, 4), 4, 3)


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


PATHS = ["cpu", "xla"]  # ours, and jax.nn's, which GPUs and TPUs take where cuDNN does not


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    if request.param == "xla":
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    return request.param


@pytest.mark.parametrize("rows", [1, 7])
def test_masked_attention(path, rows):
    """A masked key is one that is not there; neither it nor its value has a gradient; nobody to look at gives zero."""
    q, k, v = normal(0, 2, 7, 3, 8), normal(1, 2, 5, 3, 8), normal(2, 2, 5, 3, 8)
    mask = np.random.default_rng(3).random((2, rows, 5)) < 0.5
    mask[0, :, 1], mask[:, 0, 0], mask[:, :, 4] = False, True, False  # key 4 is hidden from all, key 1 from example 0
    got = layers.attention(q, k, v, jnp.asarray(mask))
    wide = np.broadcast_to(mask, (2, 7, 5))
    for b in range(2):
        for n in range(7):
            keep = np.flatnonzero(wide[b, n])
            want = (
                layers.attention(q[b, n][None, None], k[b, keep][None], v[b, keep][None])[0, 0]
                if len(keep)
                else 0 * got[b, n]
            )
            np.testing.assert_allclose(got[b, n], want, atol=1e-6)
    np.testing.assert_array_equal(layers.attention(q, k.at[:, 4].mul(50), v.at[:, 4].set(1e6), jnp.asarray(mask)), got)
    grads = jax.grad(lambda *a: jnp.sum(jnp.sin(layers.attention(*a, jnp.asarray(mask)))), (0, 1, 2))(q, k, v)
    for g in grads[1:]:
        assert not g[:, 4].any() and not g[0, 1].any() and g[:, 0].any()
    blind = jnp.zeros((2, rows, 5), bool)
    assert not layers.attention(q, k, v, blind).any()
    grads = jax.grad(lambda *a: jnp.sum(layers.attention(*a, blind)), (0, 1, 2))(q, k, v)
    assert not any(g.any() for g in grads)
    everyone = jnp.ones((2, rows, 5), bool)
    np.testing.assert_allclose(layers.attention(q, k, v, everyone), layers.attention(q, k, v), atol=1e-6)


def test_cudnn_gets_what_it_can_do(monkeypatch):
    """It trains masked sequences of even length only; the others, and cards where it fails, fall back."""
    asked, plain = [], jax.nn.dot_product_attention

    def look(*args, implementation, **kwargs):
        asked.append(implementation)
        return plain(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", look)
    for works in (True, False):
        monkeypatch.setattr(layers, "_cudnn_attention_works", lambda dtype, head_dim, masked, works=works: works)
        for n, masked, half in ((6, False, True), (7, False, True), (6, True, True), (7, True, True), (6, True, False)):
            x = jnp.zeros((1, n, 1, 8), jnp.bfloat16 if half else jnp.float32)
            layers.attention(x, x, x, jnp.ones((1, 1, n), bool) if masked else None)
    assert asked == ["cudnn", "cudnn", "cudnn", "xla", "xla", *["xla"] * 5]


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
    k = layers.torch_transposed_kernel_init(key, (4, 4, 64, 32))  # torch's ConvTranspose2d(64, 32, 4): 0.044, not 0.031
    assert abs(float(jnp.abs(k).max()) - 512**-0.5) < 1e-4
    b = layers.torch_bias_init(100)(key, (1000,))
    assert 0.09 < float(jnp.abs(b).max()) <= 0.1
    assert not layers.ddpm_init(0.0)(key, (3, 3, 4, 4)).any()
    assert abs(float(layers.ddpm_init()(key, (64, 64)).std()) - 1 / 8) < 0.01
    assert abs(float(layers.dcgan_init(key, (64, 64)).std()) - 0.02) < 1e-3


DECODERS = [ConvDecoder((8, 8, 3), 16, 16, 1), ConvDecoder((8, 8, 3), 16, 16, 3), DcganGenerator(width=8)]


@pytest.mark.parametrize("module", DECODERS, ids=lambda m: type(m).__name__)
def test_transposed_convolutions_start_where_their_papers_do(module):
    """torch's bound has the fan-in of a `ConvTranspose2d`, out * kh * kw; DCGAN's weights are N(0, 0.02)."""
    found = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, layers.ConvTranspose):
            found.append(context.module.path)
        return call(*args, **kwargs)

    args = (jnp.zeros((2, 5)),) if isinstance(module, DcganGenerator) else (jnp.zeros((2, 5)), 3)
    with nn.intercept_methods(watch):
        params = module.init(jax.random.key(0), *args)["params"]
    assert found
    for path in found:
        kernel = params[path[-1]]["kernel"]
        if isinstance(module, DcganGenerator):
            np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.1)
        else:
            bound = (kernel.shape[0] * kernel.shape[1] * kernel.shape[3]) ** -0.5
            assert 0.98 * bound < np.abs(kernel).max() <= bound, path


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


def test_dropout_is_flax_dropout_bit_by_bit():
    class Twice(nn.Module):
        ours: bool

        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = layers.Dropout(0.3)(x, True) if self.ours else nn.Dropout(0.3, deterministic=False)(x)
            return x

    x, rngs = normal(0, 3, 4, 5, 6), {"dropout": jax.random.key(7)}
    mine, flax = (np.asarray(Twice(ours).apply({}, x, rngs=rngs)) for ours in (True, False))
    np.testing.assert_array_equal(mine, flax)
    assert 0 < (mine == 0).mean() < 1
    np.testing.assert_array_equal(layers.Dropout(0.3).apply({}, x, False), x)

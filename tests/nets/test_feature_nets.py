"""Inception and the trunks of LPIPS: sizes, shapes, every operation at odd sizes, precision, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.metrics.lpips import lpips, scale_images
from jaxgen.nets import inception
from jaxgen.nets.inception import InceptionV3
from jaxgen.nets.pool import average_pool, max_pool
from jaxgen.nets.trunks import VGG16, AlexNet, SqueezeNet

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
TRUNKS = [VGG16, AlexNet, SqueezeNet]


def images(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def random_variables(module, x):
    """Numbers that keep the scale of what passes through; ten times faster to make than `init` is to compile."""
    shapes = jax.eval_shape(module.init, KEY, x)
    draw = lambda a: (RNG.standard_normal(a.shape) * np.sqrt(2 / max(np.prod(a.shape[:-1]), 1))).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, shapes)


def test_taps_of_inception():
    taps = jax.eval_shape(lambda x: InceptionV3().init_with_output(KEY, x)[0], images(2, 299, 299, 3))
    assert jax.tree.map(lambda a: a.shape, taps) == inception.Taps(
        block0=(2, 73, 73, 64),
        block1=(2, 35, 35, 192),
        block2=(2, 17, 17, 768),
        pool3=(2, 2048),
        logits=(2, 1008),
        logits_unbiased=(2, 1008),
        spatial=(2, 2023),
    )


def test_the_spatial_tap_is_the_first_branch_of_mixed_6d_after_its_relu():
    module, x = InceptionV3(), jnp.asarray(RNG.uniform(-1, 1, (1, 139, 107, 3)), jnp.float32)
    variables = random_variables(module, x)

    @jax.jit
    def apply(variables, x):
        return module.apply(
            variables, x, capture_intermediates=lambda m, _: m.name == "Mixed_6d", mutable=["intermediates"]
        )

    taps, inner = apply(variables, x)
    block = inner["intermediates"]["Mixed_6d"]["__call__"][0]
    np.testing.assert_array_equal(taps.spatial, block[..., :7].reshape(1, -1))
    assert float(block.min()) == 0 < float(block[..., :7].max())


@pytest.mark.parametrize(
    "module, size, shapes",
    [
        (VGG16(), (67, 93), [(67, 93, 64), (33, 46, 128), (16, 23, 256), (8, 11, 512), (4, 5, 512)]),
        (AlexNet(), (67, 93), [(16, 22, 64), (7, 10, 192), (3, 4, 384), (3, 4, 256), (3, 4, 256)]),
        (
            SqueezeNet(),
            (67, 93),
            [(33, 46, 64), (16, 23, 128), (8, 11, 256), (4, 5, 384), (4, 5, 384), (4, 5, 512), (4, 5, 512)],
        ),
    ],
)
def test_taps_of_the_trunks(module, size, shapes):
    taps = jax.eval_shape(lambda x: module.init_with_output(KEY, x)[0], images(2, *size, 3))
    assert [a.shape for a in taps] == [(2, *s) for s in shapes]


def test_a_trunk_ends_at_its_last_tap():
    module = VGG16(taps=("relu2_1", "relu1_1"))
    variables = jax.eval_shape(module.init, KEY, images(1, 8, 8, 3))
    assert set(variables["params"]) == {"conv1_1", "conv1_2", "conv2_1"}
    second, first = jax.eval_shape(module.apply, variables, images(1, 8, 8, 3))
    assert (first.shape, second.shape) == ((1, 8, 8, 64), (1, 4, 4, 128))
    with pytest.raises(UserError, match=r"relu6_1.*relu5_3"):
        jax.eval_shape(VGG16(taps=("relu6_1",)).init, KEY, images(1, 32, 32, 3))


# ----------------------------------------------------------------------------------------------------------------------
# Operations, against loops


def windows(x, window, stride, ceil):
    """torch's rule: the last window of ceil_mode must begin inside the image."""
    for axis_size in x.shape[1:3]:
        count = (axis_size - window) / stride + 1
        count = int(np.ceil(count)) if ceil else int(np.floor(count))
        yield [slice(i * stride, min(i * stride + window, axis_size)) for i in range(count)]


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window, stride", [(3, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("size", list(itertools.product((3, 4, 5, 8, 11), (4, 7))))
def test_max_pool(size, window, stride, ceil):
    x = RNG.standard_normal((2, *size, 3)).astype(np.float32) - 5  # all negative: padding by zeros would show
    rows, columns = windows(x, window, stride, ceil)
    want = np.stack([np.stack([x[:, r, c].max((1, 2)) for c in columns], 1) for r in rows], 1)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), window, stride, ceil), want)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (5, 8)])
def test_average_pool(size):
    x = RNG.standard_normal((2, *size, 3)).astype(np.float32)
    near = [[slice(max(i - 1, 0), i + 2) for i in range(n)] for n in size]
    want = np.stack([np.stack([x[:, r, c].mean((1, 2)) for c in near[1]], 1) for r in near[0]], 1)
    np.testing.assert_allclose(average_pool(jnp.asarray(x)), want, rtol=1e-5, atol=1e-6)


class Plain(nn.Module):
    """The entry of a block as the paper draws it: pool first, then every convolution for itself."""

    @nn.compact
    def __call__(self, x):
        widths = dict(branch1x1=5, branch5x5_1=4, branch_pool=3)
        return [
            inception.conv(average_pool(x) if name == "branch_pool" else x, name, width, 1)
            for name, width in widths.items()
        ]


class Joined(nn.Module):
    @nn.compact
    def __call__(self, x):
        return inception.entry(x, branch1x1=5, branch5x5_1=4, branch_pool=3)


def test_the_joint_entry_of_a_block_is_its_convolutions():
    x = jnp.asarray(RNG.standard_normal((2, 7, 9, 6)), jnp.float32)
    variables = Plain().init(KEY, x)
    assert jax.tree.structure(variables) == jax.tree.structure(Joined().init(KEY, x))
    variables = jax.tree.map(lambda a: jnp.asarray(RNG.standard_normal(a.shape), jnp.float32), variables)
    for ours, plain in zip(Joined().apply(variables, x), Plain().apply(variables, x), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


def torch_trunk(net, torch):
    """torchvision's `features`, spelled out."""

    def conv(*args, **kwargs):
        return [torch.nn.Conv2d(*args, **kwargs), torch.nn.ReLU()]

    class Fire(torch.nn.Module):
        def __init__(self, channels, width, expand):
            super().__init__()
            self.squeeze = torch.nn.Conv2d(channels, width, 1)
            self.expand1x1 = torch.nn.Conv2d(width, expand, 1)
            self.expand3x3 = torch.nn.Conv2d(width, expand, 3, padding=1)

        def forward(self, x):
            x = torch.relu(self.squeeze(x))
            return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))

    pool, layers, channels = torch.nn.MaxPool2d, [], 3
    if net == "alex":
        layers += [*conv(3, 64, 11, 4, 2), pool(3, 2), *conv(64, 192, 5, padding=2), pool(3, 2)]
        layers += [*conv(192, 384, 3, padding=1), *conv(384, 256, 3, padding=1), *conv(256, 256, 3, padding=1)]
        return torch.nn.Sequential(*layers), [1, 4, 7, 9, 11]
    if net == "squeeze":
        layers += [*conv(3, 64, 3, 2), pool(3, 2, ceil_mode=True), Fire(64, 16, 64), Fire(128, 16, 64)]
        layers += [pool(3, 2, ceil_mode=True), Fire(128, 32, 128), Fire(256, 32, 128), pool(3, 2, ceil_mode=True)]
        layers += [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
        return torch.nn.Sequential(*layers), [1, 4, 7, 9, 10, 11, 12]
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        layers += conv(channels, width, 3, padding=1) if width else [pool(2, 2)]
        channels = width or channels
    return torch.nn.Sequential(*layers), [3, 8, 15, 22, 29]


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
@pytest.mark.parametrize("size", [(37, 50), (64, 75)])
def test_trunks_are_torchvisions_at_odd_sizes(net, size):
    torch = pytest.importorskip("torch")
    from jaxgen.pretrained.features import TRUNKS, trunk

    torch.manual_seed(0)
    theirs, places = torch_trunk(net, torch)
    variables = trunk(net, {f"features.{k}": v.numpy() for k, v in theirs.state_dict().items()})
    x = RNG.uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    got = jax.jit(TRUNKS[net].module().apply)(variables, x)
    y, want = torch.tensor(x.transpose(0, 3, 1, 2)), []
    with torch.no_grad():
        for i, layer in enumerate(theirs):
            y = layer(y)
            want += [y.numpy().transpose(0, 2, 3, 1)] if i in places else []
    assert len(got) == len(want)
    for ours, other in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------------
# Precision, gradients, refusals


def products(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("conv", "conv_general_dilated", "dot_general"):
            yield eqn.params["precision"]
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(inner, "eqns"):  # a program within, such as that of a jit
                yield from products(inner)


@pytest.mark.parametrize("module", [InceptionV3(), *(t() for t in TRUNKS)], ids=lambda m: type(m).__name__)
def test_products_are_exact_whatever_the_default(module):
    x = images(1, 107, 107, 3)
    variables = jax.eval_shape(module.init, KEY, x)
    with jax.default_matmul_precision("bfloat16"):
        found = list(products(jax.make_jaxpr(module.apply)(variables, x).jaxpr))
        loose = list(products(jax.make_jaxpr(module.clone(precision="default").apply)(variables, x).jaxpr))
    highest = jax.lax.Precision.HIGHEST
    assert len(found) >= 5
    assert all(p in ("highest", (highest, highest)) for p in found), found
    assert not any(p in ("highest", (highest, highest)) for p in loose)


def test_gradients_of_lpips_are_finite_where_images_agree():
    module = VGG16(taps=("relu1_2", "relu2_1"))
    x = jnp.zeros((1, 8, 8, 3)) + 0.3
    variables = random_variables(module, x)
    heads = [jnp.ones(64), jnp.ones(128)]

    @jax.jit
    def distance(variables, a, b):
        return lpips(*(module.apply(variables, scale_images(v)) for v in (a, b)), heads).sum()

    assert float(distance(variables, x, x)) == 0
    gradient = jax.jit(jax.grad(distance, 1))
    dead = jax.tree.map(jnp.zeros_like, variables)  # all features are zero
    y = x.at[0, 5, 5].set(-1.0)
    for weights, other in ((variables, x), (variables, y), (dead, y)):
        assert np.isfinite(gradient(weights, x, other)).all()
    assert float(jnp.abs(gradient(variables, x, y)).max()) > 0
    np.testing.assert_allclose(distance(variables, x, y), distance(variables, y, x), rtol=1e-6)


@pytest.mark.parametrize(
    "x", [images(1, 299, 299, 1), images(299, 299, 3), jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.uint8)]
)
def test_inception_refuses_other_images(x):
    with pytest.raises(UserError, match="Inception reads float images"):
        jax.eval_shape(InceptionV3().init, KEY, x)


@pytest.mark.parametrize("module, size", [(InceptionV3(), 74), (AlexNet(), 30), (VGG16(), 15), (SqueezeNet(), 16)])
def test_images_may_not_vanish_on_the_way(module, size):
    with pytest.raises(UserError, match="too small"):
        jax.eval_shape(module.init, KEY, images(1, size, size, 3))
    jax.eval_shape(module.init, KEY, images(1, size + 1, size + 1, 3))


@pytest.mark.parametrize(
    "x", [images(1, 64, 64, 2), images(64, 64, 3), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)]
)
def test_lpips_refuses_other_images(x):
    with pytest.raises(UserError, match="LPIPS reads float images"):
        jax.eval_shape(scale_images, x)


def test_lpips_takes_grey_images_as_three_equal_channels():
    grey = jnp.asarray(RNG.uniform(-1, 1, (2, 4, 4, 1)), jnp.float32)
    np.testing.assert_array_equal(scale_images(grey), scale_images(jnp.repeat(grey, 3, -1)))

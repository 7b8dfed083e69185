"""StyleGAN2: modulation is a kernel for each example, w and its mean, shapes, and what does not depend on the batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.nets.convolution import conv2d
from jaxgen.nets.fir import upfirdn
from jaxgen.nets.stylegan2 import (
    StyleGan2Discriminator,
    StyleGan2Generator,
    grids,
    modulated_conv,
)

KEY = jax.random.key(0)
SMALL = dict(channel_base=64, channel_max=8)
NARROW = dict(**SMALL, w_dim=8, layers=2)
FILTER = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
STREAMS = {"noise": KEY, "style": jax.random.key(1)}


def random(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def by_example(x, kernel, style, demodulate, way):
    """Karras et al. 2019, equations 1 and 3, with zeros between the pixels and a plain convolution."""
    outputs = []
    for one, s in zip(x, style, strict=True):
        own = kernel * s[:, None]
        if demodulate:
            own = own / jnp.sqrt((own**2).sum((0, 1, 2)) + 1e-8)
        one = one[None]
        if way == "up":  # far from the edges, which are zeros
            h, w = one.shape[1:3]
            wide = jnp.zeros((1, 2 * h + 8, 2 * w + 8, one.shape[3])).at[:, 4:-4:2, 4:-4:2].set(one)
            one = upfirdn(conv2d(wide, own[::-1, ::-1]), FILTER, padding=((2, 1), (2, 1)), gain=4.0)[:, 4:-4, 4:-4]
        else:
            one = conv2d(one, own)
        outputs.append(one[0])
    return jnp.stack(outputs)


@pytest.mark.parametrize("demodulate, way", [(True, "same"), (True, "up"), (False, "same")])
def test_a_shared_kernel_is_a_kernel_for_each_example(demodulate, way):
    x, kernel, style = random((3, 5, 4, 6)), random((3, 3, 6, 7), 1), random((3, 6), 2)
    got, back = jax.vjp(lambda *a: modulated_conv(*a, demodulate, way), x, kernel, style)
    want, back_want = jax.vjp(lambda *a: by_example(*a, demodulate, way), x, kernel, style)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    y = random(got.shape, 3)
    for ours, theirs in zip(back(y), back_want(y), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("shape", [(16, 16, 3), (28, 28, 1), (24, 16, 4), (4, 4, 1)])
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_shapes(shape, architecture):
    cond, told = {"label": jnp.arange(2)}, dict(conditions=labels(3), architecture=architecture)
    gen, disc = StyleGan2Generator(shape=shape, **NARROW, **told), StyleGan2Discriminator(**SMALL, **told)
    x = jax.eval_shape(lambda: gen.init_with_output(KEY, jnp.zeros((2, 5)), cond)[0])
    assert x.shape == (2, *shape) and x.dtype == jnp.float32
    logits = jax.eval_shape(lambda: disc.init_with_output(KEY, jnp.zeros((2, *shape)), cond)[0])
    assert logits.shape == (2,) and logits.dtype == jnp.float32
    with pytest.raises(UserError, match="no null for 'label'"):
        gen.init(KEY, jnp.zeros((2, 5)))


def test_the_highest_resolutions_are_bfloat16():
    gen, disc = StyleGan2Generator(shape=(32, 32, 3), half=2, **NARROW), StyleGan2Discriminator(half=2, **SMALL)
    z, x = random((2, 5)), random((2, 32, 32, 3))
    for net, given in ((gen, z), (disc, x)):
        variables = jax.jit(net.init)(KEY, given)
        kept = lambda m, _: "conv" in (m.name or "")  # noqa: E731
        got, seen = jax.jit(partial(net.apply, rngs=STREAMS, capture_intermediates=kept))(variables, given)
        found = seen["intermediates"].get("synthesis", seen["intermediates"])
        for block, kind in (("b32", jnp.bfloat16), ("b16", jnp.bfloat16), ("b8", jnp.float32)):
            assert {y.dtype for y in jax.tree.leaves(found[block])} == {jnp.dtype(kind)}
        exact = jax.jit(partial(net.clone(half=0).apply, rngs=STREAMS))(variables, given)
        assert got.dtype == jnp.float32 and 0 < jnp.abs(got - exact).max() < 0.05 * jnp.abs(exact).max() + 0.05


def test_sizes_that_doubling_does_not_give_are_refused():
    assert grids((28, 28, 1), 4) == [(7, 7), (14, 14), (28, 28)] and grids((48, 32, 3), 4)[0] == (6, 4)
    with pytest.raises(UserError, match=r"250x250 halves no further than 125x125; .* 224x224 or 256x256 .* base=125"):
        grids((250, 250, 3), 4)
    assert grids((250, 250, 3), 125) == [(125, 125), (250, 250)]


def started(gen, z, cond=None):
    """Variables with noise and means of w that show."""
    variables = jax.jit(gen.init)(KEY, z, cond)
    flat = jax.tree_util.tree_map_with_path(
        lambda path, a: a + 0.5 if path[-1].key == "noise_strength" else a, variables["params"]
    )
    mean = random(variables["mean_w"]["mean_w"].shape, 5)
    return {**variables, "params": flat, "mean_w": {"mean_w": mean}}


def test_no_sample_depends_on_its_batch_mates():
    gen = StyleGan2Generator(shape=(8, 8, 1), noise="const", conditions=labels(3), **NARROW)
    z, cond = random((4, 5)), {"label": jnp.array([0, 1, 2, 1])}
    variables = started(gen, z, cond)
    whole = gen.apply(variables, z, cond, psi=0.7)
    alone = gen.apply(variables, z[1:2], {"label": cond["label"][1:2]}, psi=0.7)
    np.testing.assert_allclose(whole[1:2], alone, rtol=1e-5, atol=1e-5)


def test_psi_0_is_one_picture_for_each_label():
    gen = StyleGan2Generator(shape=(8, 8, 1), noise="const", conditions=labels(2), **NARROW)
    z, cond = random((4, 5)), {"label": jnp.array([0, 0, 1, 1])}
    variables = started(gen, z, cond)
    x = gen.apply(variables, z, cond, psi=0.0)
    np.testing.assert_allclose(x[::2], x[1::2], rtol=1e-5, atol=1e-6)
    assert jnp.abs(x[0] - x[2]).max() > 0.01
    whole = gen.apply(variables, z, cond)
    np.testing.assert_allclose(gen.apply(variables, z, cond, psi=jnp.float32(1)), whole, rtol=1e-4, atol=1e-5)


def test_the_mean_of_w_moves_in_training_alone_and_by_label():
    gen = StyleGan2Generator(shape=(4, 4, 1), conditions=labels(3), mixing=0.0, beta=0.75, **NARROW)
    z, cond = random((4, 5)), {"label": jnp.array([0, 0, 1, 0])}
    variables = started(gen, z, cond)
    w = gen.apply(variables, z, cond, method="map")[:, 0]
    assert gen.apply(variables, z, cond, rngs=STREAMS, mutable=["mean_w"])[1]["mean_w"]["mean_w"].shape == (3, 8)
    still = gen.apply(variables, z, cond, rngs=STREAMS, mutable=["mean_w"])[1]
    np.testing.assert_array_equal(still["mean_w"]["mean_w"], variables["mean_w"]["mean_w"])
    moved = gen.apply(variables, z, cond, train=True, rngs=STREAMS, mutable=["mean_w"])[1]["mean_w"]["mean_w"]
    before = variables["mean_w"]["mean_w"]
    of_label = jnp.stack([w[jnp.array([0, 1, 3])].mean(0), w[2], before[2]])
    np.testing.assert_allclose(moved, 0.75 * before + 0.25 * of_label, rtol=1e-5, atol=1e-6)


def test_styles_are_mixed_from_a_place_on_in_the_share_asked_for():
    gen = StyleGan2Generator(shape=(32, 32, 1), mixing=0.5, **NARROW)
    z = random((400, 2, 5))
    variables = jax.jit(gen.init)(KEY, z[:1, 0])
    ws = gen.apply(variables, z, train=True, rngs=STREAMS, method="map")
    own, other = (gen.apply(variables, each, method="map") for each in (z[:, 0], z[:, 1]))
    same = np.asarray((ws == own).all(-1))  # [B, L]
    np.testing.assert_array_equal(ws[~same], other[~same])
    assert same[:, 0].all() and (same[:, :-1] >= same[:, 1:]).all()  # one border, never before the first place
    mixed = ~same[:, -1]
    assert 0.4 < mixed.mean() < 0.6
    assert set(same[mixed].sum(1)) == set(range(1, 8))


def test_noise_is_random_constant_or_none():
    gen = StyleGan2Generator(shape=(8, 8, 1), **NARROW)
    z = jnp.broadcast_to(random((1, 5)), (3, 5))
    variables = started(gen, z)
    draw = lambda noise, key: gen.apply(variables, z, noise=noise, rngs={"noise": key})  # noqa: E731
    loud, const, none = (draw(noise, KEY) for noise in ("random", "const", "none"))
    assert jnp.abs(loud[0] - loud[1]).max() > 0.01 and jnp.abs(loud - draw("random", jax.random.key(1))).max() > 0.01
    np.testing.assert_allclose(const[0], const[1], atol=1e-5)
    assert jnp.abs(const - none).max() > 0.01
    np.testing.assert_array_equal(const, draw("const", jax.random.key(1)))


def test_a_batch_without_groups_is_refused_in_training_alone():
    disc, x = StyleGan2Discriminator(**SMALL), random((5, 8, 8, 1))
    variables = jax.jit(disc.init)(KEY, x)
    assert disc.apply(variables, x).shape == (5,)  # a last batch of held-out images
    assert disc.apply(variables, x[:1], train=True).shape == (1,)
    with pytest.raises(UserError, match=r"no group of 2 to 4 examples divides a batch of 5; set data\.batch=6"):
        disc.apply(variables, x, train=True)

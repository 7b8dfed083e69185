"""Penalties against closed forms and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.losses.regularize import (
    R1,
    R2,
    Drift,
    GradientPenalty,
    NoGenPenalty,
    NoPenalty,
    Orthogonal,
    OrthogonalGen,
    PathLength,
    Seen,
    lazily,
)
from jaxgen.nets.convolution import conv2d, dense
from jaxgen.nets.gan import DcganDiscriminator
from jaxgen.nets.gan_resnet import ResnetDiscriminator
from jaxgen.nets.stylegan2 import modulated_conv

KEY = jax.random.key(0)
SHAPE = (4, 8, 8, 1)
REAL, FAKE = jax.random.normal(KEY, SHAPE), jax.random.normal(jax.random.key(1), SHAPE)


def of(penalty, critic, real=REAL, fake=FAKE, params=None):
    """The penalty [B]."""
    return penalty(Seen(critic, real, fake, params), KEY)


def test_linear_critic():
    """D(x) = <w, x> has slope |w| everywhere."""
    w = jax.random.normal(jax.random.key(2), SHAPE[1:])
    norm = float(jnp.linalg.norm(w))

    def critic(x):
        return (x * w).sum((1, 2, 3))

    gp = of(GradientPenalty(strength=10.0), critic)
    np.testing.assert_allclose(gp, jnp.full(4, 10 * (norm - 1) ** 2), rtol=1e-5)
    np.testing.assert_allclose(of(R1(strength=3.0), critic), jnp.full(4, 1.5 * norm**2), rtol=1e-5)
    assert (of(NoPenalty(), critic) == 0).all()


def bowl(x):
    """D(x) = |x|^2 / 2: its slope is |x|."""
    return 0.5 * (x**2).sum((1, 2, 3))


def test_interpolates_lie_between():
    """Between 0 and 1 the slope of the bowl gives each example's mixing weight away."""
    real, fake = jnp.zeros((64, 2, 2, 1)), jnp.ones((64, 2, 2, 1))
    target = 1e-3  # a slope much above it costs (slope / target)^2
    share = target * jnp.sqrt(of(GradientPenalty(strength=1.0, target=target), bowl, real, fake)) / 2.0
    assert (share >= 0).all() and (share <= 1).all() and share.std() > 0.2


def test_r1_looks_at_the_data_only():
    np.testing.assert_allclose(of(R1(strength=2.0), bowl), (REAL**2).sum((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    "penalty",
    [GradientPenalty(), GradientPenalty(one_sided=True, target=0.1), R1(), R2(), Drift()],
    ids=lambda v: type(v).__name__,
)
def test_gradient_against_finite_differences(penalty):
    """The gradient of a gradient, through the convolutions' own rules, in a critic without kinks."""
    with jax.enable_x64(True):
        real, fake = REAL.astype(jnp.float64), FAKE.astype(jnp.float64)
        keys = jax.random.split(jax.random.key(3), 8)
        shapes = [(4, 4, 1, 3), (3, 3, 3, 4), (1, 1, 4, 4), (64, 1)]
        params = [0.5 * jax.random.normal(k, s, jnp.float64) for k, s in zip(keys, shapes, strict=False)]
        step = [jax.random.normal(k, s, jnp.float64) for k, s in zip(keys[4:], shapes, strict=True)]

        def critic(params, x):
            x = jnp.tanh(conv2d(x, params[0], 2, 1))
            x = jnp.tanh(conv2d(x, params[1]))
            x = jnp.tanh(conv2d(x, params[2]))
            return dense(x.reshape(x.shape[0], -1), params[3])[:, 0]

        def along(h):
            moved = [p + h * s for p, s in zip(params, step, strict=True)]
            return of(penalty, lambda x: critic(moved, x), real, fake).mean()

        numeric = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.jit(jax.grad(along))(0.0), numeric, rtol=1e-5)


@pytest.mark.parametrize("disc", [DcganDiscriminator(width=4, norm="none"), ResnetDiscriminator(width=4)], ids=type)
def test_penalty_moves_every_layer_of_a_critic(disc):
    params = disc.init(KEY, REAL)["params"]

    def loss(params):
        critic = partial(disc.apply, {"params": params})
        return of(GradientPenalty(), critic).mean()

    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    assert all(jnp.abs(g).max() > 0 for path, g in grads if path[-1].key == "kernel")


def test_lazy_penalty_keeps_its_mean():
    penalty, zeros = R1(), jnp.zeros(4)
    got = [lazily(4, jnp.int32(i), lambda: 4 * of(penalty, bowl), zeros).mean() for i in range(8)]
    assert [g > 0 for g in got] == [i % 4 == 0 for i in range(8)]
    np.testing.assert_allclose(np.mean(got), of(penalty, bowl).mean(), rtol=1e-5)


def test_no_penalty_changes_nothing():
    z = jnp.ones((4, 3))
    assert NoGenPenalty().start() == {}
    penalty, memory = NoGenPenalty()(None, (z, {}), None, {}, KEY)
    assert penalty.shape == (4,) and not penalty.any() and memory == {}


def test_targets_are_relative():
    """A critic ten times as steep with ten times the target costs the same (Karras et al. 2017, table 5: target 750)."""
    steep = of(GradientPenalty(target=10.0), lambda x: 10 * bowl(x))
    np.testing.assert_allclose(steep, of(GradientPenalty(), bowl), rtol=1e-4)
    gentle = of(GradientPenalty(one_sided=True), lambda x: 1e-3 * bowl(x))
    assert not gentle.any() and of(GradientPenalty(), lambda x: 1e-3 * bowl(x)).all()


def test_r2_looks_at_generated_images_and_drift_at_answers():
    np.testing.assert_allclose(of(R2(strength=2.0), bowl), (FAKE**2).sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(of(Drift(strength=0.5), bowl), 0.5 * bowl(REAL) ** 2, rtol=1e-5)


def test_orthogonal_kernels_cost_nothing_whatever_their_lengths():
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(18, 5)))
    params = {"kernel": jnp.array(turned * np.arange(1.0, 6.0)).reshape(3, 3, 2, 5), "bias": jnp.ones(5)}
    skewed = {"kernel": jnp.array([[1.0, 0.5], [0.0, 2.0]])}
    for penalty in (
        lambda p: of(Orthogonal(strength=3.0), bowl, params=p),
        lambda p: OrthogonalGen(strength=3.0)(None, (), p, {}, KEY)[0],
    ):
        assert float(penalty(params)) < 1e-6
        np.testing.assert_allclose(penalty(skewed), 3 * 2 * 0.5**2)  # <(1, 0), (0.5, 2)> = 0.5, twice


def test_path_length_of_a_linear_generator():
    """J is the same everywhere: lengths are |A^T y|, y of the penalty's own key."""
    a = jax.random.normal(KEY, (6, 4 * 5 * 3))

    def generate(x, cond=None, method=None):
        return x[:, None].repeat(2, 1) if method == "map" else (x.mean(1) @ a).reshape(-1, 4, 5, 3)

    z = jax.random.normal(KEY, (8, 6))
    value, memory = PathLength(strength=3.0, decay=0.25)(generate, (z, {}), {}, {"mean": jnp.float32(1.0)}, KEY)
    y = jax.random.normal(KEY, (4, 4, 5, 3)).reshape(4, -1) / np.sqrt(20)
    lengths = jnp.linalg.norm(y @ a.T, axis=1) / 2  # each of two places moves half as far
    mean = 0.75 + 0.25 * lengths.mean()
    np.testing.assert_allclose(memory["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(value, 3 * ((lengths - mean) ** 2).mean(), rtol=1e-5)
    with pytest.raises(UserError, match=r"1 in 2 images of a batch of 1.*data\.batch=2"):
        PathLength()(generate, (z[:1], {}), {}, PathLength().start(), KEY)


def test_gradient_of_path_length_against_finite_differences():
    """Through modulated convolutions, in a generator without kinks."""
    with jax.enable_x64(True):
        keys = jax.random.split(KEY, 10)
        shapes = [(3, 5), (5, 4), (5, 4), (3, 3, 4, 4), (1, 1, 4, 2)]
        params = [jax.random.normal(k, s, jnp.float64) for k, s in zip(keys, shapes, strict=False)]
        step = [jax.random.normal(k, s, jnp.float64) for k, s in zip(keys[5:], shapes, strict=True)]
        z, const = (jax.random.normal(k, s, jnp.float64) for k, s in zip(keys, ((4, 3), (4, 4, 4)), strict=False))

        def generate(params, x, cond=None, method=None):
            if method == "map":
                return jnp.tanh(x @ params[0])[:, None].repeat(2, 1)
            y = jnp.broadcast_to(const, (len(x), *const.shape))
            y = jnp.tanh(modulated_conv(y, params[3], x[:, 0] @ params[1], way="up"))
            return modulated_conv(y, params[4], x[:, 1] @ params[2], demodulate=False)

        @jax.jit
        def along(h):
            moved = [p + h * s for p, s in zip(params, step, strict=True)]
            return PathLength()(partial(generate, moved), (z, {}), moved, {"mean": jnp.float64(0.5)}, KEY)[0]

        slope = jax.grad(along)(0.0)
        np.testing.assert_allclose(slope, (along(1e-5) - along(-1e-5)) / 2e-5, rtol=1e-6)
        assert abs(slope) > 1e-3

"""The magnitude-preserving UNet: unit magnitude is kept by every part, the published sizes, what weights' scales mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.optim import unit_magnitude
from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.nets.edm2_unet import (
    Edm2UNet,
    MPBlock,
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    unit,
)

SMALL = dict(shape=(8, 8, 3), conditions=labels(3), width=8, mults=(1, 2), blocks=1, attend=(4,), head_dim=8)


def magnitude(x):
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


def noise(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def shapes(module, shape=(8, 8, 3)):
    x, t = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), x, t)


def drawn(module):
    """Variables as the net starts, but for the gains, which are one instead of zero."""
    rng = np.random.default_rng(0)

    def draw(path, a):
        return jnp.ones(()) if path[-1].key == "gain" else jnp.asarray(rng.standard_normal(a.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(module)[1])


def test_functions_keep_unit_magnitude():
    a, b = noise(0, 4, 32, 32, 16), noise(1, 4, 32, 32, 48)
    assert magnitude(unit(7 * a)) == pytest.approx(1, abs=1e-3)
    assert magnitude(mp_silu(a)) == pytest.approx(1, abs=0.01)
    for t in (0.0, 0.3, 0.5, 1.0):
        assert magnitude(mp_sum(a, b[..., :16], t)) == pytest.approx(1, abs=0.01)
        both = mp_cat(a, b, t)
        assert magnitude(both) == pytest.approx(1, abs=0.01)
        first, second = magnitude(both[..., :16]) ** 2 * 16, magnitude(both[..., 16:]) ** 2 * 48
        assert first * t**2 == pytest.approx(second * (1 - t) ** 2, abs=0.5)  # shares do not depend on the widths
    wave = MPFourier(256)
    t = jnp.linspace(-2, 2, 64)
    assert magnitude(wave.apply(wave.init(jax.random.key(0), t), t)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("size", "width"), [(0, 64), (1, 64), (3, 64)])
def test_layers_keep_unit_magnitude_whatever_the_scale_of_their_weights(size, width):
    x = noise(0, 8, 16, 16, 32) if size else noise(0, 2048, 32)
    module = MPConv(width, size)
    v = module.init(jax.random.key(1), x)
    y = module.apply(v, x)
    inside = y[:, 1:-1, 1:-1] if size else y
    assert magnitude(inside) == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(module.apply(jax.tree.map(lambda a: 30 * a, v), x), y, atol=1e-3)
    # so the gradient is tangential: training alone can only lengthen the weights
    g = jax.grad(lambda v: jnp.sum(jnp.sin(module.apply(v, x))))(v)["params"]["kernel"]
    w, axes = v["params"]["kernel"], tuple(range(v["params"]["kernel"].ndim - 1))
    assert np.abs((g * w).sum(axes)).max() < 1e-3 * np.sqrt((g * g).sum(axes) * (w * w).sum(axes)).min()


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("way", ["same", "up"])
def test_blocks_keep_unit_magnitude(decoder, way):
    x, emb = noise(0, 4, 16, 16, 32), noise(1, 4, 64)
    module = MPBlock(32, decoder, way)
    y = jax.jit(module.apply)(module.init(jax.random.key(2), x, emb), x, emb)
    assert magnitude(y) == pytest.approx(1, abs=0.06)


def test_magnitudes_stay_near_one_through_the_whole_net():
    """Where a plain UNet grows: the paper's figure 3."""
    module = Edm2UNet(shape=(16, 16, 3), width=16, mults=(1, 2), blocks=3, attend=(), head_dim=16)
    x, t = noise(0, 2, 16, 16, 3), jnp.array([-1.0, 0.5])
    v = drawn(module)
    v["params"] = jax.tree.map(lambda a: a * (a.ndim > 0), v["params"])  # gains as they start
    seen = jax.jit(lambda v: module.apply(v, x, t, capture_intermediates=True)[1])(v)["intermediates"]
    sizes = {name: magnitude(s["__call__"][0]) for name, s in seen.items() if "block" in name}
    assert len(sizes) == 2 * 3 + 2 * 4 + 2
    assert min(sizes.values()) > 0.7 and max(sizes.values()) < 1.2


def test_starts_at_zero():
    x, t = noise(0, 1, 8, 8, 3), jnp.zeros(1)
    module = Edm2UNet(**SMALL | dict(mults=(1,)))
    v = drawn(module)
    v["params"]["conv_out"]["gain"] = jnp.zeros(())
    assert not np.any(jax.jit(module.apply)(v, x, t))
    assert all(v == 0 for v in jax.tree.leaves(MPConv(2, gain=True).init(jax.random.key(0), x)["params"]["gain"]))


def test_uncertainty_learns_the_logarithm_of_the_loss_at_every_noise_level():
    """The least of L / e^u + u is at u = log L (EDM2, eq. 21)."""
    module = Edm2UNet(**SMALL | dict(mults=(1,)))
    t = jnp.linspace(-1.5, 1.0, 64)
    loss = jnp.exp(jnp.sin(2 * t) - 1)
    v = module.init(jax.random.key(0), noise(0, 64, 8, 8, 3), t)
    rest = {k: c for k, c in v.items() if k != "params"}
    tx = optax.adam(0.02)

    def gap(params):
        u = module.apply({"params": params, **rest}, t, method="uncertainty")
        return jnp.mean(loss * jnp.exp(-u) + u), u

    @jax.jit
    def fit(params):
        def step(carry, _):
            params, opt = carry
            grads, _ = jax.grad(gap, has_aux=True)(params)
            change, opt = tx.update(grads, opt)
            return (optax.apply_updates(params, change), opt), None

        return jax.lax.scan(step, (params, tx.init(params)), length=300)[0][0]

    before, after = (gap(p)[1] for p in (v["params"], fit(v["params"])))
    error = lambda u: float(jnp.sqrt(jnp.mean((u - jnp.log(loss)) ** 2)))  # noqa: E731
    assert error(after) < 0.25 < 0.5 < error(before)


def test_unit_weights_change_no_output_and_are_a_projection():
    module = Edm2UNet(**SMALL | dict(mults=(1,)))
    x, t, cond = noise(0, 2, 8, 8, 3), jnp.array([-1.0, 0.5]), {"label": jnp.array([0, 2])}
    v = drawn(module)
    v["params"] = jax.tree.map(lambda a: 5 * a if a.ndim else a, v["params"])
    forced = v | {"params": unit_magnitude(v["params"], ".*kernel")}
    kernel = forced["params"]["conv_in"]["kernel"]
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(kernel**2, (0, 1, 2))), 1, rtol=1e-3)
    apply = jax.jit(module.apply)
    np.testing.assert_allclose(apply(v, x, t, cond), apply(forced, x, t, cond), atol=5e-3)
    again = unit_magnitude(forced["params"], ".*kernel")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), again, forced["params"])
    null = module.apply(forced, x, t)  # one operation at a time: the same bits, which compiled programs do not promise
    np.testing.assert_array_equal(null, module.apply(forced, x, t, {"label": jnp.array([3, -1])}))
    assert np.abs(null - apply(forced, x, t, cond)).max() > 1e-3


@pytest.mark.slow
def test_every_parameter_is_reached_and_remat_changes_nothing():
    module = Edm2UNet(**SMALL)
    x, t, cond = noise(0, 2, 8, 8, 3), jnp.array([-1.0, 0.5]), {"label": jnp.array([0, 2])}
    v = drawn(module)
    params = v.pop("params")

    def grads(module):
        def loss(p):
            out = module.apply({"params": p, **v}, x, t, cond, train=True)
            return jnp.sum(jnp.sin(out)) + jnp.sum(module.apply({"params": p, **v}, t, method="uncertainty"))

        return jax.jit(jax.grad(loss))(params)

    plain = grads(module)
    assert not [p for p, g in jax.tree_util.tree_leaves_with_path(plain) if not np.any(g)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3), grads(module.clone(remat=True)), plain
    )


def test_bf16_computes_in_bf16_and_keeps_float32_parameters():
    module = Edm2UNet(**SMALL, dtype="bfloat16")
    out, variables = shapes(module)
    assert out.dtype == jnp.float32
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    x, t = noise(0, 2, 8, 8, 3), jnp.zeros(2)
    look = lambda v: module.apply(v, x, t, capture_intermediates=True)[1]["intermediates"]  # noqa: E731
    assert jax.eval_shape(look, variables)["up0_block1"]["__call__"][0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("fields", "shape", "named"),
    [
        (dict(mults=(1, 1, 1)), (8, 6, 3), "6 pixels.*halved 2 times.*mults"),
        (dict(head_dim=5), (8, 8, 3), "head_dim=5"),
    ],
)
def test_impossible_fields_are_named(fields, shape, named):
    with pytest.raises(UserError, match=named):
        shapes(Edm2UNet(**SMALL | fields), shape)

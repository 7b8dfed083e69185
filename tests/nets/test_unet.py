"""The UNet: the published size, every option traced, and the properties a method relies on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import labels
from jaxgen.errors import UserError
from jaxgen.nets.unet import UNet

SMALL = dict(shape=(4, 4, 3), width=4, mults=(1, 2), blocks=1, attend=(2,), groups=2, dropout=0.0)


def variables_of(module, shape):
    x, t = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x, t, module.conditions.abstract(2))


@pytest.mark.parametrize("shape", [(8, 8, 3), (12, 8, 1), (7, 10, 4), (9, 5, 2)])
@pytest.mark.parametrize("resample", ["conv", "resnet"])
def test_any_image_comes_back_in_its_own_size(shape, resample):
    module = UNet(**SMALL | dict(shape=shape, mults=(1, 1, 2), downsample=resample, upsample=resample))
    x, t = jnp.zeros((2, *shape)), jnp.array([0.0, 999.0])
    out = jax.eval_shape(lambda key: module.init_with_output(key, x, t)[0], jax.random.key(0))
    assert out.shape == x.shape and out.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        dict(scale_shift=True, mid_norm_groups=0, head_dim=2),
        dict(attend_down=(True, False), attend_up=(False, True), heads=2, time_embedding="fourier", activation="mish"),
        dict(downsample=("resnet", "conv"), upsample=("conv", "resnet"), mid_scale=1.5, center_input=True, attend=()),
        dict(downsample_padding=1, flip_sin_to_cos=True, freq_shift=0.0, out_channels=6, dtype="bfloat16"),
    ],
)
def test_options_run_and_train(fields):
    module = UNet(**SMALL | fields)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    t = jnp.array([3.0, 700.0])
    v = jax.jit(module.init)(jax.random.key(0), x, t)
    # the last convolutions start at zero: move every parameter so that all of them matter
    rng = np.random.default_rng(0)
    v = jax.tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape).astype(np.float32), v)

    def loss(params):
        return jnp.mean(module.apply(v | {"params": params}, x, t) ** 2)

    value, grads = jax.jit(jax.value_and_grad(loss))(v["params"])
    assert np.isfinite(value) and value > 0
    dead = [jax.tree_util.keystr(p) for p, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)]
    assert not dead


def test_starts_at_zero():
    module = UNet(**SMALL)
    x, t = jnp.ones((1, 4, 4, 3)), jnp.ones(1)
    assert not np.any(jax.jit(module.init_with_output)(jax.random.key(0), x, t)[0])


def test_labels_and_the_null_label():
    module = UNet(**SMALL, conditions=labels(3), null_label=True)
    x, t = jax.random.normal(jax.random.key(1), (2, 4, 4, 3)), jnp.ones(2)
    v = jax.jit(module.init)(jax.random.key(0), x, t)
    assert v["params"]["label"]["embedding"].shape[0] == 4
    v = jax.tree.map(lambda a: a + 0.1, v)
    apply = jax.jit(module.apply)
    null = apply(v, x, t)
    explicit, other = (apply(v, x, t, {"label": jnp.array(label)}) for label in ([3, 3], [0, 3]))
    np.testing.assert_allclose(null, explicit, atol=1e-6)
    np.testing.assert_allclose(other[1], null[1], atol=1e-6)
    assert np.abs(other[0] - null[0]).max() > 1e-4
    strict = UNet(**SMALL, conditions=labels(3))
    assert variables_of(strict, (4, 4, 3))["params"]["label"]["embedding"].shape[0] == 3
    with pytest.raises(UserError, match=r"no null for 'label'.*3 labels.*null_label=True"):
        strict.init(jax.random.key(0), x, t)


def test_dropout_only_while_training():
    module = UNet(**SMALL | dict(dropout=0.5))
    x, t = jax.random.normal(jax.random.key(1), (1, 4, 4, 3)), jnp.ones(1)
    v = jax.tree.map(lambda a: a + 0.1, jax.jit(module.init)(jax.random.key(0), x, t))
    run = jax.jit(lambda key: module.apply(v, x, t, train=True, rngs={"dropout": key}))
    a, b = run(jax.random.key(1)), run(jax.random.key(2))
    assert np.abs(a - b).max() > 1e-4
    np.testing.assert_array_equal(a, run(jax.random.key(1)))


@pytest.mark.parametrize(
    ("fields", "named"),
    [(dict(head_dim=5), "head_dim"), (dict(groups=3), "groups"), (dict(attend_up=(True,)), "attend_up")],
)
def test_impossible_fields_are_named(fields, named):
    with pytest.raises(UserError, match=named):
        variables_of(UNet(**SMALL | fields), (4, 4, 3))

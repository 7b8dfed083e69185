"""DDPM++, NCSN++ and ADM: the published sizes, FIR resampling against its definition, every option traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.edm_unet import Adm, DdpmPP, NcsnPP
from jaxgen.nets.fir import fir, fir_down, fir_up, outer_filter

SMALL = dict(shape=(8, 8, 3), width=8, mults=(1, 2), blocks=1, attend=(4,), dropout=0.0)
TOLD = Spec(labels(3), augment=Field((2,), "float32", "embedding"))


def shapes(module, shape=(8, 8, 3)):
    x, t = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), x, t)


def moved(module, seed=0):
    """Variables away from the zeros that the net starts with."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype), shapes(module)[1])


@pytest.fixture
def batch():
    return jax.random.normal(jax.random.key(1), (2, 8, 8, 3)), jnp.array([-1.3, 0.4])


@pytest.mark.parametrize("n", [2, 4, 6])
def test_fir_resampling_is_a_convolution_and_its_transpose(n):
    rng = np.random.default_rng(n)
    f, x = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((n, n), (2, 6, 8, 3)))

    def depthwise(x, stride, padding):
        kernel = jnp.broadcast_to(f[:, :, None, None], (n, n, 1, 3))
        return lax.conv_general_dilated(
            x, kernel, (stride,) * 2, ((padding,) * 2,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3, precision="highest",
        )  # fmt: skip

    p = n // 2 - 1
    np.testing.assert_allclose(fir_down(x, f), depthwise(x, 2, p), atol=1e-5)
    np.testing.assert_allclose(fir(x, f, 1, p + 1), depthwise(x, 1, p + 1), atol=1e-5)
    transposed = jax.linear_transpose(lambda x: depthwise(x, 2, p), jnp.zeros((2, 12, 16, 3)))(x)[0]
    np.testing.assert_allclose(fir_up(x, f), 4 * transposed, atol=1e-5)


def test_two_equal_taps_are_means_and_nearest_neighbours():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(fir_down(x, outer_filter((1, 1)))[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(fir_up(x, outer_filter((1, 1))), x.repeat(2, 1).repeat(2, 2))
    np.testing.assert_allclose(outer_filter((1, 3, 3, 1)).sum(), 1, rtol=1e-6)
    for taps, wrong in (
        ((1, 2, 1), "even number of taps"),
        ((), "must not sum to zero"),
        ((1, -1), "must not sum to zero"),
    ):
        with pytest.raises(UserError, match=wrong):
            outer_filter(taps)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (DdpmPP, dict(conditions=TOLD, head_dim=4)),
        pytest.param(NcsnPP, dict(mults=(2, 1), out_channels=6), marks=pytest.mark.slow),
        (Adm, dict(conditions=labels(3), head_dim=8)),
    ],
)
def test_every_parameter_is_reached(kind, fields, batch):
    module = kind(**SMALL | fields)
    x, t = batch
    v = moved(module)
    cond = {"label": jnp.array([0, 2]), "augment": jnp.ones((2, 2))}
    params = v.pop("params")

    def loss(params):
        out = module.apply({"params": params, **v}, x, t, cond)
        assert out.shape == (2, 8, 8, module.out_channels or 3) and out.dtype == jnp.float32
        return jnp.sum(jnp.sin(out))

    grads = jax.jit(jax.grad(loss))(params)
    dead = [jax.tree_util.keystr(p) for p, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)]
    assert not dead


def test_starts_at_zero_with_fixed_filters_outside_the_parameters(batch):
    def start(key):  # the last convolution decides alone whether the output is zero
        v = NcsnPP(**SMALL).init(key, *batch)
        assert set(v) == {"params", "fir", "fourier"}
        return v["params"]["conv_out"], v["fir"]

    last, filters = jax.jit(start)(jax.random.key(0))
    assert not any(map(np.any, jax.tree.leaves(last)))
    filters = jax.tree.leaves(filters)
    assert len(filters) == 5  # two ways times block and shortcut, and the image
    for f in filters:
        np.testing.assert_allclose(f, outer_filter((1, 3, 3, 1)))
    for kind in (DdpmPP, Adm):
        variables = shapes(kind(**SMALL | dict(head_dim=0)))[1]
        assert set(variables) == {"params", "fir"}
        assert [f.shape for f in jax.tree.leaves(variables["fir"])] == [(2, 2)] * 4


def test_labels_and_the_null_label(batch):
    module = DdpmPP(**SMALL | dict(mults=(1,)), conditions=TOLD)
    v = moved(module)
    apply = jax.jit(module.apply)
    null = apply(v, *batch)
    explicit = {"label": jnp.array([3, -1]), "augment": jnp.zeros((2, 2))}
    np.testing.assert_array_equal(null, apply(v, *batch, explicit))
    other = apply(v, *batch, {"label": jnp.array([0, 3])})
    np.testing.assert_allclose(other[1], null[1], atol=1e-6)
    assert np.abs(other[0] - null[0]).max() > 1e-4


@pytest.mark.slow
def test_remat_changes_nothing_and_bf16_little(batch):
    plain = Adm(**SMALL | dict(mults=(1,), head_dim=0))
    v = moved(plain)

    def run(module):
        loss = lambda v: jnp.mean(jnp.sin(module.apply(v, *batch, train=True)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(v)

    (value, grads), (other, theirs) = run(plain), run(plain.clone(remat=True))
    np.testing.assert_allclose(value, other, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), grads, theirs)

    half = plain.clone(dtype="bfloat16")
    out, variables = shapes(half)
    assert out.dtype == jnp.float32
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    got, want = jax.jit(half.apply)(v, *batch), jax.jit(plain.apply)(v, *batch)
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)


def test_dropout_only_while_training(batch):
    module = Adm(**SMALL | dict(mults=(1,), dropout=0.5, head_dim=0))
    v = moved(module)
    run = jax.jit(lambda key: module.apply(v, *batch, train=True, rngs={"dropout": key}))
    a, b = run(jax.random.key(1)), run(jax.random.key(2))
    assert np.abs(a - b).max() > 1e-4
    np.testing.assert_array_equal(a, run(jax.random.key(1)))


@pytest.mark.parametrize("kind", [DdpmPP, NcsnPP, Adm])
@pytest.mark.parametrize("shape", [(12, 8, 1), (4, 16, 4)])
def test_any_size_that_can_be_halved(kind, shape):
    module = kind(**SMALL | dict(shape=shape, mults=(1, 2, 2), head_dim=8))
    assert shapes(module, shape)[0].shape == (2, *shape)


@pytest.mark.parametrize(
    ("fields", "shape", "named"),
    [
        (dict(mults=(1, 1, 1)), (8, 6, 3), "6 pixels cannot be halved 2 times.*mults"),
        (dict(head_dim=3), (8, 8, 3), "head_dim=3"),
        (dict(filter=(1.0,)), (8, 8, 3), "filter"),
    ],
)
def test_impossible_fields_are_named(fields, shape, named):
    with pytest.raises(UserError, match=named):
        shapes(DdpmPP(**SMALL | fields), shape)

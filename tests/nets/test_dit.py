"""DiT: the published sizes, and that scanning, rematerialising and bf16 change nothing that they should not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.dit import SIZES, DiT, DiTBlock, patchify, position_waves, stack_blocks, unpatchify, unstack_blocks

SMALL = dict(shape=(4, 4, 3), conditions=labels(3), depth=3, width=16, heads=2)


def shapes(module, shape=(4, 4, 3)):
    x, t = jax.ShapeDtypeStruct((2, *shape), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), x, t, module.conditions.abstract(2))


def moved(module):
    """Variables away from the zeros that the net starts with."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype), shapes(module)[1])


@pytest.fixture
def batch():
    return jax.random.normal(jax.random.key(1), (2, 4, 4, 3)), jnp.array([3.0, 700.0]), {"label": jnp.array([0, 2])}


def test_fields_are_dit_s_2_by_default():
    assert {name: getattr(DiT(), name) for name in SIZES["S"]} == SIZES["S"] and DiT().patch == 2


def test_patches_are_in_reading_order_and_come_back():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[1, 4].reshape(2, 2, 3), x[1, 2:4, 2:4])
    np.testing.assert_array_equal(unpatchify(tokens, 2, 2), x)


def test_positions_differ_and_have_one_length():
    waves = position_waves(3, 5, 16)
    assert len(np.unique(waves.round(5), axis=0)) == 15
    np.testing.assert_allclose((waves**2).sum(1), 8, rtol=1e-6)
    np.testing.assert_array_equal(waves.reshape(3, 5, 16)[0, :, 8:], waves.reshape(3, 5, 16)[0, :1, 8:].repeat(5, 0))


@pytest.mark.parametrize("shape", [(8, 8, 3), (4, 12, 1), (2, 6, 4)])
def test_any_multiple_of_the_patch(shape):
    out, _ = shapes(DiT(**SMALL | dict(shape=shape, out_channels=2 * shape[2])), shape)
    assert out.shape == (2, *shape[:2], 2 * shape[2]) and out.dtype == jnp.float32


def test_starts_at_zero_and_with_blocks_that_do_nothing(batch):
    x, t, y = batch
    out, v = jax.jit(DiT(**SMALL | dict(depth=1)).init_with_output)(jax.random.key(0), x, t, y)
    assert not np.any(out)
    h = jax.random.normal(jax.random.key(2), (2, 4, 16))
    np.testing.assert_array_equal(DiTBlock(2).apply({"params": v["params"]["block0"]}, h, jnp.ones((2, 16))), h)


def test_scan_and_remat_change_neither_outputs_nor_gradients(batch):
    x, t, y = batch
    plain = DiT(**SMALL | dict(depth=2))
    params = moved(plain)["params"]

    def run(module, params):
        loss = lambda p: jnp.sum(jnp.sin(module.apply({"params": p}, x, t, y)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    value, grads = run(plain, params)
    assert not [p for p, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)]
    stacked = stack_blocks(params)
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked), params)
    for fields in (dict(remat=True), dict(scan=True, remat=True)):
        module = plain.clone(**fields)
        assert jax.tree.structure(shapes(module)[1]["params"]) == jax.tree.structure(stacked if module.scan else params)
        other, theirs = run(module, stacked if module.scan else params)
        theirs = unstack_blocks(theirs) if module.scan else theirs
        np.testing.assert_allclose(other, value, rtol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), theirs, grads)


def test_an_embedding_for_each_block_may_be_scanned_too(batch):
    plain = DiT(**SMALL, block_embed=True)
    v = moved(plain)
    assert {f"embed{i}" for i in range(3)} < set(v["params"])
    scanned = {"params": stack_blocks(v["params"])}
    got, want = jax.jit(plain.clone(scan=True).apply)(scanned, *batch), jax.jit(plain.apply)(v, *batch)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_scanned_blocks_start_unlike_each_other(batch):
    x, t, y = batch
    init = lambda key: DiT(**SMALL, scan=True).init(key, x, t, y)["params"]["blocks"]["qkv"]["kernel"]  # noqa: E731
    kernel = jax.jit(init)(jax.random.key(0))
    assert kernel.shape == (3, 16, 48)
    assert np.abs(kernel[0] - kernel[1]).min(initial=1, where=kernel[0] != 0) > 0
    np.testing.assert_allclose(kernel.std((1, 2)), np.sqrt(2 / (16 + 48)), rtol=0.1)


@pytest.mark.slow
def test_bf16_computes_in_bf16_and_keeps_float32_parameters(batch):
    x, t, y = batch
    module = DiT(**SMALL)
    v = moved(module)
    half = module.clone(dtype="bfloat16")
    out, variables = shapes(half)
    assert out.dtype == jnp.float32
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    look = lambda v: half.apply(v, x, t, y, capture_intermediates=True)[1]["intermediates"]  # noqa: E731
    assert jax.eval_shape(look, v)["block1"]["mlp1"]["__call__"][0].dtype == jnp.bfloat16
    got, want = jax.jit(half.apply)(v, x, t, y), jax.jit(module.apply)(v, x, t, y)
    assert np.linalg.norm(got - want) < 0.03 * np.linalg.norm(want)


def test_labels_and_the_null_label(batch):
    x, t, _ = batch
    module = DiT(**SMALL)
    v = moved(module)
    assert v["params"]["embed"]["label"]["embedding"].shape == (4, 16)
    apply = jax.jit(module.apply)
    null = apply(v, x, t)
    explicit, other = (apply(v, x, t, {"label": jnp.array(label)}) for label in ([3, 3], [0, 3]))
    np.testing.assert_array_equal(null, explicit)
    np.testing.assert_allclose(other[1], null[1], atol=1e-6)
    assert np.abs(other[0] - null[0]).max() > 1e-4
    assert "label" not in shapes(DiT(**SMALL | dict(conditions=Spec())))[1]["params"]["embed"]
    with pytest.raises(UserError, match="null_label"):
        DiT(**SMALL, null_label=False).init(jax.random.key(0), x, t)


@pytest.mark.parametrize(
    ("fields", "shape", "named"),
    [
        (dict(patch=4), (6, 8, 3), "6 x 8 pixels.*patch=4"),
        (dict(heads=3), (4, 4, 3), "heads=3"),
        (dict(width=6, heads=2), (4, 4, 3), "width=6"),
    ],
)
def test_impossible_fields_are_named(fields, shape, named):
    with pytest.raises(UserError, match=named):
        shapes(DiT(**SMALL | fields), shape)

"""Nets of tokens that read a text: what fills it up is not seen, examples stay apart, an encoder of their own is trained along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec, encoded
from jaxgen.errors import UserError
from jaxgen.nets.efficient_unet import EfficientUNet
from jaxgen.nets.flux import Flux, angles_of, packed, unpacked
from jaxgen.nets.mmdit import MMDiT, turned_pairs
from jaxgen.nets.pixart import PixArt
from jaxgen.nets.text import TextTransformer
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.nets.uvit import UVitMasked

TOLD = encoded(5, 6, 3)
SMALL = dict(shape=(4, 6, 2), conditions=TOLD, width=8, heads=2)
UNET = dict(mults=(1,), blocks=1, groups=4, attend_down=(True,), attend_up=(True,))
NETS = {
    "mmdit": MMDiT(**SMALL, depth=3, positions=4, qk_norm=True, dual=1),
    "flux": Flux(**SMALL, double=1, single=1, axes=(0, 2, 2), guided=True),
    "pixart": PixArt(**SMALL, depth=1),
    "uvit": UVitMasked(
        shape=(4, 6), vocabulary=7, conditions=TOLD, embed=4, channels=6, blocks=1, block_heads=2, width=8, depth=1, heads=2,
        hidden=12, halve=True,
    ),
}  # fmt: skip


def arguments(module):
    if isinstance(module, UVitMasked):
        return (jnp.asarray(np.random.default_rng(2).integers(0, 8, (2, 24)), jnp.int32),)
    return jax.random.normal(jax.random.key(1), (2, 4, 6, 2)), jnp.array([0.3, 0.8])


@pytest.mark.parametrize("name", NETS)
def test_what_fills_a_text_up_is_not_seen_and_examples_stay_apart(name):
    module, rng = NETS[name], np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments(module))
    v = jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype), shapes)
    cond = {k: rng.standard_normal((2, *f.shape)).astype(np.float32) for k, f in TOLD.items()}
    cond["text_mask"] = np.array([[1, 1, 1, 0, 0], [1] * 5], np.float32)
    run = jax.jit(lambda cond: module.apply(v, *arguments(module), cond))
    out, filled = run(cond), cond["states"].copy()
    filled[0, 3:] += 1
    np.testing.assert_allclose(run(cond | {"states": filled}), out, rtol=1e-5, atol=1e-5)
    for told in ("states", "pooled"):
        other = cond[told].copy()
        other[0] += rng.standard_normal(other[0].shape)
        moved = run(cond | {told: other})
        assert np.abs(moved[0] - out[0]).max() > 1e-4, told
        np.testing.assert_allclose(moved[1], out[1], rtol=1e-4, atol=1e-5)


LISTENING = {k: v for k, v in NETS.items() if k != "uvit"} | {
    "unet_condition": UNetCondition(**SMALL, **UNET),
    "efficient_unet": EfficientUNet(**SMALL, **UNET),
}


@pytest.mark.parametrize("name", LISTENING)
def test_an_encoder_of_its_own(name):
    tokens = Spec(caption=Field((5,), "int32", "tokens", values=9, end=2))
    text = TextTransformer(values=9, length=5, width=8, depth=1, heads=2)
    module = LISTENING[name].clone(conditions=tokens, text=text)
    cond = {"caption": jax.ShapeDtypeStruct((2, 5), jnp.int32)}
    out, v = jax.eval_shape(module.init_with_output, jax.random.key(0), *arguments(module), cond)
    assert out.shape == (2, 4, 6, 2) and v["params"]["text"]["table"]


def test_rope_turns_pairs_by_places_and_lengths_stay():
    """A product of two turned vectors depends on how far their places are from each other, along each axis."""
    angles = jnp.asarray(angles_of(3, 4, 2, (2, 4, 6)))
    assert angles.shape == (2 + 12, 6) and not angles[:3].any()
    q, k = (jnp.broadcast_to(jax.random.normal(jax.random.key(i), (12,)), (1, 14, 1, 12)) for i in range(2))
    q, k = turned_pairs(q, angles)[0, 2:, 0].reshape(3, 4, 12), turned_pairs(k, angles)[0, 2:, 0].reshape(3, 4, 12)
    np.testing.assert_allclose((q[0, 0] * k[1, 2]).sum(), (q[1, 1] * k[2, 3]).sum(), rtol=1e-4)
    assert abs((q[0, 0] * k[1, 2]).sum() - (q[0, 0] * k[2, 1]).sum()) > 1e-3
    np.testing.assert_allclose(jnp.linalg.norm(q, axis=-1), jnp.linalg.norm(q[0, 0]), rtol=1e-5)


def test_packing_is_undone():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    tokens = packed(x, 2)
    np.testing.assert_array_equal(tokens[1, 4].reshape(3, 2, 2), x[1, 2:4, 2:4].transpose(2, 0, 1))
    np.testing.assert_array_equal(unpacked(tokens, 2, 2), x)


@pytest.mark.parametrize(
    ("name", "fields", "named"),
    [
        ("mmdit", dict(positions=1), "positions=1"),
        ("mmdit", dict(patch=4), "patch=2"),
        ("mmdit", dict(heads=3), "heads=1"),
        ("flux", dict(axes=(2, 2, 2)), r"axes=\(0, 2, 2\)"),
        ("pixart", dict(conditions=Spec(TOLD, size=Field((2,), "float32", "embedding"))), "size of 3 numbers"),
        ("pixart", dict(conditions=Spec()), "PixArt reads a text"),
        ("uvit", dict(shape=(3, 8)), "halve=False"),
        ("uvit", dict(block_heads=4), "block_heads=2"),
    ],
)
def test_what_does_not_fit_is_named(name, fields, named):
    module = NETS[name].clone(**fields)
    with pytest.raises(UserError, match=named):
        jax.eval_shape(module.init, jax.random.key(0), *arguments(module))

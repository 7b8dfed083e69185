"""Imagen's net: the text, its fill-up, the noise of a small picture and odd sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.efficient_unet import EfficientUNet

TOLD = Spec(
    states=Field((5, 6), "float32", "embedding"),
    seen=Field((5,), "float32", "mask"),
    low=Field((2, 2, 3), "float32", "image"),
    noise=Field((1,), "float32", "embedding"),
)
NET = EfficientUNet(
    shape=(5, 6, 3), conditions=TOLD, width=8, mults=(1, 2), blocks=(1, 2), groups=4, heads=2, attend_down=(False, True),
    attend_up=(False, True),
)  # fmt: skip
X, T = jax.random.normal(jax.random.key(1), (2, 5, 6, 3)), jnp.array([3.0, 700.0])


def test_all_that_it_is_told_reaches_it_and_what_fills_a_text_up_does_not():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(NET.init, jax.random.key(0), X, T)
    v = jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype), shapes)
    cond = {k: rng.standard_normal((2, *f.shape)).astype(np.float32) for k, f in TOLD.items()}
    cond["seen"] = np.array([[1, 1, 1, 0, 0], [1] * 5], np.float32)
    run = jax.jit(lambda cond: NET.apply(v, X, T, cond))
    out = run(cond)
    assert out.shape == X.shape and out.dtype == jnp.float32
    for name in TOLD:
        other = cond | {name: np.roll(cond[name], 1, 0)}
        assert np.abs(run(other) - out).max() > 1e-3, name
    filled = cond["states"].copy()
    filled[0, 3:] += 1
    np.testing.assert_array_equal(run(cond | {"states": filled}), out)


def test_most_blocks_are_where_the_picture_is_small():
    told = Spec(
        states=Field((128, 4096), "float32", "embedding"),
        noise=TOLD["noise"],
        low=Field((64, 64, 3), "float32", "image"),
    )
    net = EfficientUNet(shape=(256, 256, 3), conditions=told)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)), jnp.zeros(1))["params"]
    sizes = {name: sum(a.size for a in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert f"{sum(sizes.values()) / 1e6:.1f}" == "460.5"
    assert sum(size for name, size in sizes.items() if "3_" in name) > 0.7 * sum(sizes.values())


@pytest.mark.parametrize("field", [dict(attend_mid=False), dict(downsample="resnet"), dict(mid_scale=2.0)], ids=str)
def test_a_field_that_it_has_no_use_for(field):
    (name,) = field
    with pytest.raises(UserError, match=f"no use for {name}=.*set {name}={getattr(EfficientUNet, name)!r}"):
        jax.eval_shape(NET.clone(**field).init, jax.random.key(0), X, T)

"""A net that is told a text: pads mean nothing, the null is the empty text, what is made once is what is made in every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec, encoded
from jaxgen.nets.conditioning import sequences
from jaxgen.nets.dit import DiT
from jaxgen.nets.text import TextTransformer
from jaxgen.nets.unet_condition import UNetCondition

TOLD = Spec(caption=Field((6,), "int32", "tokens", values=20, empty=(1, 2, 0, 0, 0, 0), end=2))
TEXT = dict(values=20, length=10, depth=1, width=8, heads=2)
NETS = {
    "unet": (
        UNetCondition,
        dict(width=8, mults=(1,), blocks=1, attend_down=(True,), attend_up=(False,), heads=2, groups=4),
    ),
    "dit": (DiT, dict(patch=2, depth=1, width=8, heads=2)),
    "scan": (DiT, dict(patch=2, depth=2, width=8, heads=2, scan=True)),
}
X, T = jax.random.normal(jax.random.key(0), (3, 4, 4, 1)), jnp.array([0.1, 0.5, 0.9])
IDS = jnp.array([[1, 5, 6, 2, 0, 0], [1, 7, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0]])


def made(name, conditions, **more):
    """A net and variables without the zeros at which it begins."""
    kind, fields = NETS[name]
    module = kind(shape=(4, 4, 1), conditions=conditions, **fields, **more)
    cond = {k: jnp.ones((3, *f.shape), f.dtype) for k, f in conditions.items()}
    variables = jax.jit(module.init)(jax.random.key(0), X, T, cond)
    keys = iter(jax.random.split(jax.random.key(1), 999))
    return module, jax.tree.map(lambda v: v + 0.1 * jax.random.normal(next(keys), v.shape), variables)


@pytest.mark.parametrize("name", ["unet", "scan"])
def test_a_net_with_an_encoder_of_its_own(name):
    module, variables = made(name, TOLD, text=TextTransformer(**TEXT))
    assert "tokens" in module.takes and "tokens" not in NETS[name][0]().takes
    run = jax.jit(module.apply) if name == "scan" else module.apply
    out = run(variables, X, T, {"caption": IDS})
    assert np.abs(out[0] - run(variables, X, T, {"caption": IDS[1:2].repeat(3, 0)})[0]).max() > 1e-3
    np.testing.assert_array_equal(out[2], run(variables, X, T, {})[2])  # the null is the empty text
    longer = run(variables, X, T, {"caption": jnp.pad(IDS, ((0, 0), (0, 4)))})
    np.testing.assert_allclose(longer, out, atol=2e-5)
    cond = module.apply(variables, 3, {"caption": IDS}, method="listen")
    assert sorted(cond) == ["pooled", "states", "text_mask"]
    np.testing.assert_allclose(run(variables, X, T, cond), out, atol=1e-6)


def test_the_mask_of_a_text_and_that_of_a_picture_are_two():
    kind, fields = NETS["unet"]
    both = Spec(TOLD, mask=Field((4, 4, 1), "float32", "mask"))
    module = kind(shape=(4, 4, 1), conditions=both, text=TextTransformer(**TEXT), **fields)
    assert module.heard["mask"].shape == (4, 4, 1) and sequences(module.heard) == ("states", "text_mask")


def test_a_net_that_is_told_states():
    conditions = encoded(6, 12, pooled=5)
    module, variables = made("dit", conditions)
    rng = np.random.default_rng(0)
    states, pooled = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 6, 12), (3, 5)))
    mask = jnp.asarray([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], jnp.float32)
    run = lambda states, pooled: module.apply(variables, X, T, {"states": states, "text_mask": mask, "pooled": pooled})  # noqa: E731
    out, other = run(states, pooled), run(jnp.where(mask[..., None] > 0, states, 9.0), pooled)
    np.testing.assert_allclose(out, other, atol=1e-5)
    assert np.abs(run(states + 1, pooled) - out)[:2].max() > 1e-3 and np.abs(run(states, pooled + 1) - out).min() > 0

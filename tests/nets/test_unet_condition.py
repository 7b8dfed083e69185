"""The UNet that reads a text: what fills a text up is not seen, and a loop reads the text once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.dit import stack_blocks
from jaxgen.nets.unet_condition import UNetCondition

TEXT = Spec(states=Field((5, 6), "float32", "embedding"), seen=Field((5,), "float32", "mask"))
SMALL = dict(shape=(4, 4, 2), width=8, mults=(1,), blocks=1, groups=4, heads=2, attend_down=(True,), attend_up=(True,))
X, T = jax.random.normal(jax.random.key(1), (2, 4, 4, 2)), jnp.array([3.0, 700.0])


def variables_of(module, cond=None):
    """Away from the zeros that it starts with."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), X, T, cond)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype), shapes)


@pytest.fixture(scope="module")
def net():
    module = UNetCondition(**SMALL, conditions=TEXT)
    return module, variables_of(module), jax.jit(module.apply)


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    return {"states": rng.standard_normal((2, 5, 6)).astype(np.float32), "seen": np.array([[1, 1, 1, 0, 0], [1] * 5])}


def test_what_fills_a_text_up_is_not_seen(net):
    _, v, run = net
    text, other = drawn(), drawn(1)
    out = run(v, X, T, text)
    filled = text["states"].copy()
    filled[0, 3:] = other["states"][0, 3:]
    np.testing.assert_array_equal(run(v, X, T, text | {"states": filled}), out)
    filled[0, 2] = other["states"][0, 2]
    got = run(v, X, T, text | {"states": filled})
    assert np.abs(got[0] - out[0]).max() > 1e-3
    np.testing.assert_allclose(got[1], out[1], rtol=1e-6, atol=1e-6)
    nothing = run(v, X, T, text | {"seen": np.zeros((2, 5))})  # no token at all is null
    np.testing.assert_allclose(nothing, run(v, X, T), rtol=1e-6)


@pytest.mark.slow
def test_a_scan_and_rematerialisation_change_nothing(net):
    module, _, _ = net
    module, text = module.clone(layers=2), drawn()
    v = variables_of(module)
    want = jax.jit(module.apply)(v, X, T, text)
    stacked = {"params": {k: stack_blocks(p) if "attend" in k else p for k, p in v["params"].items()}}
    for how, variables in (dict(remat=True), v), (dict(scan=True, remat="cheap"), stacked):
        np.testing.assert_allclose(
            jax.jit(module.clone(**how).apply)(variables, X, T, text), want, rtol=1e-4, atol=1e-5
        )


def test_a_loop_finds_keys_and_values_of_its_text_once(net):
    """XLA takes them out of the solver's loop: no product that reads the states is in its body."""
    module, v, _ = net
    steps = lambda v, x, text: jax.lax.fori_loop(0, 3, lambda i, x: module.apply(v, x, T, text), x)  # noqa: E731
    text = jax.jit(steps).lower(v, X, drawn()).compile().as_text()
    parts = {m[1]: m[2] for m in re.finditer(r"^(?:ENTRY )?%?([\w.-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S)}
    calls = {
        name: set(re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)", part)) for name, part in parts.items()
    }
    (body,) = {m for part in parts.values() for m in re.findall(r" while\(.*body=%?([\w.-]+)", part)}
    inside, more = set(), {body}
    while more:
        inside |= more
        more = {c for name in more for c in calls[name]} - inside
    products = {name: len(re.findall(r" dot\(.*text/kv/", part)) for name, part in parts.items()}
    assert sum(products.values()) == 4
    assert not sum(products[name] for name in inside)
    assert sum(len(re.findall(r" dot\(.*text/q/", parts[name])) for name in inside) == 4


def test_it_needs_a_text():
    with pytest.raises(UserError, match="UNetCondition reads a text"):
        jax.eval_shape(UNetCondition(**SMALL).init, jax.random.key(0), X, T)

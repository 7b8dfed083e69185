"""A step in a layout is the step on the tree: whatever the optimizer, its masks and the averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core import optim
from jaxgen.core.layout import LARGE, Layout
from jaxgen.core.net import Decay, Net, Power
from jaxgen.core.state import path_name


class Small(nn.Module):
    """A few leaves of unlike shapes, one of them large."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(7)(nn.LayerNorm()(x))
        return nn.Dense(LARGE // 7 + 1)(x)


OPTIMIZERS = {
    "adam": optim.Adam(clip=0.5, warmup=3),
    "masked": optim.Adam(weight_decay=0.1, decay=".*kernel", train="Dense_.*"),
    "unit": optim.RAdam(unit="Dense_0/kernel"),
    "sgd": optim.Sgd(momentum=0.9, nesterov=True),
    "rising": optim.Sgd(momentum=0.9, rise=4),
    "rms": optim.RmsProp(),
}


def net_of(optimizer) -> Net:
    return Net(Small(), optimizer.build(), (Decay(0.9), Power(0.1)), alike=optimizer.alike)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_in_a_layout_is_the_step(name):
    net = net_of(OPTIMIZERS[name])
    state = net.init(jax.random.key(0), jnp.ones((2, 5)))
    layout = Layout.of(state.params, net.alike)
    assert len(layout.groups) < len(jax.tree.leaves(state.params))

    @jax.jit
    def step(state, grads, at):
        return net.update(state, grads, step=at)

    plain = laid = state
    for at in range(3):
        keys = jax.random.split(jax.random.key(at), len(layout.shapes))
        draws = [jax.random.normal(k, s) for k, s in zip(keys, layout.shapes, strict=True)]
        grads = jax.tree.unflatten(layout.structure, draws)
        plain, laid = step(plain, grads, at), step(laid.replace(layout=layout), grads, at).replace(layout=None)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(laid), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7, err_msg=jax.tree_util.keystr(path))
    moved = [np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (laid.params, state.params)), strict=True)]
    assert any(moved) and (name == "masked") == (not all(moved))


def test_joined_and_apart_is_the_state():
    net = net_of(OPTIMIZERS["masked"])
    state = net.init(jax.random.key(0), jnp.ones((2, 5)))
    layout = Layout.of(state.params, net.alike)
    joined = layout.joined(state)
    back = layout.apart(joined).replace(layout=None)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(jax.tree.leaves(joined)) < len(jax.tree.leaves(state))
    for name, _ in layout.groups:  # a regex says of a vector what it says of its leaves
        assert any(path_name(path) == name for path, _ in jax.tree_util.tree_leaves_with_path(state.params))


def test_what_is_not_element_by_element_stays_alone():
    class Mine(optim.Adam):
        """A user's own, which may do anything with a leaf."""

    assert Mine().alike("Dense_0/bias") is None
    assert optim.Adam(unit=".*kernel").alike("Dense_0/kernel") is None
    decayed, rest = (optim.Adam().alike(f"Dense_0/{leaf}") for leaf in ("kernel", "bias"))
    assert None not in (decayed, rest) and decayed != rest

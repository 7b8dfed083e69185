"""ControlNet: it starts by changing nothing, steers afterwards, and is shown a picture that fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.controlnet import ControlledUNet, ControlNet
from jaxgen.nets.unet_condition import UNetCondition

TEXT = Spec(states=Field((5, 6), "float32", "embedding"))
TOLD = Spec(TEXT, outline=Field((8, 8, 1), "float32", "image"))
SMALL = dict(shape=(4, 4, 2), width=8, mults=(1,), blocks=1, groups=4, heads=2, attend_down=(True,), attend_up=(True,))
X, T = jax.random.normal(jax.random.key(1), (2, 4, 4, 2)), jnp.array([3.0, 700.0])
COND = {
    "states": jax.random.normal(jax.random.key(2), (2, 5, 6)),
    "outline": jax.random.normal(jax.random.key(3), (2, 8, 8, 1)),
}


def test_it_changes_nothing_in_the_beginning_and_only_the_control_is_new():
    module = ControlledUNet(**SMALL, conditions=TOLD, hint_widths=(4, 8))
    shapes = jax.eval_shape(module.init, jax.random.key(0), X, T, COND)["params"]
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda a: (0.3 * rng.standard_normal(a.shape)).astype(np.float32), shapes)
    start = {name: jax.tree.map(np.zeros_like, p) if "zero" in name else p for name, p in moved["control"].items()}
    plain, base = UNetCondition(**SMALL, conditions=TEXT), {name: p for name, p in moved.items() if name != "control"}
    run = jax.jit(lambda v: module.apply({"params": v}, X, T, COND))
    want = jax.jit(lambda v: plain.apply({"params": v}, X, T, {"states": COND["states"]}))(base)
    np.testing.assert_array_equal(run({**base, "control": start}), want)
    assert np.abs(run(moved) - want).max() > 1e-3


@pytest.mark.parametrize(
    ("told", "named"),
    [(TOLD, "8 x 8 pixels and needs 16 x 16"), (TEXT, "steered by one picture")],
    ids=["size", "none"],
)
def test_a_picture_that_fits_is_needed(told, named):
    with pytest.raises(UserError, match=named):
        jax.eval_shape(ControlNet(**SMALL, conditions=told, hint_widths=(4, 8, 8)).init, jax.random.key(0), X, T)

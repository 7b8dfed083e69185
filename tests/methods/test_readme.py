"""The README's own method and condition, trained as printed there."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from cases import ROOT

from jaxgen.core.method import Samples
from jaxgen.core.spec import pictures
from jaxgen.data.sources import Digits


def test_sixty_lines_make_a_method_that_learns_its_new_condition():
    blocks = [
        b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "jaxgen.open" not in b
    ]
    assert len(blocks[0].splitlines()) <= 60
    names = {"key": jax.random.key(0)}
    exec(blocks[0], names)
    source = Digits().open("train")
    images = jnp.asarray(np.stack([source[i]["image"] for i in range(128)]))
    images = jnp.where(jnp.arange(128)[:, None, None, None] % 2 == 0, images, images // 4)  # half of them with less ink
    names["batch"] = names["Ink"]()(pictures((8, 8, 1)), {}, {"image": images}, names["key"])
    # the second block as printed, on a smaller net
    exec(blocks[1].replace("width=32", "width=16, groups=4, mults=(1,), blocks=1, attend=()"), names)
    state, losses = names["state"], []
    for i in range(200):
        state, metrics = names["step"](state, names["batch"], jax.random.key(i))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    method = names["method"]
    assert isinstance(method, Samples)
    make = jax.jit(lambda w, k, cond: method.sample(w, k, 16, cond))
    little, much = (make(state.view(), names["key"], {"ink": jnp.full((16, 1), ink)}) for ink in (-0.9, -0.3))
    assert little.shape == (16, 8, 8, 1) and bool(jnp.isfinite(little).all())
    assert float(much.mean()) > float(little.mean()) + 0.15  # it makes what it is asked for

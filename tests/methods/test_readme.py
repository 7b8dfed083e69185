"""The README's own method, trained as printed there."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import ROOT

from jaxgen.core.method import LossMethod, Samples
from jaxgen.core.net import Decay, Net
from jaxgen.data.sources import Digits
from jaxgen.images import to_float
from jaxgen.nets.unet import UNet


def test_forty_lines_make_a_method_that_learns():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks[0].splitlines()) <= 40
    names = {"dataclass": dataclasses.dataclass, "LossMethod": LossMethod, "to_float": to_float, "jax": jax, "jnp": jnp}
    names |= {"Net": Net, "UNet": UNet, "optax": optax, "Decay": Decay, "key": jax.random.key(0)}
    source = Digits().open("train")
    names["batch"] = {"image": jnp.asarray(np.stack([source[i]["image"] for i in range(32)]))}
    exec(blocks[0], names)
    # the second block as printed, on a smaller net
    exec(blocks[1].replace("width=32", "width=8, groups=4, mults=(1,), blocks=1, attend=()"), names)
    state, losses = names["state"], []
    for i in range(60):
        state, metrics = names["step"](state, names["batch"], jax.random.key(i))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    method = names["method"]
    assert isinstance(method, Samples)
    images = jax.jit(lambda w, k: method.sample(w, k, 2, {}))(state.view(ema=True), jax.random.key(1))
    assert images.shape == (2, 8, 8, 1) and bool(jnp.isfinite(images).all())

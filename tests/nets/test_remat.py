"""Rematerialisation: the same loss and gradients, the same dropout, and less memory."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets.dit import DiT
from jaxgen.nets.edm2_unet import Edm2UNet
from jaxgen.nets.edm_unet import DdpmPP
from jaxgen.nets.unet import UNet
from jaxgen.runs.setup import jaxlib_version

# Between, XLA's CPU backend merges what is computed again with what was there.
SAVES = "cse_barrier_expander" in os.environ["XLA_FLAGS"] or jaxlib_version() >= (0, 12)
IMAGE = dict(shape=(8, 8, 3), width=16)
NETS = {
    "unet": UNet(**IMAGE, mults=(1,), blocks=1, groups=4, attend=(8,), dropout=0.3),
    "edm": DdpmPP(**IMAGE, mults=(1,), blocks=1, attend=(8,), dropout=0.3),
    "edm2": Edm2UNet(**IMAGE, mults=(1,), blocks=1, attend=(8,), head_dim=8, dropout=0.3),
    "dit": DiT(**IMAGE, depth=2, heads=2),
    "dit, scanned": DiT(**IMAGE, depth=2, heads=2, scan=True),
}


@pytest.mark.parametrize("name", NETS)
def test_rematerialisation_saves_memory_and_changes_nothing(name):
    net, key = NETS[name], jax.random.key(0)
    x, t = jax.random.normal(key, (16, 8, 8, 3)), jnp.linspace(0.1, 0.9, 16)
    fixed = jax.jit(net.init)(key, x[:1], t[:1])
    leaves, tree = jax.tree.flatten(fixed.pop("params"))
    keys = jax.random.split(key, len(leaves))  # layers that start at zero would hide what is before them
    start = jax.tree.unflatten(
        tree, [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )

    def run(how):
        module = net.clone(remat=how)

        def loss(params):
            return jnp.mean(jnp.sin(module.apply({"params": params, **fixed}, x, t, train=True, rngs={"dropout": key})))

        program = jax.jit(jax.value_and_grad(loss)).lower(start).compile()
        return *program(start), program.memory_analysis().temp_size_in_bytes

    value, grads, most = run(False)
    for how in ("cheap", True):
        other, theirs, less = run(how)
        np.testing.assert_allclose(other, value, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), theirs, grads)
        assert not SAVES or less < 0.75 * most, f"{how}: {less / most:.2f} of the memory"

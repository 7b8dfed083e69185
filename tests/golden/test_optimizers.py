"""PyTorch's optimizers: six steps from one start on a bowl whose sides differ in steepness."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.optim import Adam, RmsProp, Sgd

# array of the case -> ours, with the fields that torch.optim's call had
OURS = {
    "opt_adam": Adam(lr=0.1, b1=0.5),
    "opt_adamw": Adam(lr=0.1, weight_decay=0.05, decay=".*"),
    "opt_rmsprop": RmsProp(lr=0.05),
    "opt_sgd_nesterov": Sgd(lr=0.05, momentum=0.9, nesterov=True),
}


def run(tx, start, gradient, steps):
    """float32 [steps, ...]: the params after every step."""

    def step(carry, i):
        p, opt = carry
        change, opt = optax.with_extra_args_support(tx).update({"p": gradient(p)}, opt, {"p": p}, step=i)
        p = p + change["p"]
        return (p, opt), p

    return jax.lax.scan(step, (start, tx.init({"p": start})), jnp.arange(steps))[1]


@pytest.mark.golden("torch_ops*")
@pytest.mark.parametrize("name", OURS)
def test_steps_of_torch(folder, name):
    case, arrays = json.loads((folder / "case.json").read_text()), np.load(folder / "io.npz")
    target, steepness = 0.3 * jnp.arange(5), jnp.arange(1.0, 6.0)
    path = run(
        OURS[name].build(), jnp.asarray(arrays["opt_init"]), lambda p: 2 * (p - target) * steepness, len(arrays[name])
    )
    np.testing.assert_allclose(path, arrays[name], rtol=case["tolerance"]["rtol"], atol=case["tolerance"]["atol"])


@pytest.mark.parametrize("in_root, first", [(False, 1e-4 / (1e-5 + 1e-8)), (True, 1e-4 / (1e-10 + 1e-8) ** 0.5)])
def test_the_first_step_of_rmsprop(in_root, first):
    """A gradient of 1e-4 moves ten times as far under PyTorch's formula as under TensorFlow's."""
    moved = run(RmsProp(lr=1.0, eps_in_root=in_root).build(), jnp.zeros(1), lambda p: jnp.full(1, 1e-4), 1)
    np.testing.assert_allclose(moved, [[-first]], rtol=1e-4)

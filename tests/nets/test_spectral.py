"""Spectral norm: the kernel's largest singular value becomes 1, its gradient is that of v^T W u, and u, v move when told to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import close, normal
from flax import linen as nn

from jaxgen.nets.layers import Conv, ConvTranspose, Dense, UpConv
from jaxgen.nets.spectral import normalised, settled, sigmas

pytestmark = pytest.mark.usefixtures("highest_precision")
KEY = jax.random.key(0)
LAYERS = [Dense(6), Conv(6), Conv(5, 4, 2, 1), UpConv(6), ConvTranspose(6)]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda m: type(m).__name__)
def test_sigma_is_the_largest_singular_value(layer):
    """After enough moves a layer is the layer without the field, of its kernel over numpy's sigma."""
    x = normal(0, 3, 7) if isinstance(layer, Dense) else normal(0, 2, 4, 6, 3)
    module = layer.clone(spectral=True)
    variables = module.init(KEY, x)
    move = jax.jit(lambda v: module.apply(v, x, mutable=["spectral"])[1])
    for _ in range(60):
        variables = variables | move(variables)
    kernel = variables["params"]["kernel"]
    sigma = np.linalg.svd(np.asarray(kernel).reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
    divided = {**variables["params"], "kernel": kernel / sigma}
    close(module.apply(variables, x), layer.apply({"params": divided}, x), 1e-4)


def test_the_gradient_is_of_the_bilinear_form():
    x, module = normal(0, 3, 7), Dense(5, use_bias=False, spectral=True)
    variables = module.init(KEY, x)
    u, v = (variables["spectral"]["kernel"][name] for name in "uv")

    def want(kernel):
        return jnp.sin(x @ (kernel / (v @ kernel @ u))).sum()

    def got(kernel):
        return jnp.sin(module.apply({**variables, "params": {"kernel": kernel}}, x)).sum()

    kernel = 1.3 * variables["params"]["kernel"] + 0.1 * normal(1, 7, 5)
    close(jax.grad(got)(kernel), jax.grad(want)(kernel))


def test_vectors_move_where_they_may_and_only_there():
    x, module = normal(0, 2, 4, 6, 3), Conv(6, spectral=True)
    variables = module.init(KEY, x)
    start = variables["spectral"]
    sigma = np.linalg.svd(np.asarray(variables["params"]["kernel"]).reshape(-1, 6), compute_uv=False)[0]
    first = {"params": {**variables["params"], "kernel": variables["params"]["kernel"] / sigma}}
    close(module.apply(variables, x), Conv(6).apply(first, x), 0.02)  # near its limit from the start
    (_, other), (_, moved) = (module.apply(variables, x, mutable=[name]) for name in ("batch_stats", "spectral"))
    assert not other
    assert all(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (start, moved["spectral"])), strict=True))
    again = module.init(KEY, x)["spectral"]
    jax.tree.map(np.testing.assert_array_equal, start, again)


def test_half_precision_divides_in_float32():
    x, module = normal(0, 3, 70), Dense(50, dtype=jnp.bfloat16, spectral=True)
    variables = module.init(KEY, x)
    whole = Dense(50, spectral=True).apply(variables, x)
    assert module.apply(variables, x).dtype == jnp.bfloat16
    close(module.apply(variables, x).astype(jnp.float32), whole, 0.02)


def test_a_table_has_a_norm_too():
    class Table(nn.Module):
        @nn.compact
        def __call__(self, i):
            return normalised(self, self.param("label", nn.initializers.normal(), (10, 4)), "label")[i]

    variables = Table().init(KEY, jnp.arange(10))
    table = Table().apply(variables, jnp.arange(10))
    assert abs(np.linalg.svd(np.asarray(table), compute_uv=False)[0] - 1) < 0.02


def test_params_that_others_vectors_belong_to_get_their_own():
    """An average of kernels, or any, has u and v of its own after `settled`; the raw ones underestimate its norm."""
    x, module = normal(0, 3, 40), nn.Sequential([Dense(30, spectral=True), nn.relu, Dense(20, spectral=True)])
    variables = module.init(KEY, x)
    params = jax.tree.map(lambda a: a + 0.3 * normal(2, *a.shape), variables["params"])
    strange = {**variables, "params": params}
    want = {f"{name}/kernel": np.linalg.svd(v["kernel"], compute_uv=False)[0] for name, v in params.items()}
    own, others = sigmas(settled(strange)), sigmas(strange)
    assert own.keys() == others.keys() == want.keys()
    for name, sigma in want.items():
        assert others[name] < 0.9 * sigma and abs(own[name] / sigma - 1) < 0.03
    plain = Dense(4).init(KEY, x)
    assert settled(plain) is plain and not sigmas(plain)

"""The EMA codebook of rosinality/vq-vae-2-pytorch, step by step: codes, loss, gradient and the state it leaves."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets.quantize import EmaQuantizer


@pytest.mark.golden("vqvae_ema*")
def test_vqvae_ema(folder):
    case = json.loads((folder / "case.json").read_text())
    arrays = dict(np.load(folder / "io.npz"))
    config = case["config"]
    tolerance = {name: case["tolerance"][name] for name in ("rtol", "atol")}
    steps = sum(name.startswith("x") for name in arrays)
    assert steps > 0
    quantizer = EmaQuantizer(
        codes=config["n_embed"], dim=config["dim"], decay=config["decay"], eps=config["eps"], dead=0.0
    )

    @jax.jit
    def step(book, x):
        def loss(x):
            q, new = quantizer.apply(
                {"codebook": book}, x, train=True, mutable=["codebook"], rngs={"codebook": jax.random.key(0)}
            )
            return q.codes.sum() + q.metrics["commitment"].mean(), (q, new["codebook"])

        return jax.grad(loss, has_aux=True)(x)

    book = {  # the reference keeps (dim, n_embed)
        "embed": jnp.asarray(arrays["embed0"].T),
        "count": jnp.asarray(arrays["cluster_size0"]),
        "sum": jnp.asarray(arrays["embed_avg0"].T),
        "ready": jnp.ones((), bool),
    }
    for i in range(steps):
        grad, (q, book) = step(book, jnp.asarray(arrays[f"x{i}"]))
        np.testing.assert_array_equal(q.ids, arrays[f"ind{i}"])
        np.testing.assert_allclose(q.codes, arrays[f"quantized{i}"], **tolerance)
        np.testing.assert_allclose(q.metrics["commitment"].mean(), arrays[f"diff{i}"], **tolerance)
        np.testing.assert_allclose(grad, arrays[f"grad_x{i}"], **tolerance)
        if f"embed{i + 1}" in arrays:
            np.testing.assert_allclose(book["embed"], arrays[f"embed{i + 1}"].T, **tolerance)
            np.testing.assert_allclose(book["count"], arrays[f"cluster_size{i + 1}"], **tolerance)
            np.testing.assert_allclose(book["sum"], arrays[f"embed_avg{i + 1}"].T, **tolerance)

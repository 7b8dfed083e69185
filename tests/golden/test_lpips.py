"""The `lpips` package reproduced from its own heads and recipe trunks: distances, layers, maps."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.lender import Frozen
from jaxgen.metrics.lpips import layer_maps, lpips, lpips_map, scale_images
from jaxgen.pretrained.features import TRUNKS, Distance, heads, shipped_heads, trunk


@pytest.mark.golden("lpips_*")
def test_lpips(folder, recipe_weights):
    case, arrays = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    weights = {k: v * np.float32(np.sqrt(2)) if v.ndim == 4 else v for k, v in recipe_weights(case).items()}
    linear = {name.removeprefix("W:"): value for name, value in arrays.items() if name.startswith("W:")}
    module, variables = TRUNKS[case["net"]].module(), trunk(case["net"], weights | linear)
    own = heads(case["net"], linear)
    a, b = (jnp.asarray(arrays[name].transpose(0, 2, 3, 1)) for name in ("x0", "x1"))

    @jax.jit
    def measure(variables, a, b):
        taps = [module.apply(variables, scale_images(x)) for x in (a, b)]
        layers = jnp.stack([layer.mean((1, 2)) for layer in layer_maps(*taps, own)])
        return lpips(*taps, own), layers, lpips_map(*taps, own, a.shape[1:3])

    distance, layers, where = measure(variables, a, b)
    step = where.shape[1] // arrays["spatial_subsampled"].shape[1]
    np.testing.assert_allclose(distance, arrays["y"], **case["tolerance"])
    np.testing.assert_allclose(layers, arrays["per_layer"], **case["tolerance"])
    np.testing.assert_allclose(where[:, ::step, ::step], arrays["spatial_subsampled"], **case["tolerance"])
    lent = Frozen({"trunk": variables, "heads": own}, Distance(case["net"]))
    np.testing.assert_allclose(
        jax.jit(Frozen.__call__)(lent, a, b), arrays["y_inputs_0_1_normalize"], **case["tolerance"]
    )


@pytest.mark.golden("lpips_*")
def test_shipped_heads_are_those_of_the_package(folder):
    net, arrays = json.loads((folder / "case.json").read_text())["net"], dict(np.load(folder / "io.npz"))
    shipped = shipped_heads(net)
    for prefix in ("lin", "lins."):  # the package saves each head under two names
        named = {k[2:]: v for k, v in arrays.items() if k.startswith(f"W:{prefix}") and k[2 + len(prefix)].isdigit()}
        assert len(named) == len(shipped)
        for ours, theirs in zip(shipped, heads(net, named), strict=True):
            np.testing.assert_array_equal(ours, theirs)

"""pytorch-fid's Inception reproduced from recipe weights: four taps, the logits, and the exact input size."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nets.inception import SIZE, InceptionV3
from jaxgen.pretrained.features import inception


def case_weights(case, arrays, recipe_weights):
    """The recipe, convolutions 1.3 times as large, running statistics from the case."""
    weights = {k: v * np.float32(1.3) if k.endswith("conv.weight") else v for k, v in recipe_weights(case).items()}
    for key, value in arrays.items():
        if key.startswith("bn:"):
            name = key[3:].replace(".mean", ".running_mean").replace(".var", ".running_var")
            assert weights[name].shape == value.shape
            weights[name] = value.astype(np.float32)
    return weights


@pytest.mark.golden("inception_fid*")
def test_inception(folder, recipe_weights):
    case, arrays = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    variables = inception(case_weights(case, arrays, recipe_weights))
    apply = jax.jit(InceptionV3().apply)

    def taps(images):  # [B, 3, H, W] in [0, 1]; torch's bilinear resize without antialiasing
        x = jnp.asarray(images.transpose(0, 2, 3, 1))
        x = jax.image.resize(x, (len(x), SIZE, SIZE, 3), "bilinear", antialias=False)
        return apply(variables, 2 * x - 1)

    seen = taps(arrays["x"])
    got = {
        **{f"block{i}_mean": block.mean((1, 2)) for i, block in enumerate((seen.block0, seen.block1, seen.block2))},
        "pool3": seen.pool3,
        "logits1008": seen.logits,
        "pool3_299": taps(arrays["x299_u8"].astype(np.float32) / 255).pool3,
    }
    for name, value in got.items():
        np.testing.assert_allclose(value, arrays[name], **case["tolerance"], err_msg=name)
    np.testing.assert_allclose(
        seen.logits - seen.logits_unbiased,
        np.broadcast_to(variables["params"]["fc"]["bias"], seen.logits.shape),
        atol=1e-4,
    )

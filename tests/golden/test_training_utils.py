"""diffusers' training utilities: SNR, SD3's times and weights, and the decay of a moving average."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.net import Decay
from jaxgen.diffusion.paths import Linear
from jaxgen.diffusion.process import VP, level_at
from jaxgen.diffusion.times import LogitNormal, Mode
from jaxgen.diffusion.weight import CosMap, InverseVariance, Snr


@pytest.mark.golden("training_utils")
def test_training_utils(folder):
    case = json.loads((folder / "case.json").read_text())
    arrays = dict(np.load(folder / "io.npz"))
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    params = case["params"]

    def close(got, key):
        np.testing.assert_allclose(got, arrays[key], **tolerance, err_msg=key)

    for key, process in {
        "snr_scaled_linear": VP("scaled_linear", 1000, 0.00085, 0.012),
        "snr_cosine": VP("cosine"),
    }.items():
        t = (arrays["t"] + 1) / process.steps
        got = Snr()(level_at(process, t, t), 1.0)
        # a product of 1,000 float32 over there, and 1 minus it is no finer than 6e-8
        rough = 6e-5 + 1.2e-7 / process.sigma(t) ** 2
        assert (np.abs(got / arrays[key] - 1) < tolerance["rtol"] + rough).all(), key
    normal, uniform = jnp.asarray(arrays["unit_normal"]), jnp.asarray(arrays["unit_uniform"])
    close(LogitNormal(params["logit_mean"], params["logit_std"]).share(normal), "u_logit_normal")
    close(Mode(params["mode_scale"]).share(uniform), "u_mode")
    sigma = jnp.asarray(arrays["sigmas"])  # the straight path's time too
    level = level_at(Linear(), sigma, sigma)
    close(InverseVariance()(level, 1.0), "w_sigma_sqrt")
    close(CosMap()(level, 1.0), "w_cosmap")
    # their step s makes our update s - 1; they start one update later
    steps = arrays["ema_steps"]
    late = steps >= 2
    np.testing.assert_allclose(
        np.exp(Decay(0.9999).log_decay(steps[late] - 1.0)), arrays["ema_decay_plain"][late], rtol=1e-6
    )

"""SiT's interpolants: states, velocities, conversions and the diffusions of its reverse SDE. Its time runs from noise to data."""

import json

import numpy as np
import pytest

from jaxgen.diffusion.paths import Linear, Trigonometric, VpSde
from jaxgen.diffusion.predict import Score, Velocity
from jaxgen.diffusion.process import drift, level_at
from jaxgen.diffusion.solvers.ode import DIFFUSIONS

PATHS = {"linear": Linear(), "gvp": Trigonometric(), "vp": VpSde(0.1, 20.0)}
NORM = 1.3  # of the recorded diffusions


@pytest.mark.golden("sit_interpolants")
@pytest.mark.parametrize("name", PATHS)
def test_interpolant(folder, name):
    case = json.loads((folder / "case.json").read_text())
    arrays = {k: v.astype(np.float64) for k, v in np.load(folder / "io.npz").items()}
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    process, t = PATHS[name], 1 - arrays["t"]
    noise, data, v = arrays["x0"], arrays["x1"], arrays["v"]

    def spread(values):
        return values[:, None, None, None]

    def close(key, got):
        want = arrays[f"{name}_{key}"]
        np.testing.assert_allclose(np.broadcast_to(got, want.shape), want, **tolerance, err_msg=key)

    level = level_at(process, t, data)
    x = level.noised(data, noise)
    close("xt", x)
    velocity, score = Velocity(), Score()
    close("ut", -velocity.target(data, noise, level))
    image = velocity.denoised(-v, x, level)
    eps = level.noise(x, image)
    close("noise_from_v", eps)
    close("score_from_v", score.target(image, eps, level))
    image = score.denoised(v, x, level)
    close("v_from_score", -velocity.target(image, level.noise(x, image), level))
    f, g = drift(process, t)
    close("drift", spread(f) * x)
    close("sigma", spread(g**2 / 2))
    for ours, theirs in {"sbdm": "SBDM", "constant": "constant", "sigma": "sigma", "linear": "linear",
                         "bump": "inccreasing-decreasing"}.items():  # fmt: skip
        close(f"diffusion_{theirs}", NORM * spread(DIFFUSIONS[ours](process, t)))
    decreasing = 0.25 * (NORM * np.cos(np.pi * (1 - t)) + 1) ** 2
    close("diffusion_decreasing", spread(decreasing))

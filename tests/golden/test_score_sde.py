"""score_sde_pytorch: marginals, drifts, diffusions, reverse SDEs and flows of VP, sub-VP and VE."""

import json

import numpy as np
import pytest

from jaxgen.diffusion.paths import VE, SubVp, VpSde
from jaxgen.diffusion.process import VP, drift, level_at

N = 1000  # their default number of scales


def processes(case):
    return {"vp": VpSde(0.1, 20.0), "subvp": SubVp(0.1, 20.0), "ve": VE(0.01, case["sigma_max_ve"])}


def discrete(name, process, x, t):
    """Their one-step discretisation: x_(i+1) = x_i + f + G z."""
    index = (t.astype(np.float32) * np.float32(N - 1)).astype(int)
    if name == "vp":
        beta = VP("linear", N).betas[index]
        return (np.sqrt(1 - beta) - 1)[:, None, None, None] * x, np.sqrt(beta)
    if name == "ve":
        sigma = process.sigma(np.maximum(index / (N - 1), 1e-12))
        before = np.where(index > 0, process.sigma(np.maximum((index - 1) / (N - 1), 1e-12)), 0.0)
        return np.zeros_like(x), np.sqrt(sigma**2 - before**2)
    f, g = drift(process, t)
    return f[:, None, None, None] * x / N, g / np.sqrt(N)


@pytest.mark.golden("score_sde")
@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_sde(folder, name):
    case = json.loads((folder / "case.json").read_text())
    arrays = dict(np.load(folder / "io.npz"))
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    process = processes(case)[name]
    x, t = arrays["x"].astype(np.float64), arrays["t"].astype(np.float64)

    def spread(v):
        return np.asarray(v)[:, None, None, None]

    def close(key, got):
        np.testing.assert_allclose(got, arrays[f"{name}_{key}"], **tolerance, err_msg=key)

    close("mean", spread(process.alpha(t)) * x)
    close("std", process.sigma(t))
    f, g = drift(process, t)
    close("drift", spread(f) * x)
    close("diffusion", g)
    most = 1.0 if name != "ve" else process.sigma(np.ones(1))[0]
    close("prior_logp", (-0.5 * (x / most) ** 2 - 0.5 * np.log(2 * np.pi * most**2)).sum((1, 2, 3)))
    score = -x / (1 + spread(t))
    step, noise = discrete(name, process, x, t)
    close("disc_f", step)
    close("disc_G", noise)
    for kind, half in (("rev0", 1.0), ("rev1", 0.5)):
        close(f"{kind}_drift", spread(f) * x - half * spread(g) ** 2 * score)
        close(f"{kind}_diff", g * (kind == "rev0"))
        close(f"{kind}_f", step - half * spread(noise) ** 2 * score)
        close(f"{kind}_G", noise * (kind == "rev0"))
    # the flow's drift is also what our solvers integrate, with D = (x + sigma^2 score) / alpha
    level = level_at(process, t, x)
    image = (x + level.sigma**2 * score) / level.alpha
    close("rev1_drift", level.velocity(image, level.noise(x, image)))

"""RePaint against diffusers' RePaintScheduler: the published order to the entry, and every step down with the known part put in.

Going up is not compared. Of the same list diffusers reads an entry as the step that is made at it, where the authors' program means
the level that is come to, so that it climbs from one step lower; and on a shortened chain it adds the noise of other training steps
than those of the way. One noise serves it for the known and the unknown part.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.linear import masked
from jaxgen.diffusion.grid import Leading
from jaxgen.diffusion.process import VP
from jaxgen.diffusion.restorers.repaint import RePaint, Row, order


@pytest.mark.golden("repaint_schedule")
def test_repaint_schedule(folder):
    case, io = json.loads((folder / "case.json").read_text()), np.load(folder / "io.npz")
    for name, told in case["timestep_tables"].items():
        steps, jump, passes = map(int, name.split("_"))
        visited = np.array(order(steps, jump, passes))
        entries = ((visited[:-1] - 1) * (1000 // steps)).tolist()
        assert len(entries) == told["entries"] and RePaint(steps, jump, passes).nfe(None, VP()) == told["evaluations"]
        assert entries[:15] == told["first"] and entries[-15:] == told["last"], name

    c = case["config"]
    total, steps = c["num_train_timesteps"], c["num_inference_steps"]
    process = VP("linear", total, c["beta_start"] * total / 1000, c["beta_end"] * total / 1000)
    np.testing.assert_allclose(process.alpha(np.arange(1, total + 1) / total) ** 2, io["alphas_cumprod"], rtol=1e-6)
    paint = RePaint(steps, c["jump_length"], c["jump_n_sample"], c["eta"], c["clip_sample"], Leading())
    visited = np.array(order(paint.steps, paint.jump, paint.passes))
    np.testing.assert_array_equal((visited[:-1] - 1) * (total // steps), io["timesteps"])
    rows, jumps = paint.rows(process), paint.prepared(process)
    last = lambda x: jnp.moveaxis(jnp.asarray(x), 1, -1)  # noqa: E731
    known = last(io["mask"])
    seen = masked(last(io["original"]) * known, known)
    step, draw = 0, 0
    for i, falls in enumerate(io["is_denoise"]):
        if not falls:
            draw += total // steps
            continue
        t = (io["timesteps"][i] + 1) / total
        x, z, row = last(io["xs"][i]), last(io["noise"][draw]), np.abs(rows.t - t).argmin()
        alpha, sigma = process.alpha(np.array([t]))[0], process.sigma(np.array([t]))[0]
        d = (x - sigma * last(io["eps"][step])) / alpha
        flat = Row(*(v[row] for v in rows))._replace(rise=1.0, fresh=0.0)
        got = jumps.step(flat, x, d, seen, (z, z, 0.0 * z))
        want = last(io["xs"][i + 1])
        np.testing.assert_allclose(got, want, rtol=case["tolerance"]["rtol"], atol=case["tolerance"]["atol"])
        step, draw = step + 1, draw + 1
    assert step == len(rows.t)

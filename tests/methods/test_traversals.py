"""What the latents of a VAE do is counted and drawn."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.evaluation.traversals import Traversals
from jaxgen.runs.experiment import Experiment, open_source


def test_latents_that_know_something_come_first_and_move_the_picture():
    config = configs.override(configs.load(f"{ROOT}/configs/vae_digits.py:tiny"), {"mesh": {"data": 1}})
    source = open_source(config, "eval")
    exp = Experiment.open(config, source.spec)
    state = exp.init()
    params = state.nets["net"].params
    used = jnp.array([2, 5])  # of 8 latents; the posteriors of the others are the prior
    kernel = jnp.zeros_like(params["posterior"]["kernel"])
    kernel = kernel.at[:, used].set(params["posterior"]["kernel"][:, used] * jnp.array([10.0, 1.0]))
    params["posterior"] = {"kernel": kernel, "bias": params["posterior"]["bias"] * 0}
    w = state.view()
    report = Traversals(num=100, rows=3, steps=5)(exp, w, w, source)
    figures = report.scalars
    assert figures["active_units"] == 2 and figures["kl_1"] > figures["kl_2"] > 0
    np.testing.assert_allclose([figures["kl_3"], figures["kl_others"]], 0.0, atol=1e-6)
    rows = report.images["traversal"].reshape(3, 5, 8, 8, 1)
    assert report.columns == 5 and len(np.unique(rows.reshape(15, -1), axis=0)) == 15

    batch, _ = next(exp.held_out(source, 1))
    z, _ = jax.jit(exp.method.inferred)(w, exp.own(batch), exp.root)
    moved = z[:1].at[0, 2].set(0.0)  # the median of the prior
    np.testing.assert_allclose(rows[0, 2], exp.method.decode(w, moved)[0], atol=1e-5)

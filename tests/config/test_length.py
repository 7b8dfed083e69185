"""Schedules belong to a run, not to the number of steps that a command asks for; what does not fit a short run is told."""

import json
import re

import jax
import numpy as np
import pytest
from cases import CONFIGS

import jaxgen
from jaxgen.config import files as configs
from jaxgen.config.length import laid_out, remarks, scheduled, shortened
from jaxgen.core.optim import Adam
from jaxgen.train import train


def recipe(name, **changes):
    return configs.override(configs.load(name), changes)


def paste(config, line):
    """The config with every --config.KEY=VALUE of a line."""
    found = dict(re.findall(r"--config\.(\S+?)=(\S+)", line))
    assert found, line
    return configs.override(config, found)


@pytest.mark.parametrize("name", CONFIGS)
def test_going_on_keeps_every_schedule_and_what_is_told_can_be_pasted(name):
    """For every recipe: nothing to remark of it as it is; longer and shorter ones say what to paste, after which all is well."""
    whole = laid_out(recipe(name), None)
    assert set(scheduled(whole).values()) == {whole.steps} and not remarks(whole, 0)
    on = laid_out(recipe(name, steps=3 * whole.steps), whole)
    assert scheduled(on) == scheduled(whole) == scheduled(laid_out(recipe(name), on))
    for config in (on, configs.override(whole, {"steps": whole.steps // 2}), recipe(name, steps=300)):
        for line in remarks(config, 0):
            assert "\n" not in line
            config = paste(config, line)
        assert not remarks(config, 0) and not shortened(config)


def test_a_schedule_said_is_the_one_that_holds():
    begun = laid_out(recipe("ddpm_digits"), None)
    key = "method.net.optimizer.schedule_steps"
    assert scheduled(laid_out(recipe("ddpm_digits", steps=8000, **{key: 8000}), begun)) == {key: 8000}
    old = recipe("ddpm_digits")  # written before schedules had a length of their own
    assert scheduled(laid_out(recipe("ddpm_digits", steps=8000), old)) == {key: 3000}
    lines = remarks(laid_out(recipe("ddpm_digits", steps=8000), begun), 3000)
    assert len(lines) == 1 and "has ended at step 3,000, and stays at 0% of its peak" in lines[0]


def test_remarks_tell_the_rate_that_there_is():
    """The share of the peak in the line is that of the optimizer."""
    for schedule in ("cosine", "linear"):
        spec = {"schedule": schedule, "schedule_steps": 1000, "warmup": 100, "final": 0.1}
        keys = {f"method.net.optimizer.{k}": v for k, v in spec.items()}
        (line,) = remarks(recipe("ddpm_digits", steps=600, log_every=10, eval={}, **keys), 0)
        told = float(re.search(r"ends at (\d+)% of its peak", line)[1])
        assert told == pytest.approx(100 * float(Adam(lr=1.0, **spec).rate()(600)), abs=0.6)


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_run_that_was_asked_for_so_long(tiny, tmp_path):
    """Cut at step 2 of a schedule of 4, and on to 4: the bits of the run that was never cut."""
    cosine = {"method.net.optimizer.schedule": "cosine", "eval": {}}
    train(tiny("vae_digits", **cosine), tmp_path / "whole")
    length = {"method.net.optimizer.schedule_steps": 4}
    train(tiny("vae_digits", steps=2, **cosine, **length), tmp_path / "cut")
    train(tiny("vae_digits", **cosine), tmp_path / "cut")
    for path in ("whole", "cut"):
        assert (
            json.loads((tmp_path / path / "config.json").read_text())["method"]["net"]["optimizer"]["schedule_steps"]
            == 4
        )
    a, b = (jaxgen.open(tmp_path / path).state.nets["net"].params for path in ("whole", "cut"))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)

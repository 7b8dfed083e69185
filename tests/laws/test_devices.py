"""Law 3: eight devices compute what one does, sharded parameters what replicated ones do, a scan what single steps do."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from cases import ROOT, forms, kinds

from jaxgen.config import files as configs
from jaxgen.core import parallel


def close(a, b, tolerance=1e-5):
    """Equal up to float order: error relative to each leaf's largest value."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max(initial=0) <= tolerance * max(1.0, np.abs(x).max(initial=0)), jax.tree_util.keystr(
            path
        )


def nets(state):
    return jax.device_get({k: (n.params, n.vars, n.ema) for k, n in state.nets.items()})


def method(kind):
    return forms()[kind]["method"]["name"]


FIRST = {method(kind): kind for kind in reversed(kinds())}


def test_eight_devices_are_one(kind, shared, advance):
    """A batch spread over eight devices; with whole parameters once for each method, which are no matter of its nets."""
    config = shared(kind)
    exp, _, _ = advance(config, num=0)
    start = jax.device_get(exp.init())
    _, one, said = advance(config, start)
    ways = {"sharded": {"mesh": {"data": 2, "fsdp": 4}, "sharding": ((".*", "fsdp:256"),)}}
    if kind == FIRST[method(kind)]:
        ways["whole"] = {"mesh": {"data": 8}}
    for way, changes in ways.items():
        _, eight, said_by_eight = advance(configs.override(config, changes), start)
        assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(eight.nets)) == (way == "whole")
        close(nets(one), nets(eight))
        for key, value in said.items():
            np.testing.assert_allclose(value, said_by_eight[key], rtol=1e-4, atol=1e-5, err_msg=f"{way} {key}")


def test_eight_devices_share_the_work_of_sampling(tiny, advance):
    """Operations per device, as the compiler counts them, fall with the number of devices, labels or not."""
    for name in ("dcgan_digits", "vae_digits"):
        flops = []
        for devices in (1, 8):
            exp, state, _ = advance(tiny(name, mesh={"data": devices}), num=0)
            program = exp.sampler(64).lower(state.view(), ({}, {}, exp.settings), exp.root).compile()
            flops.append(program.cost_analysis()["flops"])
        assert flops[1] < flops[0] / 4, name


def test_steps_per_call_do_not_change_a_bit(kind, shared, advance):
    """At XLA's optimisation level 0, without fused multiply-adds (cases.py); see below for the shipped level."""
    config = shared(kind)
    exp, _, _ = advance(config, num=0)
    start = jax.device_get(exp.init())
    _, single, said = advance(config, start, num=4)
    _, scanned, said_at_once = advance(config, start, num=4, per_call=4)
    for x, y in zip(jax.tree.leaves(jax.device_get(single)), jax.tree.leaves(jax.device_get(scanned)), strict=True):
        np.testing.assert_array_equal(x, y)
    for key, value in said.items():
        np.testing.assert_array_equal(value, said_at_once[key], err_msg=key)


SHIPPED = """
import sys, numpy as np, jax
from jaxgen.config import files as configs
from jaxgen.data.pipeline import index_stream, lengths, load_all
from jaxgen.core import parallel
from jaxgen.runs.experiment import Experiment, open_source
config = configs.override(configs.load(sys.argv[1]), {"steps": 4})
source = open_source(config, "train")
exp = Experiment.open(config, source.spec)
data = parallel.put_replicated(exp.mesh, {k: v for k, v in load_all(source, 1 << 30).items() if k in exp.read_spec})
stream = index_stream(lengths(source), exp.batch, 0)
index = np.stack([stream.batch_at(i) for i in range(4)])
ends = []
for each in (1, 4):
    state = exp.init()
    for i in range(0, 4, each):
        state, metrics = exp.compile_steps(each, data)(state, index[i : i + each], data, exp.root)
    ends.append(jax.device_get((state.nets, state.extra)))
for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(a).max(initial=0))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("config", ["vae_digits", "ddpm_digits", "dcgan_digits"])
def test_steps_per_call_agree_at_the_shipped_optimisation_level(config):
    """XLA fuses a scan's body differently there: the same figures to a tolerance, not the same bits."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # the shipped level
    done = subprocess.run(
        [sys.executable, "-c", SHIPPED, f"configs/{config}.py:tiny"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_examples_stay_on_their_device_when_split_into_microbatches():
    mesh = parallel.make_mesh({"data": 8})
    place = parallel.batch_sharding(mesh)
    x = jax.device_put(np.arange(32.0).reshape(32, 1), place)
    split = jax.jit(
        lambda x: parallel.microbatches(x, 4), in_shardings=place, out_shardings=parallel.batch_sharding(mesh, 1)
    )
    assert (
        "all-gather" not in split.lower(x).compile().as_text()
        and "all-to-all" not in split.lower(x).compile().as_text()
    )
    parts = np.asarray(split(x))
    assert sorted(parts.ravel()) == list(range(32))

"""What is set before JAX starts, and that the user's own flags win."""

import ctypes
import os
import subprocess
import sys

import pytest
from cases import ROOT

from jaxgen.runs import setup as backend

FLAGS = list(backend.CPU_FLAGS)


def test_flags_are_added_for_the_releases_that_they_help():
    assert backend.cpu_flags("--xla_a=1", (0, 10, 2)) == " ".join(["--xla_a=1", *FLAGS])
    assert backend.cpu_flags("", (0, 11, 0)) == backend.cpu_flags("", (0, 10, 1)) == ""
    mine = " ".join(flag.split("=")[0] + "=mine" for flag in FLAGS)
    assert backend.cpu_flags(mine, (0, 10, 2)) == mine


STEPS = """
import resource
from jaxgen.runs import setup as backend
backend.configure()
import jax, jax.numpy as jnp
step, x = jax.jit(lambda x: x + 1), jnp.zeros(2**24)  # 64 MiB, more than glibc keeps by itself
for i in range(24):
    x = step(x).block_until_ready()
    if i == 15:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
pages = x.nbytes / resource.getpagesize()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (8 * pages))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_a_step_on_a_cpu_finds_its_buffers_where_the_last_one_left_them():
    """Else every page of every step is faulted in anew: a fifth of a training step."""
    run = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(run.stdout) < 0.5  # of the pages: none, or one buffer's at times; 1 without


def test_the_users_own_settings_of_malloc_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not backend.keep_buffers()


LOOP = """
import os, re, sys
os.sched_setaffinity(0, {int(core) for core in sys.argv[2].split(",")})
from jaxgen.runs import setup as backend
backend.configure(sys.argv[1])
import jax
x = jax.ShapeDtypeStruct((64, 64, 64, 64), "float32")
text = jax.jit(lambda x: jax.nn.silu(2 * x + 1)).lower(x).compile().as_text()
print((re.findall(r'outer_dimension_partitions":\\["(\\d+)"', text) or ["1"])[0])
"""


@pytest.mark.skipif(backend.cores() < 2 or not hasattr(os, "sched_setaffinity"), reason="this takes two cores")
def test_a_program_compiled_on_one_core_does_not_slow_down_a_process_on_two(tmp_path):
    one, two = (",".join(map(str, sorted(os.sched_getaffinity(0))[:n])) for n in (1, 2))
    found = [
        subprocess.run(
            [sys.executable, "-c", LOOP, tmp_path, cores], capture_output=True, text=True, check=True, cwd=ROOT
        )
        for cores in (one, two)
    ]
    assert [run.stdout.strip() for run in found] == ["1", "2"]

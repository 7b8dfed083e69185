"""What is set before JAX starts, and that the user's own flags win."""

import ctypes
import resource

import jax
import jax.numpy as jnp
import pytest

from jaxgen import backend

FLAG = next(iter(backend.CPU_FLAGS))


def test_flags_are_added_for_the_releases_that_they_help():
    assert backend.cpu_flags("--xla_a=1", (0, 10, 2)) == f"--xla_a=1 {FLAG}"
    assert backend.cpu_flags("", (0, 11, 0)) == backend.cpu_flags("", (0, 10, 1)) == ""
    mine = FLAG.split("=")[0] + "=mine"
    assert backend.cpu_flags(mine, (0, 10, 2)) == mine


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_a_step_on_a_cpu_finds_its_buffers_where_the_last_one_left_them():
    """Else every page of every step is faulted in anew: a fifth of a training step."""
    step = jax.jit(lambda x: x + 1)
    x = jnp.zeros(2**24)  # 64 MiB, more than glibc keeps by itself
    for _ in range(4):
        x = step(x).block_until_ready()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        x = step(x).block_until_ready()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 5 * x.nbytes / resource.getpagesize() / 10


def test_the_users_own_settings_of_malloc_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not backend.keep_buffers()

"""What is set before JAX starts, and that the user's own settings win."""

import os
import platform
import resource
import subprocess
import sys

import pytest

from jaxgen import backend

FLAG = next(iter(backend.CPU_FLAGS))


def test_flags_are_added_for_the_releases_that_they_help():
    assert backend.cpu_flags("--xla_a=1", (0, 10, 2)) == f"--xla_a=1 {FLAG}"
    assert backend.cpu_flags("", (0, 11, 0)) == backend.cpu_flags("", (0, 10, 1)) == ""
    mine = FLAG.split("=")[0] + "=mine"
    assert backend.cpu_flags(mine, (0, 10, 2)) == mine


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_allocator_settings_of_the_user_stay(name):
    assert not backend.keep_memory({name: "1", "JAX_PLATFORMS": "cpu"})


def test_loader_threads_beside_an_accelerator_keep_their_arenas(monkeypatch):
    monkeypatch.setattr(backend, "installed", lambda package: package == "libtpu")
    assert not backend.keep_memory({})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_step_causes_no_page_faults_once_memory_is_kept():
    code = (
        "from jaxgen import backend; backend.configure()\n"
        "import jax, jax.numpy as jnp, resource\n"
        "f = jax.jit(lambda x: jnp.sin(x @ x).sum() + jnp.cos(x @ x.T).sum()); x = jnp.ones((2048, 2048))\n"
        "for i in range(20):\n"
        "    if i == 10: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    f(x).block_until_ready()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = {}
    for name, extra in {"kept": {}, "given back": {"MALLOC_ARENA_MAX": "8"}}.items():
        env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"JAX_PLATFORMS": "cpu"} | extra
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        faults[name] = int(done.stdout)
    pages = 10 * 2048 * 2048 * 4 // resource.getpagesize()  # one array, ten times
    assert faults["kept"] < pages / 4 < faults["given back"], faults

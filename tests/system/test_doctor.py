"""The doctor's words for machines that are not at hand: a process sees faked drivers, plugins and a broken JAX."""

import os
import re
import subprocess
import sys

import pytest
from cases import ROOT

from jaxgen.doctor import GPU, PLUGINS, TPU, judge

GOOD = {"jax": "0.12.0", "jaxlib": "0.12.0"}
OLD = {"jax-cuda12-plugin": "0.7.2", "jax-cuda12-pjrt": "0.7.2"}
T4 = "Tesla T4, 15360 MiB, driver 550.54"


def doctor(*args, **env):
    return subprocess.run(
        [sys.executable, ROOT / "jaxgen/doctor.py", *args],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **env},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def path_with(tmp_path, name, text):
    """A folder with one program in it, and the PATH that begins there."""
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def t4(tmp_path):
    return path_with(tmp_path, "nvidia-smi", "echo Tesla T4, 15360 MiB, 550.54")


def test_a_sound_machine():
    done = doctor()
    assert done.returncode == 0, done.stderr
    for word in ("python ", "CPU cores", "GB of memory", "jaxlib ", "JAX uses 1 CPU", "all is well"):
        assert word in done.stdout
    assert "error" not in done.stdout + done.stderr


def test_the_extra_is_told_by_the_file_alone(t4):
    """Before anything is installed: `-I` and `-S` leave the interpreter without packages."""
    bare = [sys.executable, "-I", "-S", ROOT / "jaxgen/doctor.py", "--extra"]
    for env, extra in (({}, ""), ({"PATH": t4}, "[gpu]"), ({"TPU_ACCELERATOR_TYPE": "v5e-1"}, "[tpu]")):
        done = subprocess.run(bare, env={**os.environ, **env}, capture_output=True, text=True, check=True)
        assert done.stdout == extra + "\n"


def test_a_gpu_that_is_not_used_is_an_error_with_its_cure(t4, tmp_path):
    done = doctor(PATH=t4, JAX_PLATFORMS="")
    assert done.returncode == 1
    assert f"hardware 1 GPU: {T4}" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert re.fullmatch(
        rf"error: there is a GPU \({T4}\) and JAX uses the CPU: pip install 'jax\[cuda12\]==[\d.]+'", line
    )
    done = doctor(PATH=t4)  # who asks for the CPU gets it
    assert done.returncode == 0 and "JAX uses 1 CPU, as JAX_PLATFORMS says" in done.stdout


def test_an_old_plugin_is_named(tmp_path):
    """What a plain installation leaves behind on Colab."""
    for name in OLD:
        info = tmp_path / f"{name.replace('-', '_')}-0.7.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.7.2\n")
    done = doctor(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "JAX does not use jax-cuda12-plugin 0.7.2 and jax-cuda12-pjrt 0.7.2 beside jaxlib" in done.stderr


def test_a_jax_that_does_not_start_is_told_in_its_own_words(tmp_path):
    (tmp_path / "jax.py").write_text(
        "raise RuntimeError('jaxlib is version 0.7.2, but this version of jax requires 0.11.2')"
    )
    done = doctor(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "JAX does not run (RuntimeError: jaxlib is version 0.7.2, but this" in done.stderr


@pytest.mark.parametrize(
    ("wanted", "versions", "found", "words"),
    [
        (GPU, {}, {}, "pip install '.[gpu]'"),
        (GPU, GOOD, {"platform": "gpu"}, ""),
        ("cpu", GOOD, {"platform": "gpu"}, ""),  # a driver that cannot be asked
        (GPU, GOOD | dict.fromkeys(PLUGINS, "0.12.0"), {"platform": "cpu"}, "pip install 'jax[cuda12]==0.12.0'"),
        (GPU, GOOD | OLD, {"platform": "cpu"}, "pip install 'jax[cuda12]==0.12.0'"),
        (GPU, GOOD | {"jax-cuda13-plugin": "0.7.2"}, {"platform": "cpu"}, "pip install 'jax[cuda13]==0.12.0'"),
        (TPU, GOOD, {"platform": "cpu"}, "pip install 'jax[tpu]==0.12.0'"),
        (TPU, GOOD, {"error": "The TPU is already in use by process with pid 1"}, "another process holds the device"),
        (TPU, GOOD, {"error": "no libtpu"}, "pip install 'jax[tpu]==0.12.0'"),
    ],
)  # fmt: skip
def test_every_fault_is_one_line_with_one_cure(wanted, versions, found, words, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    faults = judge(wanted, ["the device"], versions, found)
    assert len(faults) == bool(words)
    assert words in "".join(faults) and "\n" not in "".join(faults)


def test_it_does_not_import_jax():
    probe = "import sys, jaxgen.doctor; assert not {'jax', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True)

"""experiments/benchmarks/gpu.sh at tiny size on the CPU: what it records, and what it does when something fails."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from cases import ROOT

FOLDER = ROOT / "experiments" / "benchmarks"
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def gpu(monkeypatch):
    """The benchmark's modules."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu
    import gpu_rows
    import gpu_sides

    return {"gpu": gpu, "rows": gpu_rows, "sides": gpu_sides}


@pytest.mark.slow
def test_one_command_records_rows(tmp_path):
    out = tmp_path / "gpu.json"
    command = [FOLDER / "gpu.sh", "--tiny", "--no-compile", "--rows=ceilings,dit_s", "--seconds=3000", f"--out={out}"]
    run = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads(out.read_text())
    assert report["left_out"] == [] and list(report["rows"]) == ["ceilings", "dit_s"]
    assert report["rows"]["ceilings"]["checks"]["jax:product_fp32 differs from float64 by"] < 1e-5
    row = report["rows"]["dit_s"]
    sides = ["jaxgen", "torch", "jaxgen_scan2"] if HAS_TORCH else ["jaxgen", "jaxgen_scan2"]
    assert list(row["contenders"]) == sides
    for found in row["contenders"].values():
        assert found["ms"] > 0 and found["of_ceiling"] > 0
        assert found["images_per_s"] == pytest.approx(4e3 / found["ms"])
    if HAS_TORCH:
        assert row["checks"]["jaxgen differs from torch's float32 by"] < 0.05
        assert row["contenders"]["jaxgen"]["ratio_torch"] > 0
    else:
        assert "torch is missing: PyTorch's side is left out" in run.stdout
        assert any("PyTorch's side is left out" in note for note in row["notes"])


def test_what_the_time_does_not_suffice_for_is_named(tmp_path):
    out = tmp_path / "gpu.json"
    command = [FOLDER / "gpu.sh", "--tiny", "--rows=ddpm,fid", "--seconds=1", f"--out={out}"]
    run = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert run.returncode == 0 and "--rows=ddpm,fid runs them" in run.stdout
    assert json.loads(out.read_text())["left_out"] == ["ddpm", "fid"]


def test_others_are_frozen_while_one_is_timed(gpu, tmp_path):
    """And go on after it, also after one that died meanwhile."""
    sides, beats = gpu["sides"], tmp_path / "beats"
    script = f"import time\nwhile True:\n    open({str(beats)!r}, 'a').write('.')\n    time.sleep(0.01)"
    other = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    (tmp_path / f"{other.pid}.pid").touch()

    def beating() -> bool:
        before = beats.stat().st_size
        return any(time.sleep(0.05) or beats.stat().st_size > before for _ in range(100))

    try:
        while not beats.is_file():
            time.sleep(0.05)
        with sides.alone(tmp_path):
            before = beats.stat().st_size
            time.sleep(0.3)
            assert beats.stat().st_size == before
        assert beating()
        os.killpg(other.pid, signal.SIGSTOP)
        (tmp_path / "holder").write_text("1")
        sides.thaw(2, tmp_path)  # not its own
        assert (tmp_path / "holder").is_file()
        sides.thaw(1, tmp_path)
        assert beating()
    finally:
        other.kill()
        other.wait()


def test_memory_that_does_not_suffice_halves_the_batch(gpu, tmp_path):
    bench, tried = gpu["sides"].Bench(str(tmp_path / "row.json")), []

    def work(batch: int) -> None:
        tried.append(batch)
        with bench.surviving("jaxgen"):
            if batch > 8:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
            raise ValueError("something else")

    bench.halving(32, work)
    assert tried == [32, 16, 8] and bench.found["batch"] == 8
    notes = json.loads((tmp_path / "row.json").read_text())["notes"]
    assert notes[:2] == [f"memory did not suffice for jaxgen at batch {n}" for n in (32, 16)]
    assert notes[2] == "jaxgen is left out: ValueError: something else"


def test_figures_follow_from_times(gpu):
    found = {
        "contenders": {
            "jaxgen": dict(ms=10.0, flop=2e12, images=5),
            "torch": dict(ms=30.0),
            "torch_compile": dict(ms=15.0),
        }
    }
    row = gpu["gpu"].Row("train", 1, target=("of_ceiling", 0.45))
    done = gpu["gpu"].completed(row, found, ceiling=4e14, tiny=False)
    ours = done["contenders"]["jaxgen"]
    assert ours["ratio_torch"] == 3 and ours["ratio_compile"] == 1.5 and ours["images_per_s"] == 500
    assert ours["tflop_per_s"] == pytest.approx(200) and ours["of_ceiling"] == pytest.approx(0.5)
    assert done["target"] == dict(figure="of_ceiling", least=0.45, found=ours["of_ceiling"], met=True)


def test_every_row_can_be_called(gpu):
    """With the options that it has: a misspelt one would be found on the lent machine alone."""
    import inspect

    from methods_vs_torch import GPU_CASES
    from nets_vs_torch import CASES

    for row in gpu["gpu"].ROWS.values():
        inspect.signature(getattr(gpu["rows"], row.work)).bind(None, **row.options)
        assert row.options.get("case", "full_bf16") in {**CASES, **GPU_CASES}


def test_products_are_counted_as_written(gpu):
    def function(x, w):
        return jnp.sum(jax.nn.silu(x @ w))

    x, w = jnp.ones((4, 8)), jnp.ones((8, 16))
    assert gpu["sides"].counted(function, x, w) == 2 * 4 * 8 * 16
    assert gpu["sides"].counted(jax.grad(function, (0, 1)), x, w) == 3 * 2 * 4 * 8 * 16

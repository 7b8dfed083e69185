"""The notebooks: every cell runs with configs in their tiny form, what is committed has been run, and the runner is strict."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from cases import QUICK_COMPILATION, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUNNER = ROOT / "notebooks/run.py"


def run(*args):
    env = {**os.environ, "XLA_FLAGS": QUICK_COMPILATION, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, RUNNER, *args], env=env, capture_output=True, text=True, check=False, timeout=600
    )


def notebook(path, *cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    path.write_text(nbformat.writes(book))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_cell_runs(path):
    done = run("--tiny", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["!false\nprint('not told')", "!true\n!ls nowhere\n!true", "1 / 0"])
def test_a_line_that_fails_ends_the_run(cell, tmp_path):
    done = run(notebook(tmp_path / "a.ipynb", cell, "open('later', 'w')"))
    assert done.returncode == 1
    assert "exit code" in done.stderr or "ZeroDivisionError" in done.stderr


@pytest.mark.slow
def test_what_is_kept_is_what_is_seen_at_the_end(tmp_path):
    path = notebook(tmp_path / "a.ipynb", r"!printf 'a bar 1\ra bar 2\n\033[31mred\033[0m\n' && echo more")
    assert run("--write", path).returncode == 0
    (cell,) = nbformat.read(path, 4).cells
    assert "".join(o.text for o in cell.outputs) == "a bar 2\nred\nmore\n"
    notebook(path, "import os; print(os.getcwd())")
    done = run("--write", path)
    assert done.returncode == 1 and "an output names" in done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_is_committed_has_been_run_and_stays_small(path):
    """Text and pictures only, and no more of them than GitHub shows at once."""
    assert path.stat().st_size <= 400_000
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    shown = [output for cell in code for output in cell.outputs]
    assert "widgets" not in book.metadata
    assert {kind for o in shown for kind in o.get("data", {})} <= {"image/png", "text/plain"}
    assert any("image/png" in o.get("data", {}) for o in shown)
    assert all(cell.outputs for cell in code if "!" in cell.source)
    assert not [o for o in shown if o.output_type == "error" or re.search(r"^error", o.get("text", ""), re.M)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_never_imports_jax(path):
    """A chip belongs to one process: commands do the work."""
    for cell in json.loads(path.read_text())["cells"]:
        assert cell["cell_type"] != "code" or not re.search(r"import (jax|flax)", "".join(cell["source"]))

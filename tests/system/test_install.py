"""jaxgen where it is installed: the configs are there from any directory, and the folder that holds a clone is no obstacle."""

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from cases import CONFIGS, ROOT

setuptools = pytest.importorskip(
    "setuptools", minversion="70.1", reason="older ones cannot build a wheel by themselves"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder that holds a clone called jaxgen."""
    home = tmp_path_factory.mktemp("home")
    for item in ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        (home / "jaxgen").mkdir(exist_ok=True)
        shutil.copy(ROOT / item, home / "jaxgen" / item)
    for item in ("configs", "jaxgen"):
        shutil.copytree(ROOT / item, home / "jaxgen" / item, ignore=shutil.ignore_patterns("__pycache__"))
    return home


def installed(home: Path, kind: str) -> Path:
    """What pip does with a wheel (kind "wheel"), or with an editable one: it unpacks it on the path."""
    build = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(home / kind)],
        cwd=home / "jaxgen", env=environment(), check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (file,) = (home / kind).glob("*.whl")
    zipfile.ZipFile(file).extractall(home / kind / "site")
    return home / kind / "site"


def environment() -> dict[str, str]:
    """Without a path to these sources."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}


def python(site: Path, cwd: Path, code: str) -> str:
    """What a program prints in that folder, with what is installed in `site`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import site; site.addsitedir({str(site)!r})\n{code}"],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


SHOW = "import sys; sys.argv = ['jaxgen', *{}]; from jaxgen.main import main; main()"


def test_a_wheel_holds_the_configs_and_the_command(home, tmp_path):
    site = installed(home, "wheel")
    assert sorted(path.stem for path in (site / "jaxgen/configs").glob("*.py")) == CONFIGS
    ours = {path.relative_to(ROOT) for path in (ROOT / "jaxgen").rglob("*") if path.suffix in (".py", ".npz", ".md")}
    assert {path for path in ours if not (site / path).is_file()} == set()
    entry = ConfigParser()
    entry.read(next(site.glob("*.dist-info")) / "entry_points.txt")
    assert entry["console_scripts"]["jaxgen"] == "jaxgen.main:main"
    helped = python(site, tmp_path, SHOW.format([]))
    assert all(f"  {name} " in helped for name in CONFIGS)
    shown = python(site, tmp_path, SHOW.format(["--config=ddpm_digits:tiny", "--mode=show"]))
    assert "\nsteps = 4 " in shown


def test_an_editable_install_is_found_from_the_folder_that_holds_the_clone(home):
    """There Python would take the clone for a package without an __init__ unless its folder is on the path."""
    site = installed(home, "editable")
    assert python(site, home, "import jaxgen; print(jaxgen.open.__name__)") == "open\n"
    assert "\nsteps = 4 " in python(site, home, SHOW.format(["--config=vae_digits:tiny", "--mode=show"]))

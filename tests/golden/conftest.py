"""Golden cases: outputs of reference implementations, read from the folder that JAXGEN_GOLDEN names.

A test marked `@pytest.mark.golden("unet2d_*")` runs once for every case folder that matches, given as `folder`; with a
pattern that ends in .json, `@pytest.mark.golden("schedulers/*.json")`, once for every such file.
"""

import os
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(os.environ.get("JAXGEN_GOLDEN", Path(__file__).parents[2] / "../shared/golden")).resolve()


def pytest_configure(config):
    config.addinivalue_line("markers", "golden(pattern): run for every golden case folder that matches the pattern")


def pytest_generate_tests(metafunc):
    mark = metafunc.definition.get_closest_marker("golden")
    if mark is None:
        return
    files = mark.args[0].endswith(".json")
    found = sorted(ROOT.glob(mark.args[0]) if files else (p.parent for p in ROOT.glob(f"{mark.args[0]}/case.json")))
    missing = pytest.mark.skip(reason=f"no golden case {mark.args[0]} under {ROOT}; set JAXGEN_GOLDEN to their folder")
    params = [pytest.param(p, id=p.stem) for p in found] or [pytest.param(None, marks=missing, id=mark.args[0])]
    metafunc.parametrize("folder", params)


@pytest.fixture(autouse=True)
def highest_precision():
    """float32 products everywhere: the references are float32."""
    with jax.default_matmul_precision("highest"):
        yield


def recipe_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A frozen legacy random stream seeded by the tensor's name, scaled by what name and shape mean."""
    noise = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0x7FFFFFFF).standard_normal(shape)
    if name.endswith("running_mean"):
        return np.asarray(0.1 * noise, np.float32)
    if name.endswith("running_var"):
        return np.asarray(1 + 0.2 * np.abs(noise), np.float32)
    if name.endswith("bias"):
        return np.asarray(0.05 * noise, np.float32)
    if len(shape) < 2:  # scales of norms
        return np.asarray(1 + 0.1 * noise, np.float32)
    return np.asarray(noise / np.sqrt(np.prod(shape[1:])), np.float32)  # N(0, 1 / fan_in), torch's layout


@pytest.fixture
def recipe_weights():
    """case.json with "shapes" and "recipe_seed" -> the weights that the case does not store."""
    return lambda case: {name: recipe_tensor(name, tuple(s), case["recipe_seed"]) for name, s in case["shapes"].items()}

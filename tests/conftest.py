"""Eight virtual CPU devices for every test, a compilation cache of the session's own, and the configs by name."""

import os
import tempfile

# Before JAX starts. Level 0 compiles three times faster; what is computed stays the same.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAXGEN_CACHE", os.path.join(tempfile.gettempdir(), f"jaxgen-tests-{os.getuid()}"))

import pytest
from cases import CHOSEN, CONFIGS, ROOT, kinds, lend

from jaxgen.runs import setup as backend

backend.configure()
KINDS = kinds()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A law with an argument `name` runs for every config, with `kind` for one of each kind; but for the chosen they are slow."""
    for argument, every in (("name", CONFIGS), ("kind", KINDS)):
        if argument in metafunc.fixturenames and "laws" in str(metafunc.definition.path):
            marked = [pytest.param(n, marks=[] if n in CHOSEN else pytest.mark.slow) for n in every]
            metafunc.parametrize(argument, marked)


@pytest.fixture(scope="session")
def teachers(tmp_path_factory):
    """Where the runs are kept that distillation learns from."""
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture
def tiny(teachers):
    """(config name, {path: value}) -> its :tiny form on one device."""
    from jaxgen.config import files as configs
    from jaxgen.runs.experiment import open_source

    def load(name: str, **changes):
        changes = {"mesh": {"data": 1}, **changes}
        config = configs.override(configs.load(f"{ROOT}/configs/{name}.py:tiny"), changes)
        return lend(config, open_source(config, "train").info, teachers)

    return load

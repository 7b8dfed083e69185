"""Eight virtual CPU devices for every test, a compilation cache of the session's own, and the configs by name."""

import gc
import os
import tempfile

from cases import CHOSEN, QUICK_COMPILATION, ROOT, kinds, lend, others

# Before JAX starts.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK_COMPILATION}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAXGEN_CACHE", os.path.join(tempfile.gettempdir(), f"jaxgen-tests-{os.getuid()}"))

import jax
import pytest

from jaxgen.runs import setup as backend

backend.configure()
# Traces leave much that lives on: to look through all of it so often took a fifteenth of the laws' time.
gc.set_threshold(700, 10, 100)
if not hasattr(jax, "enable_x64"):  # jax < 0.8
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64
SKIPPED = pytest.StashKey[list]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A law with an argument `name` or `kind` runs for the configs that tests/cases.py says; but for the chosen they are slow."""
    for argument, every in (("name", others()), ("kind", kinds())):
        if argument in metafunc.fixturenames and "laws" in str(metafunc.definition.path):
            marked = [pytest.param(n, marks=[] if n in CHOSEN else pytest.mark.slow) for n in every]
            metafunc.parametrize(
                argument, marked, scope="session"
            )  # so that the laws of one config run one after the other


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tests that skip for want of a folder are counted; where the folder is there, that is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    reasons = [
        str(report.longrepr[2]) for report in reporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple)
    ]
    for kind, variable in (("golden", "JAXGEN_GOLDEN"), ("data", "JAXGEN_DATA")):
        there = (ROOT.parent / "shared" / kind).is_dir() and variable not in os.environ
        if skipped := [reason for reason in reasons if variable in reason]:
            session.config.stash[SKIPPED] = [
                *session.config.stash.get(SKIPPED, []),
                (len(skipped), kind, there, skipped[0]),
            ]
            if there:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What did not run."""
    for number, kind, there, reason in config.stash.get(SKIPPED, []):
        word = "FAILED: the folder is there" if there else "the folder is not here"
        terminalreporter.write_line(f"{number} {kind} tests skipped, {word}: {reason}", red=there, yellow=not there)


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
        return lend(config, open_source(config, "train").spec, teachers)

    return load

"""Work begun ahead, signals answered, memory compared with what is free."""

import os
import re
import signal
import threading
import time

import jax.numpy as jnp
import pytest

from jaxgen import train
from jaxgen.config import files
from jaxgen.errors import UserError
from jaxgen.runs import ahead, memory
from jaxgen.runs.ahead import Ahead
from jaxgen.runs.interrupt import Interrupt


def test_the_result_is_that_of_the_work_and_so_is_the_error():
    assert Ahead(lambda: 3).result(lambda: False) == 3

    def fails():
        raise KeyError("x")

    with pytest.raises(KeyError):
        Ahead(fails).result(lambda: False)


def test_waiting_ends_when_it_is_told_to_and_is_spoken_of(monkeypatch):
    monkeypatch.setattr(ahead, "FIRST_WORD", 0.05)
    monkeypatch.setattr(ahead, "TICK", 0.01)
    go, said = threading.Event(), []
    work = Ahead(go.wait)
    assert work.result(lambda: len(said) >= 2, said.append) is None  # two words, and the work still runs
    assert said[1] >= 2 * 0.05
    go.set()
    assert work.result(lambda: False) is True


def test_a_signal_is_answered_at_once(capsys):
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        before = time.monotonic()
        while "SIGTERM" not in capsys.readouterr().err:
            assert time.monotonic() < before + 10
            time.sleep(0.01)
        assert interrupt.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is not interrupt.note


def test_free_memory_is_of_the_machine_and_of_its_container(monkeypatch):
    jnp.zeros(1).block_until_ready()
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.free_memory() <= whole
    monkeypatch.setattr(memory, "_of_container", lambda: 1000)
    assert memory.free_memory() == 1000


@pytest.mark.parametrize(("name", "key"), [("vae_digits", "microbatches"), ("gan_digits", "batch")])
def test_a_step_that_does_not_fit_says_what_to_paste(name, key, tmp_path, monkeypatch):
    """Refused before the first step where memory is too small, told where it is scarce; what it says to add is a key of the run."""
    config = files.override(files.load(f"{name}:tiny"), {"mesh.data": 1})
    monkeypatch.setattr(train, "free_memory", lambda: 10_000)
    with pytest.raises(UserError, match=r"memory and 0.01 MB are free; add --config") as told:
        train.train(config, tmp_path / "run")
    path, value = re.search(r"--config\.([\w.]+)=(\d+)", str(told.value)).groups()
    changed = files.override(config, {path: value})
    assert path.endswith(key) and changed.data.batch % changed.method.to_dict().get("microbatches", 1) == 0


def test_the_plan_says_what_most_of_the_memory_is_for(tmp_path, monkeypatch, capsys):
    config = files.override(files.load("vae_digits:tiny"), {"eval": {}, "steps": 1, "mesh.data": 1})
    monkeypatch.setattr(train, "TIGHT", 0.0)
    train.train(config, tmp_path / "run")
    said = re.search(r"memory   (.*)", capsys.readouterr().err)[1]
    sizes = {what: float(size) for size, what in re.findall(r"([\d.]+) MB (of [^,;.]*|to work with)", said)}
    part = max(sizes, key=sizes.get)
    assert {"of data", "to work with"} < set(sizes) and f"Most is {part}; should it be less, " in said
    state = "a smaller net has less" in said
    assert (
        state
        if part.startswith("of weights")
        else f"--config.{'data.placement' if part == 'of data' else 'method'}" in said
    )


def test_long_runs_and_scarce_memory_are_told(tmp_path, monkeypatch, capsys):
    config = files.override(files.load("vae_digits:tiny"), {"eval": {}, "log_every": 1})
    needed = []
    monkeypatch.setattr(train, "smaller", lambda config, devices, factor: needed.append(factor) or "cure")
    monkeypatch.setattr(train, "FULL", 1e-9)
    monkeypatch.setattr(train, "LONG", 0.0)
    train.train(config, tmp_path / "run")
    said = capsys.readouterr().err
    assert needed and "should the system end this process, cure" in said
    assert "s a step" in said and "that is long" in said
    assert re.search(rf"done .*{tmp_path}/run/loss.png.*--mode=sample", said)

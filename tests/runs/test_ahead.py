"""Work begun ahead, signals answered, memory compared with what is free."""

import os
import signal
import threading
import time

import jax.numpy as jnp
import pytest

from jaxgen.runs import ahead, memory
from jaxgen.runs.ahead import Ahead
from jaxgen.train import Interrupt


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

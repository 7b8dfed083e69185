"""A run directory: who may write to it, and when it belongs to a config."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.errors import UserError
from jaxgen.evaluate import evaluate
from jaxgen.runs import lock
from jaxgen.runs.directory import RunDir
from jaxgen.runs.lock import Lock
from jaxgen.sample import sample
from jaxgen.train import train

HOLD = (
    "import sys, time\nfrom jaxgen.runs.lock import Lock\n"
    "with Lock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path / "run"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_training_is_refused_in_a_line_that_names_the_first(holder, tiny, tmp_path):
    words = (
        rf"in use: process {holder.pid} on .* has trained here for \d+ s; wait for it, stop it \(kill {holder.pid}; "
    )
    before = sorted((tmp_path / "run").iterdir())
    with pytest.raises(UserError, match=words) as error:
        train(tiny("vae_digits"), tmp_path / "run")
    assert "\n" not in str(error.value) and sorted((tmp_path / "run").iterdir()) == before
    os.kill(holder.pid, signal.SIGKILL)  # the cure's rougher form
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie is dead
    said = []
    with Lock(tmp_path / "run", said.append):
        assert f"process {holder.pid}" in said[0] and "taken over" in said[0]
    assert not list((tmp_path / "run").iterdir())


def test_a_lock_says_whether_its_owner_lives(tmp_path, monkeypatch):
    """Same number and another start: another process. Another boot or machine: alive if it is touched."""
    monkeypatch.setattr(lock, "SILENCE", 2.0)
    monkeypatch.setattr(lock, "BEAT", 0.2)
    monkeypatch.setattr(lock, "SETTLED", 0.0)
    own, path = lock.myself(), tmp_path / "lock"
    assert own["born"] and own["machine"], "this test needs /proc"

    def taken(**changes):
        path.write_text(json.dumps(own | changes))
        os.utime(path, (time.time() - age,) * 2)
        said = []
        try:
            with Lock(tmp_path, said.append):
                return said
        except UserError:
            return []

    age = 0
    assert not taken()  # this very process
    assert taken(born="1") and taken(pid=2**22 + 1, born="5")
    age = 100
    assert not taken()  # silent, but this machine says that it lives
    assert taken(machine="another boot")  # long silent
    age = 0
    began = time.monotonic()
    assert ["waiting" in s for s in taken(machine="another", host="elsewhere")] == [True, False]
    assert 1.0 < time.monotonic() - began < 4.0
    path.write_text("")  # killed between making and writing
    os.utime(path, (0, 0))
    with Lock(tmp_path, lambda _: None):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()
    beats = threading.Event()

    def beat():
        while not beats.wait(0.2):
            path.touch()

    path.write_text(json.dumps(own | {"machine": "another", "host": "elsewhere"}))
    thread = threading.Thread(target=beat)
    thread.start()
    with (
        pytest.raises(UserError, match=r"on elsewhere has trained here .* stop it there"),
        Lock(tmp_path, lambda _: None),
    ):
        pass
    beats.set()
    thread.join()


def test_an_owner_shows_signs_of_life_and_notices_that_it_was_taken_for_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with Lock(tmp_path / "new") as held:
        for _ in range(2):  # deleted by hand: made again
            os.utime(held.path, (0, 0))
            time.sleep(0.3)
            assert held.path.stat().st_mtime > time.time() - 10
            held.confirm()
            held.path.unlink()
            time.sleep(0.3)
        held.path.write_text(json.dumps(lock.myself() | {"pid": 7}))
        with pytest.raises(UserError, match=r"was taken over, .* process 7 on"):
            held.confirm()
    assert json.loads((tmp_path / "new/lock").read_text())["pid"] == 7  # another's lock stays


def test_of_many_that_find_a_stale_lock_one_takes_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SETTLED", 0.3)
    monkeypatch.setattr(lock, "myself", lambda own=lock.myself: {**own(), "thread": threading.get_ident()})
    (tmp_path / "lock").write_text(json.dumps(lock.myself() | {"born": "1"}))
    gate, held = threading.Barrier(8), []

    def take():
        gate.wait()
        try:
            with Lock(tmp_path, lambda _: None):
                held.append(1)
                time.sleep(1.5)
        except UserError:
            pass

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [1]


def test_a_directory_without_a_checkpoint_belongs_to_nobody(tiny, tmp_path):
    """The first command was wrong, or died early: the corrected one works, and its config is the run's."""
    wrong = tiny("ddpm_digits", steps=2)
    RunDir(tmp_path / "run").claim(wrong)
    (tmp_path / "run/checkpoints").mkdir()
    with pytest.raises(UserError, match="there is no checkpoint in"):
        sample(tmp_path / "run")
    right = tiny("vae_digits", steps=2, eval={})
    train(right, tmp_path / "run")
    assert RunDir(tmp_path / "run").config().method.name == "vae" and not (tmp_path / "run/lock").exists()
    with pytest.raises(UserError, match="belongs to method 'vae'"):
        train(wrong, tmp_path / "run")


def test_a_config_as_it_is_loaded_is_enough_in_python(tmp_path):
    """Every verb completes what it is given."""
    config = configs.load(f"{ROOT}/configs/vae_digits.py:tiny")
    with config.unlocked():
        config.mesh = {"data": 1}
        config.steps, config.eval = 2, {}
    train(config, tmp_path)
    assert evaluate(tmp_path, changes={"eval.loss.num": 8})["loss"] > 0
    assert len(sample(tmp_path, 2)) == 2

"""What goes wrong beside the training is told once and ends no run; what can be known before the first step is told there."""

import errno
import json

import numpy as np
import pytest

import jaxgen
from jaxgen.config import files as configs
from jaxgen.errors import UserError
from jaxgen.evaluation import per_image
from jaxgen.runs import writers
from jaxgen.runs.directory import RunDir
from jaxgen.runs.writers import Writers, read_metrics
from jaxgen.train import train

NAME = "vae_digits"  # for laws of the loop, which knows no method
SPEED = "train/images_per_s"


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "error", [UserError("of this kind"), RuntimeError("a page\nof text"), OSError(28, "No space left")]
)
def test_a_fault_of_an_evaluator_is_told_once_and_the_run_goes_on(error, tiny, tmp_path, monkeypatch, capfd):
    def broken(self, *args):
        raise error

    monkeypatch.setattr(per_image.Reconstruction, "__call__", broken)
    config = tiny(NAME, eval={"reconstruct": {"every": 1, "num": 8}, "loss": {"every": 1, "num": 8}})
    train(config, tmp_path)
    told = [line for line in capfd.readouterr().err.splitlines() if "config.eval.reconstruct" in line]
    assert len(told) == 1 and told[0].startswith(
        "warning: step 1: config.eval.reconstruct failed, and training goes on: "
    )
    assert [r["step"] for r in read_metrics(tmp_path) if "eval/loss" in r] == [1, 2, 3, 4]
    assert jaxgen.open(tmp_path).at == 4


def test_a_full_disk_loses_pictures_and_no_run(tiny, tmp_path, monkeypatch, capfd):
    """Each kind of file is told once; TensorBoard's thread, which would end and block the run, goes on."""
    from tensorboardX.record_writer import RecordWriter

    monkeypatch.setattr(RecordWriter, "write", full)
    monkeypatch.setattr(writers, "save_grid", full)
    monkeypatch.setattr(writers, "plot", full)
    quick = {"loss": {"every": 1, "num": 8}, "reconstruct": {"every": 1, "num": 8}}
    train(tiny(NAME, steps=20, log_every=1, save_every=20, eval=quick), tmp_path)
    err = capfd.readouterr().err
    told = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(told) == 3 and "Traceback" not in err, err
    for what in ("tensorboard", "samples", "loss.png"):
        assert any(
            f"{tmp_path}/{what} could not be written (No space left on device); training goes on" in t for t in told
        )
    assert jaxgen.open(tmp_path).at == 20


def test_speeds_are_those_of_steps_that_were_made(tiny, tmp_path):
    """The pace of the first programs is told, and counted, before their figures are there."""
    train(tiny(NAME, steps=8, log_every=1, save_every=8, eval={}), tmp_path)
    speeds = [record[SPEED] for record in read_metrics(tmp_path) if SPEED in record]
    assert speeds and min(speeds) > 0


def test_figures_that_found_no_room_are_written_when_there_is_some(tmp_path, monkeypatch, capfd):
    sink = Writers(tmp_path, 0, 10)
    monkeypatch.setattr(Writers, "events", None)
    real = sink.jsonl

    class Full:
        write, close, flush = real.write, real.close, full

    sink.jsonl = Full
    for step in (1, 2):
        sink.scalars(step, {})
    assert not read_metrics(tmp_path) and capfd.readouterr().err.count("metrics.jsonl could not be written") == 1
    sink.jsonl = real
    sink.scalars(3, {})
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]
    sink.jsonl.close()


def test_half_a_line_swallows_no_figure(tmp_path):
    """A process died while it wrote a record: the next one stands in a line of its own."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n{"step": 2, "tra')
    sink = Writers(tmp_path, 1, 10)
    sink.jsonl.write('{"step": 2}\n')
    sink.jsonl.close()
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]
    run = RunDir(tmp_path)
    run.result({"value": 1})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"val')
    run.result({"value": 2})
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(lines[i])["value"] for i in (0, 2)] == [1, 2] and len(lines) == 3


EARLY = {
    "measure": ({"eval": {"quality": {"measures": ("fidd",)}}}, "did you mean 'fid'"),
    "distance": ({"eval": {"diversity": {"distance": "alexx"}}}, "alexx"),
    "batch of a later phase": (
        {"phases": ({"until": 2, "data.batch": 8},), "data.batch": 7, "mesh": {"data": 2}},
        r"data\.batch=7 is not divisible",
    ),
}


@pytest.mark.parametrize("case", EARLY)
def test_what_can_be_known_is_told_before_the_first_step(case, tiny, tmp_path):
    changes, words = EARLY[case]
    with pytest.raises(UserError, match=words) as error:
        train(tiny(NAME, **changes), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run/metrics.jsonl").exists() and not RunDir(tmp_path / "run").begun


def test_weights_that_are_broken_are_no_fault_of_an_evaluator(tiny, tmp_path):
    """Divergence ends the run, and names the last good checkpoint."""
    config = tiny(NAME, steps=8, log_every=8, save_every=2, eval={"loss": {"every": 4, "num": 8}})
    config = configs.override(
        config, {"phases": ({"until": 2, "method.net.optimizer.lr": 1e-3},), "method.net.optimizer.lr": 1e30}
    )
    with pytest.raises(UserError, match=r"became NaN or infinite.*the last good checkpoint is step 2"):
        train(config, tmp_path)
    assert np.isfinite([v for r in read_metrics(tmp_path) for v in r.values()]).all()

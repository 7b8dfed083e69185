"""Law 1: every choice of a config trains, evaluates, samples and saves. Law 2: a run cut short and resumed is the same, bitwise."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen.caption import caption
from jaxgen.core.method import Describes, Samples
from jaxgen.errors import UserError
from jaxgen.evaluate import evaluate
from jaxgen.runs import writers
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.trained import Trained
from jaxgen.sample import sample
from jaxgen.train import train

ANY = "vae_digits"  # for laws of the loop, which knows no method


def final(config, workdir):
    """The newest checkpoint, on the host."""
    exp = Experiment.open(config, open_source(config, "train").spec)
    step, state = Checkpoints(workdir, read_only=True).trained(lambda _: exp.abstract)
    return step, jax.device_get((state.step, state.nets, state.extra))


def same(a, b):
    """Every leaf equal, bit by bit."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.fixture
def saved(monkeypatch):
    """{step: what was saved last}; a checkpoint's own checksums see to it that this is what is read."""
    states, save = {}, Checkpoints.save

    def keep(self, step, state, story):
        states[step] = (state.step, state.nets, state.extra)
        save(self, step, state, story)

    monkeypatch.setattr(Checkpoints, "save", keep)
    return states


def test_a_run_and_its_resumption(name, tiny, tmp_path, saved, monkeypatch):
    whole_and_cut(tiny(name), name, tmp_path, saved, monkeypatch)


def test_a_run_of_a_kind_and_its_resumption(kind, shared, tmp_path, saved, monkeypatch):
    """With the programs of the laws of devices and evaluation."""
    whole_and_cut(shared(kind), kind, tmp_path, saved, monkeypatch)


def whole_and_cut(config, name, tmp_path, saved, monkeypatch):
    monkeypatch.setattr(
        Trained, "open", staticmethod(functools.cache(Trained.open))
    )  # read once, for all that looks at it
    if name != ANY:  # curves take a second, and look like those of any config
        monkeypatch.setattr(writers, "plot", lambda workdir: None)
    whole = tmp_path / "whole"
    train(config, whole)

    # what the run tells
    assert json.loads((whole / "config.json").read_text())["method"]["name"] == config.method.name
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if any(k.startswith("train/") and "loss" in k for k in r)] == [2, 4]
    assert all(np.isfinite(v) for r in records for v in r.values())
    assert list((whole / "tensorboard").iterdir()) and (name != ANY or (whole / "loss.png").stat().st_size)
    if {"grid", "reconstruct"} & set(config.eval):
        assert Image.open(next((whole / "samples").glob("*.png"))).width >= 320
    figures = evaluate(whole)
    logged = {k: v for r in records for k, v in r.items() if k.startswith("eval/")}
    assert {f"eval/{k}": v for k, v in figures.items()} == pytest.approx(logged)  # the same figures from the checkpoint

    exp = Experiment.open(config, open_source(config, "train").spec)
    if isinstance(exp.method, Samples):
        images = sample(whole, num=5, out=tmp_path / "five", seed=1)
        assert images.shape == (5, *exp.data.shape) and images.dtype == np.uint8
        assert np.load(tmp_path / "five.npz")["images"].shape == images.shape
        np.testing.assert_array_equal(images, sample(whole, num=5, out=tmp_path / "again", seed=1))
    if isinstance(exp.method, Describes):
        said = caption(whole, num=5, out=tmp_path / "said")
        lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
        assert [line["captions"] for line in lines] == [[text] for text in said] and len(said) == 5
        picture = open_source(config, "eval")[int(lines[0]["file"].removeprefix("held-out "))]["image"]
        writers.save_grid(tmp_path / "one" / "picture.png", picture[None])
        assert (
            caption(whole, tmp_path / "one", out=tmp_path / "file") == said[:1]
        )  # grown by a whole factor, and shrunk again
        assert all(Image.open(tmp_path / f"said{end}.png").width >= 300 for end in ("", "_attention"))

    # as if the machine had died after the checkpoint of step 2
    before = saved.pop(4)
    shutil.rmtree(whole / "checkpoints" / "4")
    train(config, whole)
    same(before, saved.pop(4))
    resumed = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    drop = {"train/images_per_s"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in resumed] == [
        {k: v for k, v in r.items() if k not in drop} for r in records
    ]


def test_a_damaged_checkpoint_is_passed_over(tiny, tmp_path):
    config = tiny(ANY)
    train(config, tmp_path)
    _, before = final(config, tmp_path)
    for file in (tmp_path / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:20])
    with pytest.warns(UserWarning, match="checkpoint 4 in .* is damaged"):
        step, _ = final(config, tmp_path)
    assert step == 2
    with pytest.warns(UserWarning, match="damaged"):
        train(config, tmp_path)  # goes on from step 2 and replaces what was damaged
    step, after = final(config, tmp_path)
    assert step == 4
    same(before, after)


def test_phases_with_nothing_changed_are_one_run(tiny, tmp_path):
    train(tiny(ANY), tmp_path / "one")
    phased = tiny(ANY, phases=({"until": 2},), save_every=3)
    train(phased, tmp_path / "two")
    same(final(tiny(ANY), tmp_path / "one")[1], final(phased, tmp_path / "two")[1])


def test_a_phase_changes_the_batch_and_survives_a_restart_at_its_border(tiny, tmp_path):
    config = tiny(ANY, phases=({"until": 2, "data.batch": 16},))
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/4")
    train(config, tmp_path / "cut")
    same(final(config, tmp_path / "whole")[1], final(config, tmp_path / "cut")[1])
    plain = tiny(ANY)
    train(plain, tmp_path / "plain")
    with pytest.raises(AssertionError):
        same(final(config, tmp_path / "whole")[1], final(plain, tmp_path / "plain")[1])


def test_growth_goes_on_at_its_border_and_in_the_middle_of_a_fade(tiny, tmp_path, capsys):
    config = tiny("progan_digits", steps=6, save_every=1, keep=6, **{"method.fade.steps": 4, "eval.loss": None})
    train(config, tmp_path / "whole")
    assert "the optimizers of disc, gen begin anew" in " ".join(capsys.readouterr().err.split())

    def end(folder):
        exp = Experiment.open(config, open_source(config, "train").spec)
        return jax.device_get(Checkpoints(tmp_path / folder, read_only=True).restore(lambda _: exp.abstract))

    step, state = end("whole")
    counts = {int(x) for net in state.nets.values() for x in jax.tree.leaves(net.opt) if x.ndim == 0}
    assert (step, counts) == (6, {4})  # Adam counts from the border
    for cut in ("2", "4"):
        shutil.copytree(tmp_path / "whole", tmp_path / cut)
        for after in range(int(cut) + 1, 7):
            shutil.rmtree(tmp_path / cut / "checkpoints" / str(after))
        train(config, tmp_path / cut)
        same((step, state), end(cut))


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"phases": ({"until": 2, "tasks.coarse.factor": 1},), "tasks.coarse.factor": 2},
            "makes pictures of 4x4 after 8x8; order",
        ),
        (
            {"method.fade.steps": 3},
            "method.fade.steps=3 is longer than its phase, from step 2 to 4; set method.fade.steps=2",
        ),
    ],
)
def test_growth_that_shrinks_or_fades_too_long_is_refused_before_the_first_step(tiny, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(tiny("progan_digits", **changes), tmp_path)
    assert not (tmp_path / "checkpoints").exists() or not any((tmp_path / "checkpoints").iterdir())


def test_where_the_data_lie_does_not_change_a_bit(tiny, tmp_path):
    for placement in ("host", "device"):
        train(tiny(ANY, **{"data.placement": placement}), tmp_path / placement)
    same(*(final(tiny(ANY), tmp_path / placement)[1] for placement in ("host", "device")))

"""Several averages of a run: snapshots kept for good, other lengths reconstructed from them, lengths compared."""

import json
import shutil

import jax
import numpy as np
import pytest
from cases import ROOT
from PIL import Image

from jaxgen.core import parallel
from jaxgen.errors import UserError
from jaxgen.evaluate import evaluate, sweep
from jaxgen.runs.checkpoint import Averages, Checkpoints
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.frozen import FrozenRun
from jaxgen.runs.posthoc import choose, powers
from jaxgen.sample import sample
from jaxgen.train import train

PAIR = ({"name": "power", "std": 0.05}, {"name": "power", "std": 0.1})
QUIET = {"snapshot_every": 1, "eval": {"loss": {"every": 0, "num": 16}}}


def open_run(config, workdir):
    """(state, snapshots on the host)"""
    exp = Experiment.open(config, open_source(config, "train").spec)
    _, state = Checkpoints(workdir, read_only=True).trained(lambda _: exp.abstract)
    averages = Averages(workdir, read_only=True)
    return state, {step: jax.device_get(averages.restore(step, powers(state))) for step in averages.steps()}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, directory) of a tiny VAE with a pair of power averages besides its default one."""
    from jaxgen.config import files as configs

    config = configs.load(f"{ROOT}/configs/vae_digits.py:tiny")
    changes = {"mesh": {"data": 1}, "method.net.ema": (0.9, *PAIR), "steps": 6, "save_every": 2, **QUIET}
    config = configs.override(config, changes)
    path = tmp_path_factory.mktemp("averages") / "run"
    train(config, path)
    return config, path


@pytest.mark.slow
def test_snapshots_are_the_averages_of_their_steps_and_survive_resumption(run, tmp_path):
    config, whole = run
    state, kept = open_run(config, whole)
    assert sorted(kept) == [1, 2, 3, 4, 5, 6] and set(kept[1]["net"]) == {"std0.05", "std0.1"}
    assert len(list((whole / "checkpoints").glob("[0-9]*"))) == 3  # those roll, snapshots do not
    same(kept[6], jax.device_get(powers(state)))

    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/6")
    shutil.rmtree(cut / "averages/4")  # killed after the checkpoint of step 4, before the snapshot was whole
    shutil.rmtree(cut / "averages/6")
    shutil.copytree(
        cut / "averages/1", cut / "averages/6"
    )  # what lies after the checkpoint is of a run that ended there
    train(config, cut)
    again, resumed = open_run(config, cut)
    same(jax.device_get(again.nets), jax.device_get(state.nets))
    assert sorted(resumed) == sorted(kept)
    for step, averages in kept.items():
        same(resumed[step], averages)


def test_weights_by_name_on_the_command_line(run, tmp_path):
    _, path = run
    made = {
        name: sample(path, 8, tmp_path / name, weights=name) for name in ("ema", "raw", "0.9", "std0.05", "std0.07")
    }
    assert (made["ema"] == made["0.9"]).all() and (made["std0.07"] != made["raw"]).any()
    assert all((tmp_path / f"{name}.npz").is_file() for name in made)  # dots in a name are not an ending
    with pytest.raises(
        UserError, match=r"--weights=0.5 is unknown; there are: raw, ema, 0.9, std0.05, std0.1, and stdX"
    ):
        sample(path, 8, weights="0.5")
    evaluate(path, weights="std0.07")
    last = [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()][-1]
    assert last["ema"] == "std0.07" and last["step"] == 6
    evaluate(path)
    assert json.loads((path / "results.jsonl").read_text().splitlines()[-1])["ema"] == "0.9"


def test_a_sweep_measures_every_length(run, capsys):
    _, path = run
    before = len((path / "results.jsonl").read_text().splitlines()) if (path / "results.jsonl").is_file() else 0
    found = sweep(path, (0.05, 0.07, 0.2))
    out = capsys.readouterr()
    assert list(found) == ["std0.05", "std0.07", "std0.2"]
    assert found["std0.05"]["loss"] == pytest.approx(evaluate(path, weights="std0.05")["loss"])
    losses = [figures["loss"] for figures in found.values()]
    row = next(line for line in out.out.splitlines() if line.startswith("loss"))
    assert len(set(losses)) == 3 and [w.endswith("*") for w in row.split()[1:]] == [x == min(losses) for x in losses]
    assert "sweep 2/3  std0.07: " in out.err and "reconstructed from snapshots of 6 steps" in out.err
    records = [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()][before:]
    assert [r["ema"] for r in records if r["metric"] == "loss"][:3] == list(found)
    assert Image.open(path / "samples/0000006_ema_sweep_0.05,0.07,0.2.png").width > 300


def test_runs_without_snapshots_sweep_over_what_they_keep(run, tmp_path):
    shutil.copytree(run[1], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "averages")
    shutil.rmtree(tmp_path / "samples", ignore_errors=True)
    assert list(sweep(tmp_path, changes={"eval.grid.num": "8"})) == ["0.9", "std0.05", "std0.1"]
    drawn = [path.name for path in (tmp_path / "samples").iterdir()]
    assert len([name for name in drawn if "_raw" in name]) == 1  # of no average
    assert [any("_ema" in name and label in name for name in drawn) for label in ("0.9", "std0.05", "std0.1")] == [
        True
    ] * 3
    for stds, words in (((0.05, 0.07), "no snapshots before step 6 .*snapshot_every"), ((0.05,), "two averages")):
        with pytest.raises(UserError, match=words):
            sweep(tmp_path, stds)


def test_snapshots_of_nothing_are_refused_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(UserError, match=r"config.snapshot_every=1 keeps power averages and no net has one; set config"):
        train(tiny("vae_digits", **QUIET), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm_digits", "wgan_gp_digits", "vqvae_digits", "classifier_digits"])
def test_every_family_reconstructs(name, tiny, tmp_path):
    """All nets that keep power averages, a critic that is updated several times a step among them, sharded or not."""
    plain = tiny(name)
    nets = {key: f"method.{key}.ema" for key in plain.method if key in ("net", "gen", "disc")}
    spread = {"mesh": {"data": 8}, "sharding": ((".*", "fsdp:256"),)} if name == "vqvae_digits" else {}
    config = tiny(name, **{path: PAIR for path in nets.values()}, **QUIET, **spread)
    train(config, tmp_path)
    state, kept = open_run(config, tmp_path)
    averages = Averages(tmp_path, read_only=True)
    assert sorted(kept) == [1, 2, 3, 4] and set(kept[4]) == set(nets)
    found = sweep(tmp_path, (0.05, 0.08))
    assert all(np.isfinite(v) for figures in found.values() for v in figures.values())
    near = jax.device_get(choose(state, "std0.0501", averages).weights())
    for net in nets:  # next to a width that is kept lies what is kept
        for a, b in zip(
            jax.tree.leaves(near.nets[net]["params"]), jax.tree.leaves(kept[4][net]["std0.05"]), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_run_lends_every_average_that_it_has_or_can_reconstruct(run):
    """A weaker model may differ by its average alone."""
    config, path = run
    state, _ = open_run(config, path)
    mesh = parallel.make_mesh({"data": 1})
    for name in ("raw", "ema", "0.9", "std0.1", "std0.07"):
        lender = FrozenRun(str(path), weights=name)
        lent = lender.load(parallel.everywhere(mesh, lender.abstract))
        same(lent.weights.nets, choose(state, name, Averages(path, read_only=True)).weights().nets)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), lent) == jax.tree.map(
            lambda x: (x.shape, x.dtype), lender.abstract
        )
    with pytest.raises(UserError, match=r"no average 'std'"):
        _ = FrozenRun(str(path), weights="std").abstract

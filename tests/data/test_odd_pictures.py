"""A folder of odd pictures: every file is used, converted by a stated rule, or told once; and it is trained on like any."""

import json
import re
from pathlib import Path

import numpy as np
import odd_pictures
import pytest
from cases import ROOT
from PIL import Image

from jaxgen import main
from jaxgen.config import files as configs
from jaxgen.data import Folder, decode, load_all
from jaxgen.data.files import readable
from jaxgen.evaluate import with_data
from jaxgen.evaluation.image_sets import Neighbours, SampleQuality
from jaxgen.evaluation.per_image import Grid, Loss
from jaxgen.runs.experiment import Experiment, open_source


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> tuple[Path, odd_pictures.Odd]:
    root = tmp_path_factory.mktemp("odd") / "set"
    return root, odd_pictures.write(root)


def test_every_file_is_used_or_told_once(odd, recwarn):
    root, files = odd
    sources = [Folder(str(root), size=8).open(split) for split in ("train", "eval")]
    for source in sources:
        load_all(source, 1 << 20)
    used = sorted(name for source in sources for name in source.names)
    told = [*sources[0].notes, *(str(w.message) for w in recwarn if str(root) in str(w.message))]
    assert not {*files.shown, *files.thin} - {*used} and len(used) == len({*used})
    for name in files.broken:  # by name, or as one of so many
        if name in used:  # whose header is sound
            assert sum(f"/{name}' is broken (" in line for line in told) == 1
        else:
            assert sum(int(m[1]) for line in told if (m := re.search(r"(\d+) of \d+ images .* left out", line))) == len(
                {*files.broken} - {*used}
            )
    assert sources[0].notes[0].startswith("left aside: ")
    aside = sum(int(number) for number in re.findall(r"\((\d+), such as", sources[0].notes[0]))
    assert aside == len(files.others)
    assert not any("\udce9" in line for line in told)
    assert len(files.shown) + len(files.thin) + len(files.broken) >= 60
    kinds = {name.lower().rpartition(".")[2] for name in files.shown + files.thin}
    assert {f".{kind}" for kind in kinds} == {*decode.SUFFIXES}


def test_all_show_the_same(odd):
    root, files = odd
    above, below = (np.array(colour) for colour in (odd_pictures.ABOVE, odd_pictures.BELOW))
    for name in files.shown:
        got = decode.photo(str(root / name), 3, 16, "cover").astype(int)
        head = decode.head(str(root / name))
        assert head.size in ((48, 32), (480, 320)), name
        for half, colour in ((got[1:7, 3:-3], above), (got[9:15, 3:-3], below)):
            wanted = colour if head.colour else np.full(3, colour @ (0.299, 0.587, 0.114))
            assert np.abs(half - wanted).max() <= (12 if "palette and" not in name else 255), (
                readable(name),
                half[0, 0],
            )


def test_evaluators_say_whether_they_read_what_is_held_out(odd, capfd):
    root, _ = odd
    data = {"data": {"name": "folder", "path": str(root), "size": 8, "eval_fraction": 0.0, "batch": 8, "labels": False}}
    config = configs.override(configs.load(f"{ROOT}/configs/vae_digits.py:tiny"), {"mesh": {"data": 1}, **data})
    exp = Experiment.open(config, open_source(config, "train").spec)
    tests = {"grid": Grid(), "loss": Loss(), "fid": SampleQuality(), "rfid": SampleQuality(of="reconstructions"),
             "fid_of_held_out": SampleQuality(against="eval"), "neighbours": Neighbours()}  # fmt: skip
    kept, source = with_data(exp, tests)
    assert list(kept) == ["grid", "fid"] and source is None
    (line,) = capfd.readouterr().err.splitlines()
    assert all(f"config.eval.{name}" in line for name in tests.keys() - kept.keys()) and "eval.grid" not in line
    held = configs.override(config, {"data.eval_fraction": 0.1})
    kept, source = with_data(Experiment.open(held, exp.data), tests)
    assert kept == tests and len(source) > 0


@pytest.mark.slow
def test_it_is_trained_on_sampled_and_measured(odd, tmp_path, capfd, monkeypatch):
    root, _ = odd
    monkeypatch.chdir(ROOT)
    data = ("--config.data=folder", f"--config.data.path={root}", "--config.data.size=8")
    few = (
        "--config.data.batch=8",
        "--config.steps=4",
        "--config.eval.neighbours.num=8",
        "--config.eval.diversity.num=8",
    )
    main.run(
        ["--config=configs/vae_digits.py:tiny", f"--workdir={tmp_path}/run", *data, *few, "--config.data.labels=False"]
    )
    main.run([f"--workdir={tmp_path}/run", "--mode=sample", "--num=5", "--files"])
    main.run([f"--workdir={tmp_path}/run", "--mode=eval"])
    said = capfd.readouterr()
    records = [json.loads(line) for line in (tmp_path / "run/results.jsonl").read_text().splitlines()]
    assert {"nearest_ratio", "diversity_ratio"} <= {r["metric"] for r in records}
    assert all(np.isfinite(r["value"]) for r in records)
    assert any(Image.open(p).size for p in (tmp_path / "run/samples").rglob("*.png"))
    assert said.err.count("left aside: ") == said.err.count("held out: ") == 1
    assert "Traceback" not in said.err


@pytest.mark.slow
def test_nothing_held_out_is_trained_on_and_what_needs_it_is_left_out(odd, tmp_path, capfd, monkeypatch):
    root, _ = odd
    monkeypatch.chdir(ROOT)
    data = ("--config.data=folder", f"--config.data.path={root}", "--config.data.size=8", "--config.data.eval_fraction=0",
            "--config.data.labels=False", "--config.data.batch=8", "--config.steps=4")  # fmt: skip
    main.run(["--config=configs/vae_digits.py:tiny", f"--workdir={tmp_path}/run", *data])
    said = capfd.readouterr().err
    (line,) = (line for line in said.splitlines() if line.startswith("left out: "))
    assert "config.eval.loss" in line and "--config.data.eval_path=PATH" in line and "config.eval.grid" not in line
    assert said.index(line) < said.index("first step") and "held out: none" in said
    assert list((tmp_path / "run/samples").glob("*raw*.png"))
    main.run([f"--workdir={tmp_path}/run", "--mode=eval"])
    assert "left out: " in capfd.readouterr().err
    main.run([f"--workdir={tmp_path}/run", "--mode=eval", f"--config.data.eval_path={root}"])  # the cure
    done = capfd.readouterr()
    assert "left out: " not in done.err
    assert "elbo" in done.out

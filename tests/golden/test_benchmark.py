"""The evaluator `benchmark`: published figures of bicubic interpolation, a real denoiser, and pictures that were trained on."""

from types import SimpleNamespace

import numpy as np
import pytest
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.evaluation.benchmark import Benchmark, Measure, bicubic, examples
from jaxgen.images import save_png
from jaxgen.runs.experiment import Experiment, open_source

BICUBIC = {2: 33.66, 3: 30.39, 4: 28.42}  # dB on Set5 (Dong et al. 2014, table 1)


def data(folder, name):
    path = folder.parents[1] / "data" / name
    if not path.is_dir():
        pytest.skip(f"no {path}")
    return path


@pytest.mark.golden("resize")
def test_bicubic_has_the_published_figures(folder):
    for scale, want in BICUBIC.items():
        measure = Measure.of(f"psnr:y@{scale}")
        found = [
            measure(bicubic(one.small, one.whole.shape[:2]), one.whole)
            for one in examples(str(data(folder, f"sr/Set5/x{scale}")), scale, 3)
        ]
        assert len(found) == 5 and abs(np.mean(found) - want) < 0.03


@pytest.mark.golden("resize")
def test_a_run_is_judged_on_whole_pictures_and_not_on_those_it_knows(folder, tmp_path):
    """A net of luma that adds nothing is bicubic interpolation, to a rounding; pictures of the training are refused."""
    path, scale = data(folder, "sr/Set5/x3"), 3
    for i, one in enumerate(examples(str(path), scale, 3)[2:4]):
        save_png(tmp_path / "train" / f"{i}.png", one.whole)
    save_png(tmp_path / "eval" / "0.png", np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    config = configs.override(
        configs.load(f"{ROOT}/configs/srcnn_photos.py"),
        {
            "data.path": str(tmp_path / "train"), "data.eval_path": str(tmp_path / "eval"), "mesh": {"data": 1},
            "method.net.widths": (4, 4), "method.net.kernels": (1, 1, 1), "eval": {}, "method.net.ema": "none",
        },
    )  # fmt: skip
    exp = Experiment.open(config, pictures((33, 33, 1)))
    w = exp.init().view()
    params = w.nets["net"]["params"]
    for name in params:  # the identity on luma above black
        params[name]["kernel"] = np.zeros_like(params[name]["kernel"])
        params[name]["kernel"][0, 0, 0, 0] = 1.0
    for few in (tmp_path / "test" / part for part in ("HR", "LR")):
        few.mkdir(parents=True)
        for name in ("img_001.png", "img_002.png"):
            (few / name).write_bytes((path / few.name / name).read_bytes())
    report = Benchmark(path=str(tmp_path / "test"))(exp, w, w, None)
    found = report.scalars
    assert set(found) == {f"{p}{m}:y@3" for p in ("", "baseline_") for m in ("psnr", "ssim")}
    assert abs(found["psnr:y@3"] - found["baseline_psnr:y@3"]) < 0.05 and found["ssim:y@3"] > 0.8
    with pytest.raises(UserError, match=r"img_003.png of .* is 0.png of .*, on which the run was trained"):
        Benchmark(path=str(path))(exp, w, w, None)


def test_a_wrong_measure_is_told():
    for name in ("psnr", "psnr:y", "lpips:y@4", "psnr:cb@4"):
        with pytest.raises(UserError, match="psnr:y@4"):
            Measure.of(name)


def test_a_folder_that_is_not_there_is_told_by_the_key_that_named_it(tmp_path):
    exp = SimpleNamespace(from_data=["seen"], spec=pictures((8, 8, 1)), data=pictures((8, 8, 1)))
    with pytest.raises(UserError, match=r"does not exist; where it is now says --config\.eval\.benchmark\.path="):
        Benchmark(path=str(tmp_path / "none")).prepare(exp)


def test_the_baseline_is_what_was_shown(tmp_path):
    """Of a run that completes pictures: the picture whose hidden half is grey."""
    changes = {"tasks": {"hide": {"shape": "lower"}}, "mesh": {"data": 1}, "eval": {}}
    config = configs.override(configs.load(f"{ROOT}/configs/dncnn_25.py:tiny"), changes)
    exp = Experiment.open(config, open_source(config, "train").spec)
    picture = np.random.default_rng(0).integers(0, 256, (16, 20, 1), np.uint8)
    save_png(tmp_path / "0.png", picture)
    w = exp.init().view()
    found = Benchmark(path=str(tmp_path))(exp, w, w, None).scalars
    shown = np.where(np.arange(16)[:, None, None] < 8, picture, 128)
    assert abs(found["baseline_psnr:rgb@0"] - Measure.of("psnr:rgb@0")(shown, picture)) < 0.05

"""Measures of image sets under the native protocol: invariances, refusals, records; and the judge trained by jaxgen itself."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from cases import ROOT

from jaxgen import compare as sets
from jaxgen import evaluate
from jaxgen.config import files as configs
from jaxgen.core import parallel
from jaxgen.data.sources import Arrays, Digits
from jaxgen.errors import NotFinite, UserError
from jaxgen.evaluation import features
from jaxgen.evaluation.features import Viewer, compare, needs_of, reference, source_batches, summarise
from jaxgen.evaluation.pictures import Pictures
from jaxgen.images import save_png
from jaxgen.metrics import pixel
from jaxgen.metrics.protocols import NATIVE, PROTOCOLS, prepare
from jaxgen.metrics.statistics import write_statistics
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.trained import Trained
from jaxgen.train import train

ALL = ("fid", "kid", "is", "precision_recall", "density_coverage", "agreement", "entropy", "intra_fid", "fid_infinity")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """The run directory of a classifier of digits, trained for a few seconds."""
    folder = tmp_path_factory.mktemp("judge") / "run"
    config = configs.load(f"{ROOT}/configs/classifier_digits.py:tiny")
    changes = {"steps": 100, "data.batch": 32, "save_every": 100, "log_every": 100, "eval": {}, "mesh": {"data": 1},
               "method.net.ema": 0.9, "method.net.optimizer.lr": 1e-2}  # fmt: skip
    train(configs.override(config, changes), folder)
    return folder


@pytest.fixture(scope="session")
def judge(classifier):
    return features.native_judge(classifier)


def viewer(judge, devices=1, batch=16):
    return Viewer(judge, parallel.make_mesh({"data": devices}), batch)


def digits(split="eval", num=80):
    images, labels = zip(*source_batches(Digits().open(split), num), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def figures(view, made, real):
    mine, theirs = (summarise(view, [pair], needs_of(ALL)) for pair in (made, real))
    return compare(ALL, mine, theirs, NATIVE)


@pytest.mark.slow
def test_the_judge_learns(classifier):
    """A minute part of its recipe is far above chance already."""
    found = evaluate.evaluate(classifier, changes={"eval.loss.num": "297"})
    assert found["accuracy"] > 0.4


def test_batch_devices_and_order_move_nothing(judge):
    made, real = digits("eval"), digits("train")
    plain = figures(viewer(judge), made, real)
    assert set(plain) >= {"fid@80:native", "precision@80:native", "coverage@80:native", "agreement@80:native"}
    swap = np.random.default_rng(0).permutation(80)
    mixed = tuple(x[swap] for x in made)
    for name, other in {
        "batch": figures(viewer(judge, batch=7), made, real),
        "devices": figures(viewer(judge, devices=8, batch=24), made, real),
    }.items():
        for key, value in plain.items():
            np.testing.assert_allclose(other[key], value, rtol=1e-5, atol=1e-6, err_msg=f"{name} {key}")
    ordered = figures(viewer(judge), mixed, real)
    for key in plain:
        if not key.startswith(("kid", "is", "fid_infinity")):  # these draw subsets by position
            np.testing.assert_allclose(ordered[key], plain[key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_many_small_batches_are_one(judge):
    images, labels = digits()
    view = viewer(judge)
    one = summarise(view, [(images, labels)], needs_of(ALL))
    many = summarise(view, [(images[i : i + 9], labels[i : i + 9]) for i in range(0, 80, 9)], needs_of(ALL))
    assert many.count == one.count == 80
    np.testing.assert_allclose(many.statistics.cov, one.statistics.cov, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(many.features, one.features, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(many.labels, one.labels)


def test_a_set_against_itself(judge):
    found = figures(viewer(judge), digits(), digits())
    assert abs(found["fid@80:native"]) < 1e-5
    assert found["precision@80:native"] == found["recall@80:native"] == found["coverage@80:native"] == 1.0


def test_the_cache_gives_what_was_computed_and_says_so(judge, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    source = Digits().open("train")
    calls = []

    def watched(batches):
        calls.append(1)
        return batches

    def measured():
        return reference(viewer(judge), Pictures.of(source, "B"), frozenset(), 100, progress=watched)

    first = measured()
    assert "cache" not in capsys.readouterr().err
    second = measured()
    assert len(calls) == 1 and first.origin == second.origin
    assert first.origin["N"] == 100 and first.origin["share"] == {"of": 1500, "seed": 0} and first.origin["hash"]
    (file,) = (tmp_path / "statistics").glob("*.npz")
    assert re.search(rf"from the cache, made \d{{4}}-.* of 100 pictures .*{file.name}", capsys.readouterr().err)
    np.testing.assert_array_equal(first.statistics.cov, second.statistics.cov)
    file.write_bytes(b"half a file")
    third = measured()
    assert len(calls) == 2 and third.origin == first.origin
    np.testing.assert_array_equal(first.statistics.cov, third.statistics.cov)


def test_a_cached_reference_is_of_every_picture_and_of_the_share(judge, tmp_path, monkeypatch):
    """One pixel of one picture of many, another number, another seed, another way to decode: another reference."""
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 1), np.uint8)

    def measured(pixels, num=0, seed=0, judge=judge):
        np.save(tmp_path / "set.npy", pixels)
        source = Arrays(str(tmp_path / "set.npy"), eval_fraction=0.0).open("train")
        return reference(viewer(judge, batch=64), Pictures.of(source, "B"), frozenset(), num, seed).hash

    changed = images.copy()
    changed[201, 3, 3, 0] ^= 1
    other = dataclasses.replace(judge, weights="another")
    found = [
        measured(images),
        measured(changed),
        measured(images, 50),
        measured(images, 50, 1),
        measured(images, 0, 0, other),
    ]
    assert len(set(found)) == len(found) and found[0] == measured(images, 400, 5)
    rows = summarise(viewer(judge), source_batches(Digits().open("train"), 50), frozenset({"rows"}))
    assert (np.bincount(rows.labels, minlength=10) >= 4).all()  # a share of a sorted set is of all classes


def test_statistics_say_by_what_protocol_they_were_made(judge, tmp_path):
    made = summarise(viewer(judge), [digits()], frozenset())
    for name in ("s.npz", "s.pkl"):
        features.write(tmp_path / name, made, judge)
        assert features.from_file(tmp_path / name, judge).origin["N"] == 80
        for key, wrong in (("protocol", dataclasses.replace(judge, protocol=PROTOCOLS["clean"])),
                           ("weights", dataclasses.replace(judge, weights="another"))):  # fmt: skip
            with pytest.raises(UserError, match=f"was made for {key}"):
                features.from_file(tmp_path / name, wrong)
        write_statistics(tmp_path / name, made.statistics)  # as another project would
        assert features.from_file(tmp_path / name, judge).origin["N"] is None


@pytest.mark.slow
def test_no_spread_is_given_of_one_and_the_same_set(judge):
    """KID's subsets deviate only where they are smaller than both sets; a part of one image has the Inception Score 1."""
    made, real = ([pair] for pair in (digits("eval"), digits("train")))
    few, many = (summarise(viewer(judge), x, needs_of(("kid", "is"))) for x in (made, real))
    assert set(compare(("kid",), few, many, NATIVE)) == {"kid@80:native"}
    size = dataclasses.replace(many, features=np.tile(many.features, (20, 1)), count=1600)
    assert compare(("kid",), size, size, NATIVE)["kid_std@1600:native"] > 0
    assert set(compare(("kid",), few, size, NATIVE)) == {"kid@80:native"}
    few = dataclasses.replace(few, count=19)
    with pytest.raises(UserError, match="2 each"):
        compare(("is",), few, many, NATIVE)


def test_a_judge_that_is_broken_measures_nothing(judge):
    broken = dataclasses.replace(judge, frozen=jax.tree.map(lambda x: x * np.nan, judge.frozen))
    with pytest.raises(UserError, match=r"protocol native .* not finite"):
        summarise(viewer(broken), [digits()], frozenset({"logits"}))
    one = summarise(viewer(judge), [digits()], frozenset({"logits"}))
    with pytest.raises(NotFinite, match="entropy"):
        compare(("entropy",), dataclasses.replace(one, logits=one.logits * np.nan), one, NATIVE)


def test_low_precision_is_refused():
    def product(x, precision):
        return jax.jit(lambda x: jax.numpy.dot(x, x, precision=precision)).lower(x).as_text()

    x = np.ones((4, 4), np.float32)
    features.refuse_low_precision(product(x, "highest"))
    for program in (product(x, None), product(x, "high"), product(x.astype(jax.numpy.bfloat16), "highest")):
        with pytest.raises(UserError, match="below float32 precision"):
            features.refuse_low_precision(program)
    image = np.ones((1, 8, 8, 1), np.float32)
    kernel = np.ones((3, 3, 1, 1), np.float32)
    conv = jax.jit(
        lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )
    with pytest.raises(UserError, match="below float32"):
        features.refuse_low_precision(conv.lower(image, kernel).as_text())


def test_what_cannot_be_measured_is_refused(judge, classifier, tmp_path):
    view = viewer(judge)
    with pytest.raises(UserError, match="quantise"):
        summarise(view, [(np.zeros((4, 8, 8, 1), np.float32), None)], frozenset())
    with pytest.raises(UserError, match="no images"):
        summarise(view, [], frozenset())
    with pytest.raises(UserError, match="at least 2"):
        summarise(view, [(np.zeros((1, 8, 8, 1), np.uint8), None)], frozenset())
    with pytest.raises(UserError, match=r"judges images \(8, 8, 1\)"):
        summarise(view, [(np.zeros((4, 16, 16, 3), np.uint8), None)], frozenset())
    with pytest.raises(UserError, match="did you mean 'kid'"):
        needs_of(["kidd"])
    with pytest.raises(UserError, match=r"did you mean .pytorch"):
        features.open_judge("pytorchh")
    with pytest.raises(UserError, match="train one"):
        features.open_judge("native")
    flat = figures(view, (np.full((80, 8, 8, 1), 7, np.uint8), digits()[1]), digits())  # singular covariance
    assert np.isfinite(flat["fid@80:native"]) and flat["fid@80:native"] > 0


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_feed_the_net_its_range(name):
    protocol = PROTOCOLS[name]
    levels = np.concatenate([np.zeros((1, 20, 31, 1), np.uint8), np.full((1, 20, 31, 1), 255, np.uint8)])
    x = np.asarray(prepare(jax.numpy.asarray(levels), protocol))
    assert x.shape == (2, 299, 299, 3)
    np.testing.assert_allclose(x[0], -1.0, atol=1e-5)
    np.testing.assert_allclose(x[1], 255 * protocol.scale - 1, atol=1e-5)
    with pytest.raises(UserError, match="uint8"):
        prepare(jax.numpy.zeros((1, 8, 8, 3)), protocol)


def test_evaluators_of_a_run(classifier, tmp_path):
    """--mode=eval with evaluators that the run was not trained with; every figure is a record of its own."""
    config = configs.load(f"{ROOT}/configs/vae_digits.py:tiny")
    train(configs.override(config, {"eval": {}}), tmp_path / "run")
    changes = {
        "eval.quality.protocol": "native", "eval.quality.native": str(classifier), "eval.quality.num": "40",
        "eval.quality.measures": "('fid','kid')", "eval.quality.seeds": "2",
        "eval.rebuilt.name": "quality", "eval.rebuilt.protocol": "native", "eval.rebuilt.native": str(classifier),
        "eval.rebuilt.of": "reconstructions", "eval.rebuilt.reference_num": "30",
        "eval.neighbours.num": "8", "eval.diversity.num": "40", "eval.restoration.num": "16",
    }  # fmt: skip
    found = evaluate.evaluate(tmp_path / "run", changes=changes)
    assert {
        "fid@40:native",
        "fid@40:native +-",
        "rfid@30:native",
        "nearest_ratio",
        "diversity_ratio",
        "gaussian_psnr",
    } <= set(found)
    records = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert {r["metric"] for r in records} == set(found)
    facts = {"num": 297, "fingerprint": Digits().open("eval").fingerprint()}
    assert all(r["N"] and r["data"] == facts for r in records)
    fid = next(r for r in records if r["metric"] == "fid@40:native")
    assert fid["N"] == 40 and fid["seeds"] == [0, 1] and fid["protocol"]["name"] == "native"
    assert {"weights", "reference", "precision", "versions", "step", "commit"} <= set(fid)
    assert list((tmp_path / "run/samples").glob("0000004_neighbours*.png"))
    for wrong in (
        {"eval.quality.native": "nowhere"},
        {"eval.quality.of": "sample"},
        {"eval.quality.measures": "('fdi',)"},
    ):
        with pytest.raises(UserError):  # before the first step, not after the last
            train(configs.override(config, {"eval": {}} | changes | wrong), tmp_path / "never")
    assert not list((tmp_path / "never").glob("checkpoints/[0-9]*"))
    with pytest.raises(UserError, match=r"config\.data\.batch: 8 -> 4\), which cannot change after training"):
        evaluate.evaluate(tmp_path / "run", changes={"data.batch": "4"})


@pytest.mark.slow
def test_evaluators_of_one_kind_keep_their_figures_apart(tmp_path):
    """Two of a kind with other options, together or alone, in either order: each reports its own figures."""
    config = configs.override(configs.load(f"{ROOT}/configs/vae_digits.py:tiny"), {"eval": {}, "mesh": {"data": 1}})
    train(config, tmp_path)
    kinds = {
        "a": {"name": "restoration", "num": 8}, "b": {"name": "restoration", "num": 8, "border": 2},
        "c": {"name": "restoration", "num": 8, "degradation": {"name": "gaussian", "sigma": 0.7}},
        "d": {"name": "restoration", "num": 8, "degradation": {"name": "blur", "sigma": 1.0}},
        "g": {"name": "restoration", "num": 8, "degradation": {"name": "gaussian", "sigma": 0.0}},
        "e": {"name": "reconstruct", "num": 8}, "f": {"name": "reconstruct", "num": 16},
    }  # fmt: skip

    def measured(names):
        found = Trained.open(tmp_path, changes={f"eval.{k}": kinds[k] for k in names})
        tests = evaluate.evaluators(found.exp)
        source, w = found.exp.open_source("eval"), found.state.view()
        return {name: report.scalars for name, report in evaluate.reports(found.exp, tests, w, w, source)}

    def bare(scalars):
        return {key.rpartition("/")[2]: value for key, value in scalars.items()}

    together, backwards = measured(list(kinds)), measured(list(kinds)[::-1])
    for name in kinds:
        assert bare(together[name]) == bare(backwards[name]) == measured([name])[name], name
    values = [tuple(together[name].values()) for name in kinds]
    assert len(set(values)) == len(kinds)
    assert bare(together["g"])["gaussian_psnr_degraded"] == pixel.PERFECT  # what is equal is not infinitely good
    figures = evaluate.evaluate(tmp_path, changes={f"eval.{k}": kinds[k] for k in kinds})
    assert len(figures) == sum(map(len, together.values())) and {"psnr", "f/psnr", "b/gaussian_psnr"} <= set(figures)


def test_a_copying_generator_is_told_by_its_neighbours():
    source = Digits().open("train")
    images = np.stack([source[i]["image"] for i in (3, 700)])
    from jaxgen.evaluation.image_sets import nearest_rows

    distance, rows = nearest_rows(images, source_batches(source), 2)
    np.testing.assert_array_equal(rows[:, 0], [3, 700])
    np.testing.assert_allclose(distance[:, 0], 0.0, atol=1e-6)
    assert (distance[:, 1] > 0.2).all()
    whole = np.concatenate([x for x, _ in source_batches(source)]).reshape(1500, -1) / 255.0
    d = np.sqrt(((whole - whole[3]) ** 2).sum(1))
    np.testing.assert_allclose(distance[0, 1], np.sort(d)[1], rtol=1e-4)


def test_a_classifier_needs_labels():
    config = configs.override(configs.load(f"{ROOT}/configs/classifier_digits.py:tiny"), {"data.labels": "False"})
    with pytest.raises(UserError, match=r"data\.labels=True"):
        _ = Experiment.open(config, open_source(config, "train").spec).method


def pictures(folder, num, seed=0):
    """A folder of random pictures."""
    folder.mkdir()
    for i, image in enumerate(np.random.default_rng(seed).integers(0, 256, (num, 8, 8, 3), np.uint8)):
        save_png(folder / f"{i}.png", image)
    return str(folder)


@pytest.mark.parametrize(("flag", "least"), [("batch", 1), ("num", 0), ("size", 0), ("border", 0)])
def test_a_number_that_compare_cannot_take_is_told_before_anything_is_read(flag, least):
    with pytest.raises(UserError, match=f"--{flag}={least - 1} must be at least {least}"):
        sets.run(["nowhere", "nowhere", "--paired=psnr", f"--{flag}={least - 1}"])


def test_a_record_says_which_sets_it_is_of(tmp_path, capsys):
    """Two models in one file of records are told apart, and the file's folder need not be there."""
    a, b, real = (pictures(tmp_path / name, 3, seed) for seed, name in enumerate("abr"))
    out = tmp_path / "deep" / "er" / "out.jsonl"
    for made in (a, b, a):
        sets.run([made, real, "--paired=mse", f"--out={out}"])
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["made"]["of"] for r in records] == ["a", "b", "a"] and records[0] == records[2]
    assert records[0]["made"]["hash"] != records[1]["made"]["hash"]
    assert {r["reference"]["hash"] for r in records} == {records[0]["reference"]["hash"]}


def test_figures_on_other_data_than_the_run_was_trained_on_are_told(tmp_path, capsys):
    folder = pictures(tmp_path / "pictures", 20)
    changes = {
        "data": {"name": "folder", "path": folder, "batch": 4},
        "eval": {"loss": {}},
        "steps": 1,
        "mesh": {"data": 1},
    }
    train(configs.override(configs.load("vae_digits:tiny"), changes), tmp_path / "run")
    evaluate.evaluate(tmp_path / "run")
    assert "warning" not in capsys.readouterr().err
    save_png(tmp_path / "pictures" / "more.png", np.zeros((8, 8, 3), np.uint8))
    evaluate.evaluate(tmp_path / "run")
    assert "warning: the data are not those that" in capsys.readouterr().err

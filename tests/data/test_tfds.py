"""TFDS sets: read without TensorFlow, decoded exactly, missing ones explained."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sets import noise, write_tfds

from jaxgen.core.spec import pictures
from jaxgen.data import NothingHeldOut, Tfds, load_all
from jaxgen.data.prepare import main, prepare
from jaxgen.errors import UserError

DATA = Path(os.environ.get("JAXGEN_DATA", Path(__file__).parents[2] / "../shared/data")) / "tfds"
SETS = {"cifar10": ((32, 32, 3), 50_000), "mnist": ((28, 28, 1), 60_000)}


def _need(name: str) -> str:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}: set JAXGEN_DATA")
    return str(DATA)


@pytest.mark.parametrize("name", SETS)
def test_shapes_labels_and_counts(name: str):
    spec = Tfds(name, _need(name))
    train, held = spec.open("train"), spec.open("eval")
    shape, num = SETS[name]
    assert train.spec.shape == shape and (len(train), len(held)) == (num, 10_000) and train.spec.classes == 10
    assert not train.lossy
    assert train.spec["label"].names[0] == {"cifar10": "airplane", "mnist": "0"}[name]
    sample = [train[i] for i in range(0, num, num // 300)]
    assert {int(example["label"]) for example in sample} == set(range(10))
    assert all(example["image"].shape == shape and example["image"].dtype == np.uint8 for example in sample)
    mean = np.mean([example["image"] for example in sample]) / 255
    assert mean == pytest.approx({"cifar10": 0.473, "mnist": 0.131}[name], abs=0.03)  # the published means


@pytest.mark.parametrize("name", SETS)
def test_the_same_examples_as_tfds_decodes(name: str):
    import tensorflow_datasets as tfds

    reference = tfds.data_source(name, split="test", data_dir=_need(name))
    ours = Tfds(name, _need(name)).open("eval")
    for i in (0, 1, 4_999, 9_999):
        np.testing.assert_array_equal(ours[i]["image"], reference[i]["image"])
        assert ours[i]["label"] == reference[i]["label"]


def test_slices_sizes_and_no_labels():
    spec = Tfds("mnist", _need("mnist"), split="train[:64]", eval_split="train[64:80]", label_key="", size=16)
    train = spec.open("train")
    assert len(train) == 64 and len(spec.open("eval")) == 16
    assert train.spec == pictures((16, 16, 1))
    assert load_all(train, 1 << 20).keys() == {"image"}


def test_reading_never_imports_tensorflow():
    code = (
        "import sys\n"
        "from jaxgen.data import Tfds, train_stream\n"
        f"source = Tfds('mnist', {_need('mnist')!r}).open('train')\n"
        "assert train_stream(source, 8, 0).batch_at(0)['image'].shape == (8, 28, 28, 1)\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in ('tensorflow', 'torch')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "OpenCV" not in done.stderr and "TensorFlow" not in done.stderr  # no library advice on the console


def test_missing_sets_are_told(tmp_path: Path):
    where = str(tmp_path)
    _one_line(Tfds("svhn_cropped", where), "svhn_cropped", where, "jaxgen[prepare]", f"--data_dir={where}")
    _one_line(Tfds("cifar1o", where), "did you mean 'cifar10'")
    _one_line(Tfds("cifar10/no_such_config", where), "cifar10/no_such_config")
    _one_line(Tfds("cifar10:9.9.9", where), "9.9.9")


def test_unfit_requests_are_told():
    where = _need("mnist")
    _one_line(Tfds("mnist", where, eval_split="validation"), "validation", "train, test", split="eval")
    _one_line(Tfds("mnist", where, split="train[:0]"), "train[:0]")
    _one_line(Tfds("mnist", where, image_key="picture"), "picture", "image (Image)", "image_key")
    _one_line(Tfds("mnist", where, label_key="digit"), "digit", "label (ClassLabel)", "'' to train without")
    _one_line(Tfds("mnist", where, resize="cower"), "did you mean 'cover'")


def test_sets_of_varying_size_need_a_size(tmp_path: Path):
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    )
    with pytest.raises(UserError, match="size=64"):
        Tfds("photos")._shape(features, tfds)
    assert Tfds("photos", size=64)._shape(features, tfds) == (64, 64, 3)
    floats = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(8, 8, 1), dtype=np.float32)})
    with pytest.raises(UserError, match="float32"):
        Tfds("maps")._shape(floats, tfds)


def test_records_of_sixteen_bits_are_scaled_and_that_is_told(tmp_path: Path):
    wide = np.array([[[0], [257], [32_768]], [[40_000], [65_278], [65_535]]], np.uint16)
    source = Tfds("pictures", str(write_tfds(tmp_path, [wide], [0], ["scan"])), label_key="").open("train")
    np.testing.assert_array_equal(source[0]["image"], np.rint(wide / 257).astype(np.uint8))
    assert any("16 bits" in note for note in source.notes)


def test_a_set_of_one_split_is_cut_or_holds_nothing_out(tmp_path: Path):
    where = str(write_tfds(tmp_path, noise(10), [0] * 10, ["ant"]))
    _one_line(Tfds("pictures", where), "split='train[:90%]'", "eval_split='train[90%:]'", split="eval")
    cut = Tfds("pictures", where, split="train[:90%]", eval_split="train[90%:]")
    assert (len(cut.open("train")), len(cut.open("eval"))) == (9, 1)
    none = Tfds("pictures", where, eval_split="")
    assert none.open("train").notes == ("held out: none (eval_split='')",)
    with pytest.raises(NothingHeldOut, match=r"--config\.data\.eval_split=SPLIT; there are train"):
        none.open("eval")


def test_a_split_published_without_labels_is_refused(tmp_path: Path):
    where = str(write_tfds(tmp_path, noise(4), [0, 1, -1, -1], ["ant", "bee"]))
    _one_line(Tfds("pictures", where, split="train[2:]"), "label -1", "record 0", 'label_key=""')
    with pytest.raises(UserError, match=r"record 2 .* label -1"):
        load_all(Tfds("pictures", where).open("train"), 1 << 20)
    assert len(load_all(Tfds("pictures", where, label_key="").open("train"), 1 << 20)["image"]) == 4


def test_preparing_without_tensorflow_says_what_to_install(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jaxgen\[prepare\]"):
        prepare("cifar10")
    assert main(["cifar10"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def _one_line(spec: Tfds, *says: str, split: str = "train") -> None:
    with pytest.raises(UserError) as error:
        spec.open(split)
    assert "\n" not in str(error.value)
    for text in says:
        assert text in str(error.value)

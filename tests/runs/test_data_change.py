"""Data that change under a run: what changed is said in one line, nothing is lost, and what cannot go on is refused."""

import json
import shutil

import numpy as np
import pytest
from sets import noise, write_folder

import jaxgen
from jaxgen.config import files as configs
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.errors import UserError
from jaxgen.evaluate import evaluate
from jaxgen.train import train

NAMES = ("bee", "cat", "dog")


def written(path, num=24, names=NAMES, seed=0):
    return write_folder(path, noise(num, 8, 8, 1, seed)[..., 0], np.arange(num) % len(names), names)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(config, run, folder) of a run that is told labels: two steps of a classifier of class folders."""
    path = tmp_path_factory.mktemp("first")
    data = {"name": "folder", "path": str(written(path / "pictures")), "size": 8, "batch": 4, "labels": True}
    net = {"method.net.width": 8, "method.net.stages": 1, "method.net.blocks": 1}
    changes = {"mesh": {"data": 1}, "data": data, "eval": {}, "steps": 2, **net}
    config = configs.override(configs.load("classifier_digits:tiny"), changes)
    train(config, path / "run")
    return config, path / "run", path / "pictures"


@pytest.fixture
def labelled(first, tmp_path):
    """The same, copied to `tmp_path`: data elsewhere are no change."""
    config, run, folder = first
    shutil.copytree(folder, tmp_path / "pictures")
    shutil.copytree(run, tmp_path / "run")
    return configs.override(config, {"data.path": str(tmp_path / "pictures")})


def story(path):
    return json.loads((path / "run.json").read_text())


def goes_on(config, path, **more):
    """The step to which `more` training leads."""
    train(configs.override(config, {"steps": 4}), path, **more)
    return jaxgen.open(path).at


def files(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


def doubled(folder):
    for path in [*(folder / "cat").iterdir()]:
        shutil.copy(path, path.with_name(f"new{path.name}"))


def other_names(folder):
    for path in [*(folder / "dog").iterdir()]:
        path.rename(path.with_name(f"z{path.name}"))


CHANGES = {
    "class added": (
        lambda f: shutil.copytree(f / "cat", f / "ant"),
        r"label of 3 -> label of 4 \('ant' is new\)",
        False,
    ),
    "class gone": (lambda f: shutil.rmtree(f / "dog"), r"label of 3 -> label of 2 \('dog' is gone\)", False),
    "another order": (rename("bee", "fly"), r"label 0 was 'bee' and is 'cat' and 2 more", False),
    "renamed in place": (rename("cat", "cow"), r"label 1 was 'cat' and is 'cow'", True),
    "pictures added": (doubled, r"\d+ -> \d+ examples", True),
    "other files": (other_names, "not the same ones|examples", True),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_one_line_and_goes_on_where_it_is_sane_and_allowed(case, labelled, tmp_path):
    change, words, sane = CHANGES[case]
    run = tmp_path / "run"
    before = files(run)
    change(tmp_path / "pictures")
    for allow in (False,) if sane else (False, True):
        with pytest.raises(UserError, match=rf"the data of --workdir={run} changed since step 2: .*({words})") as error:
            goes_on(labelled, run, allow_data_change=allow)
        assert "\n" not in str(error.value) and files(run) == before
    assert ("--allow-data-change" in str(error.value)) == sane and ("--config.init=" in str(error.value)) != sane
    if case == "pictures added":
        assert goes_on(labelled, run, allow_data_change=True) == 4
        assert len({start["data"]["fingerprint"] for start in story(run)["starts"]}) == 2
        train(labelled, run)  # the new data are the run's now
    if case == "class added":  # the cure of the line
        train(configs.override(labelled, {"init": str(run)}), tmp_path / "another")
        assert jaxgen.open(tmp_path / "another").at == 2


def test_the_same_data_elsewhere_are_no_change(labelled, tmp_path):
    assert goes_on(labelled, tmp_path / "run") == 4
    assert story(tmp_path / "run")["data"]["num"] == len(jaxgen.open(tmp_path / "run").exp.open_source("train"))


def test_classes_that_a_run_is_not_told_may_change(tiny, tmp_path):
    folder = written(tmp_path / "pictures")
    source = {"name": "folder", "path": str(folder), "size": 8, "batch": 4}
    config = tiny("vae_digits", data=source, eval={"loss": {"every": 0, "num": 2}}, steps=2)
    train(config, tmp_path / "run")
    (folder / "ant").mkdir()
    shutil.copy(next((folder / "cat").iterdir()), folder / "ant")
    with pytest.raises(UserError, match=r"changed since step 2: .*examples.*--allow-data-change"):
        goes_on(config, tmp_path / "run")
    assert goes_on(config, tmp_path / "run", allow_data_change=True) == 4
    assert np.isfinite(evaluate(tmp_path / "run", step=2)["loss"])


def test_measuring_on_data_of_other_classes_is_refused(labelled, tmp_path):
    (tmp_path / "pictures/bee").rename(tmp_path / "pictures/fly")
    with pytest.raises(
        UserError, match=r"config\.data is not what this run was trained on: label 0 was 'bee' and is 'cat'"
    ):
        evaluate(tmp_path / "run", changes={"eval.loss.num": 2, "data.path": labelled.data.path})


def test_checkpoints_that_say_no_more_than_a_spec_are_compared_by_it(labelled, tmp_path):
    """Those of 0.2.0 knew neither number nor fingerprint."""
    folder = tmp_path / "pictures"
    place = tmp_path / "run/checkpoints/2"
    shutil.rmtree(place / "checksums")
    told = json.loads((place / "story/metadata").read_text())
    (place / "story/metadata").write_text(json.dumps({k: told[k] for k in ("config", "spec")}))
    shutil.copy(next((folder / "cat").iterdir()), folder / "cat/new.png")
    assert goes_on(labelled, tmp_path / "run") == 4


def test_how_one_spec_differs_from_another():
    old = pictures((8, 8, 1), 3, NAMES)
    assert old.changed(old) == ("", True) and old.changed(old.unnamed()) == ("", True)
    cases = [
        (pictures((8, 8, 3), 3, NAMES), "image uint8 8x8x1 -> image uint8 8x8x3", False),
        (pictures((8, 8, 1)), "label of 3 is gone", False),
        (Spec(old, text=Field((), "str", "text")), "text str  is new", False),
        (pictures((8, 8, 1), 3, ("bee", "dog", "cat")), "label 1 was 'cat' and is 'dog' and 1 more", False),
        (pictures((8, 8, 1), 3, ("ant", "cat", "dog")), "label 0 was 'bee' and is 'ant'", True),
        (pictures((8, 8, 1), 2, ("cat", "dog")), "label of 3 -> label of 2 ('bee' is gone)", False),
        (pictures((4, 8, 1), 3, NAMES[::-1]), "image uint8 8x8x1 -> image uint8 4x8x1; "
                                              "label 0 was 'bee' and is 'dog' and 1 more", False),
    ]  # fmt: skip
    for new, words, fits in cases:
        assert old.changed(new) == (words, fits)

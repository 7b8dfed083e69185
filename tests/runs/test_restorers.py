"""Restorers on a run that was trained without: a task may come after training, and what is known of a picture stays to the bit."""

import numpy as np
import pytest
from cases import untrained

from jaxgen.config import files as configs
from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.evaluate import evaluate
from jaxgen.images import to_float, to_uint8
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.trained import Trained
from jaxgen.sample import sample

FEW = {"method.net.mults": (1,), "method.solver.steps": 2, "eval.loss": None, "eval.grid": None, "data.batch": 16}
RESTORERS = {
    "ddnm": {}, "dps": {}, "pigdm": {}, "ddrm": {"method.restorer.steps": 2},
    "repaint": {"method.restorer.steps": 4, "method.restorer.jump": 2, "method.restorer.passes": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of labelled digits that has not begun."""
    config = configs.override(configs.load("ddpm_digits:tiny"), {**FEW, "mesh": {"data": 1}})
    return untrained(config, open_source(config, "train").spec, tmp_path_factory.mktemp("run"), True)


@pytest.mark.parametrize("name", RESTORERS)
def test_a_task_comes_after_training_and_what_is_known_stays(run, name, tmp_path):
    changes = {"method.restorer": name, "tasks.hide.shape": "half", **RESTORERS[name]}
    made = sample(run, num=8, out=tmp_path / "made", changes=changes)
    held = np.load(tmp_path / "made.npz")
    stays = np.broadcast_to(held["mask"] == 0, made.shape)
    assert stays.mean() == 0.5 and (made[~stays] != to_uint8(held["shown"])[~stays]).any()
    np.testing.assert_array_equal(made[stays], to_uint8(held["shown"])[stays])
    method = Trained.open(run, changes=changes).exp.method
    evaluations = {"ddrm": 2, "repaint": 6}.get(name, 2)
    assert method.nfe == evaluations * method.guide.evaluations


def test_a_picture_of_ones_own_is_repaired_from_python_and_enlarged(run):
    x = open_source(Trained.open(run).exp.config, "eval")[3]["image"]
    trained = Trained.open(run, changes={"method.restorer": "ddnm", "tasks.hide.shape": "box"})
    task = trained.exp.restored.task
    told = task.ask(to_float(x[None]), np.arange(8).reshape(8, 1, 1) < 5)
    made = trained.sample(4, labels=3, **{k: np.asarray(v) for k, v in told.items()})
    np.testing.assert_array_equal(made[:, :5], np.broadcast_to(x[:5], made[:, :5].shape))
    small = {"tasks.shrink.factor": 2, "tasks.shrink.how": "pil_box", "method.solver.clip": False}
    small |= {"method.restorer": "ddnm", "eval.from_conditions.num": 16}
    figures = evaluate(run, changes=small)
    assert {"psnr", "baseline_psnr"} <= figures.keys()
    means = Trained.open(run, changes=small).exp.sample(Trained.open(run).state.view(), 4)
    shrunk = means.images.reshape(4, 4, 2, 4, 2, 1).mean((2, 4))
    inside = np.abs(means.images).max((1, 2, 3)) < 1  # pictures are cut off at [-1, 1]
    np.testing.assert_allclose(shrunk[inside], means.cond["small"][inside], atol=1e-4)


def test_what_training_knows_of_stays_as_it_was(run, tmp_path):
    config = configs.override(configs.load("ddpm_digits:tiny"), {"method.restorer": "pigdm", "tasks.hide": {}})
    spec = open_source(config, "train").spec
    plain = Experiment.open(configs.override(config, {"method.restorer": "none", "tasks.hide": None}), spec)
    assert Experiment.open(config, spec).abstract.nets == plain.abstract.nets  # the net is told nothing of the task
    with pytest.raises(UserError, match=r"tasks\.hide.*cannot change.*--config\.method\.restorer=pigdm"):
        Trained.open(run, changes={"tasks.hide.shape": "box"})
    taught = configs.override(configs.load("inpaint_digits:tiny"), {"mesh": {"data": 1}})
    learned = untrained(taught, pictures((8, 8, 1), levels=17), tmp_path, False)
    with pytest.raises(UserError, match="has learned what task hide is about, and needs no restorer"):
        Trained.open(learned, changes={"method.restorer": "pigdm"})

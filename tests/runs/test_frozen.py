"""Frozen runs: never saved, inputs of every program; resumption stays bitwise; mistakes are one line."""

import json
import shutil
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.config import files as configs
from jaxgen.config import registry
from jaxgen.core import parallel
from jaxgen.core.lender import Lender, Loan, Role
from jaxgen.core.method import Loss, start_from
from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.evaluate import evaluate
from jaxgen.methods.classifier import Classifier
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.frozen import FrozenRun
from jaxgen.train import train


@dataclass(frozen=True, kw_only=True)
class Pupil(Classifier):
    """A classifier that begins as its teacher and learns the teacher's logits (Hinton et al. 2015)."""

    teacher: Lender

    def loans(self):
        return {"teacher": Loan(self.teacher, Role(Classifier, "classifier", conditions=True))}

    def inherits(self):
        return self.loans()

    def inherit(self, state, lent):
        net = start_from(state.nets["net"], lent["teacher"].weights.nets["net"], "teacher")
        return state.replace(nets={"net": net})

    def loss(self, w, batch, rng, train):
        x, teacher = self.target(batch), w.frozen["teacher"]
        want = teacher.model.classify(teacher.weights, x)[1]
        (_, got), _ = self.net.apply(w.nets["net"], x, train=train, rngs={"dropout": rng})
        return Loss(jnp.mean((got - want) ** 2, -1))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A classifier of digits after four steps."""
    path = tmp_path_factory.mktemp("teacher")
    train(configs.override(configs.load("configs/classifier_digits.py:tiny"), {"mesh": {"data": 1}}), path)
    return path


@pytest.fixture
def pupil(tiny, teacher, monkeypatch):
    """changes -> a config that borrows the teacher."""
    monkeypatch.setitem(registry.TABLES["method"], "pupil", f"{__name__}:Pupil")

    def make(**changes):
        config = tiny("classifier_digits")
        with config.unlocked():
            config.method.update(name="pupil", teacher=str(teacher))
        return configs.override(config, changes)

    return make


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def read(lender):
    """What a run lends, on the host."""
    return jax.device_get(lender.load(parallel.everywhere(parallel.make_mesh({"data": 1}), lender.abstract)))


def newest(config, path):
    exp = Experiment.open(config, open_source(config, "train").spec)
    _, state = Checkpoints(path, read_only=True).trained(lambda _: exp.abstract)
    return exp, state


@pytest.mark.slow
def test_a_run_that_borrows_resumes_bitwise_and_leaves_the_teacher_as_it_was(pupil, teacher, tmp_path):
    config, whole, cut = pupil(), tmp_path / "whole", tmp_path / "cut"
    lent = read(FrozenRun(str(teacher)))
    train(config, whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "4")
    train(config, cut)
    (exp, one), (_, two) = newest(config, whole), newest(config, cut)
    same((one.nets, one.extra), (two.nets, two.extra))
    learnt, first = (jax.tree.leaves(state.nets["net"].params) for state in (one, exp.init()))
    assert any((x != y).any() for x, y in zip(learnt, first, strict=True))
    same(exp.lend(one).frozen["teacher"], lent)
    assert evaluate(whole)["loss"] > 0  # the loss needs the teacher: a run directory finds it again


def test_training_hands_the_borrowed_weights_on_and_saves_none(pupil, teacher, tmp_path):
    config = pupil(**{"method.teacher.weights": "raw"})
    exp = Experiment.open(config, open_source(config, "train").spec)
    lent, state = read(FrozenRun(str(teacher), weights="raw")), exp.init()
    same(state.nets["net"].params, lent.weights.nets["net"]["params"])  # it began as the teacher
    program = exp.compile_steps(1, None)
    batch = {"image": np.ones((1, 8, 8, 8, 1), np.uint8), "label": np.zeros((1, 8), np.int32)}
    for _ in range(2):
        state, _ = program(state, batch, {}, exp.root)
    same(state.frozen["teacher"], lent)
    keeper = Checkpoints(tmp_path)
    keeper.save(2, state, {"spec": exp.data.to_json()})
    keeper.close()
    saved = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    assert saved and not any("frozen" in name or "teacher" in name for name in saved)
    _, back = Checkpoints(tmp_path, read_only=True).trained(lambda _: exp.abstract)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(back.frozen))


def test_the_weights_are_inputs_of_the_step_and_of_evaluation(pupil):
    config = pupil()
    exp = Experiment.open(config, open_source(config, "train").spec)
    leaves = len(jax.tree.leaves(exp.abstract.frozen))
    assert leaves == len(jax.tree.leaves(FrozenRun(config.method.teacher.path).abstract)) > 0
    batch = exp.spec.abstract(8)
    said = jax.make_jaxpr(exp.method.eval_step)(exp.abstract.view(), batch, exp.root)
    assert not said.consts
    changed = exp.init()
    for scale in (1.0, 2.0):  # the same program, other weights
        frozen = jax.tree.map(lambda x, s=scale: (x * s).astype(x.dtype), changed.frozen)
        w = changed.replace(frozen=frozen).view()
        images = {"image": np.full((8, 8, 8, 1), 200, np.uint8), "label": np.zeros(8, np.int32)}
        loss = exp.jit("loss", exp.method.eval_step)(w, images, exp.root)["loss"]
        assert (float(loss.max()) == 0.0) == (scale == 1.0)  # a copy agrees with its teacher, not with another


@pytest.mark.slow
def test_which_weights_and_which_checkpoint_are_asked_for(teacher):
    trees = [read(FrozenRun(str(teacher), **ask)).weights for ask in ({}, {"weights": "raw"}, {"step": 2})]
    assert [int(w.step) for w in trees] == [4, 4, 2]
    leaves = [np.concatenate([x.ravel() for x in jax.tree.leaves(w.nets)]) for w in trees]
    assert len({x.tobytes() for x in leaves}) == 3


def test_a_directory_alone_is_the_short_form(pupil, teacher):
    spec = pupil().method.teacher.to_dict()
    assert spec == {"name": "run", "path": str(teacher), "step": -1, "weights": "ema"}
    assert configs.override(pupil(), {"method.teacher": "elsewhere"}).method.teacher.path == "elsewhere"
    assert configs.override(pupil(), {"method.teacher.step": "3"}).method.teacher.step == 3


def run_dir(path, config, shape=(8, 8, 1), classes=10):
    """A run directory without checkpoints: all that is looked at before weights are read."""
    run = RunDir(path)
    run.claim(config)
    run.record({"spec": pictures(shape, classes).to_json(), "num": 100}, {})
    return str(path)


def test_mistakes_are_one_line(pupil, tiny, tmp_path):
    classifier = tiny("classifier_digits")
    old = run_dir(tmp_path / "old", classifier)
    story = json.loads((tmp_path / "old/run.json").read_text())
    story["data"] = {"shape": [8, 8, 1], "classes": 10, "num": 1500, "label_names": list("0123456789")}
    (tmp_path / "old/run.json").write_text(json.dumps(story))
    cases = [
        ("", "teacher.path is empty: name the directory"),
        (str(tmp_path / "gone"), "teacher.path=.*gone holds no run"),
        (run_dir(tmp_path / "big", classifier, (16, 16, 1)), r"run of images \(16, 16, 1\), not \(8, 8, 1\)"),
        (run_dir(tmp_path / "few", classifier, classes=7), "is told label of 7 and this run label of 10"),
        (run_dir(tmp_path / "vae", tiny("vae_digits")), "method Vae, which is no classifier"),
        (run_dir(tmp_path / "new", classifier), "there is no checkpoint in .*new"),
        (run_dir(tmp_path / "wide", configs.override(classifier, {"method.net.width": 16})), "there is no checkpoint"),
        (old, "was written by a jaxgen that stored no Spec"),
    ]
    for path, words in cases:
        config = pupil(**{"method.teacher.path": path})
        with pytest.raises(UserError, match=words) as error:
            Experiment.open(config, open_source(config, "train").spec).init()
        assert "\n" not in str(error.value)


def test_frozen_weights_are_sharded_by_the_rules_of_the_run(pupil):
    config = pupil(mesh={"data": 2, "fsdp": 4}, sharding=((".*", "fsdp:256"),))
    exp = Experiment.open(config, open_source(config, "train").spec)
    spread = [not x.sharding.is_fully_replicated for x in jax.tree.leaves(exp.init().frozen)]
    assert any(spread)
    batch = {k: np.zeros(x.shape, x.dtype) for k, x in exp.spec.abstract(8).items()}
    found = exp.jit("loss", exp.method.eval_step)(exp.init().view(), batch, exp.root)
    assert float(found["loss"].max()) < 1e-10  # a copy agrees with its teacher, whole or in parts


def test_a_net_of_another_size_cannot_be_inherited(pupil):
    config = pupil(**{"method.net.width": 16})
    with pytest.raises(
        UserError, match=r"method.net is not the net of teacher: params/.* is \(.*\) here and \(.*\) there"
    ):
        Experiment.open(config, open_source(config, "train").spec).init()

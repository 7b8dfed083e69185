"""A trained run, opened again: overrides, phases of another resolution, other runs' weights, and what is refused."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen.config import files as configs
from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.evaluate import evaluate
from jaxgen.evaluation.per_image import Grid
from jaxgen.runs import experiment
from jaxgen.runs.directory import RunDir
from jaxgen.runs.frozen import FrozenRun
from jaxgen.runs.trained import Trained
from jaxgen.sample import sample
from jaxgen.train import train

SMALL = {"method.net.mults": (1,), "method.net.attend": ()}  # what is asked here does not depend on the net


def labelled(name, path):
    """A labelled run, long enough to tell labels apart."""
    changes = {**SMALL, "mesh": {"data": 1}, "steps": 60, "steps_per_call": 10, "save_every": 60, "method.net.optimizer.lr": 1e-2,
               "method.net.optimizer.warmup": 0, "method.net.ema": "none", "eval.grid.every": 0, "eval.loss.every": 0}  # fmt: skip
    train(configs.override(configs.load(f"configs/{name}.py:tiny"), changes), path)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A chain."""
    return labelled("ddpm_digits", tmp_path_factory.mktemp("run") / "digits")


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A flow."""
    return labelled("flow_digits", tmp_path_factory.mktemp("run") / "flow")


@pytest.fixture
def compiled():
    """A function that counts the programs that were compiled since it was last asked."""
    events = []

    def note(event, duration, **_):
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)

    def count():
        found = events.count("/jax/core/compile/backend_compile_duration")
        events.clear()
        return found

    yield count
    if hasattr(jax.monitoring, "unregister_event_duration_listener"):  # jax < 0.8 has none
        jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize(
    ("run", "parts", "scale"),
    [
        ("digits", {"solver": "ancestral"}, {"scale": 3.5}),
        ("digits", {"solver": "dpm_plus", "eta": 0.5}, {"scale": 3.5, "eta": 1.0}),
        pytest.param(
            "digits",
            {"solver": "predictor_corrector", "guide": "interval"},
            {"snr": 0.1, "low": 0.0},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "flow",
            {"solver": "euler", "guide": "negative", "avoid": 2},
            {"scale": 3.5, "avoid": 4},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_numbers_are_inputs_of_the_program_that_samples(run, parts, scale, request, compiled, monkeypatch):
    """Seed, labels, steps, scales and the number of pictures change what is made, and compile nothing."""
    run = jaxgen.open(request.getfixturevalue(run))
    first = {"num": 8, "labels": [3], "steps": 9, **parts}
    images = {"first": run.sample(**first)}
    assert compiled() > 0
    others = {"seed": {"seed": 1}, "labels": {"labels": [1, 7]}, "steps": {"steps": 20}, "scale": scale}
    for name, change in others.items():
        images[name] = run.sample(**{**first, **change})
        assert compiled() == 0, name
        assert (images[name] != images["first"]).any(), name
    np.testing.assert_array_equal(run.sample(**{**first, "num": 5}), images["first"][:5])
    w, told = run.state.view(), {f"method.{k}": first[k] for k in ("solver", "guide") if k in first}
    assert "raw" in Grid(num=20)(run.changed({**told, "eval.loss.num": 8}).exp, w, w, None).images
    assert compiled() == 0  # evaluators draw with the same program
    monkeypatch.setattr(experiment, "OPEN", {})
    monkeypatch.setattr(experiment, "SHARED", {})
    np.testing.assert_array_equal(jaxgen.open(run.run.path).sample(**{**first, "steps": 20}), images["steps"])
    assert compiled() > 0


def test_three_lines_of_python(digits):
    run = jaxgen.open(digits)
    images = run.sample(5, labels=[3])
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, jaxgen.open(digits).sample(5, label=[3]))
    assert (images != run.sample(5, labels=[4])).any() and (images != run.sample(5, labels=[3], seed=1)).any()


def test_weights_are_read_without_their_optimizer(digits, tmp_path):
    """Neither is the memory needed, nor must it be the optimizer of today."""
    assert jax.tree.leaves(jaxgen.open(digits).state.nets["net"].opt) == []
    moved = tmp_path / "moved"
    shutil.copytree(digits, moved)
    config = json.loads((moved / "config.json").read_text())
    config["method"]["net"]["optimizer"]["name"] = "sgd"
    for key in ("b1", "b2", "eps"):
        config["method"]["net"]["optimizer"].pop(key)
    (moved / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(jaxgen.open(digits).sample(2), jaxgen.open(moved).sample(2))


def test_changes_hold_for_one_call_and_change_what_is_made(digits, tmp_path):
    before = (digits / "config.json").read_text()
    plain = sample(digits, num=4, out=tmp_path / "a")
    changes = {"method.solver": "ddim", "method.solver.steps": "2", "method.guide.scale": "3.0"}
    other = sample(digits, num=4, out=tmp_path / "b", changes=changes)
    assert (plain != other).any() and (digits / "config.json").read_text() == before
    np.testing.assert_array_equal(plain, sample(digits, num=4, out=tmp_path / "c"))
    assert evaluate(digits, changes={"eval.loss.num": "8"})["loss"] > 0


def test_the_name_of_an_output_tells_what_made_it(digits):
    """Another setting has another name; the same said in other words has the same one."""
    run = jaxgen.open(digits)
    settings = [
        {}, {"method.solver": "unipc"}, {"method.solver.steps": 20}, {"method.guide.scale": 20}, {"method.guide": "none"},
        {"method.solver": "unipc", "method.solver.steps": 20}, {"method.solver.eta": 0.5}, {"method.solver.eta": 0.05},
        {"method.solver": "unipc", "method.solver.grid": "karras"}, {"method.solver.grid": "karras" * 40},
        {"method.solver.grid": "karras" * 39}, {"data.path": "/a/b"}, {"data.path": "a/b"}, {"data.path": "ab"},
        {"eval.grid.num": 4},
    ]  # fmt: skip
    stems = [replace(run, changes=changes).stem("raw", evaluators=["grid"]) for changes in settings]
    assert len(set(stems)) == len(stems) and all(len(s) < 150 and "/" not in s for s in stems), stems
    assert stems[0] == "0000060_raw" and stems[5] == "0000060_raw_solver-unipc_solver.steps-20"
    alike = [
        {"method.solver": "ddim"},
        {"method.solver.name": "ddim"},
        {"eval.loss.num": 3},
        {"method.guide.scale": "1.5"},
    ]
    assert {replace(run, changes=changes).stem("raw") for changes in alike} == {"0000060_raw"}


@pytest.mark.slow
def test_what_is_drawn_with_other_settings_leaves_the_runs_own_pictures_alone(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "run")
    own = {"eval.grid.every": 0, "eval.grid.num": 10, "eval.loss.num": 8}
    evaluate(tmp_path / "run", changes=own)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run/samples").iterdir()}
    evaluate(tmp_path / "run", changes={**own, "method.solver.steps": "2"})
    for labels in ("3,7", "5", ""):
        sample(tmp_path / "run", num=4, labels=labels, changes={"method.solver.steps": "2"})
    after = {p.name: p.read_bytes() for p in (tmp_path / "run/samples").iterdir()}
    assert before == {name: after[name] for name in before} and len(after) == len(before) + 1 + 3 * 2
    assert "0000060_seed0_num4_labels-3,7_solver.steps-2.npz" in after


def test_samples_are_streamed_with_labels_and_files_that_are_never_mixed(digits, tmp_path, monkeypatch, capfd):
    made = sample(digits, num=20, out=tmp_path / "a", labels="7,3", files=True)
    said = capfd.readouterr().err
    assert isinstance(made, np.memmap) and made.shape == (20, 8, 8, 1) and "7, 3, 7, 3" in said
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["labels"].tolist() == [7, 3] * 10 and stored["label_names"][7] == "7"
        np.testing.assert_array_equal(stored["images"], made)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == [f"{i:05d}.png" for i in range(20)]
    with pytest.raises(UserError, match="a is there already; delete it, or name another --out"):
        sample(digits, num=4, out=tmp_path / "a", files=True)
    monkeypatch.setattr("jaxgen.sample.save_png", lambda path, image: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        sample(digits, num=4, out=tmp_path / "b", files=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.npz", "a.png"]


def test_a_picture_is_asked_for_as_a_file_or_as_a_net_has_it():
    spec = Spec(seen=Field((2, 2, 1), "uint8", "image"), shown=Field((2, 2, 1), "float32", "image"))
    told = SimpleNamespace(exp=SimpleNamespace(spec=spec), run=SimpleNamespace(path="run"))
    told._as_condition = lambda *a: Trained._as_condition(told, *a)
    levels = np.array([0, 51, 204, 255], np.uint8).reshape(1, 2, 2, 1)
    floats = levels / np.float32(127.5) - 1
    for asked in (levels, floats):
        found = Trained.asked(told, seen=asked, shown=asked)
        np.testing.assert_array_equal(found["seen"], levels)
        np.testing.assert_allclose(found["shown"], floats, atol=1e-6)


def test_a_label_is_asked_for_by_name_or_number(digits):
    """A text is a name first: in folders 0 .. 11, sorted as text or not, 2 is the folder 2."""
    run = jaxgen.open(digits)
    names = ("0", "1", "10", "11", "2", "cat", "a, b")
    spec = Spec(run.exp.spec, label=Field((), "int32", "label", values=7, names=names))
    told = SimpleNamespace(exp=SimpleNamespace(spec=spec), run=run.run)
    told._as_condition = lambda *a: Trained._as_condition(told, *a)
    ask = lambda labels: Trained.asked(told, labels)["label"].tolist()  # noqa: E731
    assert (
        ask("2,cat,10") == [4, 5, 2]
        and ask("a, b") == [6]
        and ask(["cat", 2, "2"]) == [5, 2, 4]
        and ask(np.arange(3)) == [0, 1, 2]
    )
    assert ask("3") == [3] and ask(0) == [0] and Trained.asked(told, label="cat")["label"].tolist() == [5]
    for wrong, words in (
        ("cta", "did you mean 'cat'"),
        ("7", "out of range"),
        (["cat", -1], "out of range"),
        ("-1", "out of range"),
    ):
        with pytest.raises(UserError, match=words):
            ask(wrong)


@pytest.mark.slow
def test_another_number_of_devices_than_trained_with_samples_and_measures_the_same(digits, tmp_path):
    """One trained it with batches of 8; three share it, in batches of 9 of which 8 count."""
    three, loss = {"mesh": {"data": 3}}, {"eval": {"loss": {"num": 11}}}
    one = sample(digits, num=11, out=tmp_path / "a")
    made = sample(digits, num=11, out=tmp_path / "b", changes=three)
    assert made.shape == (11, 8, 8, 1) and jaxgen.open(digits, changes=three).exp.spread(8) == 9
    assert np.abs(made.astype(int) - one).max() <= 1
    one, three = (evaluate(digits, changes={**changes, **loss})["loss"] for changes in ({}, three))
    np.testing.assert_allclose(one, three, rtol=1e-4)


def test_a_call_may_say_another_solver_by_its_own_keys_and_loads_nothing_anew(digits):
    run = jaxgen.open(digits)
    images = run.sample(4, labels=["3"], solver="ddim", steps=2, scale=3.0)
    by_path = {"method.solver.steps": 2, "method.guide.scale": 3.0}
    np.testing.assert_array_equal(images, run.sample(4, labels=3, changes=by_path))
    np.testing.assert_array_equal(images, jaxgen.open(digits, changes=by_path).sample(4, labels=3))
    other = run.changed(by_path)
    assert other.state is run.state and run.changed(dict(by_path)) is other  # and so are its compiled programs
    assert run._paths({"solver": "unipc", "order": 2}) == {"method.solver": "unipc", "method.solver.order": 2}
    with pytest.raises(UserError, match=r"the run knows no condition 'stepz'.*did you mean 'steps'"):
        run.sample(4, stepz=3)
    with pytest.raises(UserError, match="cannot change after training"):
        run.sample(4, condition_dropout=0.5)


def test_what_cannot_change_and_what_is_not_known_is_one_line(digits):
    cases = [
        (
            lambda: Trained.open(digits, changes={"method.net.width": "32"}),
            r"config\.method\.net\.width: 16 -> 32.*cannot",
        ),
        (lambda: jaxgen.open(digits, changes={"method.solver.stps": 3}), "did you mean 'steps'"),
        (lambda: jaxgen.open(digits, step=3), "no checkpoint of step 3"),
        (
            lambda: jaxgen.open(digits).sample(2, prompt="a cat"),
            "--prompt was given but .* is told no text; ask by --labels",
        ),
        (
            lambda: jaxgen.open(digits).sample(2, labels=[10]),
            "--labels=10 is out of range; the labels are 0 to 9: 0, 1",
        ),
        (
            lambda: jaxgen.open(digits).sample(2, label=["cat"]),
            "--labels=cat is no label of this run; there are: 0, 1",
        ),
        (lambda: jaxgen.open(digits).sample(2, labels=3, label=4), "both --labels and label were given"),
        (lambda: jaxgen.open(digits).sample(0), "--num=0 must be at least 1"),
    ]
    for act, words in cases:
        with pytest.raises(UserError, match=words) as error:
            act()
        assert "\n" not in str(error.value)


def test_a_run_of_a_jaxgen_without_specs_is_refused_in_one_line(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "old")
    story = json.loads((tmp_path / "old/run.json").read_text())
    story["data"] = {"shape": [8, 8, 1], "classes": 10, "num": 1500, "label_names": list("0123456789")}
    (tmp_path / "old/run.json").write_text(json.dumps(story))
    for step in (tmp_path / "old/checkpoints").iterdir():
        shutil.rmtree(step / "story")
    going_on = configs.override(RunDir(digits).config(), {"steps": 80})
    new = configs.override(going_on, {"init": str(tmp_path / "old")})
    for act in (lambda: jaxgen.open(tmp_path / "old"), lambda: evaluate(tmp_path / "old"),
                lambda: train(going_on, tmp_path / "old"), lambda: train(new, tmp_path / "new")):  # fmt: skip
        with pytest.raises(
            UserError, match=r"was written by a jaxgen that stored no Spec of its data \(0\.1\); train it anew"
        ):
            act()


@pytest.mark.slow
def test_phases_of_another_resolution_are_opened_by_their_own_config_and_spec(tiny, tmp_path, capfd):
    """Sampling, evaluation, lending and resumption at a step use what made that step; what starts afresh is said."""
    config = tiny("vae_digits", phases=({"until": 2, "data.size": 4},), **{"data.size": 8})
    train(config, tmp_path / "whole")
    said = capfd.readouterr().err
    assert "phase 2: nets/net/" in said and "start afresh" in said
    for step, side in ((2, 4), (4, 8)):
        assert sample(tmp_path / "whole", num=2, out=tmp_path / "s", step=step).shape == (2, side, side, 1)
        assert np.isfinite(evaluate(tmp_path / "whole", step=step)["elbo"])
        assert FrozenRun(str(tmp_path / "whole"), step=step).spec.shape == (side, side, 1)
        assert RunDir(tmp_path / "whole").spec(step).shape == (side, side, 1)
    for until, words in (
        (3, r"data\.size: 8 -> 4"),
        (1, r"data\.size: 4 -> 8"),
    ):  # what is trained stays as it was trained
        rewritten = configs.override(config, {"phases": ({"until": until, "data.size": 4},), "steps": 6})
        shutil.copytree(tmp_path / "whole", tmp_path / f"{until}")
        if until == 1:
            shutil.rmtree(tmp_path / "1/checkpoints/4")
        else:
            rewritten = configs.override(rewritten, {"phases": ({"until": 5, "data.size": 4},)})
        with pytest.raises(UserError, match=rf"another config up to step . \(config\.{words}\)"):
            train(rewritten, tmp_path / f"{until}")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/4")
    train(config, tmp_path / "cut")
    ends = [jax.tree.leaves(jax.device_get(jaxgen.open(tmp_path / name).state.nets)) for name in ("whole", "cut")]
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_starts_from_anothers_weights_by_path_and_shape(tiny, tmp_path, capfd):
    first = tiny("vae_digits")
    train(first, tmp_path / "first")
    wider = configs.override(
        first, {"init": str(tmp_path / "first"), "method.net.decoder.width": 48, "seed": 7, "steps": 2}
    )
    train(wider, tmp_path / "second")
    said = capfd.readouterr().err
    assert f"variables from {tmp_path / 'first'}, step 4" in said and "decoder" in said and "start afresh" in said
    from jaxgen.train import begin

    exp = jaxgen.open(tmp_path / "second").exp
    state, _ = begin(exp)
    theirs = jax.device_get(jaxgen.open(tmp_path / "first").state.nets["net"])
    mine = jax.device_get(state.nets["net"])
    jax.tree.map(np.testing.assert_array_equal, mine.params["encoder"], theirs.params["encoder"])
    stranger = tiny("dcgan_digits", init=str(tmp_path / "first"))
    with pytest.raises(UserError, match=r"config\.init: none of the \d+ variables has the path and shape"):
        train(stranger, tmp_path / "third")


@pytest.mark.slow
def test_pictures_that_are_asked_for_may_be_levels_or_floats_one_or_many(tiny, tmp_path):
    """Whatever the form, the same picture gives the same sample; what has another shape is refused, not reshaped."""
    config = tiny("super_resolution_digits", eval={}, **SMALL, **{"method.net.ema": "none"})
    train(config, tmp_path)
    run = jaxgen.open(tmp_path)
    levels = np.random.default_rng(0).integers(0, 256, (4, 4, 1)).astype(np.uint8)
    floats = levels.astype(np.float32) / 127.5 - 1.0
    made = [run.sample(2, small=x) for x in (levels, floats, levels[None], np.stack([floats, floats]))]
    for other in made[1:]:
        np.testing.assert_array_equal(made[0], other)
    for wrong in (np.zeros((8, 8, 1), np.uint8), np.zeros((4, 4)), "a picture"):
        with pytest.raises(UserError, match=r"small must be one image of shape \(4, 4, 1\) or \[N, \.\.\.\] of them"):
            run.sample(2, small=wrong)
    assert len(repr(run)) < 300


def test_runs_are_named_by_a_directory_with_their_options_in_the_same_breath():
    config = configs.override(configs.load("configs/latent_digits.py"), {
        "tasks.codec.run": "runs/a", "tasks.codec.run.step": "7", "init": "runs/b", "init.step": "3"})  # fmt: skip
    assert (config.tasks.codec.run.path, config.tasks.codec.run.step) == ("runs/a", 7)
    assert (config.init.path, config.init.step) == ("runs/b", 3)
    assert configs.override(config, {"init.path": "runs/c"}).init.step == 3
    assert configs.override(configs.load("configs/vae_digits.py"), {"init.path": "runs/c"}).init.path == "runs/c"

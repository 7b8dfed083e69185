"""Runs of which each enlarges what the one before has made."""

from types import SimpleNamespace

import numpy as np
import pytest
from cases import ROOT, untrained

from jaxgen.config import files as configs
from jaxgen.errors import UserError
from jaxgen.main import run
from jaxgen.runs.cascade import LEVEL, Cascade, enlarging
from jaxgen.runs.experiment import open_source
from jaxgen.runs.trained import Trained
from jaxgen.sample import sample

SOLVER = {"method.solver.steps": 2, "mesh": {"data": 1}}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Directories of runs that have not begun: 8 pixels, and from 8 to 16."""
    folder, found = tmp_path_factory.mktemp("runs"), []
    for name in ("imagen_shapes", "imagen_shapes_sr"):  # whose tiny forms chain
        config = configs.override(configs.load(f"{ROOT}/configs/{name}.py:tiny"), SOLVER)
        found.append(untrained(config, open_source(config, "train").spec, folder, True))
    return found


@pytest.mark.slow
def test_a_run_enlarges_what_the_one_before_made(stages, tmp_path):
    base, large = stages
    prompt = ["a small red star at the top, on white", "a large blue ring in the centre, on black"]
    made = Cascade.open(stages, {"tasks.shrink.noise": 0.0}).sample(4, prompt=prompt, seed=3)
    small = Trained.open(base).sample(4, prompt=prompt, seed=3)
    assert small.shape == (4, 8, 8, 3) and made.shape == (4, 16, 16, 3)
    told = {"small": small.astype(np.float32) / 127.5 - 1, "noise": np.zeros((4, 1), np.float32)}
    np.testing.assert_array_equal(made, Trained.open(large).sample(4, prompt=prompt, seed=3, **told))
    flags = ["--mode=sample", f"--cascade={base},{large}", "--num=4", "--seed=3", f"--out={tmp_path / 'x'}"]
    run([*flags, *(f"--prompt={text}" for text in prompt), "--config.tasks.shrink.noise=0.0"])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["images"], made)


@pytest.mark.slow
def test_the_best_of_several_is_that_of_the_whole_cascade(stages, monkeypatch, tmp_path):
    """The ranker likes bright pictures, and reads texts without the weights of their words."""
    prompt, heard = ["a (red:1.3) star", "a blue ring"], []
    judge = SimpleNamespace(
        texts=lambda texts: heard.extend(texts) or np.ones((len(texts), 1)),
        pictures=lambda x: x.mean((1, 2, 3))[:, None],
    )
    monkeypatch.setattr("jaxgen.sample.Matcher.of", lambda *_: judge)
    made = sample(stages[1], 2, tmp_path / "x", prompt=prompt, best_of=3, cascade=stages[:1])
    each = Cascade.open(stages).sample(6, prompt=[text for text in prompt for _ in range(3)])
    best = np.array([0, 3]) + each.reshape(2, 3, -1).mean(-1).argmax(1)
    np.testing.assert_array_equal(made, each[best])
    assert heard == ["a red star", "a blue ring"]
    for wrong, words in ((dict(best_of=0), "--best-of=0 must be"), (dict(ranker="x"), "--ranker=x chooses the best")):
        with pytest.raises(UserError, match=words):
            sample(stages[0], 2, prompt=prompt, **wrong)


def test_a_run_that_learned_all_levels_is_asked_at_a_low_one_and_sizes_must_chain(stages):
    base, large = (Trained.open(path).exp for path in stages)
    grey = np.full((5, 8, 8, 3), 255, np.uint8)
    told = enlarging(large, grey, "sr")
    np.testing.assert_allclose(told["noise"], LEVEL)
    np.testing.assert_allclose(told["small"].mean(), np.cos(np.pi / 2 * LEVEL), atol=0.05)
    with pytest.raises(UserError, match="sr enlarges 8x8, and the run before it makes 16x16; name a run of 32x32"):
        enlarging(large, np.zeros((5, 16, 16, 3), np.uint8), "sr")
    with pytest.raises(UserError, match="base enlarges nothing; a run behind the first needs the task shrink"):
        enlarging(base, grey, "base")
    chain = Cascade.open(stages).against("a blue ring")
    guides = [run.exp.config.method.guide.name for run in chain.runs]
    assert guides == ["negative", "none"]  # the second is never without a text
    with pytest.raises(UserError, match=r"needs a conditional run that was trained without its conditions too"):
        Cascade.open(stages[1:]).against("a blue ring")
    with pytest.raises(UserError, match="--cascade=a is one run"):
        run(["--mode=sample", "--cascade=a"])
    with pytest.raises(UserError, match="ends with b, and --workdir=c is another"):
        run(["--mode=sample", "--cascade=a,b", "--workdir=c"])

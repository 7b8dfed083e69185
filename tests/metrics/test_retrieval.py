"""Recall of pictures and texts among others, and the best of several samples."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.retrieval import Matcher, best, recalls
from jaxgen.runs.experiment import Made
from jaxgen.runs.frozen import FrozenRun


def test_recall_is_the_share_of_pictures_whose_own_text_is_among_the_nearest():
    """In groups: text 2 of the second is nearer to picture 0 than its own, which comes second."""
    texts, said = np.tile(np.eye(3), (2, 1)), list("abcdef")
    pictures = texts.copy()
    assert set(recalls(pictures, texts, said, 3).values()) == {1.0}
    pictures[3] = [0.6, 0.0, 0.8]
    found = recalls(pictures, texts, said, 3)
    assert (found["text_1"], found["text_5"]) == (5 / 6, 1.0) and found["picture_1"] == 1.0
    assert recalls(pictures, texts, said, 3, shift=1)["text_1"] == 1 / 6  # another's, which 3 is nearest to
    assert recalls(pictures[:4], texts[:4], said[:4], 3)["text_1"] == 1.0  # a group that is not whole is left out


def test_chance_and_equal_texts():
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((2_000, 8)) for _ in range(2))
    found = recalls(x, y, np.arange(2_000), 100)
    assert 0.003 < found["text_1"] < 0.02 and 0.03 < found["text_5"] < 0.07
    same, said = np.repeat(np.eye(50), 2, 0), np.repeat(np.arange(50), 2)[:, None] * [1, 1]  # as tokens
    pictures = same * rng.uniform(0.5, 1.0, (100, 1))  # some nearer to their text than others
    assert set(recalls(pictures, same, said, 100).values()) == {1.0}  # the same text twice is one
    assert set(recalls(np.ones((100, 8)), np.ones((100, 8)), said, 100).values()) == {
        0.0
    }  # all alike: nothing is found


def test_a_ranker_that_is_not_there_is_named_by_its_flag(tmp_path):
    with pytest.raises(
        UserError, match=r"^--ranker=.*nowhere holds no run \(no config.json\); train it first or name another"
    ):
        Matcher.of(FrozenRun(str(tmp_path / "nowhere")), None, "--ranker")


def test_the_best_of_several_is_the_nearest_to_its_text_whatever_the_batches():
    """Two texts in turn; pictures are numbers, of which the first text wants the greatest and the second the least."""
    numbers = np.array([3, 9, 4, 1, 7, 2, 5, 6, 8, 8, 0, 1], np.float32)
    matcher = SimpleNamespace(
        texts=lambda texts: np.array([[1.0], [-1.0]]), pictures=lambda x: x.reshape(-1, 1).astype(np.float64)
    )
    for cuts in ([12], [5, 7], [1, 1, 8, 2]):
        parts = np.split(numbers, np.cumsum(cuts)[:-1])
        batches = [Made(part.reshape(-1, 1, 1, 1).astype(np.uint8), {"caption": part}, {}) for part in parts]
        made = Made.joined(best(iter(batches), ["most", "least"], 3, matcher))
        assert made.images.ravel().tolist() == made.cond["caption"].tolist() == [9, 1, 8, 0]

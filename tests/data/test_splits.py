"""What is held out, which classes have some of it, and that both are told."""

from pathlib import Path

import numpy as np
import pytest
from sets import noise, write_arrays, write_folder, write_tfds

from jaxgen.data import Arrays, Digits, Folder, Ring, Shapes, Tfds
from jaxgen.data.sources.source import NothingHeldOut, hold_out

NAMES = [f"{i}.png" for i in range(4000)]


def test_new_items_move_no_old_one():
    held = hold_out(NAMES, 0.1)
    assert 300 < held.sum() < 500
    labels = np.arange(len(NAMES)) % 5
    np.testing.assert_array_equal(hold_out(NAMES, 0.1, labels), held)  # large classes need no help
    for num in (200, 1000, 3999):
        np.testing.assert_array_equal(hold_out(NAMES[:num], 0.1), held[:num])
    shuffled = np.random.default_rng(0).permutation(len(NAMES))
    np.testing.assert_array_equal(hold_out([NAMES[i] for i in shuffled], 0.1), held[shuffled])
    assert not (held & ~hold_out(NAMES, 0.2)).any()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.9])
def test_no_class_is_held_out_whole_and_every_one_that_should_gives_some(seed: int, fraction: float):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 30, 200)
    held = hold_out([f"{seed}/{i}.png" for i in range(200)], fraction, labels)
    for c in range(30):
        mine = held[labels == c]
        assert mine.size == 0 or not mine.all()
        assert mine.size < 2 or mine.size * fraction < 0.5 or mine.any()


@pytest.mark.parametrize("num", range(2, 30))
def test_few_items_leave_some_for_both(num: int):
    for fraction in (0.001, 0.1, 0.5, 0.99):
        assert 0 < hold_out(NAMES[:num], fraction).sum() < num
    assert hold_out(NAMES[:1], 0.1).tolist() == [True] and not hold_out(NAMES[:num], 0.0).any()


IMAGES, LABELS = noise(40), np.arange(40) % 2


def _specs(tmp: Path) -> dict:
    write_folder(tmp / "a", IMAGES, LABELS, ("ant", "bee"))
    write_folder(tmp / "b", IMAGES[:6], LABELS[:6], ("ant", "bee"))
    write_arrays(tmp / "c.npz", IMAGES, LABELS)
    write_tfds(tmp / "t", IMAGES, LABELS, ("ant", "bee"))
    return {
        "digits": Digits(), "shapes": Shapes(num=20, eval_num=7), "ring": Ring(num=20, eval_num=7), "folder": Folder(f"{tmp}/a"),
        "two folders": Folder(f"{tmp}/a", f"{tmp}/b"), "arrays": Arrays(f"{tmp}/c.npz"),
        "two files": Arrays(f"{tmp}/c.npz", f"{tmp}/c.npz"),
        "tfds": Tfds("pictures", f"{tmp}/t", "train[:30]", "train[30:]"),
    }  # fmt: skip


def test_how_many_are_held_out_is_told(tmp_path: Path):
    for kind, spec in _specs(tmp_path).items():
        train, held = spec.open("train"), spec.open("eval")
        (note,) = (note for note in train.notes if note.startswith("held out"))
        assert f"{len(held):,} " in note, kind


def test_nothing_held_out_trains_on_all_and_says_what_to_do(tmp_path: Path):
    _specs(tmp_path)
    for spec in (Folder(f"{tmp_path}/a", eval_fraction=0.0), Arrays(f"{tmp_path}/c.npz", eval_fraction=0.0)):
        source = spec.open("train")
        assert len(source) == 40 and source.notes == ("held out: none (eval_fraction=0)",)
        with pytest.raises(NothingHeldOut, match=r"--config\.data\.eval_path=PATH"):
            spec.open("eval")


def test_classes_without_a_picture_are_told(tmp_path: Path, recwarn):
    few = write_folder(tmp_path / "few", noise(43), [*LABELS, 2, 2, 2], ("ant", "bee", "cat"))
    notes = Folder(str(few)).open("train").notes
    assert notes[-1] == "no picture in the held-out part: 1 of 3 classes, such as 'cat'"
    part = write_folder(tmp_path / "part", noise(4), [0] * 4, ("ant",))
    notes = Folder(str(few), str(part)).open("train").notes
    assert notes[-1] == "no picture in the held-out part: 2 of 3 classes, such as 'bee'"
    ones = Arrays(str(write_arrays(tmp_path / "ones.npz", noise(30), np.arange(30) % 3 + 1)))
    assert "no picture in training: 1 of 4 classes, such as '0'" in ones.open("train").notes
    ones.open("eval")
    (told,) = (str(w.message) for w in recwarn)
    assert "count from 1" in told and "ones.npz" in told and "save label - 1" in told

"""A data set is known by what it holds: the laws of fingerprints, over every kind of source."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from sets import noise, write_arrays, write_folder, write_tfds

from jaxgen.core.spec import pictures
from jaxgen.data import Arrays, Digits, Folder, Shapes, Source, Tfds, share

IMAGES, LABELS, NAMES = noise(24), np.arange(24) % 3, ("ant", "bee", "cat")


def _folder(path: Path, images=IMAGES, labels=LABELS, names=NAMES) -> Source:
    return Folder(str(write_folder(path, images, labels, names)), eval_fraction=0.0).open("train")


def _arrays(path: Path, images=IMAGES, labels=LABELS, names=NAMES) -> Source:
    return Arrays(str(write_arrays(path.with_suffix(".npz"), images, labels)), eval_fraction=0.0).open("train")


def _tfds(path: Path, images=IMAGES, labels=LABELS, names=NAMES) -> Source:
    return Tfds("pictures", str(write_tfds(path, images, labels, names))).open("train")


KINDS = {"folder": _folder, "arrays": _arrays, "tfds": _tfds}


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_elsewhere_is_the_same_and_other_data_are_not(tmp_path: Path, kind: str):
    make = KINDS[kind]
    source, copy = make(tmp_path / "a"), make(tmp_path / "deep" / "b" if kind != "arrays" else tmp_path / "b")
    for content in (False, True):
        assert source.fingerprint(content) == copy.fingerprint(content) == source.fingerprint(content)
    assert source.fingerprint() != source.fingerprint(content=True)
    others = {
        "one more": make(tmp_path / "c", noise(25), np.arange(25) % 3),
        "one less": make(tmp_path / "d", IMAGES[:-1], LABELS[:-1]),
        "a class more": make(tmp_path / "e", IMAGES, [*LABELS[:-1], 3], (*NAMES, "dog")),
        "another size": make(tmp_path / "f", noise(24, 8, 8)),
    }
    if kind != "arrays":  # whose classes have no names
        others["a class renamed"] = make(tmp_path / "g", names=("ant", "bee", "cow"))
    if kind != "tfds":  # whose labels lie in the records
        others["classes in another order"] = make(tmp_path / "h", labels=2 - LABELS)
    marks = [each.fingerprint() for each in (source, *others.values())]
    assert len(set(marks)) == len(marks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("i", [0, 11, 23])
def test_the_content_is_every_byte_of_every_picture(tmp_path: Path, kind: str, i: int):
    changed = IMAGES.copy()
    changed[i, -1, -1, -1] ^= 1
    source, other = KINDS[kind](tmp_path / "a"), KINDS[kind](tmp_path / "b", changed)
    assert source.fingerprint(content=True) != other.fingerprint(content=True)


def test_files_of_one_size_are_told_apart_by_content_alone(tmp_path: Path):
    source = _folder(tmp_path / "a")
    file = tmp_path / "a/bee/010.png"
    before = source.fingerprint(), source.fingerprint(content=True)
    stored = bytearray(file.read_bytes())
    stored[-1] ^= 1
    file.write_bytes(stored)
    assert source.fingerprint() == before[0] and source.fingerprint(content=True) != before[1]


def test_neither_place_nor_time_of_a_folder_counts(tmp_path: Path):
    source = _folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere/b")
    for file in (tmp_path / "elsewhere").rglob("*.png"):
        os.utime(file, (1, 1))
    twin = Folder(f"{tmp_path}/elsewhere/../elsewhere/b/", eval_fraction=0.0).open("train")
    for content in (False, True):
        assert source.fingerprint(content) == twin.fingerprint(content)
    (tmp_path / "elsewhere/b/ant/000.png").rename(tmp_path / "elsewhere/b/ant/zero.png")
    renamed = Folder(str(tmp_path / "elsewhere/b"), eval_fraction=0.0).open("train")
    assert renamed.fingerprint() != source.fingerprint()


def test_splits_and_options_have_fingerprints_of_their_own(tmp_path: Path):
    write_folder(tmp_path / "a", IMAGES, LABELS, NAMES)
    write_tfds(tmp_path / "t", IMAGES, LABELS, NAMES)
    sources = [spec.open(split) for split in ("train", "eval") for spec in (
        Digits(), Digits(size=16), Shapes(), Shapes(seed=1), Shapes(max_shapes=2), Folder(str(tmp_path / "a")),
        Folder(str(tmp_path / "a"), size=8), Folder(str(tmp_path / "a"), size=8, resize="contain"),
        Tfds("pictures", str(tmp_path / "t"), "train[:9]", "train[9:]"))]  # fmt: skip
    marks = [source.fingerprint() for source in sources]
    assert len(set(marks)) == len(marks)
    assert Digits().open("train").fingerprint() == Digits().open("train").fingerprint()
    small = Shapes(num=9).open("train")
    assert small.fingerprint(content=True) == Shapes(num=9).open("train").fingerprint(content=True)


class Own(Source):
    """The least that a source of one's own says."""

    def __init__(self, level: int):
        self.spec, self.level = pictures((2, 2, 1)), level

    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> dict:
        return {"image": np.full((2, 2, 1), self.level + i, np.uint8)}


def test_a_source_of_ones_own_inherits_the_rest():
    source, other = Own(0), Own(1)
    assert source.labels is None and source.notes == () and len(share(source, 4)) == 4
    assert source.fingerprint() == other.fingerprint() and source.fingerprint(True) != other.fingerprint(True)


def test_ten_thousand_files_are_known_in_a_second(tmp_path: Path):
    first = tmp_path / "0.png"
    first.write_bytes(b"not read")
    for i in range(1, 10_000):
        os.link(first, tmp_path / f"{i}.png")
    source = Folder(str(tmp_path), eval_fraction=0.0, size=8, channels=3).open("train")
    start = time.process_time()
    source.fingerprint()
    assert time.process_time() - start < 1

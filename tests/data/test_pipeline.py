"""Laws of the data pipeline, over every kind of source."""

import itertools
import os
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import (
    Arrays,
    Crop,
    Digits,
    Flip,
    Folder,
    Pairs,
    Shapes,
    Source,
    Tfds,
    Unpaired,
    eval_batches,
    index_stream,
    load_all,
    share,
    train_stream,
)
from jaxgen.data.pipeline import permutation
from jaxgen.errors import UserError

DATA = Path(os.environ.get("JAXGEN_DATA", Path(__file__).parents[2] / "../shared/data"))
KINDS = ("digits", "shapes", "arrays", "folder", "tfds", "pairs", "unpaired")


def _make(kind: str, tmp: Path) -> Source:
    rng = np.random.default_rng(0)
    if kind == "digits":
        return Digits().open("eval")
    if kind == "shapes":
        return Shapes(size=16, num=37, max_shapes=2).open("train")
    if kind == "arrays":
        np.save(tmp / "x.npy", rng.integers(0, 256, (50, 6, 5, 3), np.uint8))
        return Arrays(str(tmp / "x.npy")).open("train")
    if kind == "folder":
        for i in range(29):
            (tmp / f"class{i % 3}").mkdir(exist_ok=True)
            image = rng.integers(0, 256, (10 + i % 4, 12, 3), np.uint8)
            Image.fromarray(image).save(tmp / f"class{i % 3}" / f"{i}.png")
        return Folder(str(tmp), size=8).open("train")
    if kind == "pairs":
        for i in range(29):
            Image.fromarray(rng.integers(0, 256, (10, 24, 3), np.uint8)).save(tmp / f"{i}.png")
        return Pairs(str(tmp), size=8).open("train")
    if kind == "unpaired":
        return Unpaired(Shapes(size=8, num=23), Shapes(size=8, num=37)).open("train")
    if not (DATA / "tfds" / "mnist").is_dir():
        pytest.skip(f"no MNIST in {DATA / 'tfds'}: set JAXGEN_DATA")
    return Tfds("mnist", str(DATA / "tfds"), split="train[:53]").open("train")


@pytest.fixture(scope="module", params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return _make(request.param, tmp_path_factory.mktemp(request.param))


def _same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key])


def _union(parts: list[dict]) -> dict:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_examples_keep_the_promise_of_the_spec(source: Source):
    for i in (0, len(source) // 2, len(source) - 1):
        example = source[i]
        assert example.keys() == source.spec.keys()
        for name, field in source.spec.items():
            value = np.asarray(example[name])
            assert (
                value.shape == field.shape and value.dtype == field.dtype
                if field.kind != "text"
                else value.dtype.kind == "U"
            )
            if field.kind == "label":
                assert isinstance(example[name], np.int32) and 0 <= example[name] < field.values == len(field.names)
    assert source.spec[source.spec.target].kind == "image"


def test_a_source_survives_pickling(source: Source):
    twin = pickle.loads(pickle.dumps(source))
    assert twin.spec == source.spec and len(twin) == len(source)
    np.testing.assert_array_equal(twin[3]["image"], source[3]["image"])


def test_a_batch_depends_on_source_seed_and_step_only(source: Source):
    a, b = (train_stream(source, 8, 5, (Flip(), Crop(2))) for _ in range(2))
    _same(a.batch_at(7), b.batch_at(7))
    assert (a.batch_at(7)["image"] != a.batch_at(8)["image"]).any()
    assert (train_stream(source, 8, 6).batch_at(7)["image"] != train_stream(source, 8, 5).batch_at(7)["image"]).any()


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_see_parts_of_one_batch(source: Source, hosts: int):
    transforms = (Flip(), Crop(2))
    whole = train_stream(source, 8, 3, transforms)
    parts = [train_stream(source, 8, 3, transforms, host, hosts) for host in range(hosts)]
    for step in (0, 1, 11):
        _same(whole.batch_at(step), _union([part.batch_at(step) for part in parts]))
        indices = [index_stream(source.lengths, 8, 3, host, hosts).batch_at(step) for host in range(hosts)]
        np.testing.assert_array_equal(index_stream(source.lengths, 8, 3).batch_at(step), np.concatenate(indices))


@pytest.mark.parametrize("workers", [1, 3])
def test_seeking_equals_iterating_across_epochs(source: Source, workers: int):
    batch = 9
    steps = 2 * len(source) // batch + 3
    stream = train_stream(source, batch, 0, (Flip(), Crop(1)), workers=workers, prefetch=3)
    run = stream.start(0)
    seen = [next(run) for _ in range(steps)]
    run.close()
    for step in (0, steps // 2, steps - 1):
        _same(seen[step], stream.batch_at(step))
    resumed = stream.start(steps - 2)
    _same(seen[-2], next(resumed))
    _same(seen[-1], next(resumed))
    resumed.close()


def test_seeking_far_is_as_good_as_near(source: Source):
    stream = train_stream(source, 4, 0, (Flip(),), prefetch=0)
    step = 10**9 + 7
    _same(next(stream.start(step)), stream.batch_at(step))


def test_indices_name_the_images_of_the_stream(source: Source):
    stream, indices = train_stream(source, 16, 9), index_stream(source.lengths, 16, 9)
    whole = {k: v for k, v in load_all(source, 1 << 30).items() if source.spec[k].kind == "image"}
    for step in range(3 * len(source) // 16 + 1):
        rows, batch = indices.batch_at(step).reshape(16, -1), stream.batch_at(step)
        for name, images in whole.items():
            np.testing.assert_array_equal(images[rows[:, source.spec[name].order]], batch[name])
    run = indices.start(2)
    np.testing.assert_array_equal(next(run), indices.batch_at(2))
    run.close()


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_evaluation_counts_every_example_once(source: Source, batch: int, hosts: int):
    parts = [eval_batches(source, batch * hosts, host=host, hosts=hosts) for host in range(hosts)]
    assert len({len(part) for part in parts}) == 1
    whole = _union([_union(list(step)) for step in zip(*parts, strict=True)])
    assert whole["valid"].dtype == np.float32 and whole["valid"].sum() == len(source)
    kept = whole["image"][whole["valid"] == 1]
    np.testing.assert_array_equal(kept, load_all(source, 1 << 30)["image"])
    assert len(whole["image"]) == len(parts[0]) * batch * hosts


def test_evaluation_of_a_part(source: Source):
    batches = list(eval_batches(source, 4, num=10))
    assert [batch["valid"].tolist() for batch in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    rows = [i % 10 for i in range(12)]  # the share in order, and the first once more: no example many times in a batch
    shown = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_array_equal(shown, np.stack([source[int(i)]["image"] for i in share(source, 10)[rows]]))


def test_a_share_is_seeded_nested_and_balanced(source: Source):
    whole = np.arange(len(source))
    for num in (0, len(source), len(source) + 5):
        np.testing.assert_array_equal(share(source, num), whole)
    shares = [set(share(source, num).tolist()) for num in range(1, len(source) + 1)]
    assert [len(rows) for rows in shares] == list(range(1, len(source) + 1))
    assert all(less < more for less, more in itertools.pairwise(shares))
    rows = share(source, 10)
    assert (np.diff(rows) > 0).all() and (rows == share(source, 10, 0)).all()
    assert rows.tolist() not in ([*range(10)], share(source, 10, seed=1).tolist())
    with pytest.raises(UserError, match="num=-1"):
        share(source, -1)
    if source.labels is None:
        return
    assert source.labels.tolist() == [source[i]["label"] for i in whole]
    for num in (5, 10, 20, len(source) - 3):
        parts = np.bincount(source.labels[share(source, num)], minlength=source.spec.classes)
        assert np.abs(parts - np.bincount(source.labels) * num / len(source)).max() < 2


def test_a_share_of_equal_classes_has_equal_parts():
    source = Digits().open("train")
    order = np.argsort(source.labels, kind="stable")  # as class folders are
    even = replace(
        source, rows=source.rows[np.concatenate([order[source.labels[order] == c][:140] for c in range(10)])]
    )
    for num in (7, 10, 64, 256, 1000):
        parts = np.bincount(even.labels[share(even, num)], minlength=10)
        assert parts.max() - parts.min() <= 1 and parts.sum() == num


def test_load_all_equals_reading_one_by_one(source: Source):
    calls = []
    stored = load_all(source, 1 << 30, lambda done, total: calls.append((done, total)), workers=2)
    assert calls[-1] == (len(source), len(source))
    assert stored.keys() == source.spec.keys() - {"caption"}
    for i in range(0, len(source), 5):
        for key in stored:
            np.testing.assert_array_equal(stored[key][i % len(stored[key])], source[i][key])


def test_load_all_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="limit"):
        load_all(Digits().open("train"), limit_bytes=1000)


@pytest.mark.parametrize("num", [1, 2, 7, 100])
def test_each_epoch_is_its_own_permutation(num: int):
    indices = index_stream(num, 1, 0)
    epochs = [[int(indices.batch_at(e * num + i)[0]) for i in range(num)] for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(num))
    assert num < 7 or len({tuple(epoch) for epoch in epochs}) == 4


def test_permutations_are_uniform():
    counts = Counter(tuple(permutation(3, 0, epoch).tolist()) for epoch in range(3000))
    assert len(counts) == 6
    chi2 = sum((count - 500) ** 2 / 500 for count in counts.values())
    assert chi2 < 25  # five degrees of freedom: p = 1e-4


SEEDS = (0, 1, 2, 2**16, 2**31, 2**32 - 1)


def test_seeds_have_orders_and_draws_of_their_own():
    """Also across epochs: an epoch must not be another seed's."""
    orders = {permutation(20, seed, epoch).tobytes() for seed in SEEDS for epoch in range(4)}
    assert len(orders) == 4 * len(SEEDS)
    source = Shapes(size=8, num=1).open("train")  # one picture, so that only the draws differ
    draws = {train_stream(source, 64, seed, (Crop(3),)).batch_at(0)["image"].tobytes() for seed in SEEDS}
    assert len(draws) == len(SEEDS)


def test_one_draw_moves_all_pictures_alike_and_nothing_else(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    clips = np.stack([images, images], 1)
    np.savez(tmp_path / "pairs.npz", image=clips, label=np.arange(30), pair=images, hole=images[..., 0] > 127)
    source = Arrays(str(tmp_path / "pairs.npz"), eval_fraction=0.0, also=("pair", "hole")).open("train")
    batch = train_stream(source, 64, 0, (Flip(), Crop(2))).batch_at(0)
    np.testing.assert_array_equal(batch["image"], np.stack([batch["pair"]] * 2, 1))
    np.testing.assert_array_equal(batch["hole"], batch["pair"][..., :1] > 127)
    plain = train_stream(source, 64, 0).batch_at(0)
    np.testing.assert_array_equal(batch["label"], plain["label"])
    assert (batch["pair"] != plain["pair"]).any((1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("batch", [5, 23, 50])
def test_a_batch_may_exceed_the_data_set(batch: int):
    stream = index_stream(10, batch, 1)
    flat = np.concatenate([stream.batch_at(step) for step in range(40 // 5)])
    assert all(len(stream.batch_at(step)) == batch for step in range(4))
    for epoch in range(len(flat) // 10):
        assert sorted(flat[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    images = train_stream(Shapes(size=8, num=3).open("train"), 8, 0).batch_at(0)["image"]
    assert images.shape == (8, 8, 8, 3)


def test_augmentation_differs_between_epochs():
    stream = train_stream(Shapes(size=16, num=1).open("train"), 1, 0, (Crop(4),))
    assert len({stream.batch_at(step)["image"].tobytes() for step in range(20)}) > 10


def test_text_comes_only_when_asked_for():
    source = Shapes(size=8, num=10).open("train")
    assert set(train_stream(source, 4, 0).batch_at(0)) == {"image", "label"}
    assert set(next(iter(eval_batches(source, 4)))) == {"image", "label", "valid"}
    batch = train_stream(source, 4, 0, fields=("image", "caption")).batch_at(1)
    by_image = {source[i]["image"].tobytes(): source[i]["caption"] for i in range(10)}
    assert batch.keys() == {"image", "caption"}
    assert [by_image[image.tobytes()] for image in batch["image"]] == batch["caption"].tolist()


@pytest.mark.parametrize(
    ("batch", "seed", "host", "hosts", "says"),
    [
        (6, 0, 0, 4, "batch=6"),
        (0, 0, 0, 1, "batch=0"),
        (8, 0, 2, 2, "host 2"),
        (8, -1, 0, 1, "seed=-1"),
        (8, 2**32, 0, 1, "at most 4294967295"),
    ],
)
def test_impossible_requests_are_told_in_one_line(batch: int, seed: int, host: int, hosts: int, says: str):
    for make in (
        lambda: train_stream(Digits().open("train"), batch, seed, host=host, hosts=hosts),
        lambda: index_stream(100, batch, seed, host, hosts),
    ):
        with pytest.raises(UserError, match=says) as error:
            make()
        assert "\n" not in str(error.value)


def test_a_finished_stream_ends():
    stream = eval_batches(Digits().open("eval"), 100)
    assert len(list(stream)) == len(stream) == 3
    with pytest.raises(IndexError):
        stream.batch_at(3)

"""Pairs belong together, whatever moves them; sets that are not paired have orders that know nothing of each other."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen.config import registry
from jaxgen.data import Digits, Folder, Negative, Pairs, Shapes, Unpaired, eval_batches, index_stream, train_stream
from jaxgen.errors import UserError
from jaxgen.images import to_uint8

RNG = np.random.default_rng(0)


def save(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)


@pytest.fixture
def two(tmp_path) -> tuple[str, str]:
    """Folders of twelve pictures and of their negatives, with other endings."""
    for i in range(12):
        image = RNG.integers(0, 256, (8, 8, 3), np.uint8)
        save(tmp_path / "a" / f"set{i % 2}" / f"{i}.png", image)
        save(tmp_path / "b" / f"set{i % 2}" / f"{i}.bmp", 255 - image)
    return str(tmp_path / "a"), str(tmp_path / "b")


@pytest.mark.parametrize("direction", ["ab", "ba"])
def test_two_folders_by_their_names(two, direction):
    parts = [Pairs(*two, direction=direction).open(split) for split in ("train", "eval")]
    assert sum(map(len, parts)) == 12 and len(parts[1])
    for part in parts:
        for i in range(len(part)):
            pair = part[i]
            assert list(pair) == list(part.spec) == ["image", "seen"] and part.spec["seen"].role == "condition"
            np.testing.assert_array_equal(pair["image"], 255 - pair["seen"])
            assert Path(part.files[i][0]).suffix == (".bmp" if direction == "ab" else ".png")


@pytest.mark.parametrize("direction", ["ab", "ba"])
def test_halves_of_a_picture(tmp_path, direction):
    wholes = {f"{i}.png": RNG.integers(0, 256, (6, 16, 3), np.uint8) for i in range(5)}
    for name, whole in wholes.items():
        save(tmp_path / "train" / name, whole)
    save(tmp_path / "test" / "0.png", wholes["0.png"])
    source = Pairs(str(tmp_path), direction=direction).open("train")
    assert len(source) == 5 and source.spec.shape == (6, 8, 3) and len(Pairs(str(tmp_path)).open("eval")) == 1
    for i, whole in enumerate(wholes.values()):
        left, right = whole[:, :8], whole[:, 8:]
        made, seen = (right, left) if direction == "ab" else (left, right)
        np.testing.assert_array_equal(source[i]["image"], made)
        np.testing.assert_array_equal(source[i]["seen"], seen)
    small = Pairs(str(tmp_path), size=4).open("train")[0]
    assert small["image"].shape == small["seen"].shape == (4, 4, 3)


@pytest.mark.parametrize(
    "direction, made, seen", [("ab", "eval_path_b", "eval_path"), ("ba", "eval_path", "eval_path_b")]
)
def test_what_is_held_out_is_used_or_refused(two, tmp_path, direction, made, seen):
    """The folder of what is made will do, whose partners lie with those of training; that of what is seen will not."""
    held = {"eval_path": two[0], "eval_path_b": two[1]}
    source = Pairs(*two, direction=direction, **{made: held[made]}).open("eval")
    assert len(source) == 12 and all(file.startswith(held[made]) for file, _ in source.files)
    with pytest.raises(
        UserError,
        match=rf"config\.data\.{seen} names pictures that are seen.*name the folder of what is made by config\.data\.{made},",
    ):
        Pairs(*two, direction=direction, **{seen: held[seen]}).open("train")
    with pytest.raises(UserError, match=r"eval_path_b is of a second folder.*set config\.data\.eval_path_b=''"):
        Pairs(two[0], eval_path_b=two[1]).open("train")


@pytest.mark.parametrize("direction", ["ab", "ba"])
def test_a_folder_that_is_not_there_is_told_by_its_key(two, direction):
    there = {"path": two[0], "path_b": two[1], "eval_path": two[0], "eval_path_b": two[1]}
    for key in there:
        with pytest.raises(UserError, match=rf"'nowhere' does not exist.*--config\.data\.{key}=FOLDER"):
            Pairs(**{**there, key: "nowhere"}, direction=direction).open("train")


def test_a_pair_with_a_broken_file_stands_aside_whole(two):
    file = Path(two[0], "set0", "0.png")
    source = Pairs(*two, eval_fraction=0.0).open("train")
    i = next(i for i, files in enumerate(source.files) if Path(files[0]).stem == "0")
    file.write_bytes(file.read_bytes()[:60])
    with pytest.warns(UserWarning, match=r"the pair of .*0\.bmp' is broken"):
        pair = source[i]
    np.testing.assert_array_equal(pair["image"], 255 - pair["seen"])
    assert not source.sound(i) and not next(iter(eval_batches(source, 12)))["valid"][i]
    with pytest.raises(UserError, match=r"the pair of .*0\.bmp' is broken"):
        Pairs(*two, eval_fraction=0.0, size=8, channels=3, on_broken="stop").open("train")[i]


def test_what_does_not_fit_is_named(two, tmp_path):
    save(tmp_path / "a" / "set0" / "more.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(
        UserError, match=r"'set0/more\.png' of .* has no partner in .*as 1 of 13.*unmatched=skip"
    ) as told:
        Pairs(*two).open("train")
    assert "\n" not in str(told.value)
    source = Pairs(*two, unmatched="skip", eval_fraction=0.0).open("train")
    assert len(source) == 12 and "left aside: 1 without a partner" in source.notes
    with pytest.raises(UserError, match=r"no file of .* has the name of one in"):
        Pairs(two[0], str(tmp_path / "b" / "set0"), unmatched="skip").open("train")
    save(tmp_path / "a" / "set0" / "more.gif", np.zeros((8, 8), np.uint8))
    with pytest.raises(
        UserError, match=r"'set0/more\.gif' and 'set0/more\.png' of .* have one name but for their endings"
    ):
        Pairs(*two).open("train")
    for name, width in (("c", 12), ("d", 15)):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", np.zeros((8, width, 3), np.uint8))
    save(tmp_path / "e" / "0.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(
        UserError, match=r"the pairs do not fit: .*0.png' is 8x8 and its partner 8x12; set config.data.size=64"
    ):
        Pairs(str(tmp_path / "c"), str(tmp_path / "e"), unmatched="skip").open("train")
    assert Pairs(str(tmp_path / "c"), str(tmp_path / "e"), unmatched="skip", size=8).open("train")[0]["seen"].shape == (
        8,
        8,
        3,
    )
    with pytest.raises(UserError, match="are 15 pixels wide, which have no halves"):
        Pairs(str(tmp_path / "d")).open("train")


@pytest.mark.parametrize("name", sorted(set(registry.TABLES["augment"]) - {"dequantise"}))  # which leaves places alone
def test_every_augmentation_moves_a_pair_alike(two, name):
    """The negative of what is made is what is seen, wherever it is moved."""
    spec = Pairs(*two).open("train").spec
    options = {"crop": {"pad": 2}, "piece": {"size": 4}}.get(name, {})
    task = registry.build("augment", {"name": name, **options})
    image = RNG.integers(0, 256, (16, 8, 8, 3), np.uint8)
    batch = jax.jit(lambda batch, rng: task(spec, {}, batch, rng))(
        {"image": image, "seen": 255 - image}, jax.random.key(0)
    )
    made, seen = (to_uint8(batch[k]).astype(int) for k in ("image", "seen"))
    assert np.abs(made + seen - 255).max() <= 1 and (made[:, :4, :4] != image[:, :4, :4]).any()


# ----------------------------------------------------------------------------------------------------------------------
# Unpaired


def orders(lengths, steps=40, batch=4, seed=3):
    """Each set's indices, in the order of training [steps * batch, sets]."""
    stream = index_stream(lengths, batch, seed)
    return np.concatenate([stream.batch_at(step) for step in range(steps)])


def test_the_order_of_a_set_knows_nothing_of_the_other():
    whole = orders((10, 17))
    for lengths in ((10, 3), (10, 400)):
        np.testing.assert_array_equal(orders(lengths)[:, 0], whole[:, 0])
    np.testing.assert_array_equal(orders((99, 17))[:, 1], whole[:, 1])
    assert (orders((10, 17), seed=4) != whole).any(0).all()
    for column, length in enumerate((10, 17)):  # each epoch is a permutation
        for epoch in range(2):
            assert sorted(whole[epoch * length : (epoch + 1) * length, column]) == [*range(length)]


def test_no_two_pictures_are_paired_for_good():
    pairs = orders((12, 12), steps=300)
    assert not np.array_equal(pairs[:12, 0], pairs[:12, 1])
    assert len({tuple(pair) for pair in pairs.tolist()}) == 144  # 1,200 draws meet all
    assert abs((pairs[:, 0] == pairs[:, 1]).mean() - 1 / 12) < 0.03


def test_both_sets_are_read_and_an_epoch_is_the_longer():
    source = Unpaired(Digits(), Negative(Shapes(size=8, num=40))).open("train")
    assert len(source) == 1500 and source.lengths == (40, 1500)
    assert source.spec["image"].shape == (8, 8, 3) and source.spec["seen"].shape == (8, 8, 1)
    back = Unpaired(Digits(), Shapes(size=8, num=40), direction="ba").open("train")
    assert back.spec["image"].shape == (8, 8, 1) and back.lengths == (1500, 40)
    np.testing.assert_array_equal(source[41]["image"], 255 - back[1]["seen"])
    batch = train_stream(source, 4, 0).batch_at(2)
    rows = index_stream(source.lengths, 4, 0).batch_at(2)
    np.testing.assert_array_equal(batch["seen"][1], source.seen[int(rows[1, 1])]["image"])


def test_what_is_no_set_of_pictures_is_refused():
    from jaxgen.data import Lattice

    with pytest.raises(UserError, match=r"source_b|uint8"):
        Unpaired(Digits(), Negative(Lattice())).open("train").spec  # noqa: B018


def test_an_error_of_a_set_names_its_keys_where_they_stand(tmp_path):
    for i in range(2):
        save(tmp_path / f"{i}.png", np.zeros((8 + i, 8, 3), np.uint8))
    lost, odd = Folder("nowhere"), Folder(str(tmp_path))
    for source, says in (
        (Unpaired(lost, Digits()), r"--config\.data\.source_a\.path=FOLDER"),
        (Unpaired(Digits(), Negative(lost)), r"--config\.data\.source_b\.source\.path=FOLDER"),
        (Unpaired(Digits(), Negative(Negative(odd))), r"config\.data\.source_b\.source\.source\.size="),
        (Unpaired(odd, Digits()), r"config\.data\.source_a\.size="),
    ):
        with pytest.raises(UserError, match=says):
            source.open("train")

"""NumPy files: found keys, memory mapping, held-out rows, and errors that say how to convert."""

from pathlib import Path

import numpy as np
import pytest

from jaxgen.core.spec import Field, pictures
from jaxgen.data import Arrays, load_all, train_stream
from jaxgen.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 5, 3), np.uint8)
LABELS = np.arange(40) % 4


@pytest.mark.parametrize("keys", [("image", "label"), ("images", "labels"), ("x", "y"), ("arr_0", "arr_1")])
def test_common_names_are_found(tmp_path: Path, keys: tuple[str, str]):
    np.savez(tmp_path / "set.npz", **{keys[0]: IMAGES, keys[1]: LABELS})
    parts = [load_all(Arrays(str(tmp_path / "set.npz")).open(split), 1 << 30) for split in ("train", "eval")]
    assert sum(len(part["image"]) for part in parts) == 40 and all(len(part["image"]) for part in parts)
    together = {
        image.tobytes(): label for part in parts for image, label in zip(part["image"], part["label"], strict=True)
    }
    assert together == {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}


def test_named_keys_and_an_own_evaluation_file(tmp_path: Path):
    np.savez(tmp_path / "a.npz", faces=IMAGES, who=LABELS)
    np.savez(tmp_path / "b.npz", faces=IMAGES[:7], who=LABELS[:7])
    spec = Arrays(str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), image_key="faces", label_key="who")
    assert len(spec.open("train")) == 40 and len(spec.open("eval")) == 7
    assert spec.open("eval").spec.classes == 4


def test_npy_is_memory_mapped_and_grey_gets_a_channel(tmp_path: Path):
    np.save(tmp_path / "x.npy", IMAGES[..., 0])
    source = Arrays(str(tmp_path / "x.npy")).open("train")
    assert isinstance(source.arrays["image"], np.memmap) and source.spec == pictures((6, 5, 1))
    np.testing.assert_array_equal(source[2]["image"], IMAGES[source.rows[2], ..., :1])


def test_the_held_out_rows_do_not_move_when_rows_are_added(tmp_path: Path):
    for n in (30, 40):
        np.save(tmp_path / f"{n}.npy", IMAGES[:n])
    small, large = (Arrays(str(tmp_path / f"{n}.npy"), eval_fraction=0.3).open("eval").rows for n in (30, 40))
    assert len(small) >= 3 and large[large < 30].tolist() == small.tolist()
    train = Arrays(str(tmp_path / "40.npy"), eval_fraction=0.3).open("train").rows
    assert sorted([*train, *large]) == list(range(40))


def test_clips_are_frames(tmp_path: Path):
    np.save(tmp_path / "clips.npy", IMAGES.reshape(10, 4, 6, 5, 3))
    source = Arrays(str(tmp_path / "clips.npy"), eval_fraction=0.0).open("train")
    assert source.spec == pictures((4, 6, 5, 3)) and source.spec["image"].kind == "frames"
    np.testing.assert_array_equal(source[3]["image"], IMAGES[12:16])


def test_further_arrays_are_told_and_stay_with_their_images(tmp_path: Path):
    masks = RNG.random((40, 6, 5)) < 0.5
    np.savez(tmp_path / "a.npz", image=IMAGES, pair=255 - IMAGES, hole=masks)
    spec = Arrays(str(tmp_path / "a.npz"), also=("pair", "hole"))
    source = spec.open("train")
    assert source.spec["pair"] == Field((6, 5, 3), "uint8", "image")
    assert source.spec["hole"] == Field((6, 5, 1), "bool", "mask")
    batch = train_stream(source, 16, 0).batch_at(1)
    np.testing.assert_array_equal(batch["pair"], 255 - batch["image"])
    for image, hole in zip(batch["image"], batch["hole"], strict=True):
        np.testing.assert_array_equal(masks[(image == IMAGES).all((1, 2, 3))][0], hole[..., 0])
    _one_line(Arrays(str(tmp_path / "a.npz"), also=("depth",)), "depth", "pair", "also")
    np.savez(tmp_path / "b.npz", image=IMAGES, pair=IMAGES[:7])
    _one_line(Arrays(str(tmp_path / "b.npz"), also=("pair",)), "40 images and 7 of 'pair'")
    np.savez(tmp_path / "c.npz", image=IMAGES, pair=IMAGES[:, :3], hole=masks)
    _one_line(
        Arrays(str(tmp_path / "a.npz"), str(tmp_path / "c.npz"), also=("pair", "hole")), "pairs", "c.npz", split="eval"
    )
    np.save(tmp_path / "x.npy", IMAGES)
    _one_line(Arrays(str(tmp_path / "x.npy"), also=("pair",)), "one array", "npz")


BAD = {
    "float in [0, 1]": (np.zeros((3, 4, 4), np.float32), r"\(x \* 255\)"),
    "float in [-1, 1]": (np.full((3, 4, 4), -1.0), r"\(x \+ 1\) \* 127.5"),
    "int64": (np.zeros((3, 4, 4), np.int64), "int64, not uint8"),
    "channels first": (np.zeros((3, 3, 8, 8), np.uint8), r"transpose\(0, 2, 3, 1\)"),
    "a vector": (np.zeros(7, np.uint8), "shape"),
    "no images": (np.zeros((0, 4, 4), np.uint8), "no pixels"),
    "zero size": (np.zeros((3, 0, 4), np.uint8), "no pixels"),
}


@pytest.mark.parametrize("case", BAD)
def test_unfit_images_are_told(tmp_path: Path, case: str):
    images, says = BAD[case]
    np.save(tmp_path / "bad.npy", images)
    _one_line(Arrays(str(tmp_path / "bad.npy")), says, "bad.npy")


@pytest.mark.parametrize("labels", [np.arange(3), np.full(40, -1), np.zeros(40, np.float32)])
def test_unfit_labels_are_told(tmp_path: Path, labels: np.ndarray):
    np.savez(tmp_path / "bad.npz", image=IMAGES, label=labels)
    _one_line(Arrays(str(tmp_path / "bad.npz")), "labels", "bad.npz")


LEVELS = np.random.default_rng(1).integers(0, 256, (30, 4, 5, 3), np.uint8)
LEVELS[0, 0, 0] = 0, 128, 255
AS = {
    "[0, 1]": LEVELS / 255, "[-1, 1]": (LEVELS / 127.5 - 1).astype(np.float32), "float levels": LEVELS.astype(np.float64),
    "int levels": LEVELS.astype(np.int64), "16 bits": LEVELS.astype(np.uint16) * 257,
    "channels first": LEVELS.transpose(0, 3, 1, 2), "bool": LEVELS > 127,
}  # fmt: skip


@pytest.mark.parametrize("case", AS)
def test_the_cure_for_unfit_images_is_right(tmp_path: Path, case: str):
    np.save(tmp_path / "bad.npy", AS[case])
    with pytest.raises(UserError) as error:
        Arrays(str(tmp_path / "bad.npy")).open("train")
    np.save(tmp_path / "good.npy", eval(str(error.value).partition(": save ")[2], {"x": AS[case], "np": np}))
    got = load_all(Arrays(str(tmp_path / "good.npy"), eval_fraction=0.0).open("train"), 1 << 20)["image"]
    np.testing.assert_array_equal(got, (LEVELS > 127) * 255 if case == "bool" else LEVELS)


CLASSES = np.arange(40) % 3


@pytest.mark.parametrize(
    "labels", [CLASSES - 1, CLASSES * 1.0, np.eye(3)[CLASSES], np.array(["ant", "bee", "cat"])[CLASSES]]
)
def test_the_cure_for_unfit_labels_is_right(tmp_path: Path, labels: np.ndarray):
    np.savez(tmp_path / "bad.npz", image=IMAGES, label=labels)
    with pytest.raises(UserError) as error:
        Arrays(str(tmp_path / "bad.npz")).open("train")
    cure = str(error.value).partition(": save ")[2].partition(", or ")[0]
    np.savez(tmp_path / "good.npz", image=IMAGES, label=eval(cure, {"label": labels, "np": np}))
    assert Arrays(str(tmp_path / "good.npz"), eval_fraction=0.0).open("train").labels.tolist() == CLASSES.tolist()


def test_unfit_files_are_told(tmp_path: Path):
    _one_line(Arrays(str(tmp_path / "none.npz")), "does not exist", "none.npz")
    (tmp_path / "text.npy").write_text("hello")
    _one_line(Arrays(str(tmp_path / "text.npy")), "text.npy", "NumPy file|cannot be read")
    np.save(tmp_path / "cut.npy", IMAGES)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:500])
    _one_line(Arrays(str(tmp_path / "cut.npy")), "cut.npy")
    np.savez(tmp_path / "cut.npz", image=IMAGES)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:500])
    _one_line(Arrays(str(tmp_path / "cut.npz")), "cut.npz")
    np.savez(tmp_path / "keys.npz", faces=IMAGES)
    _one_line(Arrays(str(tmp_path / "keys.npz")), "faces", "image_key", "keys.npz")
    np.save(tmp_path / "x.npy", IMAGES)
    _one_line(Arrays(str(tmp_path / "x.npy"), eval_fraction=0.0), "no picture", "eval_fraction", split="eval")
    _one_line(Arrays(str(tmp_path / "x.npy"), eval_fraction=1.0), "eval_fraction")
    np.save(tmp_path / "y.npy", IMAGES[:, :4])
    _one_line(Arrays(str(tmp_path / "x.npy"), str(tmp_path / "y.npy")), "y.npy", split="eval")


def _one_line(spec: Arrays, *says: str, split: str = "train") -> None:
    with pytest.raises(UserError) as error:
        spec.open(split)
    assert "\n" not in str(error.value)
    for pattern in says:
        assert error.match(pattern)

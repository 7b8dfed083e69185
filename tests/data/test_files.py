"""What a person's folder holds: every picture is found once, in natural order, and the rest is told."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sets import noise

from jaxgen.data import Folder, decode, load_all
from jaxgen.data.files import find, natural, readable
from jaxgen.errors import UserError

TURNS = {  # how a camera stores an upright picture, by EXIF's orientation (Exif 2.32, tag 0x0112)
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}
KINDS = {"png": {}, "jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}, "tif": {},
         "avif": {"quality": 100, "subsampling": "4:4:4"}}  # fmt: skip


def _grow(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path / name)
    return path


# --- order and names


def test_numbers_in_names_count_by_value():
    order = [
        "1.png",
        "02/1.png",
        "2/9.png",
        "2/10.png",
        "10/1.png",
        "a/2",
        "a/10",
        "a/b",
        "a.c",
        "a9",
        "a10",
        "b/c",
        "b c/d",
    ]
    for seed in range(5):
        assert sorted(np.random.default_rng(seed).permutation(order).tolist(), key=natural) == order


def test_names_that_are_not_utf8_work_and_are_told_readably(tmp_path: Path, recwarn):
    for i in range(8):
        _grow(tmp_path, f"caf\udce9/{i}\udcff.png", f"tea/{i}.png")
    Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9/zero\xfe.png")).write_bytes(b"")
    Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/tea/notes\xfe.t\xe4xt")).write_bytes(b"")
    source = Folder(str(tmp_path)).open("train")
    assert source.spec["label"].names == ("caf\\xe9", "tea") and len(source.fingerprint(content=True)) == 16
    assert set(load_all(source, 1 << 20)["label"].tolist()) == {0, 1}
    told = " ".join([*source.notes, *(str(w.message) for w in recwarn)])
    assert "zero\\xfe.png" in told and ".t\\xe4xt (1, such as" in told
    told.encode()
    broken = Folder(str(tmp_path), size=8, channels=1, on_broken="stop", eval_fraction=0.0).open("train")
    with pytest.raises(UserError) as error:
        load_all(broken, 1 << 20)
    str(error.value).encode()
    assert readable("caf\udce9") == "caf\\xe9" and readable("café") == "café"


def test_what_is_no_picture_is_counted_by_suffix_and_told_once(tmp_path: Path):
    _grow(tmp_path, "a.png", "b.PNG", ".hidden.png")
    for name in ("one.txt", "two.TXT", "IMG_0001.HEIC", "README", ".DS_Store"):
        (tmp_path / name).write_text("x")
    (tmp_path / "emu").mkdir()
    (tmp_path / "notes/more").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe.png")  # which would be waited for
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = find(str(tmp_path))
    assert found.names == ["a.png", "b.PNG"]
    (note,) = found.notes()
    for words in (
        ".heic (1, such as 'IMG_0001.HEIC')",
        ".txt (2, such as 'one.txt')",
        "no suffix (1, such as 'README')",
        "links to nothing (1, such as 'gone.png')",
        "pipes and devices (1, such as 'pipe.png')",
        "folders without a picture (2, such as 'emu')",
    ):
        assert words in note
    assert "DS_Store" not in note and note in Folder(str(tmp_path)).open("train").notes


# --- links


def test_every_real_folder_is_visited_once(tmp_path: Path):
    root = _grow(tmp_path / "set", *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)))
    elsewhere = _grow(tmp_path / "more/pictures", "0.png", "1.png")
    (root / "cat/up").symlink_to(root)  # its own parent's
    (root / "cat/here").symlink_to(".")
    (root / "all").symlink_to("..")
    (root / "a_first").symlink_to("dog")  # sorts before what it repeats
    (root / "emu").symlink_to(elsewhere)
    (root / "emu2").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "circle").symlink_to("circle")
    found = find(str(root))
    assert found.names == [
        "cat/0.png",
        "cat/1.png",
        "cat/2.png",
        "dog/0.png",
        "dog/1.png",
        "dog/2.png",
        "emu/0.png",
        "emu/1.png",
    ]
    assert found.others["links to folders that are here already"] == [
        "a_first",
        "all",
        "cat/here",
        "cat/up",
        "emu/back",
        "emu2",
    ]
    assert Folder(str(root)).open("train").spec["label"].names == ("cat", "dog", "emu")
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert find(str(linked)).names == found.names


# --- kinds of files


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stands_upright_and_its_header_says_so(tmp_path: Path, kind: str, turn: int):
    upright = noise(1, 2, 3).repeat(16, 1).repeat(16, 2)[0]
    exif = Image.Exif()
    exif[0x0112] = turn
    file = str(tmp_path / f"a.{kind}")
    Image.fromarray(np.ascontiguousarray(TURNS[turn](upright))).save(file, exif=exif, **KINDS[kind])
    assert np.abs(decode.photo(file, 3).astype(int) - upright).mean() < 4
    assert decode.head(file).size == (48, 32)
    assert Folder(str(tmp_path)).open("train")[0]["image"].shape == (32, 48, 3)


@pytest.mark.parametrize("where", ["eXIf behind the pixels", "a raw profile", "XMP"])
def test_a_png_is_turned_wherever_its_orientation_stands(tmp_path: Path, where: str):
    upright, file, info = noise(1, 20, 30)[0], tmp_path / "a.png", PngInfo()
    exif = Image.Exif()
    exif[0x0112] = 6
    if where == "XMP":
        info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    if where == "a raw profile":
        info.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}")
    Image.fromarray(np.rot90(upright, 1)).save(file, pnginfo=info)
    if where == "eXIf behind the pixels":
        stored, body = file.read_bytes(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        file.write_bytes(stored[:-12] + chunk + stored[-12:])
    assert decode.head(str(file)).size == (30, 20)
    np.testing.assert_array_equal(decode.photo(str(file), 3), upright)


def test_broken_exif_costs_no_picture(tmp_path: Path):
    Image.fromarray(noise(1)[0]).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(Folder(str(tmp_path)).open("train")[0]["image"], noise(1)[0])


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif", "avif"])
def test_the_first_frame_is_taken_and_told(tmp_path: Path, kind: str):
    frames = [Image.new("RGB", (16, 16), (level, 0, 0)) for level in (0, 128, 255)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    source = Folder(str(tmp_path)).open("train")
    assert source[0]["image"][..., 0].max() < 3
    assert any("first of several frames" in note and "a." in note for note in source.notes)


def test_pixels_without_an_agreed_range_are_left_out_and_told(tmp_path: Path, recwarn):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "wide.tif")
    Image.new("LAB", (4, 4)).save(tmp_path / "lab.tif")
    Image.fromarray(np.full((4, 4), 70, np.uint8)).save(tmp_path / "sound.tif")
    Image.fromarray(np.full((4, 4), 65_535, np.uint16)).save(tmp_path / "white.pgm")
    source = Folder(str(tmp_path), eval_fraction=0.0).open("train")
    assert load_all(source, 1 << 20)["image"][:, 0, 0, 0].tolist() == [70, 255]
    told = sorted(str(w.message) for w in recwarn)
    assert all(any(f"such as '{name}.tif'" in line for line in told) for name in ("float", "lab", "wide"))
    assert "no agreed range" in "".join(told) and "CIELAB" in "".join(told)


@pytest.mark.parametrize("kind", [*KINDS, "gif", "bmp", "ppm"])
def test_damage_anywhere_is_an_unreadable_file_and_nothing_else(tmp_path: Path, kind: str):
    rng, file = np.random.default_rng(0), tmp_path / f"a.{kind}"
    Image.fromarray(noise(1, 24, 24)[0]).save(file, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    sound = np.frombuffer(file.read_bytes(), np.uint8)
    for i in range(60):
        stored = sound.copy()
        stored[rng.integers(0, len(stored) if i % 2 else 64, 6)] = rng.integers(0, 256, 6)
        file.write_bytes(stored.tobytes()[: None if i % 3 else rng.integers(1, len(stored))])
        for read in (decode.head, lambda file: decode.photo(file, 3, 8, "cover")):
            try:
                read(str(file))
            except decode.Unreadable as error:
                assert str(error) and "\n" not in str(error)


# --- splits


@pytest.mark.parametrize("held", ["val", "valid", "validation", "test", "Eval"])
@pytest.mark.parametrize("classes", [("",), ("cat/", "dog/")])
def test_folders_called_train_and_val_are_splits(tmp_path: Path, held: str, classes: tuple[str, ...]):
    _grow(tmp_path, *(f"train/{c}{i}.png" for c in classes for i in range(3)), *(f"{held}/{c}0.png" for c in classes))
    train, other = (Folder(str(tmp_path)).open(split) for split in ("train", "eval"))
    assert len(train) == 3 * len(classes) and len(other) == len(classes)
    assert train.spec == other.spec and train.spec.classes == (2 if len(classes) == 2 else 0)
    assert train.notes[0] == f"splits: 'train' is trained on, '{held}' held out"
    assert any(f"held out: the {len(classes)} pictures" in note for note in train.notes)


def test_splits_are_only_what_cannot_be_classes(tmp_path: Path):
    vehicles = _grow(tmp_path / "a", "train/0.png", "plane/0.png", "test/0.png")
    assert Folder(str(vehicles)).open("train").spec["label"].names == ("plane", "test", "train")
    three = _grow(tmp_path / "b", "train/0.png", "val/0.png", "val/1.png", "test/0.png")
    source = Folder(str(three)).open("train")
    assert len(source) == 1 and "left aside: test" in source.notes[0] and len(Folder(str(three)).open("eval")) == 2
    own = Folder(str(three), eval_path=str(three / "test"))
    assert (
        len(own.open("train")) == len(own.open("eval")) == 1 and "left aside: test, val" in own.open("train").notes[0]
    )
    alone = _grow(tmp_path / "c", *(f"train/{c}/{i}.png" for c in "ab" for i in range(10)))
    assert Folder(str(alone)).open("train").spec["label"].names == ("a", "b")
    assert len(Folder(str(alone)).open("train")) + len(Folder(str(alone)).open("eval")) == 20
    nested = _grow(tmp_path / "d", "train/val/0.png", "train/train/0.png", "val/train/0.png")
    assert Folder(str(nested)).open("train").spec["label"].names == ("train", "val")


def test_sizes_that_a_policy_made_equal_are_told(tmp_path: Path):
    _grow(tmp_path, "a.png")
    Image.new("L", (9, 3)).save(tmp_path / "b.png")
    (note,) = (n for n in Folder(str(tmp_path), size=4).open("train").notes if n.startswith("sizes"))
    assert note == "sizes: 2 from 4x4 to 9x3, brought to 4x4 by cover (the shorter side fits, the centre is kept)"
    (tmp_path / "b.png").unlink()
    assert not any(n.startswith("sizes") for n in Folder(str(tmp_path), size=4).open("train").notes)

"""`python -m jaxgen.apply`: one right file or one line of each, resumable, as untiled; masks; and the same as a function."""

import json
from pathlib import Path

import numpy as np
import odd_pictures
import pytest
from PIL import Image

import jaxgen
from jaxgen import apply
from jaxgen.apply import __main__ as command
from jaxgen.apply import files
from jaxgen.apply.maker import Maker
from jaxgen.apply.pictures import Way
from jaxgen.config import files as configs
from jaxgen.errors import NotFinite, UserError
from jaxgen.runs.trained import Trained
from jaxgen.train import train

RNG = np.random.default_rng(0)
SMALL = {"method.solver.steps": 2, "method.net.width": 8, "method.net.attend": (), "method.net.groups": 4}


def trained(folder: Path, name: str, **changes) -> Path:
    changes = {"mesh.data": 1, "eval": {}, "steps": 2, "save_every": 2, **changes}
    train(configs.override(configs.load(f"{name}:tiny"), changes), folder)
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run whose pixels see few others: a convolutional autoencoder."""
    return trained(tmp_path_factory.mktemp("local") / "run", "dae_mnist")


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("inpaint") / "run", "inpaint_digits", **SMALL)


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("larger") / "run", "super_resolution_digits", **SMALL)


def run(*words) -> None:
    command.run([str(word) for word in words])


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> tuple[Path, list[str], list[str]]:
    """Odd pictures in folders: (root, names of those that can be read, names of those that cannot)."""
    root = tmp_path_factory.mktemp("tree") / "in"
    sound = {
        name: draw
        for table in (odd_pictures.SHOWN, odd_pictures.THIN)
        for name, draw in table.items()
        if name != "big.PNG"
    }
    sound |= {
        f"deep/turned {n}.png": lambda p, n=n: odd_pictures.stored(n).save(p, exif=odd_pictures.exif(n))
        for n in range(1, 9)
    }
    sound["deep/long.png"] = lambda p: Image.fromarray(RNG.integers(0, 256, (4095, 17, 3), np.uint8)).save(p)
    sound["deep/row.png"] = lambda p: odd_pictures.scene(200, 2).crop((0, 0, 200, 1)).save(p)
    wide = files.Picture(RNG.integers(0, 65_536, (9, 11, 3)).astype(np.uint16))
    sound["deep/colour16.png"] = lambda p: files.write(p, wide, "PNG")
    broken = {name: draw for name, draw in odd_pictures.BROKEN.items() if name != "half.jpg"}
    broken["deep/half.jpg"] = odd_pictures.BROKEN["half.jpg"]
    for name, draw in {**sound, **broken}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw(root / name)
    (root / "deep" / "notes.txt").write_text("no picture")
    return root, [*sound], [*broken]


def test_one_right_file_or_one_line_of_every_odd_picture(tree, local, tmp_path, capsys, monkeypatch):
    """What is made has the size, channels, bits and alpha of what it is of; what fails has one line; and it resumes."""
    root, sound, broken = tree
    out = tmp_path / "out"
    with pytest.raises(UserError, match=rf"^{len(broken)} of {len(sound) + len(broken)} pictures failed"):
        run(root, out, f"--run={local}")
    said = capsys.readouterr().err.splitlines()
    records = {r["file"]: r for r in map(json.loads, (out / "apply.jsonl").read_text().splitlines())}
    assert len(records) == len(sound) + len(broken)
    for name in sound:
        before = files.read(str(root / name))
        told = records[files.os.fsencode(name).decode("utf-8", "backslashreplace")]
        after = files.read(
            str((out / name).parent / told["out"][0].encode().decode() if name.isascii() else out / name)
        )
        assert after.pixels.shape == before.pixels.shape and after.pixels.dtype == before.pixels.dtype, name
        assert (after.alpha is None) == (before.alpha is None), name
        if after.alpha is not None:
            np.testing.assert_array_equal(after.alpha, before.alpha, name)
        assert files.decode.orientation(Image.open(out / name)) == 1 if (out / name).exists() else name.endswith(".gif")
    for name in broken:
        assert sum(line.startswith(f"{name}: ") for line in said) == 1 and "error" in records[name], name
    assert not [p for p in out.rglob("*") if p.suffix == ".part"]
    assert any("left aside" in line and "notes.txt" in line for line in said)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    (out / "colour.png").unlink()
    with pytest.raises(UserError, match=rf"\(1 made, {len(sound) - 1} were there\)"):
        run(root, out, f"--run={local}")
    assert {p for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp} == {out / "colour.png"}


def test_tiled_is_untiled(local):
    """Whatever the tile; in 16 bits the levels are a hundredth of 1e-5 apart from floats."""
    image = RNG.integers(0, 65_536, (150, 101, 3)).astype(np.uint16)
    whole = apply.apply(image, local, tile=512)
    opened = jaxgen.open(local)
    for tile in (64, 96):
        tiled = apply.apply(image, opened, tile=tile)
        assert np.abs(tiled.astype(int) - whole).max() <= 1
    way = Way.open(opened, tile=64)
    assert 0 < way.tiling.halo < 32 and len(way.tiling.cut(150, 101)) > 20
    bare = opened.exp.method.restore(
        way.maker.w, {"image": (image[:148, :100, :1] / 32_767.5 - 1.0)[None]}, opened.exp.root
    )
    cut = apply.apply(image[:148, :100, :1], opened, tile=64)
    assert np.abs(cut / 32_767.5 - 1 - np.asarray(bare)[0]).max() <= 1e-5 + 1 / 65_535


def test_what_was_found_of_a_run_is_kept_with_it(local, monkeypatch):
    apply.apply(np.zeros((8, 8), np.uint8), local)
    assert json.loads((local / "run.json").read_text())["apply"]
    monkeypatch.setattr(Maker, "_found", lambda self: pytest.fail("looked for again"))
    apply.apply(np.zeros((8, 8), np.uint8), local)
    jaxgen.open(local)  # which still understands its run.json


def test_what_is_enlarged(larger):
    """Every size becomes twice as large, grey grey, colour colour, alpha too."""
    way = Way.open(larger)
    for size, channels in (((1, 1), 1), ((9, 4), 3)):
        x = RNG.integers(0, 256, (*size, channels), np.uint8)
        picture = files.Picture(x, RNG.integers(0, 256, (*size, 1), np.uint8))
        for alpha in ("net", "bicubic", "drop"):
            ((made, _),) = files.replace(way, alpha=alpha).results(picture, None)
            assert made.pixels.shape == (2 * size[0], 2 * size[1], channels) and made.pixels.dtype == np.uint8
            assert (made.alpha is None) == (alpha == "drop")
            if alpha != "drop":
                assert made.alpha.shape == (*made.pixels.shape[:2], 1)
    deep = (picture.alpha.astype(np.uint16) * 257)[..., :1]
    smooth = [files.replace(way, alpha="bicubic")._enlarged(x, lambda n: None) for x in (picture.alpha, deep)]
    assert (
        np.abs(smooth[1] / 257 - smooth[0]).max() < 12
    )  # the filter overshoots, and bytes are cut off after each axis
    assert np.abs(np.median(smooth[1] / 257 - smooth[0])) < 0.5


def test_what_is_known_comes_out_bit_for_bit(inpaint, tmp_path, capsys):
    """In every lossless file and by every tile; of JPEG it is said that it does not. White is made anew."""
    (tmp_path / "in").mkdir()
    x = RNG.integers(0, 256, (29, 40, 3), np.uint8)
    mask = np.zeros((29, 40), np.uint8)
    mask[8:20, 10:31] = 255
    for name in ("a.png", "b.webp", "c.bmp", "d.jpg"):
        Image.fromarray(x).save(tmp_path / "in" / name, **({"lossless": True} if name == "b.webp" else {}))
    Image.fromarray(mask).save(tmp_path / "mask.png")
    run(tmp_path / "in", tmp_path / "out", f"--run={inpaint}", f"--known={tmp_path}/mask.png", "--num=2")
    said = capsys.readouterr().err
    for name in ("a", "b", "c"):
        end = {"a": "png", "b": "webp", "c": "bmp"}[name]
        made = [pixels(tmp_path / "out" / f"{name}_{i}.{end}") for i in (0, 1)]
        assert all((one[mask == 0] == x[mask == 0]).all() and (one[mask > 0] != x[mask > 0]).any() for one in made)
        assert (made[0] != made[1]).any()
    assert "d.jpg: JPEG keeps no pixel bit for bit" in said and f"a.png: {mask.mean() / 255:.1%} is made anew" in said
    assert "inverted" not in said
    run(
        tmp_path / "in" / "a.png",
        tmp_path / "b.png",
        f"--run={inpaint}",
        f"--known={tmp_path}/mask.png",
        "--invert",
        "--seed=1",
    )
    assert "is the mask inverted? --invert" in capsys.readouterr().err
    assert (pixels(tmp_path / "b.png")[mask > 0] == x[mask > 0]).all()
    again = apply.apply(x, inpaint, known=mask == 0, seed=1)
    np.testing.assert_array_equal(again, pixels(tmp_path / "out" / "a_1.png"))  # the second of two is the next seed's
    clear = np.concatenate([x, 255 - mask[..., None]], -1)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    run(tmp_path / "clear.png", tmp_path / "alpha.png", f"--run={inpaint}", "--known=alpha", "--seed=1")
    np.testing.assert_array_equal(again, pixels(tmp_path / "alpha.png"))


def test_only_tiles_with_something_to_make_go_through(inpaint):
    known = np.ones((80, 80, 1), bool)
    known[70:, 70:] = False
    way = Way.open(inpaint, masked=True)
    made = way.maker.through(RNG.integers(0, 256, (80, 80, 1), np.uint8), known, way.tiling)
    assert 0 < made.tiles < len(way.tiling.cut(80, 80)) / 4


def test_a_kill_in_the_middle_leaves_no_half_file(local, tmp_path, monkeypatch):
    """What was written is whole; the same command makes the rest."""
    (tmp_path / "in").mkdir()
    for i in range(4):
        Image.fromarray(RNG.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / "in" / f"{i}.png")
    save, count = Image.Image.save, []

    def killed(self, file, *args, **kwargs):
        count.append(file)
        if len(count) == 3:
            Path(file).write_bytes(b"\x89PNG half of it")
            raise KeyboardInterrupt
        save(self, file, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "in", tmp_path / "out", f"--run={local}")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "apply.jsonl"]
    monkeypatch.undo()
    run(tmp_path / "in", tmp_path / "out", f"--run={local}")
    whole = apply.apply(np.stack([pixels(tmp_path / "in" / f"{i}.png") for i in range(4)])[..., None], local)
    np.testing.assert_array_equal([pixels(tmp_path / "out" / f"{i}.png") for i in range(4)], whole[..., 0])


def test_names(local, tmp_path, capsys):
    """Two that differ in their end alone; a suffix; another format; before and after."""
    (tmp_path / "in" / "x").mkdir(parents=True)
    for name in ("x/a.png", "x/a.bmp", "b.png"):
        odd_pictures.scene().save(tmp_path / "in" / name)
    run(tmp_path / "in", tmp_path / "out", f"--run={local}", "--format=webp", "--suffix=_x", "--compare")
    run(tmp_path / "in" / "b.png", tmp_path / "two", f"--run={local}", "--num=2")
    assert "the run draws nothing" in capsys.readouterr().err and len([*(tmp_path / "two").glob("b_?.png")]) == 2
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert made == [
        "apply.jsonl",
        "b_x.webp",
        "compare/b_x.png",
        "compare/x/a.png_x.png",
        "compare/x/a_x.png",
        "x/a.png_x.webp",
        "x/a_x.webp",
    ]
    assert Image.open(tmp_path / "out" / "compare" / "b_x.png").size == (98, 32)


def test_pictures_that_are_not_finite_are_named(local, tmp_path, monkeypatch, capsys):
    opened = Trained.open(local)
    method = type(opened.exp.method)
    before = method.restore
    monkeypatch.setattr(method, "restore", lambda self, w, batch, rng: before(self, w, batch, rng) * np.nan)
    opened.exp.compiled.clear()
    with pytest.raises(
        NotFinite, match=r"^images\[0\]: what was made of it holds NaN or infinity \(step 2, weights raw\)"
    ):
        apply.apply(np.zeros((8, 8), np.uint8), opened)
    odd_pictures.scene().save(tmp_path / "a.png")
    with pytest.raises(UserError, match="1 of 1 pictures failed"):
        run(tmp_path / "a.png", tmp_path / "out", f"--run={local}")
    opened.exp.compiled.clear()
    assert (
        "a.png: what was made of it holds NaN or infinity" in capsys.readouterr().err
        and not (tmp_path / "out" / "a.png").exists()
    )


def test_bad_input_is_one_line_with_a_cure(local, inpaint, larger, tmp_path, capsys):
    scene, grey = tmp_path / "in" / "a.png", Image.new("L", (48, 32))
    scene.parent.mkdir()
    odd_pictures.scene().save(scene)
    for name, size, level in (("other", (8, 8), 255), ("empty", (48, 32), 0), ("full", (48, 32), 255)):
        Image.new("L", size, level).save(tmp_path / f"{name}.png")
    grey.paste(255, (0, 0, 4, 4))
    grey.save(tmp_path / "mask.png")
    out, mask = tmp_path / "out", f"--known={tmp_path}/mask.png"
    for words, want in {
        (tmp_path / "none", out, f"--run={local}"): "is not there; name a picture",
        (scene, out): "--run=DIR is missing",
        (scene, out, f"--run={tmp_path}/nothing"): "holds no run",
        (scene.parent, scene.parent, f"--run={local}"): "are one folder; name an OUT beside it",
        (scene.parent, scene.parent / "out", f"--run={local}"): "holds OUT",
        (scene.parent, tmp_path, f"--run={local}"): "lies inside OUT",
        (scene, scene, f"--run={local}"): "would overwrite IN",
        (scene, out, f"--run={local}", "--tile=10"): "set --tile=",
        (scene, out, f"--run={local}", "--overlap=2"): "seams would show; set --overlap=",
        (scene, out, f"--run={inpaint}", mask, "--tile=12"): "takes 8x8 alone; leave --tile out",
        (scene, out, f"--run={inpaint}"): "give one: --known=MASK",
        (scene, out, f"--run={larger}", mask): "leave --known out",
        (scene, out, f"--run={local}", "--format=gif"): "--format=gif is unknown",
        (
            scene,
            tmp_path / "b.gif",
            f"--run={local}",
        ): "b.gif would hold PNG, which its end does not say; name it b.png",
        (scene, tmp_path / "b.ppm", f"--run={local}"): "name it b.png",
        (scene, tmp_path / "b.jpg", f"--run={local}", "--format=png"): "name it b.png",
        (scene, out, f"--run={local}", "--alpha=no"): "--alpha=no is unknown",
        (scene, out, f"--run={local}", "--num=0"): "--num=0 must be at least 1",
        (scene, out, f"--run={local}", "--invert"): "give some by --known=MASK",
        (scene, out, f"--run={local}", "--task.size=2"): "name it by --task=NAME",
        (scene, out, f"--run={inpaint}", f"--known={tmp_path}/no.png"): "is not there; name a mask",
    }.items():
        told = ""
        try:
            run(*words)
        except UserError as error:
            told = str(error)
        assert want in told and "\n" not in told, (words, told)
    for known, want in {
        "other": "is 8x8 and the picture 48x32",
        "empty": "says that nothing is to be made anew",
        "full": "says that all is to be made anew",
    }.items():
        capsys.readouterr()
        with pytest.raises(UserError, match="1 of 1 pictures failed"):
            run(scene, out, f"--run={inpaint}", f"--known={tmp_path}/{known}.png")
        assert want in capsys.readouterr().err
    with pytest.raises(UserError, match="1 of 1"):
        run(scene, out, f"--run={inpaint}", "--known=alpha")
    assert "nothing of it is transparent" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^known\[0\] has the shape \(8, 8, 3\); a mask is \[H, W\]"):
        apply.apply(np.zeros((8, 8), np.uint8), inpaint, known=np.ones((8, 8, 3)))
    assert not list(out.glob("*.png"))

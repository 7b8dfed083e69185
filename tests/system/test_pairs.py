"""Two sets picture by picture, and sets of many sizes: who belongs to whom, what is left out, and that records say so."""

import json

import numpy as np
import pytest
from flax import struct
from PIL import Image

from jaxgen import compare as command
from jaxgen.core import parallel
from jaxgen.data.sources import Folder
from jaxgen.errors import NotFinite, UserError
from jaxgen.evaluation import features, pairs
from jaxgen.evaluation.pictures import Pictures
from jaxgen.metrics import pixel
from jaxgen.metrics.protocols import NATIVE, PROTOCOLS, prepare

SIZES = {"1": (33, 44, 3), "2": (33, 44, 3), "10": (33, 44, 3), "bird": (40, 24, 3), "man": (30, 30, 1)}


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(path, **options)


@pytest.fixture
def sets(tmp_path):
    """Folders of originals and of restored pictures of several sizes, and the arrays."""
    rng = np.random.default_rng(0)
    real = {name: rng.integers(20, 236, shape, np.uint8) for name, shape in SIZES.items()}
    made = {name: np.uint8(x + rng.integers(-9, 10, x.shape)) for name, x in real.items()}
    for name in SIZES:
        save(tmp_path / "real" / f"{name}.png", real[name])
        suffix = "png" if name == "man" else "webp"  # which knows no grey
        save(tmp_path / "made" / f"{name}_x4.{suffix}", made[name], lossless=True)
    return tmp_path, made, real


def compared(folder, *measures, a="made", b="real", **options):
    num = options.pop("num", 0)
    sides = [Pictures.folder(str(folder / name)) for name in (a, b)]
    return pairs.compare(*sides, pairs.Comparison(measures, **options), num)


def names(what, *stems):
    return Pictures(what, tuple(f"{stem}.png" for stem in stems), len(stems), None, None, None)


@pytest.mark.parametrize("made, real, want", [
    ("1 2 10", "1 2 10", [0, 1, 2]),
    ("2 1 10", "1 10 2", [2, 0, 1]),
    ("baby_x4 bird_x4", "baby bird", [0, 1]),
    ("img_1 img_2 img_10", "1 2 10", [0, 1, 2]),
    ("baby bird", "hr/bird_HR hr/baby_HR", [1, 0]),
    ("01 02 10", "1 2 10", "no partner of 01.png"),
    ("10 20", "1 2", "no partner of 10.png"),
    ("cat bat", "cow bow", "no partner of cat.png"),
    ("1 2 11", "1 2 10", "no partner of 11.png in A"),
    ("1 2 10", "1 2 10 11", "A has no partner of 11.png"),
    ("baby_x4 bird_x4", "baby bird man", r"A has no partner of man.png .*without '..._x4'"),
    ("baby_x4 bird_x4 man_x4", "baby man", r"B has no partner of bird_x4.png"),
    ("a/1 b/1", "1 2", "no partner of a/1.png"),
])  # fmt: skip
def test_pairs_are_matched_by_name(made, real, want):
    """Never by the order of strings: another number of digits, a missing picture, another word are no pair."""
    a, b = names("A", *made.split()), names("B", *real.split())
    if isinstance(want, str):
        with pytest.raises(UserError, match=want):
            pairs.match(a, b)
    else:
        assert pairs.match(a, b)[0].tolist() == [[i, j] for i, j in enumerate(want)]


def test_one_name_twice_is_refused(sets):
    with pytest.raises(UserError, match=r"both 1\.png and 1\.jpg"):
        pairs.match(Pictures("A", ("1.png", "1.jpg"), 2, None, None, None), names("B", "1"))


def test_every_pair_is_compared_at_its_own_size(sets):
    """The figures are those of the pairs alone; on luma a grey picture is what it would be in three channels."""
    folder, made, real = sets
    for luma, border in ((False, 0), (True, 3)):
        figures, about = compared(folder, "psnr", "l1", "ssim", luma=luma, border=border)

        def seen(x, luma=luma, border=border):
            x = pixel.shave(x[None], border)
            return pixel.luma(np.broadcast_to(x, (*x.shape[:3], 3))) if luma else pixel.floats(x)

        for name in ("psnr", "l1", "ssim"):
            alone = [float(pairs.MEASURES[name](seen(made[k]), seen(real[k]))[0]) for k in SIZES]
            assert figures[name] == pytest.approx(np.mean(alone), abs=2e-4), name
        assert about["N"] == 5 and about["sizes"] == 3 and (about["luma"], about["border"]) == (luma, border)
        assert about["repeated"] == luma and list(figures) == ["psnr", "l1", "ssim"]
    few, about = compared(folder, "psnr", num=2)
    assert about["N"] == 2 and about["share"] == {"of": 5, "seed": 0} and few["psnr"] != figures["psnr"]


def test_grey_beside_colour_is_repeated_and_told(sets):
    """However a grey picture is stored, its figures stay the same."""
    folder, _, real = sets
    before, about = compared(folder, "psnr", "mse")
    assert about["repeated"] == 0
    save(folder / "real" / "man.png", np.repeat(real["man"], 3, -1))
    after, about = compared(folder, "psnr", "mse")
    assert after == pytest.approx(before) and about["repeated"] == 1


def test_a_broken_picture_takes_its_partner_out(sets):
    folder, made, real = sets
    file = folder / "made" / "2_x4.webp"
    for half in (file.read_bytes()[:200], b""):  # broken pixels, broken header
        file.write_bytes(half)
        figures, about = compared(folder, "mse")
        assert about["N"] == 4 and about["left_out"] == 1
        alone = [float(pixel.mse(made[k][None], real[k][None])[0]) for k in SIZES if k != "2"]
        assert figures["mse"] == pytest.approx(np.mean(alone), rel=1e-5)


def test_what_is_no_pair_is_refused(sets):
    folder, _, real = sets
    with pytest.raises(UserError, match="--luma does not go with lpips:alex"):
        compared(folder, "psnr", "lpips:alex", luma=True)
    with pytest.raises(UserError, match="did you mean 'psnr'"):
        compared(folder, "psnrr")
    save(folder / "real" / "bird.png", real["bird"][:-1])
    with pytest.raises(UserError, match=r"bird_x4\.webp is 24x40 in .*made and 24x39 in .*real"):
        compared(folder, "psnr")


@struct.dataclass
class Mean:
    """A distance that looks at the mean of a picture alone, in place of LPIPS."""

    scale: float = 1.0

    def __call__(self, a, b):
        assert a.shape[-1] == b.shape[-1] == 3
        return self.scale * abs(a.mean((1, 2, 3)) - b.mean((1, 2, 3)))


def test_lpips_obeys_the_border_and_a_figure_that_is_no_number_names_its_picture(sets, monkeypatch):
    folder, made, real = sets
    monkeypatch.setattr(pairs, "borrow", lambda lender: Mean())
    figures, about = compared(folder, "lpips:alex", border=5)
    means = [[x[name][5:-5, 5:-5].mean(dtype=np.float64) for name in SIZES] for x in (made, real)]
    assert figures["lpips:alex"] == pytest.approx(np.abs(np.subtract(*means)).mean() / 127.5, abs=1e-6)
    assert about["border"] == 5
    monkeypatch.setattr(pairs, "borrow", lambda lender: Mean(np.nan))
    with pytest.raises(NotFinite, match=r"lpips:alex of 1_x4\.webp \(44x33\)"):
        compared(folder, "lpips:alex")


def test_a_perfect_pair_counts_as_the_best_that_can_be_told(sets, capsys):
    """Not infinite, not left out: a mean that rises when a pair gets better. The record is valid JSON and counts it."""
    folder, made, real = sets
    out, call = folder / "figures.jsonl", [str(folder / "made"), str(folder / "real"), "--paired=psnr,ssim"]
    command.run([*call, f"--out={out}"])
    save(folder / "made" / "2_x4.webp", real["2"], lossless=True)
    command.run([*call, f"--out={out}"])
    told = capsys.readouterr().err
    before, _, psnr, ssim = (json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines())
    alone = [float(pixel.psnr(made[k][None], real[k][None])[0]) for k in SIZES if k != "2"]
    assert (
        psnr["value"] == pytest.approx((sum(alone) + pixel.PERFECT) / 5, abs=1e-3) and psnr["value"] > before["value"]
    )
    assert psnr["metric"] == "psnr" and psnr["identical"] == ssim["identical"] == 1 and before["identical"] == 0
    assert "whose PSNR counts as 100 dB: 1" in told and "without '..._x4'" in told


def test_a_set_of_many_sizes_is_judged_picture_by_picture(sets):
    """As clean-fid does: each from its own size to the net's, nothing is cut; the record tells the sizes."""
    folder, made, _ = sets
    mean = lambda frozen, x: {"features": (prepare(x, PROTOCOLS["clean"]) if x.dtype == np.uint8 else x).mean((1, 2))}  # noqa: E731
    judge = features.Judge(PROTOCOLS["clean"], mean, (), "none")
    view = features.Viewer(judge, parallel.make_mesh({"data": 1}), 2)
    pictures = Pictures.folder(str(folder / "made"))
    found = features.summarise(view, pictures.batches(range(5), 2), frozenset({"rows"}))
    alone = [np.asarray(mean((), np.asarray(prepare(made[k][None], judge.protocol)))["features"])[0] for k in SIZES]
    np.testing.assert_allclose(found.features, alone, atol=1e-5)
    assert pictures.span() == "3 sizes from 30x30 to 44x33" and len(view.programs) == 2
    assert any("3 sizes from 30x30 to 44x33, each taken at its own size" in line for line in pictures.told())
    native = features.Viewer(features.Judge(NATIVE, mean, (), "none"), view.mesh, 5)
    with pytest.raises(UserError, match="judges images of one size"):
        features.summarise(native, pictures.batches(range(5), 5), frozenset())
    squares = Pictures.folder(str(folder / "made"), 24)
    next(squares.batches(range(5), 5))
    assert squares.span() == "24x24"


def test_pictures_left_out_count_nowhere(sets):
    """Neither in N nor twice: in a set that is measured no other picture stands in for a broken one."""
    folder, _, _ = sets
    for name in ("1", "2", "10"):
        (folder / "same" / "a").mkdir(parents=True, exist_ok=True)
        (folder / "same" / "a" / f"{name}.png").write_bytes((folder / "real" / f"{name}.png").read_bytes())
    file = folder / "same" / "a" / "2.png"
    file.write_bytes(file.read_bytes()[:900])
    for pictures in (Pictures.of(Folder(str(folder / "same"), eval_fraction=0.0).open("train"), "B"),
                     Pictures.folder(str(folder / "same"))):  # fmt: skip
        read = [(len(x), labels.tolist()) for x, labels in pictures.batches(np.arange(3), 2)]
        assert read == [(1, [0]), (1, [0])] and list(pictures.lost) == [1]
        assert any("1 of 3 pictures cannot be read and are left out" in line for line in pictures.told())

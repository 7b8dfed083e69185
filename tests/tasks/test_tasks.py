"""Laws of tasks, over their table and over what examples may hold; and what hide and shrink are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.config import registry
from jaxgen.core import conditions
from jaxgen.core.spec import PICTURES, Field, Spec, labels, pictures
from jaxgen.core.task import Asks, Measures
from jaxgen.degradations.blur import Blur
from jaxgen.degradations.film import Grey
from jaxgen.errors import UserError
from jaxgen.metrics.resize import resize
from jaxgen.tasks.augment import Crop, Flip, Geometric, Piece
from jaxgen.tasks.degrade import Degrade
from jaxgen.tasks.hide import SHAPES, SIZED, Hide
from jaxgen.tasks.levels import Levels
from jaxgen.tasks.shrink import Shrink

AUGMENTS = sorted(set(registry.TABLES["augment"]) - {"piece"})  # while training its pictures are others than the Spec's
NEEDS = {"codec", "describe", "reverse"}  # a run, a caption, two kinds of pictures: with their methods
TASKS = AUGMENTS + sorted(set(registry.TABLES["task"]) - NEEDS)
SIDE, NUM = 16, 24
SPECS = {
    "image": pictures((SIDE, SIDE, 3), classes=5),
    "floats": Spec(image=Field((SIDE, SIDE, 1), "float32", "image", "target")),
    "wide": pictures((12, 20, 1)),
    "conditions": Spec(
        pictures((SIDE, SIDE, 3), classes=5),
        hole=Field((SIDE, SIDE, 1), "float32", "mask"),
        pair=Field((SIDE, SIDE, 3), "uint8", "image"),
        little=Field((SIDE // 2, SIDE // 2, 3), "uint8", "image"),
        code=Field((7,), "float32", "embedding"),
    ),
    "frames": Spec(
        pictures((4, SIDE, SIDE, 3), classes=5),
        first=Field((SIDE, SIDE, 3), "uint8", "image"),
        hole=Field((SIDE, SIDE, 1), "bool", "mask"),
    ),
    "latent": Spec(labels(5), image=Field((8, 8, 4), "float32", "latent", "target")),
}
LATENT = [(name, kind) for name in TASKS for kind in SPECS if kind != "latent" or name in ("flip", "crop")]


GIVEN = {"shrink": "small", "degrade": "seen"}  # what stands for the picture, where it is not the picture itself


def build(name):
    return registry.build("augment" if name in AUGMENTS else "task", name)


def examples(spec, num=NUM):
    rng = np.random.default_rng(0)

    def draw(field):
        shape = (num, *field.shape)
        if field.kind == "label":
            return rng.integers(0, field.values, shape).astype(field.dtype)
        if field.kind == "mask":
            return (rng.random(shape) < 0.5).astype(field.dtype)
        return (
            rng.integers(0, 256, shape, np.uint8)
            if field.dtype == "uint8"
            else rng.uniform(-1, 1, shape).astype("float32")
        )

    return {name: jnp.asarray(draw(field)) for name, field in spec.items()}


def applied(task, spec):
    """(batch, seed) -> batch, compiled."""
    task.spec(spec)
    program = jax.jit(partial(task, spec, {}))
    return lambda batch, seed: program(batch, jax.random.key(seed))


@pytest.mark.parametrize(("name", "kind"), LATENT)
def test_the_spec_says_what_comes_out(name, kind):
    task, spec = build(name), SPECS[kind]
    after = task.spec(spec)
    out = jax.eval_shape(partial(task, spec, {}), spec.abstract(NUM), jax.eval_shape(lambda: jax.random.key(0)))
    assert {k: (v.shape, v.dtype) for k, v in out.items()} == {
        k: (v.shape, v.dtype) for k, v in after.abstract(NUM).items()
    }
    assert after.target == spec.target and after.shape == spec.shape and after.classes == spec.classes
    told = jax.eval_shape(lambda batch: conditions.read(after, batch, NUM), out)
    nulls = jax.eval_shape(lambda: conditions.nulls(after, NUM))
    assert told == nulls  # what an example says of a condition has the form of saying nothing


@pytest.mark.parametrize(("name", "kind"), LATENT)
def test_the_key_decides_everything_and_what_has_no_places_stays(name, kind):
    task, spec = build(name), SPECS[kind]
    run, batch = applied(task, spec), examples(spec)
    a, b, other = (run(batch, seed) for seed in (1, 1, 2))
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    assert name in ("coarse", "shrink", "size") or any(
        (np.asarray(a[key]) != np.asarray(other[key])).any() for key in a
    )
    same = {key for key in batch if task.spec(spec)[key] == spec[key]}  # what the Spec of a task keeps, the task keeps
    for key in batch.keys() - spec.of(*PICTURES).keys() | (same if task.always else set()):
        np.testing.assert_array_equal(a[key], batch[key])


@pytest.mark.parametrize("name", TASKS)
def test_a_sample_has_the_shape_it_had_before(name):
    task, spec = build(name), SPECS["image"]
    x = jax.random.normal(jax.random.key(0), (NUM, *task.spec(spec).shape))
    assert task.undo({}, x).shape == (NUM, *spec.shape)


def test_levels_are_drawn_or_cut():
    spec = SPECS["wide"]
    grey = {"image": jnp.full((NUM, *spec.shape), 100, jnp.uint8)}
    run = lambda batch, **options: np.asarray(applied(Levels(**options), spec)(batch, 0)["image"])  # noqa: E731
    drawn = run(grey)
    assert set(np.unique(drawn)) == {0, 255} and abs(drawn.mean() - 100) < 5  # the mean stays
    assert set(np.unique(run(grey, num=3, rounding="nearest"))) == {128}
    every = {"image": jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)}
    np.testing.assert_array_equal(np.unique(run(every, num=32, rounding="equal"), return_counts=True)[1], 8)
    assert Levels(17).spec(spec).levels == 17


def smooth(num=NUM, side=SIDE):
    """[num, side, side, 3] without symmetry, in [-1, 1]."""
    rng = np.random.default_rng(1)
    y, x = np.meshgrid(np.arange(side) / side, np.arange(side) / side, indexing="ij")
    a, b, c = rng.uniform(1, 3, (3, num, 1, 1, 3))
    return jnp.asarray(np.sin(a * y[..., None] + b) * np.cos(c * x[..., None] - a), jnp.float32)


@pytest.mark.parametrize("name", sorted(set(AUGMENTS) - {"dequantise"}))  # it moves levels, not places
def test_one_draw_moves_all_that_has_places_alike(name):
    """One picture as target, as pair, as a clip's every frame, at half the size and as a mask: so it comes out."""
    spec = Spec(
        image=Field((SIDE, SIDE, 3), "float32", "image", "target"),
        pair=Field((SIDE, SIDE, 3), "float32", "image"),
        clip=Field((4, SIDE, SIDE, 3), "float32", "frames"),
        code=Field((SIDE, SIDE, 3), "float32", "latent"),
        half=Field((SIDE // 2, SIDE // 2, 3), "float32", "image"),
        hole=Field((SIDE, SIDE, 1), "float32", "mask"),
    )
    x = smooth()
    halved = lambda x: resize(x, (SIDE // 2, SIDE // 2), "pil_box")  # noqa: E731
    clip = jnp.stack([x * scale for scale in (1.0, 0.5, -1.0, 0.25)], 1)
    batch = {
        "image": x,
        "pair": x,
        "clip": clip,
        "code": x,
        "half": halved(x),
        "hole": (x[..., :1] > 0).astype("float32"),
    }
    out = applied(build(name), spec)(batch, 3)
    moved = np.abs(out["image"] - x).max((1, 2, 3)) > 0.02
    assert moved.sum() > NUM / 4
    np.testing.assert_allclose(out["pair"], out["image"], atol=1e-6)
    np.testing.assert_allclose(out["code"], out["image"], atol=1e-6)
    for t, scale in enumerate((1.0, 0.5, -1.0, 0.25)):
        np.testing.assert_allclose(out["clip"][:, t], scale * out["image"], atol=1e-5)
    exact = name != "geometric"  # which resamples
    far = np.abs(out["half"] - halved(out["image"]))  # mirrors of two sizes differ by a pixel at the border
    assert far.max() < 1e-6 if exact else np.quantile(far, 0.98) < 0.06
    assert set(np.unique(out["hole"])) == {0.0, 1.0}
    agree = np.asarray(out["hole"] == (out["image"][..., :1] > 0)).mean()
    assert agree == 1.0 if exact else agree > 0.97


def test_flipping_is_exact_and_has_its_probability():
    spec = SPECS["conditions"]
    batch = examples(spec, 400)
    for p in (0.0, 0.3, 1.0):
        out = applied(Flip(p), spec)(batch, 0)
        same, mirrored = (
            np.asarray((out["pair"] == x).all((1, 2, 3))) for x in (batch["pair"], batch["pair"][:, :, ::-1])
        )
        assert (same != mirrored).all() and abs(mirrored.mean() - p) <= 0.1
        np.testing.assert_array_equal(out["little"][mirrored], batch["little"][mirrored][:, :, ::-1])


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_crop_cuts_from_the_reflected_image(pad):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 2), np.uint8)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    cuts = {padded[y : y + 5, x : x + 7].tobytes() for y in range(2 * pad + 1) for x in range(2 * pad + 1)}
    out = applied(Crop(pad), pictures((5, 7, 2)))({"image": jnp.asarray(np.stack([image] * 1500))}, 0)
    assert {x.tobytes() for x in np.asarray(out["image"])} == cuts


@pytest.mark.parametrize("shape", SIZED)
@pytest.mark.parametrize("kind", ["image", "floats", "wide", "frames"])
def test_what_is_hidden_is_grey_and_the_rest_is_shown(shape, kind):
    spec = Spec({k: f for k, f in SPECS[kind].items() if f.kind != "mask"})
    batch = examples(spec, 400)
    out = applied(Hide(shape, 0.25), spec)(batch, 0)
    x = conditions.prepare(spec, "image", batch["image"])
    mask = np.asarray(out["mask"])
    assert set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_allclose(
        out["shown"], np.where(mask == 1, 0.0, x), rtol=0, atol=1e-6
    )  # rounding, within a program
    np.testing.assert_array_equal(out["image"], batch["image"])
    if kind == "frames":
        assert (mask == mask[:, :1]).all()  # all frames hide the same
        mask = mask[:, 0]
    height, width = mask.shape[1:3]
    mask = 1 - mask if shape == "expand" else mask
    rows, columns = mask.any((2, 3)), mask.any((1, 3))
    assert (mask[..., 0] == rows[:, :, None] * columns[:, None]).all()  # a rectangle
    starts = np.stack([rows.argmax(1), columns.argmax(1)], 1)
    sides = np.stack([rows.sum(1), columns.sum(1)], 1)
    if shape == "box":
        assert (sides == (height // 4, width // 4)).all()
        for axis, room in enumerate((height - height // 4, width - width // 4)):
            assert set(starts[:, axis]) == set(range(room + 1))
    elif shape in ("centre", "expand"):
        shorter = 4 if shape == "centre" else 4 / 3
        inner = (round(height / shorter), round(width / shorter))
        assert (sides == inner).all() and np.abs(2 * starts - np.array([height, width]) + inner).max() <= 1
    else:
        places = {(height - height // 4, 0, height // 4, width)}
        if shape == "half":
            places |= {
                (0, 0, height // 4, width),
                (0, 0, height, width // 4),
                (0, width - width // 4, height, width // 4),
            }
        assert {(*a, *b) for a, b in zip(starts.tolist(), sides.tolist(), strict=True)} == places
    counts = np.unique(np.concatenate([starts, sides], 1), axis=0, return_counts=True)[1]
    assert counts.max() < 4 * len(mask) / len(counts)  # no place is preferred


def measured(name, kind):
    """(task, its conditions of examples, these in [-1, 1], the linear map)."""
    # noise apart, which is drawn
    task = Degrade((Blur(sigma=0.5), Grey())) if name == "degrade" else build(name)
    spec = Spec({k: f for k, f in SPECS[kind].items() if f.kind != "mask"})
    batch = examples(spec, 5)
    cond = conditions.read(task.spec(spec), applied(task, spec)(batch, 0), 5)
    return task, cond, conditions.prepare(spec, "image", batch["image"]), task.linear(cond)


@pytest.mark.parametrize("kind", ["image", "wide", "frames"])
@pytest.mark.parametrize("name", [name for name in TASKS if isinstance(build(name), Measures)])
def test_what_is_measured_is_linear_and_its_parts_belong_together(name, kind):
    _, _, x, a = measured(name, kind)

    def close(left, right, atol=2e-5):
        np.testing.assert_allclose(left, right, atol=atol)

    with jax.default_matmul_precision("highest"):
        z, y = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate((x.shape, a.y.shape)))
        inner = lambda p, q: np.sum(np.float64(p) * np.float64(q))  # noqa: E731
        ax = a.apply(z)
        assert ax.shape == y.shape and abs(inner(ax, y) - inner(z, a.adjoint(y))) < 1e-3
        close(a.apply(a.pseudo_inverse(ax)), ax)
        least = a.pseudo_inverse(ax)
        close(a.pseudo_inverse(a.apply(least)), least, 1e-4)
        close(inner(z - least, least) / z.size, 0.0, 1e-5)  # the smallest of all that are seen as ax is
        close(a.from_spectrum(a.to_spectrum(z)), z)
        close(a.to_spectrum(a.from_spectrum(z)), z)
        close(a.y, a.apply(x), 1 / 127.5)  # but for the rounding of files


def test_a_small_picture_with_noise_is_what_its_map_says():
    spec = SPECS["image"]
    task, batch = Shrink(2, "pil_box", noise=True), examples(spec, 400)
    out = applied(task, spec)(batch, 0)
    a = task.linear(out)
    rest = np.asarray((a.y - a.apply(conditions.prepare(spec, "image", batch["image"]))) / a.noise)
    assert abs(rest.mean()) < 0.01 and abs(rest.std() - 1) < 0.01


@pytest.mark.parametrize("kind", ["image", "floats", "frames"])
@pytest.mark.parametrize("name", [name for name in TASKS if isinstance(build(name), Asks)])
def test_a_persons_picture_is_told_as_the_data_are_and_what_is_known_of_it_stays(name, kind):
    """What can be asked is what training would say of the same; nothing is put back but what is known."""
    task, cond, x, _ = measured(name, kind)
    spec = Spec({k: f for k, f in SPECS[kind].items() if f.kind != "mask"})
    seen = cond[GIVEN[name]] if name in GIVEN else x
    assert seen.shape[1:] == task.given(spec).shape
    known = 1.0 - cond["mask"] if "mask" in cond else None
    told = task.ask(seen, known)
    for key in task.spec(spec).keys() - spec.keys():
        np.testing.assert_allclose(told[key], cond[key], atol=1e-6)
    np.testing.assert_allclose(task.finish(told, x), x, atol=1e-6)  # of several degradations nothing is known
    made = task.finish(told, jnp.full_like(x, 0.3))
    np.testing.assert_array_equal(task.finish(told, made), made)
    if known is not None:
        stays = np.broadcast_to(known == 1, x.shape)
        np.testing.assert_array_equal(made[stays], x[stays])
        assert (np.asarray(made)[~stays] == np.float32(0.3)).all()
    with pytest.raises(UserError, match="mask"):
        task.ask(seen, None if known is not None else jnp.ones((5, SIDE, SIDE, 1)))


@pytest.mark.parametrize("shape", ["thin", "medium", "thick"])
def test_strokes_hide_some_and_never_more_than_half(shape):
    out = applied(Hide(shape), pictures((32, 32, 1)))({"image": jnp.zeros((200, 32, 32, 1), jnp.uint8)}, 0)
    mask = np.asarray(out["mask"])[..., 0]
    share = mask.mean((1, 2))
    assert share.min() > 0 and share.max() <= 0.5 and share.std() > 0.03
    assert {"thin": 0.05, "medium": 0.15, "thick": 0.15}[shape] < share.mean() < 0.45
    around = sum(np.roll(mask, shift, axis) for axis in (1, 2) for shift in (1, -1))
    assert (around[mask == 1] > 0).mean() > 0.95  # lines, not dust
    assert mask.mean(0).min() > 0.02  # they go everywhere


def test_every_second_line_or_pixel_and_salt():
    masks = {s: applied(Hide(s, 0.3), SPECS["wide"])(examples(SPECS["wide"]), 0)["mask"][..., 0] for s in SHAPES}
    np.testing.assert_array_equal(masks["lines"][:, ::2], 0)
    np.testing.assert_array_equal(masks["lines"][:, 1::2], 1)
    np.testing.assert_array_equal(
        1 - masks["pixels"], np.zeros((NUM, 12, 20)) + np.kron(np.ones((6, 10)), [[1, 0], [0, 0]])
    )
    assert abs(masks["salt"].mean() - 0.3) < 0.03


def test_a_masks_file_says_what_is_hidden(tmp_path):
    name, spec = str(tmp_path / "mask.png"), SPECS["image"]
    painted = np.zeros((SIDE, SIDE), np.uint8)
    painted[3:9, 2:5] = 255
    Image.fromarray(painted).save(name)
    out = applied(Hide("file", file=name), spec)(examples(spec), 0)
    np.testing.assert_array_equal(out["mask"][..., 0], np.broadcast_to(painted > 0, (NUM, SIDE, SIDE)))
    for change, message in (
        (lambda: painted[:8], "mask.png is 8x16 and the pictures are 16x16"),
        (lambda: 0 * painted, "hides nothing of the picture"),
        (lambda: 0 * painted + 255, "hides all of the picture"),
    ):
        wrong = str(tmp_path / f"{len(message)}mask.png")
        Image.fromarray(change()).save(wrong)
        with pytest.raises(UserError, match=message):
            Hide("file", file=wrong).spec(spec)
    (tmp_path / "text").write_text("no picture")
    with pytest.raises(UserError, match="cannot be read as a mask"):
        Hide("file", file=str(tmp_path / "text")).spec(spec)


def test_half_is_half():
    spec = SPECS["image"]
    out = applied(Hide("half"), spec)(examples(spec), 0)
    np.testing.assert_array_equal(out["mask"].mean((1, 2, 3)), 0.5)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_shrunk_image_is_what_pillow_would_write(factor):
    spec = SPECS["image"]
    batch = examples(spec)
    small = applied(Shrink(factor), spec)(batch, 0)["small"]
    side = SIDE // factor
    want = [
        np.asarray(Image.fromarray(np.asarray(x)).resize((side, side), Image.Resampling.BICUBIC))
        for x in batch["image"]
    ]
    np.testing.assert_allclose((small + 1) * 127.5, np.stack(want), atol=1e-4)
    assert small.min() >= -1.0 and small.max() <= 1.0  # bicubic overshoots; a file does not


def test_box_takes_means_and_clips_shrink_frame_by_frame():
    spec = SPECS["frames"]
    batch = examples(spec)
    small = applied(Shrink(2, "pil_box"), spec)(batch, 0)["small"]
    x = conditions.prepare(spec, "image", batch["image"])
    np.testing.assert_allclose(small, x.reshape(NUM, 4, SIDE // 2, 2, SIDE // 2, 2, 3).mean((3, 5)), atol=1e-5)
    still = Spec(image=Field(spec.shape[1:], "uint8", "image", "target"))
    frame = applied(Shrink(2, "pil_box"), still)({"image": batch["image"][:, 1]}, 0)["small"]
    np.testing.assert_allclose(small[:, 1], frame, atol=1e-6)


def test_a_small_picture_is_noisy_by_the_level_that_is_told():
    spec, flat = SPECS["image"], {"image": jnp.full((2000, SIDE, SIDE, 3), 255, jnp.uint8)}
    told = applied(Shrink(noise=True), spec)(flat, 0)
    level = np.asarray(told["noise"][:, 0])
    assert np.abs(np.sort(level) - np.linspace(0, 1, 2000)).max() < 0.05
    np.testing.assert_allclose(told["small"].std((1, 2, 3)), np.sin(np.pi / 2 * level), atol=0.2)
    np.testing.assert_allclose(told["small"].mean((1, 2, 3)), np.cos(np.pi / 2 * level), atol=0.3)
    clean, bare = applied(Shrink(noise=0.0), spec)(flat, 0), applied(Shrink(), spec)(flat, 0)
    np.testing.assert_array_equal(clean["small"], bare["small"])
    assert not clean["noise"].any() and "noise" not in bare and "noise" not in Shrink().spec(spec)
    assert Shrink(noise=0.5).spec(spec) == Shrink(noise=True).spec(spec)


def test_a_piece_is_cut_from_anywhere_of_all_pictures_alike():
    spec, num = (
        Spec(SPECS["frames"].where(lambda name, _: name != "hole"), hole=SPECS["frames"]["hole"]),
        np.arange(SIDE),
    )
    places = jnp.asarray(num[:, None] * SIDE + num)[..., None]  # every pixel is its own number
    batch = {k: jnp.broadcast_to(places, (NUM, *spec[k].shape)) for k in ("image", "first", "hole")}
    out = {k: np.asarray(v) for k, v in applied(Piece(5), spec)(batch, 0).items()}
    assert out["image"].shape == (NUM, 4, 5, 5, 3) and out["hole"].shape == (NUM, 5, 5, 1)
    corner = out["hole"][:, :1, :1]
    assert len(set(corner.ravel().tolist())) > NUM // 2
    np.testing.assert_array_equal(out["hole"], corner + np.asarray(places[:5, :5]))
    np.testing.assert_array_equal(out["image"], np.broadcast_to(out["hole"][:, None], out["image"].shape))


TOKENS = Spec(text=Field((8,), "int32", "tokens", "target", 100))
BAD = {
    "flip of nothing": (lambda: Flip().spec(TOKENS), "task flip needs a picture"),
    "crop of nothing": (lambda: Crop().spec(TOKENS), "task crop needs a picture"),
    "geometric of nothing": (
        lambda: Geometric().spec(TOKENS),
        "task geometric needs a picture .*'text' is of kind tokens",
    ),
    "hide of nothing": (lambda: Hide().spec(TOKENS), "task hide needs a picture"),
    "shrink of latents": (
        lambda: Shrink().spec(SPECS["latent"]),
        "task shrink needs a picture .*'image' is of kind latent",
    ),
    "told twice": (lambda: Hide().spec(Hide().spec(SPECS["image"])), "task hide adds 'mask'"),
    "augmented twice": (lambda: Geometric().spec(Geometric().spec(SPECS["image"])), "task geometric adds 'augment'"),
    "no multiple": (lambda: Shrink(3).spec(SPECS["image"]), "factor=3 does not divide 16x16"),
    "piece of nothing": (lambda: Piece().spec(TOKENS), "task piece needs a picture"),
    "pieces of two sizes": (lambda: Piece(4).spec(SPECS["conditions"]), "hold 8x8 and 16x16; leave piece out"),
    "too large a piece": (
        lambda: Piece(16).spec(SPECS["wide"]),
        "size=16 does not fit into 12x20; set size=12",
    ),
    "way": (lambda: Shrink(2, "area"), "'area' is unknown; there are: clean, .*pil_bicubic"),
    "shape": (lambda: Hide("circle"), "'circle' is unknown; there are: box, half"),
    "a shape without its file": (lambda: Hide("file"), "do not belong together; set tasks.hide.file=FILE"),
    "a file without its shape": (lambda: Hide(file="a.png"), "do not belong together; set tasks.hide.shape=file"),
    "no pixel": (lambda: Hide(size=0.02).spec(SPECS["image"]), "hides no pixel of 16x16"),
    "sizes": (
        lambda: Crop().spec(Spec(pictures((9, 9, 1)), small=Field((4, 4, 1), "uint8", "image"))),
        "smallest picture, 4x4, and one is 9x9",
    ),
    "less than a pixel": (lambda: Crop(1).spec(SPECS["conditions"]), "pad=1 is less than a pixel"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_named_in_one_line(case):
    call, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

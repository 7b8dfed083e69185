"""Procedural scenes: one picture at any resolution, captions that are true."""

import re
from collections import Counter

import numpy as np
import pytest

from jaxgen.data import Shapes
from jaxgen.data.scenes import (
    BACKGROUNDS,
    COLOURS,
    CORNERS,
    PLACES,
    RADII,
    SHAPES,
    Scene,
    Shape,
    agreement,
    answered,
    attributes,
    caption,
    read,
    render,
    scene,
)
from jaxgen.errors import UserError

PHRASE = re.compile(r"a (small|large) (\w+) (\w+) ((?:at|in) the [a-z ]+)$")


def test_a_scene_is_a_function_of_its_index():
    assert scene(3, seed=1) == scene(3, seed=1)
    assert len({scene(i, seed, split) for i in range(20) for seed in (0, 1) for split in (0, 1)}) == 80
    train, held = (Shapes(num=50, eval_num=50).open(split) for split in ("train", "eval"))
    assert all((train[i]["image"] != held[i]["image"]).any() for i in range(50))


@pytest.mark.parametrize("index", range(8))
def test_the_picture_does_not_depend_on_the_resolution(index: int):
    picture = scene(index, seed=2, max_shapes=4)
    large = render(picture, 256).astype(float)
    for size in (32, 64, 128):
        k = 256 // size
        shrunk = large.reshape(size, k, size, k, 3).mean((1, 3))
        off = np.abs(shrunk - render(picture, size))
        assert off.mean() < 1.0 and np.mean(off > 64) < 2e-3


def test_every_kind_has_its_own_outline_inside_its_radius():
    outlines = {}
    for kind in SHAPES:
        image = render(Scene("black", (Shape(kind, "red", "large", "in the centre", 0.5, 0.5, 0.2),)), 100)
        y, x = np.nonzero(image[..., 0])
        assert np.hypot((x + 0.5) / 100 - 0.5, (y + 0.5) / 100 - 0.5).max() < 0.2 * np.sqrt(2)
        assert len(x) > 200
        np.testing.assert_array_equal(image, image[:, ::-1])  # every kind is symmetric
        outlines[kind] = image.tobytes()
    assert len(set(outlines.values())) == len(SHAPES)
    area = np.mean(render(Scene("black", (Shape("circle", "red", "", "", 0.5, 0.5, 0.2),)), 200)[..., 0] / 225.0)
    assert area == pytest.approx(np.pi * 0.2**2, rel=0.01)


def test_captions_are_true():
    source = Shapes(size=128, num=60, seed=4, max_shapes=4).open("train")
    for i in range(len(source)):
        example = source[i]
        things, _, background = example["caption"].rpartition(", on ")
        corner = example["image"][0, 0]
        assert tuple(corner) == BACKGROUNDS[background]
        for k, phrase in enumerate(things.split(" and ")):
            size, colour, kind, place = PHRASE.match(phrase).groups()
            x, y = PLACES[place]
            block = example["image"][
                int((y - 0.24) * 128) : int((y + 0.24) * 128), int((x - 0.24) * 128) : int((x + 0.24) * 128)
            ]
            painted = (block == COLOURS[colour]).all(-1)
            assert painted.mean() > 0.02, (phrase, i)  # the colour is there, at that place
            rows, columns = np.nonzero(painted.any(1))[0], np.nonzero(painted.any(0))[0]
            extent = max(np.ptp(rows), np.ptp(columns)) / 128
            assert (extent > 0.275) == (size == "large"), (phrase, extent)
            if k == 0:
                assert source.spec["label"].names[example["label"]] == kind


def test_several_shapes_never_overlap():
    for i in range(200):
        things = scene(i, max_shapes=4).shapes
        assert len({thing.place for thing in things}) == len(things)
        if len(things) > 1:
            assert {thing.place for thing in things} <= set(CORNERS)
            for a in things:
                for b in things:
                    assert a is b or max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius


def test_everything_appears():
    drawn = [scene(i, max_shapes=3) for i in range(600)]
    things = [thing for picture in drawn for thing in picture.shapes]
    assert {thing.kind for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.size for thing in things} == set(RADII)
    assert {thing.place for thing in things} == set(PLACES)
    counts = Counter(len(picture.shapes) for picture in drawn)
    assert set(counts) == {1, 2, 3} and min(counts.values()) > 150
    assert caption(drawn[0]).endswith(f", on {drawn[0].background}")


def test_labels_and_bounds():
    source = Shapes(size=16, num=5).open("train")
    assert source.spec.classes == len(SHAPES) and source.spec.shape == (16, 16, 3)
    with pytest.raises(IndexError):
        source[5]


def test_captions_are_read_back():
    for i in range(40):
        picture = scene(i, seed=5, max_shapes=4)
        told = read(caption(picture))
        assert told.background == picture.background
        assert [tuple(thing) for thing in told.things] == [(s.size, s.colour, s.kind, s.place) for s in picture.shapes]
        assert set(agreement(told, told).values()) == {1.0}
    for text in ("", "a cat", "a small red circle at the top left", "a small red circle at the moon, on grey",
                 "a small mauve circle at the top left, on grey", "a small red circle at the top left, on green"):  # fmt: skip
        assert read(text) is None


def test_agreement_counts_attributes_of_things_whatever_their_order():
    tell = lambda *things: read(f"{' and '.join(things)}, on grey")  # noqa: E731
    circle, star = "a small red circle at the top left", "a large blue star at the top right"
    true = tell(circle, star)
    assert set(agreement(tell(star, circle), true).values()) == {1.0}
    swapped = tell("a small blue circle at the top left", "a large red star at the top right")
    want = {"size": 1, "colour": 0, "kind": 1, "place": 1, "background": 1, "all": 0, "binding": 0}
    assert agreement(swapped, true) == want
    moved = tell("a small red circle at the top right", "a large blue star at the top left")
    assert agreement(moved, true) == {**want, "colour": 1, "place": 0, "binding": 1}
    alone = agreement(tell(star), true)
    assert alone == {"size": 0.5, "colour": 0.5, "kind": 0.5, "place": 0.5, "background": 1, "all": 0, "binding": 0}
    assert set(agreement(None, true).values()) == {0.0} and agreement(None, true).keys() == alone.keys()
    one = tell(circle)
    assert "binding" not in agreement(one, one) and agreement(tell(circle, star), one)["kind"] == 0.5


def test_attributes_say_all_that_a_caption_says():
    for most in (1, 2, 3):
        source, known = Shapes(num=30, seed=6, max_shapes=most, attributes=True).open("train"), attributes(most)
        assert list(source.spec.conditions.of("label")) == list(known) and source.spec.label == "kind"
        for i in range(30):
            told, true = answered({k: known[k][source[i][k]] for k in known}), read(source[i]["caption"])
            assert agreement(told, true)["all"] == 1.0 and len(told.things) == len(true.things)
            assert source.labels[i] == source[i]["kind"]


def test_what_is_held_out_is_never_shown_in_training_and_the_rest_stays():
    plain, without = Shapes(num=400, eval_num=400), Shapes(num=400, eval_num=400, hold_out=("red star", "blue ring"))
    pairs = lambda text: {(thing.colour, thing.kind) for thing in read(text).things}  # noqa: E731
    unseen = {("red", "star"), ("blue", "ring")}
    before, after = ([text for (text,) in one.open("train").captions] for one in (plain, without))
    changed = [a != b for a, b in zip(before, after, strict=True)]
    assert changed == [bool(pairs(text) & unseen) for text in before] and any(changed)
    assert not any(pairs(text) & unseen for text in after)
    assert without.open("eval").captions == plain.open("eval").captions
    assert plain.open("train").fingerprint() != without.open("train").fingerprint()
    assert "hold_out" not in str(plain.open("train").facts())  # so that runs from before there was such a thing go on
    with pytest.raises(UserError, match="'mauve star' is no colour and kind"):
        Shapes(hold_out=("mauve star",)).open("train")
    with pytest.raises(UserError, match="leaves no shape"):
        Shapes(hold_out=tuple(f"{colour} {kind}" for colour in COLOURS for kind in SHAPES)).open("train")

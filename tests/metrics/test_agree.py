"""Agreement of pictures with captions: a judge of known answers, a generator that errs in a known way."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.data import Shapes
from jaxgen.data.scenes import read
from jaxgen.errors import UserError
from jaxgen.evaluation.agree import Agree

OPTIONS = dict(size=4, num=300, eval_num=200, max_shapes=2, hold_out=("red star", "blue ring", "pink cross"))


def figures(monkeypatch, made, real=lambda text: text, **options):
    """What agree says where a picture of a caption shows `made(caption)`; pictures are numbers of captions."""
    train, held = (Shapes(**OPTIONS).open(split) for split in ("train", "eval"))
    shown = [real(text) for (text,) in held.captions] + [made(text) for (text,) in held.captions]

    class Numbers:
        captions, labels, spec = held.captions, None, held.spec

        def __len__(self):
            return 200

        def __getitem__(self, i):
            return {"image": np.array([[[i]]])}

    spec = Spec(pictures((4, 4, 3)), caption=Field((9,), "int32", "tokens", end=2))
    exp = SimpleNamespace(
        data=spec, spec=spec, stages=(), mesh=None,
        tokenizer=True, tokens=lambda texts: {"caption": np.zeros((len(texts), 9))},
        samples=lambda w, num, seed, asked, source: [SimpleNamespace(images=np.arange(num, dtype=np.float32))],
        open_pictures=lambda split: train, as_pictures=lambda source, split: source,
    )  # fmt: skip
    monkeypatch.setattr("jaxgen.evaluation.retrieval.to_uint8", lambda x: 200 + x)
    monkeypatch.setattr(Agree, "_viewer", lambda self, exp: SimpleNamespace(judge=SimpleNamespace(weights="")))
    monkeypatch.setattr(Agree, "_told", lambda self, v, x: [read(shown[int(np.ravel(i)[0])]) for i in x])
    return Agree(num=200, **options)(exp, None, None, Numbers())


def test_perfect_pictures_agree_and_shuffled_captions_are_the_floor(monkeypatch):
    report = figures(monkeypatch, lambda text: text)
    found = report.scalars
    for name in ("agree", "agree_seen", "agree_unseen", "real"):
        assert {found[f"{name}_{k}"] for k in ("kind", "colour", "size", "place", "background", "all", "binding")} == {
            1.0
        }
    assert found["shuffled_all"] < 0.05 and 0.2 < found["shuffled_background"] < 0.5
    assert 10 < report.about["unseen"] < 80


def test_what_was_never_seen_is_told_apart_and_swapped_colours_are_no_binding(monkeypatch):
    wrong = lambda text: text.replace("red star", "red circle").replace("blue ring", "blue circle")  # noqa: E731
    found = figures(monkeypatch, wrong).scalars
    assert found["agree_seen_all"] == 1.0 > found["agree_unseen_all"] and found["agree_colour"] == 1.0

    def swapped(text):
        told = read(text)
        if len(told.things) < 2:
            return text
        first, second = told.things
        words = [f"a {a.size} {b.colour} {a.kind} {a.place}" for a, b in ((first, second), (second, first))]
        return f"{' and '.join(words)}, on {told.background}"

    found = figures(monkeypatch, swapped).scalars
    assert (
        found["agree_kind"] == found["agree_place"] == 1.0
        and found["agree_binding"] < 0.3
        and found["agree_colour"] < 0.7
    )


def test_a_judge_that_errs_about_real_pictures_is_refused(monkeypatch):
    worse = lambda text: text.replace("small", "large")  # noqa: E731
    with pytest.raises(
        UserError, match=r"is right about the size of \d\d\.\d% of real held-out pictures.* 99%; train it longer"
    ):
        figures(monkeypatch, lambda text: text, worse)
    figures(monkeypatch, lambda text: text, worse, least=0.3)

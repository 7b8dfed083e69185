"""Captions: a beam finds the best text, a beam of one is greedy, step by step is the whole net, pads count for nothing."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.conditions import with_one_caption
from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.core.state import Weights
from jaxgen.data.tokenize import Bytes
from jaxgen.errors import UserError
from jaxgen.methods.captioner import Captioner, Marks, search
from jaxgen.nets.autoencoder import ConvEncoder
from jaxgen.nets.captioner import LstmCaptioner, TransformerCaptioner, VitEncoder
from jaxgen.tasks.describe import Describe

KEY = jax.random.key(0)
MARKS = Marks((1,), 2, 0)
TOLD = Spec(pictures((8, 12, 3)), caption=Field((7,), "int32", "tokens", values=9, empty=(1, 2, 0, 0, 0, 0, 0), end=2))
SPEC = Describe().spec(TOLD)
NETS = {
    "lstm": (LstmCaptioner, ConvEncoder(8, 8, 1, 1), {}),
    "transformer": (TransformerCaptioner, VitEncoder(8, 1, 2, 4), {"depth": 2, "heads": 2}),
}


def made(kind, **options):
    """The method with a small net, and weights by which every word depends on the picture and on those before."""
    net, encoder, more = NETS[kind]
    facts = dict(shape=SPEC.shape, vocabulary=SPEC.vocabulary, conditions=SPEC.conditions)
    method = Captioner(
        net=Net(net(encoder, **facts, width=8, dropout=0.0, **more), optax.adam(1e-3)), spec=SPEC, **options
    )
    shapes = jax.eval_shape(method.init, KEY, SPEC.abstract(2)).nets["net"].params
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape), a.dtype), shapes)
    params["head"]["bias"] = params["head"]["bias"].at[2].add(-2.0)  # texts of some words
    return method, Weights(jnp.zeros((), jnp.int32), {"net": {"params": params}}, {}, {})


def batch(num=3):
    """Pictures and texts of several lengths, the last one cut."""
    rng = np.random.default_rng(1)
    texts = [[1, 3, 4, 2, 0, 0, 0], [1, 5, 2, 0, 0, 0, 0], [1, 3, 8, 7, 6, 5, 2]]
    return {
        "image": jnp.asarray(rng.integers(0, 256, (num, 8, 12, 3), np.uint8)),
        "caption": jnp.array(texts, jnp.int32),
    }


def random_step(values, seed=0):
    """A model of words whose state is all words before: logits from a table by what the text is so far."""
    table = 2.0 * jax.random.normal(jax.random.key(seed), (997, values))

    def step(before, place, state):
        state = (state * 31 + before + 7) % 997
        return table[state], state

    return step


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_holds_all_texts_finds_the_best(penalty):
    places, values = 3, 6  # words 3, 4, 5
    step = random_step(values)
    texts = [t for n in range(places) for t in itertools.product((3, 4, 5), repeat=n)]
    scores = []
    for text in texts:
        state, total, before = jnp.array([5]), 0.0, 1
        for place, word in enumerate((*text, 2)):
            logits, state = step(jnp.array([before]), place, state)
            total += float(jax.nn.log_softmax(logits[0])[word])
            before = word
        scores.append(total / ((5 + len(text) + 1) / 6) ** penalty)
    best = texts[int(np.argmax(scores))]
    width = 40
    ids, score = search(step, jnp.full(width, 5), 1, width, places, penalty, MARKS)
    assert ids[0].tolist() == [*best, 2, *[0] * (places - 1 - len(best))]
    np.testing.assert_allclose(float(score[0]) / ((5 + len(best) + 1) / 6) ** penalty, max(scores), rtol=1e-5)
    assert len(set(np.round(scores, 4))) == len(scores)


@pytest.mark.parametrize("kind", NETS)
def test_a_beam_of_one_is_greedy_and_drawing_word_by_word_is_the_whole_net(kind):
    """Naive: for every word the whole net over all words so far. Without a cache, a beam, a loop."""
    method, w = made(kind, beam=1)
    data = batch()
    found = np.asarray(jax.jit(method.describe)(w, data))
    cond, words = method.conditions(data), np.zeros((3, 6), np.int32)
    call = jax.jit(lambda words: method.net.apply(w.nets["net"], jnp.pad(words, ((0, 0), (1, 0)), constant_values=1)[:, :-1],
                                                  cond)[0][0])  # fmt: skip
    done = np.zeros(3, bool)
    for place in range(6):
        logits = np.array(call(jnp.asarray(words)))[:, place]
        logits[:, [0, 1]] = -np.inf
        words[:, place] = np.where(done, 0, logits.argmax(-1) if place < 5 else 2)
        done |= words[:, place] == 2
    np.testing.assert_array_equal(found[:, 1:], words)
    assert (found[:, 0] == 1).all() and len({tuple(row) for row in found}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETS)
def test_a_wider_beam_finds_texts_that_are_as_likely_at_least_and_other_pictures_change_nothing(kind):
    method, w = made(kind, length_penalty=0.0)
    data = batch()

    def found(method, data):
        ids = method.describe(w, data)
        before, words, real = method.words(ids)
        logits = method.net.apply(w.nets["net"], before, method.conditions(data))[0][0]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), words[..., None], -1)[..., 0]
        return ids, jnp.where(real, picked, 0.0).sum(-1)

    _, one = jax.jit(partial(found, replace(method, beam=1)))(data)
    wide = jax.jit(partial(found, replace(method, beam=16)))
    ids, many = wide(data)
    assert (many >= one - 1e-4).all()
    alone, _ = wide(jax.tree.map(lambda x: x[1:2], data))
    np.testing.assert_array_equal(ids[1:2], alone)


@pytest.mark.parametrize("kind", NETS)
def test_pads_count_for_nothing_and_shares_are_of_all_places(kind):
    method, w = made(kind)
    data = batch()
    other = {
        **data,
        "caption": jnp.where(jnp.arange(7) > 3, jnp.array([9 - 1]), data["caption"]).at[2].set(data["caption"][2]),
    }
    loss = jax.jit(lambda data: method.loss(w, data, KEY, True))
    one, two = loss(data), loss({**other, "caption": other["caption"].at[0, 3].set(2).at[1, 2].set(2)})
    np.testing.assert_allclose(one.each, two.each, rtol=1e-5)
    words = jnp.array(data["caption"])
    shares = method.looked(w, data, words)
    assert shares.shape[:2] == (3, 7)
    np.testing.assert_allclose(shares[:, 1:].sum((2, 3)), 1.0, rtol=1e-5)
    _, real_words, real = method.words(words)
    assert real.sum(1).tolist() == [3, 2, 6] and (real_words[~np.asarray(real)] == 0).all()


def test_smoothing_is_against_words_that_are_all_as_likely():
    method, w = made("lstm", smoothing=0.0, attend_all=0.0)
    data = batch()
    plain = method.loss(w, data, KEY, False)
    np.testing.assert_allclose(plain.each, plain.metrics["nll"], rtol=1e-6)
    before, words, real = method.words(data["caption"])
    logits = method.net.apply(w.nets["net"], before, method.conditions(data))[0][0]
    want = optax.softmax_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(words, 9), 0.2))
    smooth = made("lstm", smoothing=0.2, attend_all=0.0)[0].loss(w, data, KEY, False)
    np.testing.assert_allclose(smooth.each, jnp.where(real, want, 0).sum(-1) / real.sum(-1), rtol=1e-5)
    unseen = made("lstm", smoothing=0.0, attend_all=2.0)[0].loss(w, data, KEY, False)
    np.testing.assert_allclose(unseen.each - plain.each, 2.0 * plain.metrics["unseen"], rtol=1e-4)


@pytest.mark.parametrize(
    "empty, end, marks", [((1, 2, 0), 2, ((1,), 2, 0)), ((1, 0, 0), 1, ((), 1, 0)), ((6, 7, 7), 7, ((6,), 7, 7))]
)
def test_the_marks_are_those_of_every_tokenizer(empty, end, marks):
    """Bytes and BERT; T5, which has no start; CLIP, whose pad is its end."""
    spec = Spec(SPEC, caption=Field((3,), "int32", "tokens", "target", 9, empty=empty, end=end))
    method = Captioner(net=made("lstm")[0].net, spec=spec)
    assert method.marks == marks and method.marks.begin == (marks[0] or (marks[2],))[-1]
    assert method.places == 3 - len(marks[0])


def test_the_task_turns_the_roles_round():
    field = Bytes(length=9, vocab=300).field(captions=2)
    spec = Describe().spec(with_one_caption(Spec(pictures((8, 8, 3)), caption=field)))
    assert spec.target == "caption" and spec.shape == (9,) and spec.vocabulary == 300
    assert list(spec.conditions) == ["image"] and spec["caption"].end == 2
    with pytest.raises(UserError, match=r"task describe needs a caption as tokens.*set config\.data\.tokenizer=bytes"):
        Describe().spec(pictures((8, 8, 3), 5))

"""Tokens: what is drawn from logits, cached = naive, completions, MaskGIT's passes, likelihoods that sum to one."""

import itertools
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.config.registry import build
from jaxgen.core.conditions import nulls
from jaxgen.core.method import Refuses, Scores
from jaxgen.core.net import Net
from jaxgen.core.spec import Field, Spec, labels, pictures, weighed
from jaxgen.core.state import Weights
from jaxgen.errors import UserError
from jaxgen.images import from_levels
from jaxgen.methods import tokens
from jaxgen.methods.diffusion import listened
from jaxgen.methods.tokens import CausalTokens, Draw, MaskedTokens, TextImageTokens, halton, narrowed, ranks, shown_by
from jaxgen.nets.transformer import CausalTransformer, MaskedTransformer, TextImageTransformer
from jaxgen.runs.experiment import build_method

KEY = jax.random.key(0)
CODES = Spec(image=Field((3, 4), "int32", "tokens", "target", 6), **labels(3))
KNOWN = Spec({**CODES, "known": Field((3, 4), "int32", "tokens", values=6, empty=(6,))})
KINDS = {"causal": (CausalTokens, CausalTransformer), "masked": (MaskedTokens, MaskedTransformer)}


def made(kind, spec=CODES, lr=1e-3, **options):
    """The method with a small net."""
    method, net = KINDS[kind]
    facts = dict(shape=spec.shape, vocabulary=spec.vocabulary, conditions=spec.conditions)
    module = net(**facts, depth=2, width=16, heads=2, norm="rms", positions="rope", gated=True)
    return method(net=Net(module, optax.adam(lr)), spec=spec, **options)


TOLD = Spec({**CODES, "caption": Field((4,), "int32", "tokens", values=9, empty=(1, 2, 0, 0), end=2)})
SAID = jnp.array([[1, 4, 5, 2], [1, 2, 0, 0], [1, 8, 2, 0], [1, 4, 2, 7]])


def dalle(**options):
    """A small model of texts and pictures."""
    module = TextImageTransformer(shape=(3, 4), vocabulary=6, conditions=TOLD.conditions, depth=2, width=16, heads=2)
    return TextImageTokens(net=Net(module, optax.adam(1e-3)), spec=TOLD, **options)


def weights(method, scale=0.5):
    """Weights away from where the net starts, so that every token depends on those it may see."""
    shapes = jax.eval_shape(method.init, KEY, method.spec.abstract(2)).nets["net"].params
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(scale * rng.standard_normal(a.shape), a.dtype), shapes)
    return Weights(jnp.zeros((), jnp.int32), {"net": {"params": params}}, {}, {})


def test_narrowed_keeps_the_likeliest_and_one_at_least():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]]))
    kept = lambda **options: narrowed(logits, **options).astype(int).tolist()  # noqa: E731
    assert kept() == [[1, 1, 1, 1]] * 2
    assert kept(top_k=2) == [[1, 1, 0, 0], [1, 0, 0, 1]]  # of equals the first
    assert kept(top_p=0.75) == [[1, 1, 1, 0], [1, 0, 0, 1]] and kept(top_p=0.65) == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert kept(top_p=1e-6) == kept(min_p=1.0) == kept(top_k=1) == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert kept(min_p=0.6) == [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert kept(top_k=3, top_p=0.5) == [[1, 1, 0, 0], [0, 0, 0, 1]]  # of what the first has left: 4/9, 3/9, 2/9


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_draw_has_the_frequencies_of_softened_logits(temperature):
    logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
    drawn = Draw(temperature, top_k=3)(jnp.broadcast_to(logits, (40_000, 4)), KEY)
    want = jax.nn.softmax(logits[:3] / temperature)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4)[:3] / 40_000, want, atol=0.01)
    assert int(drawn.max()) == 2
    assert (Draw(0.0)(jax.random.normal(KEY, (50, 9)), KEY) == jax.random.normal(KEY, (50, 9)).argmax(-1)).all()


GUIDES = {
    "none": {},
    "cfg": dict(scale=2.0),
    "negative": dict(scale=2.0, avoid=1),
    "interval": dict(scale=2.0, low=0.2, high=0.7),
    "rising": dict(scale=4.0),
    "rescaled": dict(scale=3.0),
}


def one_by_one(method, w, rng, num, cond):
    """Causal tokens without a cache: the whole net for each of them."""
    ids, (net, null) = jnp.zeros((num, method.places), jnp.int32), (w.nets["net"], nulls(method.spec, num))

    @jax.jit
    def step(i, ids):
        model = lambda ids, time, cond: method.net.apply(net, ids, cond)[0][:, i]  # noqa: E731
        logits = method.guide(model, cond, null)(ids, jnp.full(num, 1.0 - i / method.places))
        return ids.at[:, i].set(method.draw(logits, jax.random.fold_in(rng, i)))

    for i in range(method.places):
        ids = step(i, ids)
    return ids.reshape(num, *method.spec.shape)


@pytest.mark.parametrize("guide", GUIDES)
def test_drawing_with_a_cache_is_drawing_without(guide, monkeypatch):
    """The same noise gives the same tokens, whatever the guide, over several blocks of the cache."""
    monkeypatch.setattr(tokens, "BLOCK", 5)
    guide = build("guide", {"name": guide, **GUIDES[guide]}, {"spec": CODES})
    method = made("causal", guide=guide, condition_dropout=0.1, draw=Draw(0.8, top_k=5))
    w, cond = weights(method, 0.4), {"label": jnp.array([0, 1, 2, 3])}
    refuse_other_tokens(method, w, cond)


def test_drawing_behind_a_cached_text_is_drawing_without(monkeypatch):
    """Also where a text is set against the empty one."""
    monkeypatch.setattr(tokens, "BLOCK", 5)
    guide = build("guide", {"name": "cfg", "scale": 2.0}, {"spec": TOLD})
    method = dalle(guide=guide, condition_dropout=0.1, draw=Draw(0.8, top_p=0.95))
    refuse_other_tokens(method, weights(method, 0.4), {"label": jnp.array([0, 1, 2, 3]), "caption": SAID})


def refuse_other_tokens(method, w, cond):
    """With a cache and without."""
    found = jax.jit(lambda w: method.sample(w, KEY, 4, cond))(w)
    np.testing.assert_array_equal(found, one_by_one(method, w, KEY, 4, cond))
    assert len(np.unique(np.asarray(found))) > 3


@pytest.mark.slow
def test_a_masked_model_reads_several_rows_of_a_text_and_weights_of_its_words():
    rows = Field((2, 4), "int32", "tokens", values=9, empty=(1, 2, 0, 0), end=2)
    config = configs.normalise(configs.load(f"{ROOT}/configs/muse_shapes.py:tiny"))
    method = build_method(config, Spec(image=CODES["image"], caption=rows))
    batch = {"image": jnp.zeros((2, 3, 4), int), "caption": jnp.stack([SAID[:2], SAID[2:]])}
    w = jax.jit(method.init)(KEY, batch).view()
    said = np.stack(
        [batch["caption"], np.where(SAID == 4, weighed(SAID, np.full(SAID.shape, 1.5)), SAID).reshape(2, 2, 4)]
    )
    plain, louder = (listened(method.net, w.nets["net"], {"caption": jnp.asarray(ids)}) for ids in said)
    assert plain["states"].shape == (2, 8, 8) and method.weighs
    assert (plain["states"] != louder["states"]).any((1, 2)).tolist() == [True, True]
    made = jax.eval_shape(lambda w, ids: method.sample(w, KEY, 2, {"caption": ids}), w, batch["caption"])
    assert made.shape == (2, 3, 4)


def test_the_loss_of_a_text_and_its_picture_adds_up():
    """Each a mean over its tokens; what fills a text up is none of them, and is nobody's business."""
    method = dalle()
    w, batch = (
        weights(method),
        {"image": jnp.arange(48).reshape(4, 3, 4) % 6, "caption": SAID, "label": jnp.zeros(4, jnp.int32)},
    )
    loss = method.loss(w, batch, KEY, False)
    np.testing.assert_allclose(loss.each, (loss.metrics["nll_text"] + 7 * loss.metrics["nll"]) / 8, rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["nll"], -method.log_prob(w, batch, KEY) / 12, rtol=1e-5)
    _, text = method.net.apply(w.nets["net"], method.ids(batch["image"]), batch, method="both")[0]
    each = jnp.take_along_axis(-jax.nn.log_softmax(text), SAID[..., None], -1)[..., 0]
    length = [4, 2, 3, 3]  # up to and with the end
    wanted = [each[i, :n].mean() for i, n in enumerate(length)]
    np.testing.assert_allclose(loss.metrics["nll_text"], wanted, rtol=1e-5)
    other = {**batch, "caption": SAID.at[3, 3].set(5)}  # behind the end
    np.testing.assert_array_equal(method.loss(w, other, KEY, False).each, loss.each)
    with pytest.raises(UserError, match=r"knows nothing of texts; set config.method.net=text_image_transformer"):
        replace(method, net=made("causal").net)


def test_the_likelihoods_of_all_pictures_sum_to_one():
    """Of two pixels with three levels; the likelihood is exact, and has bits per dimension."""
    spec = pictures((1, 2, 1), levels=3)
    method = made("causal", spec)
    assert isinstance(method, Scores) and (method.kind, method.levels) == ("exact", 3)
    every = np.array(list(itertools.product([0, 128, 255], repeat=2)), np.uint8).reshape(9, 1, 2, 1)
    log_prob = method.log_prob(weights(method), {"image": jnp.asarray(every)}, KEY)
    assert float(jnp.exp(log_prob).sum()) == pytest.approx(1.0, abs=1e-5)
    assert log_prob.std() > 0.1
    found = method.sample(weights(method), KEY, 64, {})
    assert found.dtype == jnp.float32 and set(np.unique(np.asarray(found))) == {-1.0, 0.0, 1.0}
    bits = method.eval_step(weights(method), {"image": jnp.asarray(every)}, KEY)["bits_per_dim"]
    np.testing.assert_allclose(bits, -log_prob / (2 * np.log(2)), rtol=1e-5)
    assert not isinstance(made("masked"), Scores)


def told(x, given):
    """Conditions of a completion: tokens x [B, 3, 4] where `given` [3, 4], labels in turn."""
    return {"label": jnp.arange(len(x)) % 3, "known": jnp.where(given, x, 6)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_keeps_what_was_given(kind):
    method = made(kind, KNOWN)
    w, x = weights(method, 0.4), jax.random.randint(jax.random.key(1), (3, 3, 4), 0, 6)
    given = np.arange(12).reshape(3, 4) < 5
    sample = jax.jit(lambda cond: method.sample(w, KEY, 3, cond))
    found = sample(told(x, given))
    np.testing.assert_array_equal(np.asarray(found)[:, given], np.asarray(x)[:, given])
    other = sample(told((x + 1) % 6, given))
    assert (np.asarray(found)[:, ~given] != np.asarray(other)[:, ~given]).any()  # the rest depends on what was given
    plain = made(kind).sample(w, KEY, 3, {"label": jnp.arange(3)})
    np.testing.assert_array_equal(sample(told(x, np.zeros((3, 4), bool))), plain)
    np.testing.assert_array_equal(sample(told(x, np.ones((3, 4), bool))), x)


def test_any_tokens_may_be_given_to_the_masked_model_and_a_beginning_to_the_causal_one():
    given = np.arange(12).reshape(3, 4) % 5 == 3
    x = jax.random.randint(jax.random.key(1), (2, 3, 4), 0, 6)
    method = made("masked", KNOWN)
    found = method.sample(weights(method), KEY, 2, told(x, given))
    np.testing.assert_array_equal(np.asarray(found)[:, given], np.asarray(x)[:, given])
    method = made("causal", KNOWN)
    assert isinstance(method, Refuses) and not isinstance(made("masked"), Refuses)
    with pytest.raises(UserError, match="one that is hidden comes before one that is shown"):
        method.refuse(told(x, given))
    method.refuse(told(x, np.arange(12).reshape(3, 4) < 7))
    method.refuse({"label": np.zeros(2)})  # what else is asked for says nothing


def test_pixels_that_are_shown_stay():
    """A picture on levels, with the mask of the task `hide`; the net is told neither."""
    spec = pictures((2, 2, 3), levels=5)
    shown = Field((2, 2, 3), "float32", "image"), Field((2, 2, 1), "float32", "mask")
    method = made("causal", Spec({**spec, "shown": shown[0], "mask": shown[1]}))
    assert method.heard({"shown": 0, "mask": 0}) == {}
    x = from_levels(jax.random.randint(jax.random.key(1), (8, 2, 2, 3), 0, 5), 5)
    mask = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0]).reshape(2, 2, 1), (8, 2, 2, 1))
    found = method.sample(weights(method), KEY, 8, {"shown": x, "mask": mask})
    np.testing.assert_allclose(found * (1 - mask), x * (1 - mask), atol=1e-6)
    assert (found != x).any() and set(np.unique(np.asarray(2 * found + 2))) <= {0.0, 1.0, 2.0, 3.0, 4.0}


@dataclass
class Watched:
    """In place of a net: logits that change with every pass, and what it was shown."""

    logits: object
    module: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(causal=False, takes=("label",)))
    seen: list = field(default_factory=list)

    def apply(self, variables, ids, cond):
        self.seen.append(np.asarray(ids))
        return self.logits(len(self.seen), ids), {}


def random_logits(i, ids):
    return 2.0 * jax.random.normal(jax.random.key(i), (*ids.shape, 6))


@pytest.mark.parametrize("first", ["sure", "halton"])
@pytest.mark.parametrize("passes", [1, 4, 8, 20])
def test_each_token_is_shown_once_and_never_drawn_again(first, passes):
    """After every pass exactly as many are hidden as the schedule says; what was shown stays to the end."""
    net = Watched(random_logits)
    method = replace(made("masked", KNOWN, passes=passes, first=first), net=net)
    x = jax.random.randint(jax.random.key(9), (5, 3, 4), 0, 6)
    given = np.arange(12).reshape(3, 4) % 5 < np.arange(5).reshape(5, 1, 1)  # as many as 0, 3, 6, 8, 10
    with jax.disable_jit():
        end = method.sample(SimpleNamespace(nets={"net": None}), KEY, 5, told(x, given))
    states = [*net.seen, np.asarray(end).reshape(5, 12)]
    for i, hidden in enumerate(12 - given.sum((1, 2))):
        left = hidden - np.concatenate([[0], np.cumsum(shown_by(12, passes)[hidden])])
        assert [(s[i] == 6).sum() for s in states] == left.tolist() and left[-1] == 0
    for before, after in itertools.pairwise(states):
        np.testing.assert_array_equal(after[before != 6], before[before != 6])
    np.testing.assert_array_equal(np.asarray(end)[given], np.asarray(x)[given])


def test_the_schedule_is_the_cosine_and_every_pass_shows_something():
    assert (
        shown_by(256, 8)[256].tolist()
        == (-np.diff([256, *np.floor(256 * np.cos(np.pi / 16 * np.arange(1, 8))), 0])).tolist()
    )
    for hidden, passes in itertools.product((0, 1, 5, 49), (1, 3, 12, 60)):
        shown = shown_by(60, passes)[hidden]
        assert shown.sum() == hidden and (shown >= 0).all() and (shown[: min(hidden, passes)] > 0).all()


def test_ties_are_shown_in_the_order_of_their_places():
    assert ranks(jnp.array([[1.0, 2.0, 1.0, 2.0]])).tolist() == [[2, 0, 3, 1]]
    net = Watched(lambda i, ids: jnp.zeros((*ids.shape, 6)))
    method = replace(made("masked", passes=4, doubt=0.0), net=net)
    with jax.disable_jit():
        method.sample(SimpleNamespace(nets={"net": None}), KEY, 1, {"label": jnp.zeros(1, jnp.int32)})
    for state, shown in zip(net.seen[1:], np.cumsum(shown_by(12, 4)[12]), strict=False):
        np.testing.assert_array_equal(state[0] != 6, np.arange(12) < shown)


def test_a_halton_sequence_visits_every_place_once_and_spreads():
    turn = halton((8, 8))
    assert sorted(turn) == list(range(64)) and sorted(halton((5,))) == list(range(5))
    place = np.argsort(turn)  # the first are 1/2, 1/3; 1/4, 2/3; 3/4, 1/9
    assert [divmod(int(p), 8) for p in place[:3]] == [(4, 2), (2, 5), (6, 0)]
    for half in (place[:16] // 8 // 4, place[:16] % 8 // 4):
        assert 6 <= half.sum() <= 10


def test_training_hides_the_share_that_the_cosine_says():
    """At least one token, all at most, 2 / pi in the mean: each hidden token counts alike in the mean loss."""
    method = made("masked")
    hidden = np.asarray(method.hide(KEY, 20_000))
    assert hidden.sum(1).min() == 1 and hidden.sum(1).max() == 12
    assert hidden.mean() == pytest.approx(2 / np.pi + 0.5 / 12, abs=0.01)  # rounded up: half a token more
    np.testing.assert_allclose(hidden.mean(0), hidden.mean(), atol=0.02)


def test_the_masked_loss_is_of_hidden_tokens_alone():
    method = made("masked", smoothing=0.0)
    w, batch = weights(method), {"image": jnp.zeros((4, 3, 4), jnp.int32), "label": jnp.zeros(4, jnp.int32)}
    hide_rng = jax.random.split(KEY, 3)[0]
    hidden = method.hide(hide_rng, 4)
    other = jnp.where(hidden.reshape(4, 3, 4), batch["image"], 5)
    loss = method.loss(w, batch, KEY, False)
    np.testing.assert_allclose(loss.each, loss.metrics["nll"])
    assert (method.loss(w, {**batch, "image": other}, KEY, False).each != loss.each).any()  # what is shown is seen
    logits = method.net.apply(w.nets["net"], jnp.where(hidden, 6, 0), {"label": batch["label"]})[0]
    each = jnp.where(hidden, -jax.nn.log_softmax(logits)[..., 0], 0.0).sum(-1) / (12 * 2 / np.pi)
    np.testing.assert_allclose(loss.each, each, rtol=1e-5)
    smooth = replace(method, smoothing=0.1).loss(w, batch, KEY, False).each
    mean = jnp.where(hidden, -jax.nn.log_softmax(logits).mean(-1), 0.0).sum(-1) / (12 * 2 / np.pi)
    np.testing.assert_allclose(smooth, 0.9 * each + 0.1 * mean, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_which_tokens_go_together(kind):
    """Of three labels, each with one map of tokens, nothing else is drawn after some hundred steps."""
    maps = jax.random.randint(jax.random.key(5), (3, 3, 4), 0, 6)
    options = dict(passes=4, smoothing=0.0) if kind == "masked" else {}
    method = made(kind, lr=1e-2, **options)
    label = jnp.arange(24) % 3
    batch = {"image": maps[label], "label": label}

    @jax.jit
    def train(state):
        return jax.lax.scan(lambda s, key: method.train_step(s, batch, key), state, jax.random.split(KEY, 150))

    state, metrics = train(method.init(KEY, batch))
    assert metrics["loss"][-1] < 0.1 * metrics["loss"][0]
    cold = replace(method, draw=Draw(0.5))
    np.testing.assert_array_equal(
        jax.jit(lambda w: cold.sample(w, KEY, 6, {"label": label[:6]}))(state.view()), maps[label[:6]]
    )

"""The transformers of tokens: who sees whom, and that a cache, a scan and the place of its blocks change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec, labels
from jaxgen.errors import UserError
from jaxgen.nets.dit import stack_blocks
from jaxgen.nets.layers import attention
from jaxgen.nets.transformer import CausalTransformer, MaskedTransformer, TextImageTransformer, turns

SMALL = dict(shape=(2, 3), vocabulary=7, conditions=labels(3), depth=2, width=16, heads=2)
LLAMA = dict(norm="rms", gated=True, mlp_ratio=8 / 3, positions="rope", qk_norm=True, use_bias=False)
TOLD = dict(conditions=Spec(labels(3), caption=Field((4,), "int32", "tokens", values=9, empty=(1, 2, 0, 0), end=2)))
FORMS = {"minGPT": {}, "LlamaGen": LLAMA, "a scan": dict(LLAMA, scan=True)}


def moved(module):
    """Variables away from those that the net starts with, so that every layer matters."""
    ids = jax.ShapeDtypeStruct((2, module.places), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), ids, module.conditions.abstract(2))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.4 * rng.standard_normal(a.shape), a.dtype), shapes)


def influence(module):
    """bool [N, 1 + N]: whether the logits of a place depend on the first token, and on that of every place."""
    ids, cond = jnp.arange(module.places)[None], {"label": jnp.array([1])}  # every place has a row of the table
    variables = moved(module)

    def logits(tables):
        params = {
            **variables["params"],
            "table": {"embedding": tables[0]},
            "start": {"label": {"embedding": tables[1]}},
        }
        return module.apply({"params": params}, ids, cond)[0]

    tables = variables["params"]["table"]["embedding"], variables["params"]["start"]["label"]["embedding"]
    places, label = (jnp.abs(slope).sum((1, 3)) for slope in jax.jit(jax.jacobian(logits))(tables))
    return np.concatenate([label[:, 1:2], places[:, : module.places]], 1) > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_place_sees_what_it_may_and_nothing_else(form):
    """By the zeros of the Jacobian: the causal net the first token and those before it, the other all of them."""
    causal, all_at_once = (kind(**SMALL | FORMS[form]) for kind in (CausalTransformer, MaskedTransformer))
    np.testing.assert_array_equal(influence(causal), np.tri(6, 7, dtype=bool))
    assert influence(all_at_once).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length, told", [(4, False), (6, False), (4, True)])
def test_tokens_one_by_one_have_the_logits_of_all_at_once(form, length, told):
    """Whatever the length of the blocks in which the cache is kept; a text that stands before them is cached whole."""
    kind, fields = (TextImageTransformer, TOLD) if told else (CausalTransformer, {})
    module = kind(**SMALL | FORMS[form] | fields)
    variables = moved(module)
    ids = jax.random.randint(jax.random.key(1), (2, 6), 0, 7)
    cond = {"label": jnp.array([0, 3]), "caption": jnp.array([[1, 4, 2, 0], [1, 2, 0, 0]])}
    wanted = jax.jit(module.apply)(variables, ids, cond)
    first, frozen = module.apply(variables, 2, cond, method="begin")
    step = jax.jit(lambda *args: module.apply(variables, *args, method="step"))
    found = []
    for start in range(0, 6, length):
        current = module.cache(2, min(length, 6 - start))
        for place in range(start, min(start + length, 6)):
            logits, current = step(ids[:, place - 1], place, first, frozen, current)
            found.append(logits)
        frozen = jax.tree.map(lambda a, b: jnp.concatenate([a, b], -2), frozen, current)
    np.testing.assert_allclose(jnp.stack(found, 1), wanted, atol=1e-5, rtol=1e-5)


def test_a_scan_over_blocks_is_the_blocks():
    plain = CausalTransformer(**SMALL | LLAMA)
    variables = moved(plain)
    ids, cond = jnp.zeros((2, 6), jnp.int32), {"label": jnp.array([0, 3])}
    stacked = {"params": stack_blocks(variables["params"])}
    wanted = plain.apply(variables, ids, cond)
    for fields in (dict(scan=True), dict(scan=True, remat=True), dict(scan=True, remat="cheap")):
        np.testing.assert_allclose(plain.clone(**fields).apply(stacked, ids, cond), wanted, atol=1e-5)


def test_a_turn_depends_on_how_far_two_tokens_are_apart():
    """Row and column each turn their half: what two tokens say to one another changes with their distance alone."""
    angles = turns((3, 4), 8)
    assert angles.shape == (13, 4) and not angles[0].any()
    grid = angles[1:].reshape(3, 4, 4)
    np.testing.assert_allclose(grid[1:] - grid[:-1], np.broadcast_to([1, 0.01, 0, 0], (2, 4, 4)), atol=1e-12)
    np.testing.assert_allclose(grid[:, 1:] - grid[:, :-1], np.broadcast_to([0, 0, 1, 0.01], (3, 3, 4)), atol=1e-12)
    assert turns((2, 2, 3), 8).shape == (13, 4) and turns((5,), 8).shape == (6, 4)


def test_causal_attention_is_that_of_a_mask():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 6, 2, 4))
    np.testing.assert_allclose(
        attention(q, k, v, causal=True), attention(q, k, v, np.tri(6, dtype=bool)[None]), atol=1e-6
    )


def test_what_is_told_is_the_first_token_and_nothing_is_a_vector():
    module = CausalTransformer(**SMALL | dict(conditions=Spec()))
    assert moved(module)["params"]["start"]["token"].shape == (16,)


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(norm="batch"), "norm='batch' is unknown; there are: layer, rms"),
        (dict(positions="sine"), "positions='sine' is unknown; there are: learned, rope"),
        (dict(heads=3), "does not split into heads=3; set heads=1"),
        (dict(heads=8, positions="rope"), "heads of 2 numbers .* set positions='learned'"),
    ],
)
def test_mistakes_are_one_line(fields, words):
    with pytest.raises(UserError, match=words):
        moved(CausalTransformer(**SMALL | fields))

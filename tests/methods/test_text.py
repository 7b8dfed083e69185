"""A frozen encoder tells a net what a text says; what is empty, what is padded, what is refused."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT
from flax import linen as nn
from pipeline_files import filled
from safetensors.numpy import save_file

from jaxgen.cache import cache
from jaxgen.config import files as configs
from jaxgen.core import conditions
from jaxgen.core.conditions import heard
from jaxgen.core.spec import Spec, weighed
from jaxgen.core.text import CachedStates, encode, kept_in, place_of
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import read_text
from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.nets.text import ClipText
from jaxgen.pretrained.autoencoders import save_diffusers
from jaxgen.pretrained.text import to_transformers
from jaxgen.runs.experiment import Experiment, open_source, without_states

CLIP = dict(model_type="clip_text_model", vocab_size=512, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=24, hidden_act="quick_gelu", eos_token_id=2)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder as transformers writes it, of an encoder with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    module = ClipText(values=512, length=24, depth=2, width=8, heads=2, hidden=16)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 24), jnp.int32))
    save_file(to_transformers(module, variables, "text_model."), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CLIP))
    return folder


def opened(clip, **changes):
    """The experiment of a config whose net is told what that encoder says."""
    config = configs.override(
        configs.load(f"{ROOT}/configs/text_shapes.py:tiny"),
        {
            "method.net.text": None,
            "method.text_encoder": {"name": "frozen", "run": {"name": "published_text", "path": str(clip)}},
            **changes,
        },
    )
    return Experiment.open(config, open_source(config, "train").spec)


def test_a_net_is_told_what_a_frozen_encoder_says(clip, tmp_path):
    exp = opened(clip)
    assert exp.method.net.module.conditions.keys() == {"states", "text_mask", "pooled"} and list(
        exp.spec.conditions
    ) == ["caption"]
    assert exp.abstract.frozen["text"].weights["params"]["table"]["embedding"].shape == (512, 8)
    assert {x.sharding.mesh for x in jax.tree.leaves(exp.abstract.frozen)} == {exp.mesh}
    params = exp.abstract.nets["net"].params
    assert (
        params["mid_attend"]["block0"]["text"]["kv"]["kernel"].shape == (8, 16)
        and params["pooled"]["kernel"].shape[0] == 8
    )
    frozen, ids = exp.frozen(), exp.tokenizer.encode(["a red ring", ""])
    told = encode(exp.method.text_encoder, exp.spec, frozen, {"caption": jnp.asarray(ids)})
    direct = frozen["text"].model.encode_text(frozen["text"].weights, jnp.asarray(ids))
    assert told.keys() == {"states", "text_mask", "pooled"}
    jax.tree.map(np.testing.assert_array_equal, told, direct)
    nothing = replace(exp.method.text_encoder, null="zeros", pooled=False)
    told = encode(nothing, exp.spec, frozen, {"caption": jnp.asarray(ids)})
    assert told.keys() == {"states", "text_mask"} and told["text_mask"].sum(1).tolist() == [3, 0]
    assert not np.asarray(told["states"])[1].any() and np.asarray(told["states"])[0].any()
    seen = encode(replace(nothing, masked=False), exp.spec, frozen, {"caption": jnp.asarray(ids)})
    assert seen.keys() == {"states"}  # of zeros too, as SDXL has them
    assert kept_in(nothing, tmp_path) == nothing and kept_in((nothing,) * 2, tmp_path) == (nothing,) * 2
    (tmp_path / "text2").mkdir()  # a copy in the run's directory goes first
    assert [Path(one.run.path).name for one in kept_in((nothing,) * 2, tmp_path)] == [clip.name, "text2"]
    np.testing.assert_array_equal(seen["states"], told["states"])


def beside(one, two):  # SDXL
    return {
        "states": jnp.concatenate([one["states"], two["states"].at[1].set(0)], -1),
        "pooled": two["pooled"].at[1].set(0),
    }


def behind(one, two, three):  # Stable Diffusion 3
    wide, narrow = (
        jnp.concatenate([one["states"], two["states"]], -1),
        jnp.pad(three["states"], ((0, 0), (0, 0), (0, 8))),
    )
    pooled = jnp.concatenate([part["pooled"] for part in (one, two, three)], -1)
    return {"states": jnp.concatenate([wide, narrow], 1), "pooled": pooled}


def apart(one, two):  # Flux
    return {"states": two["states"], "pooled": one["pooled"]}


@pytest.mark.parametrize(
    ("parts", "join"),
    [
        ((dict(pooled=False), dict(null="zeros")), beside),
        ((dict(), dict(), dict(join="behind")), behind),
        ((dict(states=False), dict(pooled=False)), apart),
    ],
    ids=["sdxl", "sd3", "flux"],
)
def test_several_encoders_tell_a_net_together(clip, parts, join):
    tokenizers = tuple(dict(name="bytes", length=24, vocab=512 if i == 0 else 260 + i) for i in range(len(parts)))
    common = dict(name="frozen", run=dict(name="published_text", path=str(clip)), masked=False)
    encoders = tuple({**common, **part} for part in parts)
    exp = opened(clip, **{"data.tokenizer": tokenizers, "method.text_encoder": encoders, "tasks.size": "size"})
    names = ["caption", "caption2", "caption3"][: len(parts)]
    assert list(exp.spec.conditions) == [*names, "size"] and exp.from_data == names
    null, told, lent = conditions.nulls(exp.spec, 2), exp.tokens(["a red ring", ""]), exp.frozen()
    assert null["size"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2
    assert (told["caption2"] != told["caption"]).any()
    cond = {**null, **{k: jnp.asarray(v) for k, v in told.items()}}
    made = encode(exp.method.text_encoder, exp.spec, lent, cond)
    each = [lent[k].model.encode_text(lent[k].weights, cond[name]) for k, name in zip(lent, names, strict=True)]
    wanted = {**join(*each), "size": null["size"]}
    assert {k: v.shape[1:] for k, v in wanted.items()} == {
        k: f.shape for k, f in exp.method.net.module.conditions.items()
    }
    jax.tree.map(np.testing.assert_array_equal, made, wanted)


def test_each_encoder_is_not_shown_a_text_of_its_own(clip):
    exp = opened(clip)
    one, lent, ids = exp.method.text_encoder, exp.frozen()["text"], exp.tokens(["a red ring"] * 64)["caption"]
    field, two = exp.spec["caption"], (replace(one, dropout=0.5), replace(one, dropout=0.5, null="zeros"))
    spec = Spec(exp.spec, caption2=field)
    cond = {name: jnp.asarray(ids) for name in ("caption", "caption2")}
    told = lambda cond, *rng: encode(two, spec, {"text": lent, "text2": lent}, cond, *rng)  # noqa: E731
    made = jax.jit(told)(cond, jax.random.key(0))
    (first, second), empty = (
        np.split(made["states"], 2, -1),
        jax.jit(lent.model.encode_text)(lent.weights, jnp.asarray([field.empty])),
    )
    lost, gone = np.isclose(first, empty["states"], atol=1e-5).all((1, 2)), (second == 0).all((1, 2))
    assert 16 < lost.sum() < 48 and 16 < gone.sum() < 48 and (lost != gone).sum() > 8
    kept = np.asarray(jax.jit(told)(cond)["states"])
    np.testing.assert_allclose(kept, np.broadcast_to(kept[:1], kept.shape), atol=1e-5)
    np.testing.assert_allclose(kept[0, :, :8], first[~lost][0], atol=1e-5)


def test_a_long_text_and_words_that_count_more():
    """By the rule of diffusers' long-prompt-weighting pipelines: states times weights, times what brings the mean back."""
    rng = np.random.default_rng(0)
    table, whole = jnp.asarray(rng.normal(size=(9, 3)), jnp.float32), jnp.asarray(rng.normal(size=(9, 2)), jnp.float32)

    def encoder(ids):
        return {"states": table[ids], "text_mask": (ids > 0).astype(jnp.float32), "pooled": whole[ids[:, 0]]}

    ids = np.array([[[1, 2, 3, 0], [4, 5, 0, 0]], [[1, 6, 7, 8], [3, 0, 0, 0]]])
    weights = np.where(ids == 2, 1.5, np.where(ids == 5, 0.7, 1.0))
    made = heard(encoder, jnp.asarray(weighed(ids, weights)))
    states = np.asarray(table)[ids.reshape(2, 8)]
    louder = states * weights.reshape(2, 8, 1)
    louder *= states.mean((1, 2), keepdims=True) / louder.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(made["states"], louder, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made["states"][1], states[1])  # nothing was said of its words
    np.testing.assert_array_equal(made["text_mask"], ids.reshape(2, 8) > 0)
    np.testing.assert_array_equal(made["pooled"], np.asarray(whole)[[1, 1]])


def test_a_net_learns_what_stands_for_nothing(clip):
    changes = {"method.text_encoder.null": "learned", "method.text_encoder.masked": False}
    with pytest.raises(
        UserError, match=r"has null=learned, and the net learns none; set config.method.net.learned_null=True"
    ):
        opened(clip, **changes)
    with pytest.raises(
        UserError, match=r"learned_null=True is never shown with .*; set config.method.text_encoder.null=learned"
    ):
        opened(clip, **{"method.net.learned_null": True})
    exp = opened(clip, **changes, **{"method.net.learned_null": True})
    assert exp.abstract.nets["net"].params["null_text"].shape == (24, 8)
    told = encode(
        exp.method.text_encoder, exp.spec, exp.frozen(), {"caption": jnp.asarray(exp.tokens(["a", ""])["caption"])}
    )
    assert told["text_mask"].tolist() == [[1] * 24, [0] * 24] and not told["states"][1].any()

    class Reads(nn.Module):
        learned_null: bool = True

        @nn.compact
        def __call__(self, cond):
            return tuple(read_text(exp.method.net.module.conditions, cond, 2, self))

    (states, mask), variables = Reads().init_with_output(jax.random.key(0), told)
    np.testing.assert_array_equal(states, [told["states"][0], variables["params"]["null_text"]])
    assert mask.all()
    own = configs.override(configs.load(f"{ROOT}/configs/text_shapes.py:tiny"), {"method.net.learned_null": True})
    exp = Experiment.open(own, open_source(own, "train").spec)
    assert exp.abstract.nets["net"].params["null_text"].shape == (24, 8)


def test_encoders_that_cannot_serve_are_refused(clip, tmp_path):
    for changes, wanted in (
        ({"data.tokenizer": "none"}, "reads tokens, and the run is told nothing; set config.data.tokenizer"),
        ({"data.tokenizer.vocab": 600}, "has 600 numbers and the encoder of config.method.text_encoder a table of 512"),
        ({"data.tokenizer.length": 30}, r"30 tokens are more than the 24 places that the encoder knows; set"),
        ({"method.text_encoder.run.path": str(tmp_path)}, "has no config.json with .safetensors"),
        ({"method.text_encoder.run.path": ""}, "path is empty: name the folder"),
        (
            {"data.tokenizer": (dict(name="bytes"),) * 2},
            "names 1 encoders and config.data.tokenizer 2 tokenizers; name one",
        ),
        (
            {"data.tokenizer": (dict(name="bytes"), "none")},
            "names 2 tokenizers: of several there are at most 4, and none may",
        ),
    ):
        with pytest.raises(UserError, match=wanted):
            opened(clip, **changes)


@pytest.mark.slow
def test_cached_states_train_as_those_made_in_the_step(clip, tmp_path):
    path, few = str(tmp_path / "states"), {"data.num": 40, "data.eval_num": 8, "data.batch": 8}
    exp = opened(clip, **few)
    with pytest.raises(UserError, match=r"cache=.*states holds no states of texts; write them first by --mode=cache"):
        opened(clip, **few, **{"method.text_encoder.cache": path})
    cache(exp.config, path, "float32")
    distinct = open_source(exp.config, "train").distinct("caption")
    assert np.load(f"{path}/text/states.npy").shape == (
        len(np.unique(distinct, axis=0)) + 1,
        24,
        8,
    )  # the empty text too
    known = opened(clip, **few, **{"method.text_encoder.cache": path})
    known.refuse_new_texts(open_source(known.config, "train"))
    lent, rng = known.frozen(), jax.random.key(0)
    assert list(lent) == ["text", "text_states"]
    part = replace(known.method.text_encoder, dropout=0.3, null="zeros")

    def told(ids, rng, frozen, part=part):
        return encode(part, known.spec, frozen, {"caption": jnp.asarray(ids)}, rng)

    ids = np.concatenate([distinct[::3], known.tokens([""])["caption"]])
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-5), told(ids, rng, lent), told(ids, rng, {"text": lent["text"]})
    )
    new = known.tokens(["never said before"])["caption"]
    assert np.isnan(told(new, rng, lent, replace(part, dropout=0.0))["states"]).all()  # loud, if ever
    assert np.isfinite(told(new, None, lent)["states"]).all()  # samples and evaluation encode
    assert not without_states(known.config).method.text_encoder.cache and list(exp.loans) == ["text"]
    other = opened(clip, **few | {"data.num": 80, "method.text_encoder.cache": path})
    with pytest.raises(
        UserError, match=r"captions that differ have no states in .*: the data or the tokenizer changed; delete"
    ):
        other.refuse_new_texts(open_source(other.config, "train"))
    meta = tmp_path / "states" / "text" / "meta.json"
    meta.write_text(meta.read_text().replace('"encoder": "', '"encoder": "0'))
    with pytest.raises(UserError, match=r"are of another encoder; delete them, and cache them anew by --mode=cache"):
        CachedStates(path, "text", "caption").refuse_other(lent["text"])
    with pytest.raises(UserError, match=r"holds states of other texts, or of another encoder; delete it"):
        cache(exp.config, path, "float32")


def test_rows_are_found():
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 17, 64):
        rows = np.unique(rng.integers(0, 3, (count, 5)), axis=0)
        np.testing.assert_array_equal(place_of(jnp.asarray(rows), jnp.asarray(rows)), np.arange(len(rows)))


def test_texts_and_latents_cached_together_train_as_pictures_do(clip, tmp_path):
    """One command, one folder; the net is told sizes besides, of which a cache of latents knows none."""
    module = LdmAutoencoder(NormalRegularizer(dim=2), (8, 8, 3), width=4, mults=(1, 1), blocks=1, z=2, groups=2)
    variables = filled(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    save_diffusers(tmp_path / "codec", module, variables, scaling_factor=0.5)
    own = {
        "data.num": 8,
        "data.eval_num": 8,
        "data.batch": 8,
        "tasks.codec": "codec",
        "tasks.codec.run": "pretrained",
        "eval": {},
    }
    own |= {"tasks.codec.run.path": str(tmp_path / "codec"), "tasks.size": "size", "mesh": {"data": 1}}
    exp = opened(clip, **own)
    cache(exp.config, tmp_path / "c", "float32")
    changes = {"data": "latents", "data.path": str(tmp_path / "c"), "data.tokenizer": "none", "tasks.size.height": 16}
    changes |= {"tasks.size.width": 16, "method.text_encoder.cache": str(tmp_path / "c")}
    config = configs.override(exp.config, changes)
    cached = Experiment.open(config, open_source(config, "train").spec)
    assert {*cached.loans} == {
        "codec",
        "text",
        "text_states",
    } and cached.spec.conditions.keys() == exp.spec.conditions.keys()
    seen = []
    for one in (exp, cached):
        source = open_source(one.config, "train")
        one.refuse_new_texts(source)
        rows = [source[i] for i in range(8)]
        batch = {k: jnp.asarray(np.stack([row[k] for row in rows])) for k in one.read_spec}

        @jax.jit
        def told(frozen, batch, one=one):
            batch = one.see(frozen, batch, jax.random.key(3), train=True)
            cond = one.method.encoded(SimpleNamespace(frozen=frozen), one.method.conditions(batch), jax.random.key(1))
            return {"image": batch["image"], **cond}

        seen.append(told(one.frozen(), batch))
    assert seen[0].keys() == seen[1].keys() == {"image", "size", "states", "text_mask", "pooled"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *seen)

"""Cached latents: what a step sees is what encoding in the step would give; resumed, stale, broken."""

import json
import shutil
from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.cache import cache
from jaxgen.config import files as configs
from jaxgen.core import keys
from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.evaluation.retrieval import Retrieval
from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.pretrained.autoencoders import save_diffusers
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.writers import write_text
from jaxgen.train import train


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """A folder of an autoencoder of digits, as others publish it."""
    module = LdmAutoencoder(NormalRegularizer(dim=2), (8, 8, 1), width=4, mults=(1, 1), blocks=1, z=2, groups=2)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    folder = tmp_path_factory.mktemp("codec")
    save_diffusers(folder, module, variables, scaling_factor=0.5)
    return folder


def config_of(codec, **changes):
    own = {"mesh": {"data": 1}, "data.batch": 100, "data.augment": ("flip",), "eval": {}, "method.net.attend": ()}
    own |= {"tasks.codec.run": "pretrained", "tasks.codec.run.path": str(codec)}
    own |= {"tasks.codec.mean": (0.0, 0.1), "tasks.codec.std": (2.0, 1.0)}
    return configs.override(configs.load("configs/latent_digits.py:tiny"), {**own, **changes})


def on_latents(config, folder):
    return configs.override(config, {"data": "latents", "data.path": str(folder)})


@pytest.fixture(scope="module")
def cached(codec, tmp_path_factory):
    """Type of the moments -> the folder of a cache."""
    found = {}
    for dtype in ("float32", "float16"):
        found[dtype] = tmp_path_factory.mktemp(dtype)
        cache(config_of(codec), found[dtype], dtype)
    return found


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float16", 1e-3)])
def test_a_step_sees_what_encoding_in_the_step_gives(dtype, tolerance, codec, cached):
    """The same draws, mirrored where the pictures are: everything after the codec is the same program on the same numbers."""
    seen = []
    for config in (config_of(codec), on_latents(config_of(codec), cached[dtype])):
        source = open_source(config, "train")
        exp = Experiment.open(config, source.spec)
        rows = [source[i] for i in range(40, 140)]
        batch = {k: jnp.asarray(np.stack([row[k] for row in rows])) for k in exp.read_spec}
        see = jax.jit(lambda frozen, batch, exp=exp: exp.see(frozen, batch, keys.root(3), train=True))
        seen.append(see(exp.frozen(), batch))
        assert exp.spec["image"].kind == "latent" and exp.spec.shape == (4, 4, 2)
    np.testing.assert_array_equal(seen[0]["label"], seen[1]["label"])
    np.testing.assert_allclose(
        seen[1]["image"], seen[0]["image"], atol=tolerance * float(jnp.abs(seen[0]["image"]).max())
    )


def test_statistics_are_those_of_all_draws(codec, cached):
    told = json.loads((cached["float32"] / "train/meta.json").read_text())
    stored = np.load(cached["float32"] / "train/image.npy").astype(np.float64)
    assert stored.shape == (1500, 2, 4, 4, 4) and np.load(cached["float16"] / "eval/image.npy").dtype == np.float16
    mean, log_var = np.split(stored.reshape(-1, 4), 2, -1)
    np.testing.assert_allclose(told["statistics"]["mean"], mean.mean(0), atol=1e-6)
    np.testing.assert_allclose(told["statistics"]["std"], np.sqrt(np.exp(log_var).mean(0) + mean.var(0)), rtol=1e-5)
    config = on_latents(config_of(codec, **{"tasks.codec.mean": (), "tasks.codec.std": ()}), cached["float32"])
    source = open_source(config, "train")
    exp = Experiment.open(config, source.spec)
    assert exp.settle(source)["tasks.codec.std"] == (2.0, 2.0)  # as published, 1 / 0.5
    measured = configs.override(config, {"tasks.codec.statistics": "measured"})
    exp = Experiment.open(measured, source.spec)
    assert exp.settle(source)["tasks.codec.std"] == tuple(told["statistics"]["std"])


@pytest.mark.slow
def test_what_was_interrupted_goes_on(codec, cached, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgen.cache.EVERY", 2)
    shutil.copytree(cached["float16"], tmp_path / "c")
    shutil.rmtree(tmp_path / "c/train")
    written = []

    def stop(*args):
        write_text(*args)
        written.append(args)
        if len(written) == 4:  # its first words, then three times two batches
            raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("jaxgen.cache.write_text", stop)
        cache(config_of(codec), tmp_path / "c")
    assert json.loads((tmp_path / "c/train/meta.json").read_text())["done"] == 600
    with pytest.raises(UserError, match="has 600 of 1,500 pictures; go on by the same"):
        open_source(on_latents(config_of(codec), tmp_path / "c"), "train")
    shutil.copytree(tmp_path / "c", tmp_path / "other")
    cache(config_of(codec), tmp_path / "c")
    for name in ("image.npy", "label.npy", "meta.json"):
        assert (tmp_path / "c/train" / name).read_bytes() == (cached["float16"] / "train" / name).read_bytes(), name
    cache(config_of(codec, **{"data.batch": 70}), tmp_path / "other")  # whose eighth batch ends within what was done
    told, want = (json.loads((at / "train/meta.json").read_text()) for at in (tmp_path / "other", cached["float16"]))
    assert told["sums"][0] == 1500
    for name, value in want["statistics"].items():
        np.testing.assert_allclose(told["statistics"][name], value, rtol=1e-5)


@pytest.mark.slow
def test_a_run_on_latents_resumes_bitwise(codec, cached, tmp_path):
    config = on_latents(config_of(codec, steps=4, save_every=2, keep=2), cached["float16"])
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/4")
    train(config, tmp_path / "cut")
    exp = Experiment.open(config, open_source(config, "train").spec, tmp_path / "whole/frozen")
    ends = [Checkpoints(tmp_path / name, read_only=True).trained(lambda _: exp.abstract) for name in ("whole", "cut")]
    assert [step for step, _ in ends] == [4, 4]
    whole, cut = (jax.tree.leaves((state.nets, state.extra)) for _, state in ends)
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_latents_are_told_captions_and_asked_for_texts(tmp_path, monkeypatch):
    module = LdmAutoencoder(NormalRegularizer(dim=2), (8, 8, 3), width=4, mults=(1, 1), blocks=1, z=2, groups=2)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    save_diffusers(tmp_path / "codec", module, variables)
    own = {"mesh": {"data": 1}, "data.batch": 100, "tasks.codec.run": "pretrained", "eval": {}}
    own |= {"tasks.codec.run.path": str(tmp_path / "codec"), "data.num": 200}
    config = configs.override(configs.load("configs/text_shapes.py:tiny"), {**own, "tasks.codec": "codec"})
    cache(config, tmp_path / "c")
    latents = on_latents(configs.override(config, {"data.tokenizer": "none"}), tmp_path / "c")
    source, pictures = open_source(latents, "train"), open_source(config, "train")
    exp = Experiment.open(latents, source.spec)
    assert exp.spec.conditions.of("tokens") and exp.spec[exp.spec.target].kind == "latent"
    for i in (0, 199):
        np.testing.assert_array_equal(exp.tokenizer.encode([pictures.captions[i][0]])[0], source[i]["caption"])
    judge = SimpleNamespace(**dict.fromkeys(("texts", "pictures"), lambda x: np.eye(len(x))), viewer=MagicMock())
    monkeypatch.setattr("jaxgen.evaluation.retrieval.Matcher.of", lambda *_: judge)
    for name in ("asked_for", "through_codec"):
        monkeypatch.setattr(f"jaxgen.evaluation.retrieval.{name}", lambda *_: np.zeros(8))
    found = Retrieval(num=8)(exp, None, None, open_source(latents, "eval")).scalars
    assert found["retrieval_real_text_1"] == 1.0 and found["retrieval_shuffled_text_1"] == 0.0


def test_what_is_stale_or_does_not_fit_is_refused(codec, cached, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(codec, other)
    module = LdmAutoencoder(NormalRegularizer(dim=2), (8, 8, 1), width=4, mults=(1, 1), blocks=1, z=2, groups=2)
    variables = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    save_diffusers(other, module, variables)
    with pytest.raises(UserError, match="holds latents of another codec"):
        cache(config_of(other), cached["float16"])
    config = on_latents(config_of(other), cached["float16"])
    source = open_source(config, "train")
    with pytest.raises(UserError, match="are of another codec than"):
        Experiment.open(config, source.spec).settle(source)
    meta = json.loads((cached["float16"] / "train/meta.json").read_text())
    shutil.copytree(cached["float16"], tmp_path / "c")
    (tmp_path / "c/train/meta.json").write_text(json.dumps({**meta, "pictures": "0123"}))
    with pytest.raises(UserError, match="are of other pictures than digits holds now"):
        open_source(on_latents(config_of(codec), tmp_path / "c"), "train")
    for changes, told in (
        ({"data.augment": ("crop",)}, "the data are latents, which crop cannot move"),
        ({"data.transforms": ("flip",)}, "the data are latents, which flip cannot move"),
    ):
        with pytest.raises(UserError, match=told):
            Experiment.open(configs.override(on_latents(config_of(codec), cached["float16"]), changes), source.spec)
    codes = Spec({**source.spec, "image": Field((2, 4, 4), "int32", "tokens", "target", 8)})
    with pytest.raises(UserError, match="are of another codec than"):
        Experiment.open(config, codes)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    with pytest.raises(UserError, match="run is the directory of a run"):
        cache(config_of(codec), tmp_path / "run")
    with pytest.raises(UserError, match="has no codec"):
        cache(configs.override(config_of(codec), {"tasks.codec": None}), tmp_path / "none")
    with pytest.raises(UserError, match="crop makes others of them"):
        cache(config_of(codec, **{"data.augment": ("crop",)}), tmp_path / "none")


def test_a_picture_whose_latents_overflow_is_named(codec, tmp_path):
    variables = json.loads((codec / "config.json").read_text())
    module = LdmAutoencoder(NormalRegularizer(dim=2), (8, 8, 1), width=4, mults=(1, 1), blocks=1, z=2, groups=2)
    weights = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    weights["params"]["pre"]["bias"] += 1e5  # more than float16 holds
    save_diffusers(tmp_path / "wide", module, weights, variables)
    with pytest.raises(UserError, match="latents of picture 0 are NaN or infinite in float16"):
        cache(config_of(tmp_path / "wide"), tmp_path / "c")

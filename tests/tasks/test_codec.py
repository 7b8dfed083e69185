"""A codec between pixels and method: latents of mean 0 and deviation 1, pixels from the run's own directory alone, refusals."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import untrained

from jaxgen.config import files as configs
from jaxgen.config import registry
from jaxgen.core import parallel
from jaxgen.core.lender import Role
from jaxgen.core.method import Method
from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.evaluate import evaluate
from jaxgen.images import to_float
from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.nets.quantize import GradientQuantizer
from jaxgen.nets.tiny_autoencoder import TinyAutoencoder
from jaxgen.pretrained import autoencoders, tiny_autoencoders
from jaxgen.pretrained.codecs import PublishedCodec
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.runs.frozen import FrozenRun
from jaxgen.sample import sample
from jaxgen.train import settled, train


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    """Kind of codec -> the directory of a run of it, trained for four steps."""
    folder, found = tmp_path_factory.mktemp("codecs"), {}
    for name in ("vae", "vqvae"):
        config = configs.override(configs.load(f"configs/{name}_digits.py:tiny"), {"mesh": {"data": 1}, "eval": {}})
        train(config, folder / name)
        found[name] = folder / name
    return found


def latent(tiny, run, **changes):
    changes = {
        "tasks.codec.run.path": str(run),
        "eval": {},
        "method.net.attend": (),
        "method.net.mults": (1,),
        **changes,
    }
    return configs.override(tiny("latent_digits"), changes)


KINDS = ("vqvae", "vae", "tokens")
COLOUR = pictures((16, 16, 3))


@pytest.mark.parametrize("kind", [pytest.param("vqvae", marks=pytest.mark.slow), *KINDS[1:]])
def test_latents_are_standardised_and_come_back_as_the_codecs_own_pixels(kind, tiny, codecs, tmp_path):
    """decode(encode(x)) through the task is what the codec itself makes of x; each channel has mean 0 and deviation 1."""
    run = codecs["vae" if kind == "vae" else "vqvae"]
    config = latent(tiny, run)
    source = open_source(config, "train")
    if kind == "tokens":
        spec = pictures((8, 8, 1))
        task = registry.build("task", {"name": "codec", "run": str(run), "tokens": True})
    else:
        config = settled(config, RunDir(tmp_path))
        exp = Experiment.open(config, source.spec)
        task, spec = exp.stages[0].task, exp.read_spec
    mesh = parallel.make_mesh({"data": 1})
    frozen = {n: loan.lender.load(parallel.everywhere(mesh, loan.lender.abstract)) for n, loan in task.loans().items()}
    images = jnp.asarray(np.stack([source[i]["image"] for i in range(256)]))
    z = task(spec, frozen, {"image": images}, jax.random.key(1))["image"]
    after = task.spec(spec)["image"]
    assert z.shape == (256, *after.shape) and z.dtype == after.dtype
    back = task.undo(frozen, z)
    model, w = frozen["codec"].model, frozen["codec"].weights
    own = model.decode(w, model.encode(w, images, jax.random.key(1)))
    np.testing.assert_allclose(back, jnp.clip(own, -1, 1), atol=2e-5)
    if kind == "tokens":
        assert after.kind == "tokens" and after.values == model.codes and int(z.max()) < model.codes
    else:
        flat = np.asarray(z, np.float64).reshape(-1, z.shape[-1])
        np.testing.assert_allclose(flat.mean(0), 0.0, atol=0.25)
        np.testing.assert_allclose(flat.std(0), 1.0, atol=0.25)


def test_what_the_codec_knows_of_its_latents_is_not_measured_anew(tiny, codecs, tmp_path):
    """latent_statistics keeps it beside the checkpoint, under the name of the weights that it measured."""
    codec = tmp_path / "codec"
    shutil.copytree(codecs["vae"], codec)
    config = latent(tiny, codec)
    before = settled(config, RunDir(tmp_path / "before")).tasks.codec
    evaluate(codec, changes={"eval.latent_statistics": {"num": 64}})
    known = FrozenRun(str(codec)).latents
    after = settled(config, RunDir(tmp_path / "after")).tasks.codec
    assert list(after.mean) == known["mean"] != list(before.mean) and list(after.std) == known["std"]
    for weights in ("raw", "ema"):  # the same here: no averages are kept
        assert FrozenRun(str(codec), weights=weights).latents == known


@pytest.mark.slow
def test_a_run_on_latents_samples_pixels_from_its_own_directory_alone(tiny, codecs, tmp_path):
    codec, path = tmp_path / "codec", tmp_path / "run"
    shutil.copytree(codecs["vqvae"], codec)
    config = latent(tiny, codec)
    train(config, path)
    stored = json.loads((path / "config.json").read_text())["tasks"]["codec"]
    assert len(stored["mean"]) == len(stored["std"]) == 8 and stored["mean"] != [0.0] * 8
    assert json.loads((path / "run.json").read_text())["data"]["spec"]["image"]["shape"] == [8, 8, 1]
    before = sample(path, num=4, out=tmp_path / "a")
    shutil.rmtree(codec)
    after = sample(path, num=4, out=tmp_path / "b")
    np.testing.assert_array_equal(before, after)
    assert after.shape == (4, 8, 8, 1) and after.dtype == np.uint8
    train(configs.override(config, {"steps": 6}), path)  # the same command goes on, though the codec's own run is gone
    assert sample(path, num=4, out=tmp_path / "c", step=6).shape == (4, 8, 8, 1)


@pytest.mark.parametrize("name", [pytest.param("vqgan_transformer_mnist", marks=pytest.mark.slow), "maskgit_mnist"])
def test_a_run_on_tokens_samples_completes_and_evaluates_from_its_own_directory_alone(name, tiny, codecs, tmp_path):
    """Codes of what is shown of a picture stay; where a pixel is hidden, its code is drawn."""
    codec, path = tmp_path / "codec", tmp_path / "run"
    shutil.copytree(codecs["vqvae"], codec)
    train(tiny(name, **{"tasks.codec.run.path": str(codec), "eval.grid": None}), path)
    figures, before = evaluate(path), sample(path, num=4, out=tmp_path / "a", labels=(3,))
    shutil.rmtree(codec)
    assert evaluate(path) == figures
    np.testing.assert_array_equal(before, sample(path, num=4, out=tmp_path / "b", labels=(3,)))
    sample(path, num=4, out=tmp_path / "c", changes={"tasks.hide": {"shape": "lower"}})
    stored = np.load(tmp_path / "c.npz")
    assert (
        stored["images"].shape == (4, 8, 8, 1)
        and (stored["known"][:, :2] < 16).all()
        and (stored["known"][:, 2:] == 16).all()
    )
    model = FrozenRun(str(path / "frozen/codec"))
    mesh = parallel.make_mesh({"data": 1})
    lent = model.load(parallel.everywhere(mesh, model.abstract))
    again = lent.model.encode(lent.weights, to_float(jnp.asarray(stored["shown"])), jax.random.key(0))
    np.testing.assert_array_equal(again[:, :2], stored["known"][:, :2])


@pytest.mark.slow
def test_a_pyramid_of_codes_is_one_row_of_tokens_coarse_first(tmp_path):
    config = configs.override(configs.load("configs/vqvae2_cifar.py:tiny"), {"mesh": {"data": 1}})
    task = registry.build("task", {"name": "codec", "run": untrained(config, COLOUR, tmp_path, True), "tokens": True})
    lent = task.run.load(parallel.everywhere(parallel.make_mesh({"data": 1}), task.run.abstract))
    x = jax.random.randint(jax.random.key(0), (3, 16, 16, 3), 0, 256).astype(jnp.uint8)
    tokens = task(COLOUR, {"codec": lent}, {"image": x}, jax.random.key(1))["image"]
    field, maps = task.spec(COLOUR)["image"], lent.model.encode(lent.weights, x, jax.random.key(1))
    assert [m.shape for m in maps] == [(3, 2, 2), (3, 4, 4)] and (field.shape, field.kind, field.values) == (
        (20,),
        "tokens",
        8,
    )
    np.testing.assert_array_equal(tokens, jnp.concatenate([m.reshape(3, -1) for m in maps], 1))
    shown = jnp.clip(lent.model.decode(lent.weights, maps), -1, 1)
    np.testing.assert_allclose(task.undo({"codec": lent}, tokens), shown, atol=1e-6)
    mask = jnp.zeros((3, 16, 16, 1)).at[:, 9].set(1.0)  # a row of pixels hides a row of each map
    known = task.known(lent, to_float(x), mask, jax.random.key(1))
    hidden = np.asarray(known == 8)
    assert hidden[:, :4].reshape(3, 2, 2).all(2).tolist() == [[False, True]] * 3
    assert hidden[:, 4:].reshape(3, 4, 4).all(2).tolist() == [[False, False, True, False]] * 3 and hidden.sum() == 3 * 6


def test_mistakes_are_one_line(tiny, codecs, tmp_path):
    def open_with(**changes):
        config = latent(tiny, codecs["vqvae"], **changes)
        return Experiment.open(config, open_source(config, "train").spec)

    small = untrained(configs.load("configs/vqvae_digits.py:tiny"), pictures((16, 16, 1)), tmp_path, False)
    colour = untrained(configs.load("configs/vqvae_mnist.py:tiny"), pictures((8, 8, 3)), tmp_path, False)
    cases = [
        ({"tasks.codec.run.path": ""}, r"config\.tasks\.codec\.run\.path is empty"),
        ({"tasks.codec.run.path": "nowhere"}, "nowhere holds no run"),
        ({"tasks.codec.run.path": small}, r"is a run of images \(16, 16, 1\), not \(8, 8, 1\); name another"),
        ({"tasks.codec.run.path": colour}, r"is a run of images \(8, 8, 3\), not \(8, 8, 1\); name another"),
        ({"tasks.codec.mean": (0.0,), "tasks.codec.std": (1.0,)}, "must hold 8 numbers"),
        ({"tasks.codec.tokens": True}, "diffusion makes image, frames, latent, not tokens"),
    ]
    for changes, words in cases:
        with pytest.raises(UserError, match=words) as error:
            open_with(**changes)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"there is no checkpoint of step 7 in .*; there are: \[2, 4\]"):
        open_with(**{"tasks.codec.run.step": 7})
    names = ("1", "0", *map(str, range(2, 10)))
    renumbered = pictures((8, 8, 1), 10, names)
    with pytest.raises(UserError, match="whose label 0 is '0', and in these it is '1': one of them was numbered anew"):
        Experiment.open(latent(tiny, codecs["vqvae"]), renumbered)
    with pytest.raises(UserError, match=r"config\.method vae makes image, not latent"):
        plain = {"method.likelihood": "learned_gaussian", "tasks.codec": {"run": str(codecs["vqvae"])}}
        config = configs.override(tiny("vae_digits"), plain)
        Experiment.open(config, open_source(config, "train").spec)
    with pytest.raises(UserError, match="which is no codec"):
        other = untrained(configs.override(configs.load("configs/classifier_digits.py:tiny"), {"mesh": {"data": 1}}),
                          pictures((8, 8, 1), 10), tmp_path, False)  # fmt: skip
        open_with(**{"tasks.codec.run.path": other})


def test_codecs_come_after_the_tasks_that_need_pixels(tiny, codecs):
    """However the sections are ordered (a ConfigDict sorts them): conditions are made of pixels, then the target is encoded."""
    config = latent(tiny, codecs["vqvae"], **{"tasks.shrink": {}, "tasks.hide": {}})
    exp = Experiment.open(config, open_source(config, "train").spec)
    assert [type(stage.task).__name__ for stage in exp.stages] == ["Hide", "Shrink", "Codec"]
    assert (
        exp.spec["image"].kind == "latent"
        and exp.spec["small"].shape == (4, 4, 1)
        and exp.spec["shown"].shape == (8, 8, 1)
    )


PUBLISHED = {
    "tiny": TinyAutoencoder(z=2, width=8, blocks=(1, 1), mid_norm=True),
    "posterior": LdmAutoencoder(NormalRegularizer(dim=2), (8, 8, 1), width=4, mults=(1, 1), blocks=1, z=2, groups=2),
    "codebook": LdmAutoencoder(
        GradientQuantizer(codes=16, dim=2, start="uniform"), (8, 8, 1), width=4, mults=(1, 1), blocks=1, z=2, groups=2
    ),
}


def publish(kind, folder):
    """A folder of an autoencoder of digits as others publish it."""
    module, x = PUBLISHED[kind], jnp.zeros((1, 8, 8, 1))
    args = (x, 1) if kind == "tiny" else (x,)
    variables = jax.jit(lambda key: module.init(key, *args))(jax.random.key(0))
    if kind == "tiny":
        tiny_autoencoders.save_author(folder, module, variables)
    else:
        more = {"shift_factor": 0.5} if kind == "posterior" else {}
        autoencoders.save_diffusers(folder, module, variables, scaling_factor=0.25, **more)
    return str(folder)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "tiny" else pytest.mark.slow) for k in PUBLISHED])
def test_a_published_autoencoder_is_a_codec(kind, tmp_path):
    """Statistics as it was published with (shift and 1 / scale) or measured; pictures come back as its own decoder gives them."""
    lender = {"name": "pretrained", "path": publish(kind, tmp_path / "published")}
    task = registry.build("task", {"name": "codec", "run": lender})
    mesh, spec = parallel.make_mesh({"data": 1}), pictures((8, 8, 1))
    frozen = {"codec": task.run.load(parallel.everywhere(mesh, task.run.abstract))}
    x = {"image": jax.random.randint(jax.random.key(0), (4, 8, 8, 1), 0, 256).astype(jnp.uint8)}
    found = task.settle(spec, frozen, iter([x]), None)
    assert kind == "tiny" or found["std"] == (4.0, 4.0)
    assert kind != "posterior" or found["mean"] == (0.5, 0.5)
    task = replace(task, **found)
    model, w, z = frozen["codec"].model, frozen["codec"].weights, task(spec, frozen, x, jax.random.key(1))["image"]
    assert z.shape[1:] == task.spec(spec)["image"].shape == (4, 4, 2)
    own = jnp.clip(model.decode(w, model.encode(w, x["image"], jax.random.key(1))), -1, 1)
    np.testing.assert_allclose(task.undo(frozen, z), own, atol=2e-5)
    measured = replace(task, mean=(), std=(), statistics="measured").settle(spec, frozen, iter([x]), None)
    assert measured["std"] != (4.0, 4.0) and len(measured["mean"]) == 2


@pytest.mark.slow
def test_the_copy_of_a_published_autoencoder_is_enough(tiny, tmp_path):
    path = publish("tiny", tmp_path / "published")
    config = configs.override(latent(tiny, ""), {"tasks.codec.run": "pretrained", "tasks.codec.run.path": path})
    train(configs.override(config, {"steps": 2, "steps_per_call": 1, "method.net.width": 8}), tmp_path / "run")
    shutil.rmtree(path)
    assert sample(tmp_path / "run", num=2, out=tmp_path / "a").shape == (2, 8, 8, 1)


def test_a_published_autoencoder_in_bfloat16_and_for_other_pictures(tmp_path):
    path = publish("posterior", tmp_path / "published")
    lender = registry.build("run", {"name": "pretrained", "path": path, "dtype": "bfloat16"})
    assert {x.dtype for x in jax.tree.leaves(lender.abstract.weights)} == {jnp.dtype("bfloat16")}
    with pytest.raises(UserError, match="must be one of float32, bfloat16"):
        registry.build("run", {"name": "pretrained", "path": path, "dtype": "float16"})
    for spec, told in ((COLOUR, "pictures of 1 channels"), (pictures((9, 8, 1)), "which 9x8 does not allow")):
        with pytest.raises(UserError, match=told):
            registry.build("task", {"name": "codec", "run": {"name": "pretrained", "path": path}}).spec(spec)
    tiny = publish("tiny", tmp_path / "tiny")
    with pytest.raises(UserError, match=r"gives pictures \(9, 8, 1\) back as \(10, 8, 1\)"):
        registry.build("task", {"name": "codec", "run": {"name": "pretrained", "path": tiny}}).spec(pictures((9, 8, 1)))
    with pytest.raises(UserError, match="is an autoencoder, which is no run"):
        PublishedCodec(path).check("config.init", Role(Method, "run"), COLOUR, None)

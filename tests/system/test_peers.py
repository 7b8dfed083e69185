"""diffusers and transformers open what jaxgen wrote, and make the same pictures. Runs where the extra `peers` is installed."""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pipeline_files import FAMILIES, filled, pipeline, pipeline_xl

from jaxgen import convert
from jaxgen.core import conditions, keys
from jaxgen.nets.flux import Flux
from jaxgen.nets.tiny_autoencoder import TinyAutoencoder
from jaxgen.pretrained import flux, lora, single_files, tiny_autoencoders
from jaxgen.pretrained.flux import FLUX
from jaxgen.pretrained.pipelines import kind_of
from jaxgen.runs.trained import Trained

torch, diffusers, _ = (pytest.importorskip(name) for name in ("torch", "diffusers", "transformers"))

CLOSE = dict(rtol=0, atol=1e-3)
PROMPTS = ["a cat on a mat", "A red STAR!"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny Stable Diffusion as a run directory."""
    root = tmp_path_factory.mktemp("peers")
    return convert.to_run(pipeline(root), root / "run")


@pytest.fixture(scope="module")
def run_xl(tmp_path_factory):
    """The same of SDXL."""
    root = tmp_path_factory.mktemp("peers_xl")
    return convert.to_run(pipeline_xl(root), root / "run")


def channels_first(x):
    return torch.from_numpy(np.moveaxis(np.asarray(x), -1, 1).copy())


@pytest.mark.parametrize("which", ["run", "run_xl"])
def test_a_pipeline_makes_the_same_pixels(which, request, tmp_path):
    workdir = request.getfixturevalue(which)
    convert.convert(workdir, tmp_path / "sd", to="diffusers")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "sd")
    theirs.set_progress_bar_config(disable=True)
    trained = Trained.open(workdir, changes={"method.solver.steps": 5, "mesh": {"data": 1}})
    exp, w = trained.exp, trained.choose(["ema"])[0].weights()
    start = np.asarray(exp.method.draw_latents(keys.root(0), len(PROMPTS)))
    tokens = {name: jnp.asarray(ids) for name, ids in exp.tokens(PROMPTS).items()}

    @jax.jit
    def make(w, noise, tokens):
        cond = conditions.read(exp.spec, tokens, len(PROMPTS))
        return exp.show(w.frozen, exp.method.from_latents(w, noise, cond))

    options = dict(num_inference_steps=5, guidance_scale=7.5, height=16, width=16, output_type="np")
    with torch.no_grad():
        want = theirs(PROMPTS, latents=channels_first(start), **options).images
    np.testing.assert_allclose((np.asarray(make(w, start, tokens)) + 1) / 2, want, **CLOSE)
    for name, tokenizer in zip(tokens, (theirs.tokenizer, getattr(theirs, "tokenizer_2", None)), strict=False):
        ids = tokenizer(PROMPTS, padding="max_length", max_length=12, truncation=True).input_ids
        np.testing.assert_array_equal(tokens[name], ids)


FAMILY = dict(  # what each pipeline is called with besides
    sd3=dict(prompt=PROMPTS, guidance_scale=7.0, height=16, width=16),
    flux=dict(prompt=PROMPTS, height=16, width=16, max_sequence_length=256),
    pixart=dict(prompt=[text.lower() for text in PROMPTS], guidance_scale=4.5, height=16, width=16, use_resolution_binning=False),
    dit=dict(class_labels=[3, 7], guidance_scale=4.0),
    ldm=dict(batch_size=2),
    ldm_text=dict(prompt=["cat", "a red star"], guidance_scale=6.0, height=64, width=64),  # 8 x what its latents have
    ddpm=dict(batch_size=2),
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILY)
def test_every_family_makes_the_same_pixels(family, tmp_path, monkeypatch):
    whole = FAMILIES[family](tmp_path)
    if family == "ddpm":  # whose own scheduler draws noise in every step
        whole = replace(whole, scheduler={"_class_name": "DDIMScheduler"})
    workdir = convert.to_run(whole, tmp_path / "run", size=16)
    convert.convert(workdir, tmp_path / "theirs", to="diffusers")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "theirs")
    theirs.set_progress_bar_config(disable=True)
    trained = Trained.open(workdir, changes={"method.solver.steps": 3, "mesh": {"data": 1}})
    exp, w = trained.exp, trained.choose(["ema"])[0].weights()
    start = np.asarray(exp.method.draw_latents(keys.root(0), 2))
    prompts = FAMILY[family].get("prompt")
    asked = exp.tokens(prompts) if prompts else {"label": np.array([3, 7])} if exp.spec.label else {}

    @jax.jit
    def make(w, noise, asked):
        return exp.show(w.frozen, exp.method.from_latents(w, noise, conditions.read(exp.spec, asked, 2)))

    latents = channels_first(start)
    if family == "flux":
        latents = theirs._pack_latents(latents, 2, 4, 8, 8)
    if prompts:
        options = {"latents": latents}
    else:  # they cannot be told
        options = {}
        monkeypatch.setattr(sys.modules[type(theirs).__module__], "randn_tensor", lambda *a, **k: latents)
    with torch.no_grad():
        want = theirs(**FAMILY[family], **options, num_inference_steps=3, output_type="np").images
    got = (np.asarray(make(w, start, {k: jnp.asarray(v) for k, v in asked.items()})) + 1) / 2
    np.testing.assert_allclose(got, want, **CLOSE)
    assert want.std() > 0.02  # no grey picture


def test_pixart_sigma_makes_the_same_pixels(tmp_path):
    """Its texts have 300 tokens, of which the last is an end."""
    whole = FAMILIES["pixart"](tmp_path, "PixArtSigmaPipeline")
    workdir = convert.to_run(whole, tmp_path / "run", size=16)
    convert.convert(workdir, tmp_path / "theirs", to="diffusers")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "theirs")
    assert type(theirs).__name__ == "PixArtSigmaPipeline"
    theirs.set_progress_bar_config(disable=True)
    trained = Trained.open(workdir, changes={"method.solver.steps": 3, "mesh": {"data": 1}})
    exp, w = trained.exp, trained.choose(["ema"])[0].weights()
    prompts = ["a cat " * 70, "a red star"]
    asked = {k: jnp.asarray(v) for k, v in exp.tokens(prompts).items()}
    assert asked["caption"].shape == (2, 300)
    start = np.asarray(exp.method.draw_latents(keys.root(0), 2))
    with torch.no_grad():
        want = theirs(
            prompts, latents=channels_first(start), guidance_scale=4.5, height=16, width=16, use_resolution_binning=False,
            num_inference_steps=3, output_type="np",
        ).images  # fmt: skip
    make = jax.jit(lambda w, z, c: exp.show(w.frozen, exp.method.from_latents(w, z, conditions.read(exp.spec, c, 2))))
    np.testing.assert_allclose((np.asarray(make(w, start, asked)) + 1) / 2, want, **CLOSE)
    assert want.std() > 0.02


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_a_scheduler_that_draws_noise_makes_the_same_pixels(variance, tmp_path, monkeypatch):
    """DDPM's own, given the same noise in every step; with a net that says a variance too."""
    from diffusers.pipelines.ddpm import pipeline_ddpm
    from diffusers.schedulers import scheduling_ddpm

    scheduler = dict(_class_name="DDPMScheduler", variance_type=variance)
    whole = FAMILIES["ddpm"](tmp_path, out_channels=6 if variance == "learned_range" else 3)
    workdir = convert.to_run(replace(whole, scheduler=scheduler), tmp_path / "run", size=16)
    convert.convert(workdir, tmp_path / "theirs", to="diffusers")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "theirs")
    assert theirs.scheduler.config.variance_type == variance
    theirs.set_progress_bar_config(disable=True)
    trained = Trained.open(workdir, changes={"method.solver.steps": 4, "mesh": {"data": 1}})
    exp, w = trained.exp, trained.choose(["ema"])[0].weights()
    noise = np.random.default_rng(0).standard_normal((5, 2, 16, 16, 3)).astype(np.float32)
    drawn = iter(noise[1:])
    monkeypatch.setattr(pipeline_ddpm, "randn_tensor", lambda *a, **k: channels_first(noise[0]))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, **k: channels_first(next(drawn)))
    with torch.no_grad():
        want = theirs(batch_size=2, num_inference_steps=4, output_type="np").images
    got = jax.jit(lambda w, z, noise: exp.method.from_latents(w, z, {}, noise))(w, noise[0], jnp.asarray(noise[1:]))
    np.testing.assert_allclose((np.clip(got, -1, 1) + 1) / 2, want, **CLOSE)
    assert want.std() > 0.02


def test_the_file_of_the_authors_of_flux_is_read_alike():
    """Their program knows one width, 3,072, and looks at the rows of kernels alone: here each has one column."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    module = Flux(**FLUX.net_fields(dict(num_layers=1, num_single_layers=1, guidance_embeds=True)))
    shapes = FLUX.to_diffusers(module, jax.tree.map(lambda a: np.zeros(a.shape, np.dtype([])), FLUX.shapes_of(module)))
    rng = np.random.default_rng(0)
    tensors = {k: rng.standard_normal((len(v), *[1] * (v.ndim - 1))).astype(np.float32) for k, v in shapes.items()}
    stored = {k: torch.from_numpy(v) for k, v in flux.to_authors(tensors).items()}
    found = convert_flux_transformer_checkpoint_to_diffusers(stored)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name].numpy(), value, err_msg=name)


def test_openclip_is_written_as_they_read_it(run_xl, tmp_path):
    from diffusers.loaders import single_file_utils
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    part = convert.of_run(run_xl).encoders[1]
    stored = {k: torch.from_numpy(np.array(v)) for k, v in single_files.to_openclip(part.tensors).items()}
    model = CLIPTextModelWithProjection(CLIPTextConfig(**part.config))
    found = single_file_utils.convert_open_clip_checkpoint(model, {f"x.{k}": v for k, v in stored.items()}, prefix="x.")
    short = {k.removeprefix("text_model."): v for k, v in found.items()}
    for name, value in part.tensors.items():
        np.testing.assert_array_equal(short[name.removeprefix("text_model.")].numpy(), value, err_msg=name)


def test_a_single_file_opens(run, tmp_path):
    whole = convert.of_run(run)
    single_files.write(tmp_path / "sd.safetensors", whole)
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "sd.safetensors")
    found = convert_ldm_unet_checkpoint(dict(stored), whole.net.config)
    assert found.keys() == whole.net.tensors.keys()
    found |= {f"vae.{k}": v for k, v in convert_ldm_vae_checkpoint(dict(stored), whole.vae.config).items()}
    want = {**whole.net.tensors, **{f"vae.{k}": v for k, v in whole.vae.tensors.items()}}
    for name, value in want.items():
        np.testing.assert_array_equal(found[name].numpy().reshape(value.shape), value, err_msg=name)


def test_a_tiny_autoencoder_makes_the_same_pixels(tmp_path):
    """TAESD's form; TAEF2 has a norm that diffusers' class has not, and goes back to its author's files."""
    module = TinyAutoencoder(z=4, width=8, blocks=(0, 1, 1))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    variables = filled(jax.eval_shape(lambda key: module.init(key, x, 3), jax.random.key(0)))
    tiny_autoencoders.save_diffusers(tmp_path, module, variables)
    theirs = diffusers.AutoencoderTiny.from_pretrained(tmp_path)
    z = module.apply(variables, x, method="encode")
    with torch.no_grad():
        want = theirs.encode(channels_first(x)).latents
        back = theirs.decode(want).sample
    np.testing.assert_allclose(np.moveaxis(np.asarray(z), -1, 1), want, **CLOSE)
    got = module.apply(variables, z, 3, method="decode")
    np.testing.assert_allclose(np.moveaxis(np.asarray(got), -1, 1), back, **CLOSE)


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_a_lora_moves_the_net_alike(run, tmp_path, form):
    pytest.importorskip("peft")
    whole = convert.of_run(run)
    module = kind_of(whole.net, run).module(whole.net)
    variables = kind_of(whole.net, run).read(module, whole.net.tensors)
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    pairs = {
        name: lora.Pair(draw(2, shape[1]), draw(shape[0], 2), 3.0)
        for name, shape in lora.weights_of(module).items()
        if name.endswith(("attn1.to_q", "attn2.to_v"))
    }
    (lora.write_peft if form == "peft" else lora.write_kohya)(tmp_path / "style.safetensors", pairs)
    convert.convert(run, tmp_path / "sd", to="diffusers")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "sd")
    theirs.load_lora_weights(str(tmp_path), weight_name="style.safetensors")
    x, states, t = draw(2, 8, 8, 4), draw(2, 12, 16), np.array([10.0, 700.0], np.float32)
    with torch.no_grad():
        want = theirs.unet(channels_first(x), torch.from_numpy(t), torch.from_numpy(states)).sample
    merged = lora.merged(module, variables, [(lora.read(tmp_path / "style.safetensors", module), 1.0)])
    got = jax.jit(module.apply)(merged, x, t, {"states": states})
    np.testing.assert_allclose(np.moveaxis(np.asarray(got), -1, 1), want, **CLOSE)
    assert np.abs(np.asarray(got) - np.asarray(jax.jit(module.apply)(variables, x, t, {"states": states}))).max() > 1e-2

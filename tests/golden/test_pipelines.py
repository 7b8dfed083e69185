"""Stable Diffusion's pipeline from ids to pixels, of the house's parts: text, guide, net, solver, codec."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import images_last
from pipeline_files import VALUES, tokenizer
from safetensors.numpy import load_file

from jaxgen import convert
from jaxgen.config.registry import build
from jaxgen.diffusion.guide import ClassifierFree, Rescaled
from jaxgen.diffusion.process import level_at
from jaxgen.pretrained import pipelines, text
from jaxgen.pretrained.autoencoders import load_diffusers
from jaxgen.pretrained.diffusers import read_folder
from jaxgen.pretrained.pipelines import Part, Pipeline
from jaxgen.pretrained.schedulers import method_keys
from jaxgen.pretrained.unet_condition import load
from jaxgen.runs.trained import Trained


@pytest.mark.golden("pipeline_sd_tiny/*.json")
def test_from_ids_to_pixels(folder):
    case, a, root = json.loads(folder.read_text()), dict(np.load(folder.with_suffix(".npz"))), folder.parents[1]
    kind, fields = text.fields(json.loads((root / "clip_text_tiny/config.json").read_text()))
    encoder = kind(**fields)
    heard = text.from_transformers(encoder, load_file(root / "clip_text_tiny/model.safetensors"))
    net, variables = load(root / "unet_sd_tiny")
    codec = load_diffusers(root / "autoencoder_kl_tiny")
    keys = method_keys(
        {"_class_name": case["scheduler"], **case["scheduler_config"]}, case["args"]["num_inference_steps"]
    )
    process, predict, solver = (build(part, keys[part]) for part in ("process", "predict", "solver"))
    scale, share = case["args"]["guidance_scale"], case["args"].get("guidance_rescale", 0.0)
    guide = Rescaled(scale, share) if share else ClassifierFree(scale)

    @jax.jit
    def pipeline(ids, negative, z):
        cond, null = ({"states": encoder.apply(heard, one)["states"]} for one in (ids, negative))
        # theirs guide the net's output
        guided = guide(lambda x, t, cond: net.apply(variables, x, process.clock(t), cond), cond, null)
        denoise = lambda x, t: predict.denoised(guided(x, t), x, level_at(process, t, x))  # noqa: E731
        path = solver.trajectory(denoise, process, z, jax.random.key(0))
        pictures = codec.module.apply(codec.variables, path[-1] * codec.latents["std"][0], method="decode")
        return cond["states"], null["states"], path[1:], pictures

    ids, negative = (jnp.asarray(a[name], jnp.int32) for name in ("input_ids", "negative_ids"))
    states, without, path, pictures = pipeline(ids, negative, images_last(a["latents"]))
    tolerance = case["tolerance"]
    np.testing.assert_allclose(states, a["prompt_embeds"], **tolerance)
    np.testing.assert_allclose(without, a["negative_embeds"], **tolerance)
    np.testing.assert_allclose(np.moveaxis(path, -1, 2), a["latents_per_step"], **tolerance)
    np.testing.assert_allclose(pictures, images_last(a["decoded"]), **tolerance)


@pytest.mark.golden("pipeline_sd_tiny/ddim*.json")
def test_the_same_as_a_run_directory(folder, tmp_path):
    """Imported, opened and sampled by the ordinary path. CLIP's table is filled up to what a tokenizer has at least."""
    case, a, root = json.loads(folder.read_text()), dict(np.load(folder.with_suffix(".npz"))), folder.parents[1]
    clip = pipelines.read_encoder(root / "clip_text_tiny")
    (table,) = [name for name in clip.tensors if name.endswith("token_embedding.weight")]
    wide = np.pad(clip.tensors[table], ((0, VALUES - len(clip.tensors[table])), (0, 0)))
    clip = Part({**clip.config, "vocab_size": VALUES}, {**clip.tensors, table: wide})
    files = tokenizer(tmp_path / "tokenizer", length=16)
    whole = Pipeline(
        net=Part(*read_folder(root / "unet_sd_tiny", "unet")),
        vae=Part(*read_folder(root / "autoencoder_kl_tiny", "vae")),
        scheduler={"_class_name": case["scheduler"], **case["scheduler_config"]},
        encoders=(clip,),
        tokenizers=(files,),
    )
    workdir = convert.to_run(whole, tmp_path / "run")
    (avoid,) = {tuple(row) for row in a["negative_ids"].tolist()}
    changes = {
        "method.solver.steps": case["args"]["num_inference_steps"], "method.guide": "negative", "mesh": {"data": 1},
        "method.guide.scale": case["args"]["guidance_scale"], "method.guide.avoid": {"caption": avoid},
    }  # fmt: skip
    trained = Trained.open(workdir, changes=changes)
    exp, w = trained.exp, trained.choose(["ema"])[0].weights()

    @jax.jit
    def make(w, z, ids):
        latents = exp.method.from_latents(w, z, {"caption": ids})
        return latents, exp.show(w.frozen, latents)

    latents, shown = make(w, images_last(a["latents"]), jnp.asarray(a["input_ids"], jnp.int32))
    np.testing.assert_allclose(latents, images_last(a["final_latents"]), **case["tolerance"])
    np.testing.assert_allclose(shown, images_last(a["decoded"]).clip(-1, 1), **case["tolerance"])

"""The names and shapes of every tensor of published models: those that our nets of the same config are exported to."""

import json
import math
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from published import MODELS

from jaxgen.config import files as configs
from jaxgen.nets.flux import Flux
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import autoencoders, flux, pipelines, single_files, text, unet_condition
from jaxgen.pretrained.flux import FLUX
from jaxgen.pretrained.schedulers import method_keys, same

ROOT = Path(os.environ.get("JAXGEN_WEIGHTS", Path(__file__).parents[2] / "../shared/weights")).resolve()
NOTHING = np.dtype([])  # numbers of no bytes: shapes of any size cost nothing


UNETS = (UNetCondition, unet_condition)
CASES = dict.fromkeys(("sd15.unet", "sd21.unet", "sd2_inpaint.unet", "sdxl.unet"), UNETS)
CASES["flux_schnell.transformer"] = (Flux, FLUX)


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_has_its_place(case):
    file, (model, part) = ROOT / f"names/{case}.json", case.split(".")
    if not file.is_file():
        pytest.skip(f"there is no {file}; set JAXGEN_WEIGHTS to the folder of it")
    listed = json.loads(file.read_text())
    config = json.loads((ROOT / f"configs/{model}/{part}/config.json").read_text())
    net, found = CASES[case]
    module = net(**found.net_fields(config))
    shapes = found.shapes_of(module)
    assert sum(math.prod(a.shape) for a in jax.tree.leaves(shapes)) == listed["parameters"]
    tensors = found.to_diffusers(module, jax.tree.map(lambda a: np.zeros(a.shape, NOTHING), shapes))
    assert {name: list(a.shape) for name, a in tensors.items()} == listed["shapes"]


@pytest.mark.parametrize(
    "model, part", [(m, "unet") for m in ("sd15", "sd21", "sdxl")] + [("flux_schnell", "transformer")]
)
def test_the_shipped_configs_are_those_of_the_published_nets_and_schedulers(model, part):
    folder = ROOT / f"configs/{model}"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}; set JAXGEN_WEIGHTS to the folder of it")
    read = lambda name: json.loads((folder / name).read_text())  # noqa: E731
    method = configs.normalise(configs.load(f"configs/{model}.py")).method.to_dict()
    net, found = CASES[f"{model}.{part}"]
    want = net(**found.net_fields(read(f"{part}/config.json")))
    # what is given, and what import spells out by level
    apart = ("name", "optimizer", "ema", "text", "shape", "conditions", "attend", "downsample", "upsample")
    told = {k: v for k, v in method["net"].items() if k not in apart}
    assert want.clone(**told) == want
    keys = method_keys(read("scheduler/scheduler_config.json"), method["solver"]["steps"])
    if model == "flux_schnell":  # whose pipeline names the times, which are even
        keys["solver"]["grid"]["first"] = 0.0
    assert all(same(keys[name], method[name]) for name in ("process", "predict", "solver"))


@pytest.mark.parametrize("model, kinds", [
    ("sd15", ("clip",)), ("sd21", ("clip",)), ("sdxl", ("clip", "clip")), ("flux_schnell", ("clip", "t5")),
])  # fmt: skip
def test_encoders_tokenizers_and_first_stages_of_the_tests_are_the_published_ones(model, kinds):
    """What tests/laws/test_shapes.py opens the configs with."""
    folder = ROOT / f"configs/{model}"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}; set JAXGEN_WEIGHTS to the folder of it")
    stage, encoders, _ = MODELS[model]
    theirs = json.loads((folder / "vae/config.json").read_text())
    assert autoencoders.module_of(theirs) == autoencoders.module_of({**stage, "sample_size": theirs["sample_size"]})
    for name in ("scaling_factor", "shift_factor"):
        assert stage.get(name) == theirs.get(name)
    told = configs.load(f"configs/{model}.py").data.tokenizer
    for i, (config, kind) in enumerate(zip(encoders, kinds, strict=True)):
        end = f"_{i + 1}" if i else ""
        assert text.fields(config) == text.fields(json.loads((folder / f"text_encoder{end}/config.json").read_text()))
        mine = told[i] if len(kinds) > 1 else told
        if kind == "clip":
            found = pipelines.tokenizer_of(folder / f"tokenizer{end}")
            assert (mine["name"], mine.get("pad", "end"), mine.get("length", 77)) == (
                "clip",
                found["pad"],
                found["length"],
            )


def listed(case):
    """Tensors of no bytes with the names and shapes of a published model's."""
    file = ROOT / f"names/{case}.json"
    if not file.is_file():
        pytest.skip(f"there is no {file}; set JAXGEN_WEIGHTS to the folder of it")
    return {name: np.zeros(shape, NOTHING) for name, shape in json.loads(file.read_text())["shapes"].items()}


def shapes(tensors):
    return {name: value.shape for name, value in tensors.items()}


@pytest.mark.parametrize(
    "model, last", [("sd15", "output_blocks.11.1"), ("sd21", "output_blocks.11.1"), ("sdxl", "output_blocks.8")]
)
def test_single_files_of_the_published_size(model, last):
    """Every tensor has a place there and comes back; the shapes alone give the published net."""
    tensors = listed(f"{model}.unet")
    named = single_files.from_diffusers(tensors)
    again = single_files.to_diffusers(named)
    assert shapes(again) == shapes(tensors) and any(name.startswith(f"{last}.") for name in named)
    config = json.loads((ROOT / f"configs/{model}/unet/config.json").read_text())
    found, want = (unet_condition.net_fields(c) for c in (single_files._unet_config(again, 0, 32), config))
    assert UNetCondition(**found) == UNetCondition(**want)


@pytest.mark.parametrize("case, blocks", [("sd21.text_encoder", 23), ("sdxl.text_encoder_2", 32)])
def test_openclip_of_the_published_size(case, blocks):
    tensors = listed(case)
    named = single_files.to_openclip(tensors)
    assert len(named) == 4 + 12 * blocks + ("text_projection.weight" in tensors)
    assert shapes(single_files.from_openclip(named)) == shapes(tensors)
    config = json.loads((ROOT / f"configs/{case.replace('.', '/')}/config.json").read_text())
    found = single_files._text_config(tensors, 0, True)
    assert text.fields(found) == text.fields(config)


def test_the_last_block_of_openclip_is_left_aside_for_sd2():
    named = single_files.to_openclip(listed("sd21.text_encoder"))
    last = {
        name.replace("resblocks.22.", "resblocks.23."): value
        for name, value in named.items()
        if "resblocks.22." in name
    }
    whole = {**named, **last, "text_projection": np.zeros((1024, 1024), NOTHING), "logit_scale": np.zeros((), NOTHING)}
    assert shapes(single_files.from_openclip(whole, projected=False)) == shapes(listed("sd21.text_encoder"))


def test_the_file_of_the_authors_of_flux():
    """All 1,156 tensors have a place there, 780 in number, and come back; the shapes alone give the published net."""
    tensors = listed("flux_schnell.transformer")
    named = flux.to_authors(tensors)
    assert len(named) == 19 * 24 + 38 * 8 + 16 and named["single_blocks.37.linear1.weight"].shape == (21_504, 3_072)
    assert flux.is_authors(named) and not flux.is_authors(tensors)
    assert shapes(flux.from_authors(named)) == shapes(tensors)
    config = json.loads((ROOT / "configs/flux_schnell/transformer/config.json").read_text())
    assert Flux(**FLUX.net_fields(flux.config_of(tensors))) == Flux(**FLUX.net_fields(config))

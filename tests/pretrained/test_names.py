"""The names and shapes of every tensor of published models: those that our nets of the same config are exported to."""

import json
import math
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgen.nets.flux import Flux
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import single_files, text, unet_condition
from jaxgen.pretrained.flux import FLUX

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

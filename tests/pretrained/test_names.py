"""The names and shapes of every tensor of published models: those that our nets of the same config are exported to."""

import json
import math
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import unet_condition

ROOT = Path(os.environ.get("JAXGEN_WEIGHTS", Path(__file__).parents[2] / "../shared/weights")).resolve()
NOTHING = np.dtype([])  # numbers of no bytes: shapes of any size cost nothing


def of_unet(config):
    module = UNetCondition(**unet_condition.net_fields(config))
    return module, unet_condition.shapes_of(module), unet_condition.to_diffusers


CASES = {"sd15.unet": of_unet, "sd21.unet": of_unet, "sd2_inpaint.unet": of_unet, "sdxl.unet": of_unet}


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_has_its_place(case):
    file, (model, part) = ROOT / f"names/{case}.json", case.split(".")
    if not file.is_file():
        pytest.skip(f"there is no {file}; set JAXGEN_WEIGHTS to the folder of it")
    listed = json.loads(file.read_text())
    config = json.loads((ROOT / f"configs/{model}/{part}/config.json").read_text())
    module, shapes, export = CASES[case](config)
    assert sum(math.prod(a.shape) for a in jax.tree.leaves(shapes)) == listed["parameters"]
    tensors = export(module, jax.tree.map(lambda a: np.zeros(a.shape, NOTHING), shapes))
    assert {name: list(a.shape) for name, a in tensors.items()} == listed["shapes"]

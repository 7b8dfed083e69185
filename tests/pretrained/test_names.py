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
from jaxgen.pretrained import unet_condition
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

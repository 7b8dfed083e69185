"""Resized images of Pillow, torch and clean-fid, at the case's tolerances."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxgen.metrics.resize import resize

CLEANFID = {"clean": "clean", "legacy_pytorch": "torch_bilinear", "legacy_tensorflow": "tf1"}


@pytest.mark.golden("resize")
def test_resize(folder):
    case = json.loads((folder / "case.json").read_text())
    arrays = dict(np.load(folder / "io.npz"))
    bounds = {k: float(re.search(r"abs ([\d.e-]+)", v)[1]) for k, v in case["tolerance"].items()}
    step = int(re.search(r"::(\d+)", case["note"])[1])
    x = arrays.pop("input")[None]
    assert arrays
    for name, want in arrays.items():
        bound = bounds["pil uint8" if want.dtype == np.uint8 else "float"]
        if match := re.fullmatch(r"pil(F?)_(\w+)_\d+x\d+", name):
            got = resize(x, want.shape[:2], f"pil_{match[2]}" + ("" if match[1] else "_uint8"))[0]
        elif match := re.fullmatch(r"torch_(\w+)_aa([01])_\d+x\d+", name):
            got = resize(x, want.shape[:2], f"torch_{'antialias_' if match[2] == '1' else ''}{match[1]}")[0]
        else:
            match = re.fullmatch(r"cleanfid_(\w+)_(\d+)", name)
            side = int(match[2])
            size = (side, side)
            if want.shape[:2] != (-(-side // step),) * 2:  # clean-fid leaves TF1's resize to the graph: not resized yet
                size = x.shape[1:3]
            got = resize(x, size, CLEANFID[match[1]])[0, ::step, ::step]
        np.testing.assert_allclose(got, want.astype(np.float32), rtol=0, atol=bound, err_msg=name)


@pytest.mark.golden("resize")
def test_matlab_made_the_small_pictures_of_the_benchmarks(folder):
    """All files of Set5, Set14 and BSD100 that are there, to the bit."""
    files = sorted((folder.parents[1] / "data/sr").glob("*/x*/HR/*.png"))
    if not files:
        pytest.skip("the benchmarks' pictures are not beside the golden cases")
    for file in files:
        large, small = (np.asarray(Image.open(p)) for p in (file, file.parents[1] / "LR" / file.name))
        large = large.reshape(*large.shape[:2], -1)
        got = resize(large, small.shape[:2], "matlab_bicubic_uint8")
        np.testing.assert_array_equal(np.asarray(got).reshape(small.shape), small, err_msg=str(file))

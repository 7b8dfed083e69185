"""PSNR, SSIM and MS-SSIM of scikit-image, torchmetrics and pytorch-msssim, in float32 and in float64."""

import json
import re

import jax
import numpy as np
import pytest

from jaxgen.metrics.pixel import luma, psnr, shave
from jaxgen.metrics.ssim import ms_ssim, ssim

# name in the case -> (ours, was the reference computed in float64?)
MEASURES = {
    "skimage_ssim_gauss_uint8_dr255": (ssim, True),
    "skimage_ssim_gauss_float_dr1": (lambda a, b: ssim(a / 255.0, b / 255.0, (0.0, 1.0)), True),
    "skimage_ssim_uniform7": (lambda a, b: ssim(a, b, convention="uniform"), True),
    "torchmetrics_ssim": (lambda a, b: ssim(a, b, convention="padded"), False),
    "pytorch_msssim_ssim": (ssim, False),
    "skimage_psnr": (psnr, True),
    "torchmetrics_psnr": (psnr, False),
    "pytorch_msssim_msssim": (ms_ssim, False),
    "torchmetrics_msssim": (lambda a, b: ms_ssim(a, b, convention="padded"), False),
}


def measure(name, a, b):
    """Ours for a name of the case; super-resolution names carry their border."""
    if match := re.fullmatch(r"sr_(psnr|ssim)_y_crop(\d+).*", name):
        a, b = (shave(luma(x), int(match[2])) for x in (a, b))
        return {"psnr": psnr, "ssim": ssim}[match[1]](a, b), True
    ours, double = MEASURES[name]
    return ours(a, b), double


@pytest.mark.golden("metrics_ssim_psnr")
@pytest.mark.parametrize("x64", [False, True])
def test_measures(folder, x64):
    case = json.loads((folder / "case.json").read_text())
    arrays = dict(np.load(folder / "io.npz"))
    sentence = case["tolerance"]["all"]
    single, double, decibel = (
        float(re.search(p, sentence)[1])
        for p in (r"([\d.e-]+) \(fp32\)", r"([\d.e-]+) \(fp64\)", r"PSNR abs ([\d.e-]+)")
    )
    assert case["values"]
    with jax.enable_x64(x64):
        for pair, values in case["values"].items():
            a = arrays["big_a" if pair.startswith("big_") else "a"][None]
            for name, want in values.items():
                got, exact = measure(name, a, arrays[pair][None])
                bound = decibel if "psnr" in name else double if x64 and exact else single
                assert float(got[0]) == pytest.approx(want, abs=bound), (pair, name)


@pytest.mark.golden("metrics_ssim_psnr")
def test_a_batch_is_its_images(folder):
    arrays = dict(np.load(folder / "io.npz"))
    names = [n for n in arrays if n != "a" and not n.startswith("big_")]
    a, b = np.stack([arrays["a"]] * len(names)), np.stack([arrays[n] for n in names])
    alone = [float(ssim(a[:1], arrays[n][None])[0]) for n in names]
    np.testing.assert_allclose(ssim(a, b), alone, atol=1e-6)

"""Every evaluator of every config: the figures and pictures of one device are those of eight, the padding counts for nothing."""

import numpy as np

from jaxgen import evaluate
from jaxgen.config import files as configs
from jaxgen.data.pipeline import load_all
from jaxgen.runs.experiment import open_source


def test_evaluation_on_eight_devices_is_that_on_one(kind, shared, advance):
    config = shared(kind)
    found = []
    for devices in (1, 8):
        exp, state, _ = advance(configs.override(config, {"mesh": {"data": devices}}), num=0)
        held_out, tests = open_source(config, "eval"), evaluate.evaluators(exp)
        found.append(list(evaluate.reports(exp, tests, state.view(), state.view(ema=True), held_out)))
    assert len(found[0]) == len(config.eval)
    for (label, one), (_, eight) in zip(*found, strict=True):
        assert one.scalars or one.images, label
        for key, value in one.scalars.items():
            np.testing.assert_allclose(value, eight.scalars[key], rtol=1e-4, atol=1e-6, err_msg=f"{label} {key}")
        for key, images in one.images.items():
            np.testing.assert_allclose(images, eight.images[key], atol=2e-4, err_msg=f"{label} {key}")


def test_every_image_counts_once(tiny, advance):
    """Means over 13 images in batches of 8, the last one padded, are means over the 13."""
    config = configs.override(tiny("vqvae_digits"), {"data.batch": 8, "eval.loss.num": 13, "eval.codes.num": 13})
    exp, state, _ = advance(config, num=0)
    source = open_source(config, "eval")
    reports = dict(evaluate.reports(exp, evaluate.evaluators(exp), state.view(), state.view(), source))
    images = load_all(source, 1 << 30)["image"][:13]
    mse = ((exp.method.reconstruct(state.view(), {"image": images}, exp.root) - (images / 127.5 - 1.0)) ** 2).mean()
    np.testing.assert_allclose(reports["loss"].scalars["mse"], mse, rtol=1e-5)
    used = np.unique(exp.method.encode(state.view(), images, exp.root))
    assert reports["codes"].scalars["usage"] == len(used) / exp.method.codes
    assert 1.0 <= reports["codes"].scalars["perplexity"] <= len(used)

"""Every evaluator of every config: the figures and pictures of one device are those of three, the padding counts for nothing."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT

from jaxgen import evaluate
from jaxgen.config import files as configs
from jaxgen.core.method import Samples
from jaxgen.data.pipeline import load_all, share
from jaxgen.errors import NotFinite
from jaxgen.evaluation import per_image
from jaxgen.images import to_uint8, within
from jaxgen.runs.experiment import Experiment, open_source


def test_evaluation_on_three_devices_is_that_on_one(kind, shared, advance):
    """Three do not divide the batch: what is filled up counts for nothing and moves no noise."""
    config = shared(kind)
    exp, state, _ = advance(config, num=0)
    found, made = [], []
    for devices in (1, 3):
        exp = Experiment.open(configs.override(config, {"mesh": {"data": devices}}), exp.data)
        placed = jax.device_put(jax.device_get(state), exp.shardings)
        held_out, tests = open_source(config, "eval"), evaluate.evaluators(exp)
        found.append(list(evaluate.reports(exp, tests, placed.view(), placed.view(ema=True), held_out)))
        if isinstance(exp.method, Samples):
            made.append(exp.sample(placed.view(), 13))
    assert len(found[0]) == len(config.eval)
    for (label, one), (_, three) in zip(*found, strict=True):
        assert one.scalars or one.images, label
        for key, value in one.scalars.items():
            np.testing.assert_allclose(value, three.scalars[key], rtol=1e-4, atol=1e-6, err_msg=f"{label} {key}")
        for key, images in one.images.items():
            np.testing.assert_allclose(images, three.images[key], atol=2e-4, err_msg=f"{label} {key}")
    if made:
        np.testing.assert_allclose(*(one.images for one in made), atol=1e-3)
    for one in made if "mask" in exp.spec else ():  # what is known of a picture stays to the bit
        stays = np.broadcast_to(one.cond["mask"] == 0, one.images.shape)
        assert stays.any()
        np.testing.assert_array_equal(to_uint8(one.images)[stays], one.data[exp.data.target][stays])


def test_nothing_is_measured_of_broken_weights(kind, shared, advance):
    """Not even what looks sound: of NaN logits a class is the first, and of NaN latents a code."""
    config = shared(kind)
    exp, state, _ = advance(config, num=0)
    w, broken = state.view(ema=True), jax.tree.map(lambda x: x * np.nan, state.view().nets)
    held_out, raw = open_source(config, "eval"), state.view()
    for name, test in evaluate.evaluators(exp).items():
        with pytest.raises(NotFinite, match=rf"config\.eval\.{name}: .*step 0, weights ema.*--weights=raw"):
            list(evaluate.reports(exp, {name: test}, raw, w.replace(nets=broken), held_out))


def likelihood(monkeypatch, figures, lossy=False):
    """What the evaluator makes of the method's figures, each call's in turn."""
    found = iter(figures)
    monkeypatch.setattr(per_image, "averages", lambda *_: next(found))
    method = SimpleNamespace(kind="bound", levels=256, eval_step=None)
    exp = SimpleNamespace(method=method, spec=SimpleNamespace(shape=(4, 4, 1)))
    source = SimpleNamespace(lossy=lossy)
    monkeypatch.setattr(per_image, "drawn", lambda *_: {})
    return per_image.Likelihood()(exp, None, None, source)


def test_bits_of_jpeg_files_are_warned_of(monkeypatch, recwarn):
    likelihood(monkeypatch, [{"nats": -16.0}])
    assert not recwarn
    with pytest.warns(UserWarning, match="from JPEG files.*no figure of lossless pictures"):
        likelihood(monkeypatch, [{"nats": -16.0}], lossy=True)


def test_an_infinite_likelihood_names_the_figures_that_broke_with_it(monkeypatch):
    parts = {"logdet_0_entry": 1.0, "logdet_1_1_steps": np.inf, "loss": -np.inf}
    with pytest.raises(NotFinite, match=r"^likelihood_nats, logdet_1_1_steps, loss became NaN or infinite"):
        likelihood(monkeypatch, [{"nats": np.inf}, parts])


@dataclasses.dataclass(frozen=True)
class Broken:
    """An evaluator that reports what is not finite."""

    value: float
    part: str

    def __call__(self, *_):
        return per_image.Report(
            **{self.part: {"it": np.full((2, 8, 8, 1) if self.part == "images" else (), self.value)}}
        )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_figure_that_is_not_finite_is_no_figure(value, tiny, advance):
    """Whatever made it: the checkpoint and the likely cause are named, and infinity is not taken for white."""
    exp, state, _ = advance(tiny("vae_digits"), num=0)
    w = state.view()
    for part in ("scalars", "images"):
        with pytest.raises(NotFinite, match=r"config\.eval\.loss: it became NaN.*step 0.*finite, but a net overflows"):
            list(evaluate.reports(exp, {"loss": Broken(value, part)}, w, w, None))
    large = w.replace(nets=jax.tree.map(lambda x: x * 1e20, w.nets))
    with pytest.raises(NotFinite, match=r"step 0, weights ema\): .*reach .*training had diverged"):
        list(evaluate.reports(exp, {"loss": Broken(value, "scalars")}, w, large, None))
    with pytest.raises(NotFinite):
        to_uint8(np.full((2, 2), value))
    assert np.isnan(within(np.float32([value]))).all()


def test_broken_samples_name_the_solver(tiny, advance, monkeypatch):
    """With finite weights it is the sampler that diverges: the message says which, and what to try."""
    exp, state, _ = advance(tiny("vae_digits"), num=0)
    own = Experiment(exp.config, exp.data, exp.mesh)  # with programs of its own
    broken = jnp.zeros((8, 8, 8, 1)).at[1:, 3].set(np.inf)  # five are made in a batch of eight
    monkeypatch.setattr(type(own.method), "sample", lambda *_: broken)
    told = pytest.raises(NotFinite, match=r"4 of 5 samples are NaN or infinite \(step 0, weights std0\.1\)")
    with told, own.explaining({"std0.1": state.view()}):
        own.sample(state.view(), 5)
    config = configs.normalise(configs.load(f"{ROOT}/configs/ddpm_digits.py:tiny"))
    cause = Experiment(config, exp.data, exp.mesh)._cause(1.0, sampled=True)
    cures = re.findall(r"--config\.(\S+)=(\S+)", cause)
    assert "ddim of 4 steps, guidance 1.5" in cause and len(cures) == 2
    configs.override(config, dict(cures))  # what is advised is accepted


def test_every_image_counts_once(tiny, advance):
    """Means over 13 images in batches of 8, the last one padded, are means over the 13."""
    config = configs.override(tiny("vqvae_digits"), {"data.batch": 8, "eval.loss.num": 13, "eval.codes.num": 13})
    exp, state, _ = advance(config, num=0)
    source = open_source(config, "eval")
    reports = dict(evaluate.reports(exp, evaluate.evaluators(exp), state.view(), state.view(), source))
    images = load_all(source, 1 << 30)["image"][share(source, 13)]
    mse = ((exp.method.reconstruct(state.view(), {"image": images}, exp.root) - (images / 127.5 - 1.0)) ** 2).mean()
    np.testing.assert_allclose(reports["loss"].scalars["mse"], mse, rtol=1e-5)
    used = np.unique(exp.method.encode(state.view(), images, exp.root))
    assert reports["codes"].scalars["usage"] == len(used) / exp.method.codes
    for name in ("loss", "codes"):
        assert reports[name].about == {"N": 13, "share": {"of": len(source), "seed": 0}}
    assert 1.0 <= reports["codes"].scalars["perplexity"] <= len(used)

"""Device augmentations: the key decides everything, and labels say what was done."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.core.spec import pictures
from jaxgen.errors import UserError
from jaxgen.images import to_float, to_uint8
from jaxgen.runs.experiment import Experiment
from jaxgen.tasks.augment import Dequantise, Geometric


def _smooth(side: int, channels: int = 1) -> jnp.ndarray:
    """[1, side, side, channels]: a few low frequencies without symmetry, in [-1, 1]."""
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    waves = [np.sin(0.3 * y + 0.1 * k) * np.cos(0.2 * x - 0.4) + 0.3 * np.sin(0.15 * (x + y)) for k in range(channels)]
    return jnp.asarray(np.stack(waves, -1)[None] / 1.3, jnp.float32)


def test_labels_are_zero_for_images_left_alone_and_only_for_them():
    x = jnp.broadcast_to(_smooth(16), (400, 16, 16, 1))
    out = jax.jit(partial(Geometric(p=0.1), pictures((16, 16, 1)), {}))({"image": x}, jax.random.key(3))
    still = np.all(np.asarray(out["augment"]) == 0, 1)
    change = np.abs(np.asarray(out["image"] - x)).max((1, 2, 3))
    assert change[still].max() < 2e-5 and change[~still].min() > 1e-3
    assert 0.5 * 0.9**5 - 0.1 < still.mean() < 0.5 * 0.9**4.5 + 0.1  # no mirror, and none of five chosen


def test_equal_labels_mean_equal_images_and_the_moments_are_the_paper_s():
    """The label holds all that was drawn: turned and stretched images that share it are the same."""
    augment = jax.jit(partial(Geometric(p=1.0), pictures((2, 2, 1)), {}))
    drawn = np.asarray(augment({"image": jnp.zeros((20_000, 2, 2, 1))}, jax.random.key(0))["augment"])
    mirror, upside, size, cos, sin, *stretch, down, right = drawn.T
    assert set(mirror) == set(upside) == {0.0, 1.0}
    np.testing.assert_allclose([mirror.mean(), upside.mean()], 0.5, atol=0.02)
    np.testing.assert_allclose([size.std(), down.std(), right.std()], 1.0, atol=0.03)
    np.testing.assert_allclose((cos + 1) ** 2 + sin**2, 1.0, atol=1e-5)
    np.testing.assert_allclose(np.square(stretch).sum(0).mean(), 1.0, atol=0.05)


def _edm(**changes):
    config = configs.normalise(configs.load(f"{ROOT}/configs/edm_cifar.py:tiny"))
    return configs.override(config, changes)


def test_a_net_that_cannot_be_told_is_refused():
    config = configs.load(f"{ROOT}/configs/dcgan_digits.py:tiny")
    config = configs.override(configs.normalise(config), {"data.augment": ("geometric",)})
    with pytest.raises(UserError, match=r"cannot be told 'augment' \(embedding\): it takes label"):
        Experiment.open(config, pictures((8, 8, 1), 10))


@pytest.mark.slow
def test_the_net_hears_how_an_image_was_augmented():
    """The loss of one image depends on its augment label, and none is the label 0."""
    method = Experiment.open(_edm(), pictures((16, 16, 3), 4)).method
    batch = {"image": jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1.0)}
    state, rng = jax.jit(method.init)(jax.random.key(1), batch), np.random.default_rng(0)
    noise = lambda p: p + 0.1 * rng.standard_normal(p.shape).astype(np.float32)  # noqa: E731  the net starts at zero
    w = state.view().training("net", jax.tree.map(noise, state.nets["net"].params))
    loss = jax.jit(lambda batch: method.loss(w, batch, jax.random.key(2), False).each)
    none, zero, one = (
        loss(batch | drawn) for drawn in ({}, {"augment": jnp.zeros((2, 9))}, {"augment": jnp.ones((2, 9))})
    )
    np.testing.assert_array_equal(none, zero)
    assert (np.abs(one - none) > 1e-6).all()


def test_products_are_exact_on_every_device():
    """A GPU's or TPU's default precision would blur images that are left alone, and the label 0 would not say so."""
    batch = {"image": jnp.zeros((2, 8, 8, 3))}
    text = str(jax.make_jaxpr(partial(Geometric(), pictures((8, 8, 3)), {}))(batch, jax.random.key(0)))
    products = text.split("dot_general[")[1:]
    assert len(products) > 6 and all("HIGHEST" in p.split("] ")[0] for p in products)


@pytest.mark.parametrize("as_float", [False, True])
def test_dequantised_levels_fill_their_256th_and_come_back(as_float):
    """As the authors' code: 2 (k / 256 - 1/2) + U(0, 1/128), in [-1, 1); what is undone rounds to k."""
    spec, task = pictures((16, 16, 1)), Dequantise()
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(200, 0)
    given = to_float(jnp.asarray(levels)) if as_float else jnp.asarray(levels)
    seen = jax.jit(partial(task, spec, {}))({"image": given}, jax.random.key(0))["image"]
    assert seen.dtype == task.spec(spec)["image"].dtype == "float32"
    noise = np.asarray((seen - 2 * (levels / 256 - 0.5)) * 128)
    assert noise.min() > -1e-3 and noise.max() < 1 + 1e-3 and abs(noise.mean() - 0.5) < 0.01
    assert abs(noise.var() - 1 / 12) < 0.002 and seen.min() >= -1 and seen.max() < 1
    np.testing.assert_array_equal(to_uint8(task.undo({}, seen)), levels)

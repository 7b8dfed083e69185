"""Autoencoders: what each loss asks for, and noise that is taken off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.core.method import Encodes, Reconstructs, Restores, Samples, Scores
from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.degradations import noise
from jaxgen.errors import UserError
from jaxgen.losses.pixel_likelihood import Bernoulli, Gaussian, Laplace
from jaxgen.methods.autoencoder import Autoencoder
from jaxgen.nets.autoencoder import AutoencoderNet, ConvDecoder, ConvEncoder, MlpDecoder, MlpEncoder
from jaxgen.runs.experiment import Experiment

KEY = jax.random.key(0)


def autoencoder(shape=(8, 8, 1), width=64, latent=32, **fields):
    module = AutoencoderNet(MlpEncoder(width, 1, "relu"), MlpDecoder(shape, width, 1, "relu"), latent)
    return Autoencoder(net=Net(module, optax.adam(2e-3)), spec=pictures(shape), **fields)


def test_losses_are_those_of_the_papers():
    x = {"image": jax.random.uniform(KEY, (6, 8, 8, 1), minval=-1.0)}
    want = {
        Gaussian(): lambda y, x: 0.5 * (y - x) ** 2 + 0.5 * np.log(2 * np.pi),
        Laplace(): lambda y, x: jnp.abs(y - x) + np.log(2),
        Bernoulli(binarize="none"): lambda y, x: optax.sigmoid_binary_cross_entropy(y, (x + 1) / 2),
    }
    for likelihood, loss in want.items():
        method = autoencoder(likelihood=likelihood)
        w = jax.jit(method.init)(KEY, x).view()
        out = method.net.apply(w.nets["net"], x["image"], 1)[0]
        found = jax.jit(method.eval_step)(w, x, KEY)
        np.testing.assert_allclose(found["loss"], loss(out, x["image"]).mean((1, 2, 3)), rtol=1e-5)


def test_capabilities_and_codes_with_places():
    module = AutoencoderNet(ConvEncoder(8, 4), ConvDecoder((7, 10, 3), 8, 4), 5)
    method = Autoencoder(net=Net(module, optax.adam(1e-3)), spec=pictures((7, 10, 3)))
    assert all(isinstance(method, c) for c in (Reconstructs, Restores, Encodes))
    assert not isinstance(method, Samples | Scores)
    batch = {"image": jnp.zeros((2, 7, 10, 3), jnp.uint8)}
    w = jax.eval_shape(method.init, KEY, batch).view()
    z = jax.eval_shape(method.encode, w, batch["image"], KEY)
    assert z.shape == (2, 2, 3, 5) and jax.eval_shape(method.decode, w, z).shape == (2, 7, 10, 3)


def test_asking_it_to_sample_is_one_clear_line():
    config = configs.normalise(configs.load(f"{ROOT}/configs/ae_digits.py:tiny"))
    exp = Experiment.open(config, pictures((8, 8, 1)))
    with pytest.raises(
        UserError, match=r"^method autoencoder cannot sample by itself: it needs a prior over its codes; use"
    ):
        next(exp.samples(exp.abstract.view(), 4))


@pytest.mark.slow
def test_a_denoising_one_takes_off_more_noise_than_a_plain_one(digits):
    held_out, found = digits["eval"] / 127.5 - 1.0, {}
    noisy = held_out + 0.5 * jax.random.normal(KEY, held_out.shape)
    for corrupt in (noise.Nothing(), noise.Gaussian(sigma=0.5)):
        method = autoencoder(width=256, latent=128, corrupt=corrupt)

        @jax.jit
        def run(state, method=method):
            def step(state, i):
                rng = jax.random.fold_in(KEY, i)
                rows = jax.random.randint(rng, (64,), 0, len(digits["train"]))
                return method.train_step(state, {"image": digits["train"][rows]}, rng)

            return jax.lax.scan(step, state, jnp.arange(1_500))[0]

        w = run(jax.jit(method.init)(KEY, {"image": digits["train"][:64]})).view()
        found[type(corrupt)] = ((jax.jit(method.restore)(w, {"image": noisy}, KEY) - held_out) ** 2).mean()
    assert found[noise.Gaussian] < 0.25 / 4  # 6 dB
    assert found[noise.Gaussian] < 0.8 * found[noise.Nothing]

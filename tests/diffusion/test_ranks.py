"""Law: every part of every table works on clips [B, T, H, W, C] as on images: a clip is its frames, one below the other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.config.registry import TABLES, build
from jaxgen.core.net import Net
from jaxgen.core.spec import pictures
from jaxgen.diffusion.paths import Sigma, VpSde
from jaxgen.diffusion.process import VP, level_at
from jaxgen.diffusion.solvers.table import Estimate
from jaxgen.diffusion.weight import MinSnr
from jaxgen.methods.consistency import Consistency
from jaxgen.methods.diffusion import Diffusion
from jaxgen.methods.meanflow import MeanFlow

B, CLIP, TALL = 3, (2, 4, 5, 1), (8, 5, 1)
RNG = np.random.default_rng(0)
X0, EPS = (jnp.asarray(RNG.standard_normal((B, *CLIP)), jnp.float32) for _ in range(2))
T, COND, NULL = jnp.array([0.2, 0.5, 0.9]), {"label": jnp.array([0, 1, 2])}, {"label": jnp.full(B, 3)}


def fold(x):
    """[B, T, H, W, C] -> [B, T H, W, C]."""
    return x.reshape(len(x), -1, *x.shape[3:])


def same(function, *arrays, **tolerance):
    """What `function` makes of clips is what it makes of their folded frames."""
    clips, tall = jax.jit(function)(*arrays), jax.jit(function)(*(fold(a) for a in arrays))
    found = [fold(v) if v.ndim == len(CLIP) + 1 else v for v in jax.tree.leaves(clips)]
    for a, b in zip(found, jax.tree.leaves(tall), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-5, **tolerance})


def model(x, t, cond):
    label = cond["label"].reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.tanh(x) * (1 - 0.5 * t.reshape(label.shape)) + 0.1 * label


def worse(x, t, cond):
    return 0.5 * model(x, t, cond)


@pytest.mark.parametrize("predict", TABLES["predict"])
@pytest.mark.parametrize("process", TABLES["process"])
def test_processes_predictions_and_weights(process, predict):
    process, predict = build("process", process), build("predict", predict)

    def cycle(x0, eps):
        level = level_at(process, T, x0)
        x, target = level.noised(x0, eps), predict.target(x0, eps, level)
        flat = level_at(process, T, T)
        weights = [build("weight", name)(flat, predict.gain(flat)) for name in TABLES["weight"]]
        return x * predict.scale(level), target, predict.denoised(target, x, level), level.noise(x, x0), weights

    same(cycle, X0, EPS)
    np.testing.assert_allclose(cycle(X0, EPS)[2], X0, atol=0.02)


@pytest.mark.parametrize("name", TABLES["solver"])
def test_solvers(name):
    process, solver = VP("cosine"), build("solver", {"name": name, "steps": 4})
    same(lambda x: solver(lambda x, t: model(x, t, COND), process, x, jax.random.key(1)), EPS, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", TABLES["guide"])
def test_guides(name):
    guide = build("guide", {"name": name, **({} if name == "none" else {"scale": 2.0})})
    guide = type(guide)(scale=2.0, avoid={}) if name == "negative" else guide
    same(lambda x: guide(model, COND, NULL, worse)(x, jnp.full(B, 0.5)), X0)
    learned = guide(lambda *args: Estimate(model(*args), 0.5 * jnp.ones_like(args[0])), COND, NULL, worse)
    same(lambda x: learned(x, jnp.full(B, 0.5)), X0)


@pytest.mark.parametrize("name", TABLES["nll"])
def test_likelihoods(name):
    nll, process = build("nll", name), VP("cosine", 20)

    def denoise(x, t):
        return model(x, t, COND)

    same(lambda x: nll(denoise, process, x, jax.random.key(0)), jnp.tanh(X0), rtol=1e-3)


class Pixels(nn.Module):
    """A net of each pixel for itself, of any rank, with as many channels as are asked for."""

    channels: int = 1

    @nn.compact
    def __call__(self, x, clock, cond, train=False):
        clock = clock.reshape(len(x), -1)
        told = jnp.concatenate([clock / 1000, cond["label"][:, None]], -1).astype(x.dtype)
        told = jnp.broadcast_to(told.reshape(len(x), *(1,) * (x.ndim - 2), -1), (*x.shape[:-1], told.shape[-1]))
        return nn.Dense(self.channels)(jnp.tanh(nn.Dense(4)(jnp.concatenate([x, told], -1))))

    def uncertainty(self, clock, train=False):
        return 0.1 * jnp.sin(clock)


def parts(objective: str) -> dict[str, Any]:
    learned = objective in ("hybrid", "bound")
    process = VP("cosine", 20) if learned else VpSde()
    net = Net(Pixels(2 if learned else 1), optax.sgd(0.1))
    more = {"weight": MinSnr(), "solver": build("solver", {"name": "ancestral", "steps": 4})}
    return {"net": net, "process": process, "objective": build("objective", objective), **more}


METHODS = {
    **{f"diffusion-{n}": (Diffusion, parts(n)) for n in TABLES["objective"]},
    "consistency": (Consistency, {"net": Net(Pixels(), optax.sgd(0.1)), "process": Sigma()}),
    "meanflow": (
        MeanFlow,
        {"net": Net(Pixels(), optax.sgd(0.1)), "share": 0.5, "omega": 2.0, "condition_dropout": 0.5},
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_train_on_clips_and_sample_them(name):
    kind, fields = METHODS[name]
    found = []
    for shape in (CLIP, TALL):
        method = kind(**fields, spec=pictures(shape, 3))
        batch = {"image": jnp.tanh(X0).reshape(B, *shape), **COND}
        state = jax.jit(method.init)(jax.random.key(0), batch)
        after, metrics = jax.jit(method.train_step)(state, batch, jax.random.key(1))
        figures = jax.jit(method.eval_step)(after.view(), batch, jax.random.key(2))
        images = jax.jit(lambda w, method=method: method.sample(w, jax.random.key(3), B, COND))(after.view())
        assert images.shape == (B, *shape)
        found.append((metrics, figures, images.reshape(B, *TALL)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *found)

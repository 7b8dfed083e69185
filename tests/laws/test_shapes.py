"""Shapes of every config at its full size, abstractly: nothing is computed, so the paper's nets cost no more than tiny ones."""

import chex
import jax
import jax.numpy as jnp
import pytest
from cases import CHOSEN, CONFIGS, ROOT, lend

from jaxgen.config import files as configs
from jaxgen.core import parallel
from jaxgen.core.method import Encodes, Method, Reconstructs, Samples, Scores
from jaxgen.data.sources import Digits, Info
from jaxgen.runs.experiment import Experiment

FACTS = {
    "cifar10": Info((32, 32, 3), 10, 50_000, tuple("abcdefghij")),
    "mnist": Info((28, 28, 1), 10, 60_000, tuple("0123456789")),
    "imagenet_resized/64x64": Info((64, 64, 3), 1_000, 1_281_167, tuple(map(str, range(1_000)))),
}
PARAMETERS = {"ddpm_cifar": {"net": 35_746_307}}  # published counts


QUICK = (*CHOSEN, "ddpm_digits")  # tracing the paper's nets takes seconds each: the rest runs in the full suite


@pytest.fixture(params=[pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CONFIGS])
def exp(request, tmp_path) -> Experiment:
    config = configs.override(configs.load(f"{ROOT}/configs/{request.param}.py"), {"mesh": {"data": 1}})
    info = Digits().open("train").info if config.data.name == "digits" else FACTS[config.data.dataset]
    config = lend(config, info, tmp_path, weights=False)
    return Experiment(config, info, parallel.make_mesh({"data": 1}))


def test_every_function_of_every_method_keeps_its_promise(exp, request):
    method, key = exp.method, jax.random.key(0)
    assert isinstance(method, Method)
    state, batch, num = exp.abstract, exp.spec(exp.batch), 4

    after, metrics = jax.eval_shape(method.train_step, state, batch, key)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert "loss" in metrics
    for value in metrics.values():
        chex.assert_shape(value, ())
        chex.assert_type(value, jnp.float32)

    raw, w = (jax.eval_shape(lambda s, ema=ema: s.view(ema), state) for ema in (False, True))
    chex.assert_trees_all_equal_shapes_and_dtypes(raw, w)  # so what holds for one holds for the other
    figures = jax.eval_shape(method.eval_step, w, exp.spec(num), key)
    assert "loss" in figures
    for value in figures.values():
        chex.assert_shape(value, (num,))
    cond = {"label": jax.ShapeDtypeStruct((num,), jnp.int32)} if exp.feed.labels else {}
    if isinstance(method, Samples):
        images = jax.eval_shape(lambda w, c: method.sample(w, key, num, c), w, cond)
        chex.assert_shape(images, (num, *exp.info.shape))
        chex.assert_type(images, jnp.float32)
    if isinstance(method, Reconstructs):
        chex.assert_shape(jax.eval_shape(method.reconstruct, w, exp.spec(num), key), (num, *exp.info.shape))
    if isinstance(method, Encodes):
        codes = jax.eval_shape(method.encode, w, exp.spec(num)["image"], key)
        assert codes.shape[0] == num
        chex.assert_shape(jax.eval_shape(method.decode, w, codes), (num, *exp.info.shape))
    if isinstance(method, Scores):
        chex.assert_shape(jax.eval_shape(method.log_prob, w, exp.spec(num), key), (num,))


def test_parameter_counts_are_the_published_ones(exp, request):
    name = request.node.callspec.params["exp"]
    for net, count in PARAMETERS.get(name, {}).items():
        assert sum(x.size for x in jax.tree.leaves(exp.abstract.nets[net].params)) == count


def test_parameters_optimizer_and_averages_are_float32(exp):
    for net in exp.abstract.nets.values():
        for leaf in jax.tree.leaves((net.params, net.ema)):
            chex.assert_type(leaf, jnp.float32)

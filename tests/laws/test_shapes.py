"""Shapes of every config at its full size, abstractly: nothing is computed, so the paper's nets cost no more than tiny ones."""

import chex
import jax
import jax.numpy as jnp
import pytest
from cases import CHOSEN, CONFIGS, ROOT, kinds, lend, others
from published import MODELS, full_size

from jaxgen.config import files as configs
from jaxgen.core import conditions, parallel
from jaxgen.core.method import Encodes, Method, Reconstructs, Samples, Scores
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.data.sources import Digits, Shapes
from jaxgen.data.sources.tokenized import CAPTIONS
from jaxgen.runs.experiment import Experiment, build_tokenizers, open_source

SPECS = {
    "cifar10": pictures((32, 32, 3), 10),
    "celeb_a": pictures((128, 128, 3)),
    "mnist": pictures((28, 28, 1), 10),
    "imagenet_resized/64x64": pictures((64, 64, 3), 1_000),
    "imagenet2012": pictures((256, 256, 3), 1_000),
}
PARAMETERS = {"ddpm_cifar": {"net": 35_746_307}, "kl_f8_imagenet256": {"ae": 83_653_863}}  # published counts
PARAMETERS |= {name: {"net": count} for name, (_, _, count) in MODELS.items()}


KINDS = kinds()
QUICK = (*CHOSEN, "ddpm_digits")  # tracing the paper's nets takes seconds each: the rest runs in the full suite


@pytest.fixture(
    scope="session", params=[pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CONFIGS]
)
def exp(request, tmp_path_factory) -> Experiment:
    lent = tmp_path_factory.mktemp("lent")
    config = full_size(request.param, lent)
    side = config.data.size if request.param in MODELS else 32
    own = {"digits": Digits().open("train").spec, "folder": pictures((side, side, 3), 10)}
    if config.data.name == "crops":
        own |= {"crops": pictures((config.data.size, config.data.size, config.data.channels or 3))}
    if config.data.name in ("pairs", "unpaired"):
        side = config.data.get("source_a", config.data).get("size")
        shape = (side, side, 3) if side else (28, 28, 1)
        seen = Field(shape, "uint8", "image", order=int(config.data.name == "unpaired"))
        own[config.data.name] = Spec(pictures(shape), seen=seen)
    own |= dict.fromkeys(("ring", "grid"), Spec(image=Field((1, 1, 2), "float32", "image", "target")))
    own |= {"shapes": Shapes(size=32, attributes=config.data.get("attributes", False)).open("train").spec}
    spec = own.get(config.data.name) or SPECS[config.data.dataset]
    spec = Spec(spec, **{k: one.field() for k, one in zip(CAPTIONS, build_tokenizers(config), strict=False)})
    config = lend(config, spec, lent, weights=False)
    return Experiment(config, spec, parallel.make_mesh({"data": 1}))


def test_every_function_of_every_method_keeps_its_promise(exp, request):
    method, key = exp.method, jax.random.key(0)
    assert isinstance(method, Method)
    state, spec, num = exp.abstract, exp.spec, 4
    batch, few = spec.abstract(exp.batch), spec.abstract(num)
    seen = jax.eval_shape(lambda f, b: exp.see(f, b, key, train=True), state.frozen, exp.read_spec.abstract(num))
    assert {k: (v.shape, v.dtype) for k, v in seen.items() if k in spec} == {
        k: (v.shape, v.dtype) for k, v in few.items()
    }

    after, metrics = jax.eval_shape(method.train_step, state, batch, key)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert metrics
    for value in metrics.values():
        chex.assert_shape(value, ())
        chex.assert_type(value, jnp.float32)
    name = request.node.callspec.params["exp"]
    if name not in KINDS or name in MODELS:  # what follows is that of another config, or of a tiny form
        return

    raw, w = (jax.eval_shape(lambda s, ema=ema: s.view(ema), state) for ema in (False, True))
    chex.assert_trees_all_equal_shapes_and_dtypes(raw, w)  # so what holds for one holds for the other
    figures = jax.eval_shape(method.eval_step, w, few, key)
    assert figures
    for value in figures.values():
        chex.assert_shape(value, (num,))
    cond = jax.eval_shape(lambda: conditions.nulls(spec, num))
    if isinstance(method, Samples):
        images = jax.eval_shape(lambda w, c: method.sample(w, key, num, c), w, cond)
        chex.assert_shape(images, (num, *spec.shape))
        chex.assert_type(images, jnp.int32 if spec[spec.target].kind == "tokens" else jnp.float32)
        shown = jax.eval_shape(exp.show, w.frozen, images)
        chex.assert_shape(shown, (num, *exp.data.shape))
    if isinstance(method, Reconstructs):
        chex.assert_shape(jax.eval_shape(method.reconstruct, w, few, key), (num, *spec.shape))
    if isinstance(method, Encodes):
        codes = jax.eval_shape(method.encode, w, few[spec.target], key)
        assert all(level.shape[0] == num for level in jax.tree.leaves(codes))
        chex.assert_shape(jax.eval_shape(method.decode, w, codes), (num, *spec.shape))
    if isinstance(method, Scores):
        assert method.levels in (spec.levels, 2, 0)  # those of the data; a binarised picture's; a density has none
    if isinstance(method, Scores):  # an ODE with its net's derivatives, say
        chex.assert_shape(jax.eval_shape(method.log_prob, w, few, key), (num,))


def test_parameter_counts_are_the_published_ones(exp, request):
    name = request.node.callspec.params["exp"]
    for net, count in PARAMETERS.get(name, {}).items():
        assert sum(x.size for x in jax.tree.leaves(exp.abstract.nets[net].params)) == count


def test_parameters_optimizer_and_averages_are_float32(exp):
    for net in exp.abstract.nets.values():
        for leaf in jax.tree.leaves((net.params, net.ema)):
            chex.assert_type(leaf, jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("other", sorted({*CONFIGS} - {*KINDS, *others()}))
def test_a_tiny_form_that_no_law_trains_has_a_step(other, tmp_path):
    config = configs.override(configs.load(f"{ROOT}/configs/{other}.py:tiny"), {"mesh": {"data": 1}})
    spec = open_source(config, "train").spec
    exp = Experiment.open(lend(config, spec, tmp_path, weights=False), spec)
    after, _ = jax.eval_shape(exp.method.train_step, exp.abstract, exp.spec.abstract(exp.batch), jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, exp.abstract)

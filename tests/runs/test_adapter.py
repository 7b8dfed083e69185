"""LoRA: the base is lent and never changes, its pairs alone are trained, averaged and saved; at the start it changes nothing."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from pipeline_files import filled

from jaxgen.config import files as configs
from jaxgen.core.adapter import Lora, Sum
from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import lora
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.experiment import Experiment, open_source
from jaxgen.train import train

CONFIG = dict(steps=2, save_every=1, log_every=1, eval={})
TARGETS = r".*(qkv|conv0)/kernel"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of digits after two steps."""
    path = tmp_path_factory.mktemp("base")
    train(configs.override(configs.load("configs/ddpm_digits.py:tiny"), {"mesh": {"data": 1}, **CONFIG}), path)
    return path


@pytest.fixture
def adapted(tiny, base):
    """changes -> the config of a run that adapts the base."""
    lent = {"method.net.adapter": "lora", "method.net.adapter.run": str(base), "method.net.adapter.targets": TARGETS}
    return lambda **changes: tiny("ddpm_digits", **{**CONFIG, **lent, "method.net.adapter.rank": 2, **changes})


def opened(config):
    return Experiment.open(config, open_source(config, "train").spec)


def size(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_a_fresh_adapter_changes_nothing_and_is_small(adapted):
    exp = opened(adapted())
    state = exp.init()
    w, lent = state.view(), state.frozen["base"].weights.nets["net"]
    on = exp.method.net.adapter.on
    jax.tree.map(np.testing.assert_array_equal, on(w.nets["net"]), lent)
    mine = state.nets["net"]
    assert size(mine.params) < 0.3 * size(lent) and size(mine.opt) < 0.6 * size(lent) and "base" not in mine.vars
    moved = on({**w.nets["net"], "params": jax.tree.map(lambda a: a + 0.1, mine.params)})
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), moved, lent)
    assert sum(jax.tree.leaves(changed)) == len(list(exp.method.net.adapter.pairs(mine.params)))


def test_in_training_no_gradient_is_of_a_whole_kernel():
    """The same outputs and gradients by factors, of fused kernels in a stack of blocks; convolutions are summed as ever."""
    module = UNetCondition(
        shape=(4, 4, 3), conditions=Spec(states=Field((5, 6), "float32", "embedding")), width=8, mults=(1,), blocks=1, heads=2,
        groups=4, attend_down=(False,), attend_up=(False,), layers=2, scan=True,
    )  # fmt: skip
    adapter = Lora(run=None, rank=2, alpha=3.0, targets=r".*\b(qkv|q|kv|out|conv0)/kernel")
    x, t, cond = jnp.ones((2, 4, 4, 3)), jnp.ones(2), {"states": jnp.ones((2, 5, 6))}
    base = filled(jax.eval_shape(module.init, jax.random.key(0), x, t, cond))["params"]
    params = adapter.init(jax.random.key(1), base)
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(2), a.shape), params)

    def told(params, apart):
        y = module.apply(adapter.on({"params": params, "base": base}, apart=apart), x, t, cond)
        return (y**2).sum(), y

    found = []
    for apart in (False, True):
        step = jax.jit(jax.grad(partial(told, apart=apart), has_aux=True)).trace(params)
        whole = len(re.findall(r"f32\[(8,24|24,8)\] = dot_general", str(step.jaxpr)))  # of q, k and v
        assert (whole == 0) == apart
        found.append(step.lower().compile()(params))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), *found)
    leaves = jax.tree.leaves(
        adapter.on({"params": params, "base": base}, apart=True), is_leaf=lambda v: isinstance(v, Sum)
    )
    sums = [leaf for leaf in leaves if isinstance(leaf, Sum)]
    assert len(sums) == sum(path[-2] != "conv0" for path, _ in adapter.pairs(params)) == 5
    np.testing.assert_allclose(jnp.asarray(sums[0]), sums[0].astype("float32"))


@pytest.mark.slow
def test_it_is_trained_saved_and_resumed_bitwise(adapted, base, tmp_path):
    train(adapted(), tmp_path / "whole")
    train(adapted(steps=1), tmp_path / "parts")
    train(adapted(), tmp_path / "parts")
    exp = opened(adapted())
    states = [Checkpoints(tmp_path / name, read_only=True).trained(lambda _: exp.abstract.replace(frozen={}), 2)[1]
              for name in ("whole", "parts")]  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, *states)
    ups = [v for k, v in jax.tree_util.tree_leaves_with_path(states[0].nets["net"].params) if "up" in str(k)]
    assert all(np.abs(up).max() > 0 for up in ups)


def test_targets_and_bases_that_do_not_fit(adapted):
    with pytest.raises(UserError, match=r"targets='qvk' matches no kernel; the nearest are .*qkv/kernel"):
        _ = opened(adapted(**{"method.net.adapter.targets": "qvk"})).abstract
    exp = opened(adapted(**{"method.net.width": 32}))
    w = exp.abstract.view()
    x, t, label = (
        jax.ShapeDtypeStruct(s, d) for s, d in (((1, *exp.spec.shape), "float32"), ((1,), "float32"), ((1,), "int32"))
    )
    with pytest.raises(UserError, match=r"no base of this net: .*kernel is \(.*\) there and \(.*\) here"):
        jax.eval_shape(
            lambda v, x, t, label: exp.method.net.apply(v, x, t, {"label": label}), w.nets["net"], x, t, label
        )
    net = dataclasses.replace(exp.method.net, module=nn.BatchNorm(use_running_average=True))
    with pytest.raises(UserError, match="for nets of params alone, and BatchNorm has batch_stats; set it to None"):
        jax.eval_shape(net.init, exp.root, x)
    with pytest.raises(UserError, match="nobody lends this net its base"):
        exp.method.net.adapter.on({"params": {}})


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True], ids=["plain", "scan"])
def test_what_is_trained_goes_to_files_and_merged_is_unmerged(scan, tmp_path):
    module = UNetCondition(
        shape=(4, 4, 3), conditions=Spec(states=Field((5, 6), "float32", "embedding")), width=8, mults=(1,), blocks=1, heads=2,
        groups=4, attend_down=(True,), attend_up=(True,), layers=2, scan=scan,
    )  # fmt: skip
    adapter = Lora(run=None, rank=2, alpha=3.0, targets=r".*(qkv|q|kv|out|conv0|proj_in)/kernel")
    shapes = jax.eval_shape(module.init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, "float32") for s in ((1, 4, 4, 3), (1,))),
                            module.conditions.abstract(1))  # fmt: skip
    rng = np.random.default_rng(0)
    base = jax.tree.map(lambda a: rng.standard_normal(a.shape).astype(np.float32), shapes)
    fresh = adapter.init(jax.random.key(1), base["params"])
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(2), a.shape), fresh)
    want = adapter.on({"params": params, "base": base["params"]})
    for write in (lora.write_kohya, lora.write_peft):
        write(tmp_path / "lora.safetensors", lora.pairs_of(module, adapter, params))
        got = lora.merged(module, base, [(lora.read(tmp_path / "lora.safetensors", module), 1.0)])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    with pytest.raises(UserError, match=r"own encoder of text.*targets='\(\?!text/\)"):
        lora.pairs_of(module, adapter, {**params, "text": params["mid_attend"]})

"""The nets of junyanz/pytorch-CycleGAN-and-pix2pix, and of a program like it: outputs, gradients, statistics, names of weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import images_last
from flax import linen as nn
from safetensors.numpy import load_file

from jaxgen.images import to_float
from jaxgen.methods.cyclegan import empty_pool, query
from jaxgen.nets.layers import Dropout
from jaxgen.nets.translator import ResnetTranslator, UNetTranslator
from jaxgen.pretrained.translation import from_author, to_author


def read(folder):
    """case.json, arrays, tolerances."""
    case = json.loads((folder / "case.json").read_text())
    return case, dict(np.load(folder / "io.npz")), {k: case["tolerance"][k] for k in ("rtol", "atol")}


def norms(module, grads):
    return {name: float(np.linalg.norm(np.ravel(g))) for name, g in to_author(module, {"params": grads}).items()}


def parameters(module, size=256):
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.golden("unet256*")
def test_unet(folder, recipe_weights):
    case, a, close = read(folder)
    weights = recipe_weights(case)
    module, variables = from_author(weights)
    config = case["config"]
    assert (module.downs, module.width, module.norm) == (config["num_downs"], config["ngf"], config["norm"])
    again = to_author(module, variables)
    assert again.keys() == weights.keys() and all(np.array_equal(again[k], weights[k]) for k in weights)
    for name, downs in (("unet_256", 8), ("unet_128", 7)):
        assert parameters(UNetTranslator(downs=downs, norm="batch")) == case["true_width_params"][name]

    x, target = (to_float(jnp.asarray(a[k]))[None] for k in ("x_u8", "target_u8"))
    masks = [np.unpackbits(a[f"dropout_mask{i}"])[: np.prod(shape)].reshape(shape).transpose(0, 2, 3, 1)
             for i, shape in enumerate(case["dropout_shapes"])]  # fmt: skip

    def check(y, kind):
        np.testing.assert_allclose(y[:, ::4, ::4].transpose(0, 3, 1, 2), a[f"y_{kind}"], **close)
        for axis, name in ((1, "h"), (2, "w")):
            want, got = a[f"y_{kind}_mean_{name}"], y.mean(axis).transpose(0, 2, 1)
            np.testing.assert_allclose(got, want, **close)

    def drop(next_fun, args, kwargs, context, called):
        """The stored masks in place of drawn ones."""
        if not isinstance(context.module, Dropout) or context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        called.append(args[1])
        return args[0] * masks[len(called) - 1] / (1 - context.module.rate)

    y = jax.jit(lambda v: module.apply(v, x))(variables)
    check(np.asarray(y), "eval")

    def l1(params):
        called = []
        with nn.intercept_methods(lambda f, args, kwargs, context: drop(f, args, kwargs, context, called)):
            y, new = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        assert called == [True] * len(masks)
        return 100 * jnp.abs(y - target).mean(), (y, new)

    (loss, (y, new)), grads = jax.jit(jax.value_and_grad(l1, has_aux=True))(variables["params"])
    check(np.asarray(y), "train")
    np.testing.assert_allclose(loss, a["loss_l1x100"], rtol=close["rtol"])
    stats = to_author(module, new)
    for name in (k for k in a if k.startswith("after:")):
        np.testing.assert_allclose(stats[name.removeprefix("after:")], a[name], **close)
    for name, norm in norms(module, grads).items():
        np.testing.assert_allclose(norm, case["grad_l2_norms"][name], rtol=2e-3, atol=1e-4, err_msg=name)


@pytest.mark.golden("cyclegan_resnet*")
def test_resnet(folder, recipe_weights):
    case, a, close = read(folder)
    weights = recipe_weights(case)
    module, variables = from_author(weights)
    assert (module.blocks, module.width, module.norm) == (6, case["config"]["ngf"], case["config"]["norm"])
    again = to_author(module, variables)
    assert again.keys() == weights.keys() and all(np.array_equal(again[k], weights[k]) for k in weights)
    for name, blocks in (("resnet_6blocks", 6), ("resnet_9blocks", 9)):
        assert parameters(ResnetTranslator(blocks=blocks)) == case["true_width_params"][name]

    x, target = images_last(a["x"]), images_last(a["target"])

    def l1(params):
        y = module.apply({"params": params}, x, train=True)
        return jnp.abs(y - target).mean(), y

    (loss, y), grads = jax.jit(jax.value_and_grad(l1, has_aux=True))(variables["params"])
    np.testing.assert_allclose(y, images_last(a["y"]), **close)
    np.testing.assert_allclose(loss, a["l1"], rtol=close["rtol"])
    for name, norm in norms(module, grads).items():
        np.testing.assert_allclose(norm, case["grad_l2_norms"][name], rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.golden("cyclegan_resnet*")
def test_files_of_several_gpus_and_of_old_versions_are_read(folder, recipe_weights):
    weights = recipe_weights(json.loads((folder / "case.json").read_text()))
    stats = {f"model.2.{k}": np.zeros(8, np.float32) for k in ("running_mean", "running_var", "num_batches_tracked")}
    wrapped = {f"module.{k}": v for k, v in (weights | stats).items()}
    ours, theirs = from_author(weights), from_author(wrapped)
    assert ours[0] == theirs[0]
    jax.tree.map(np.testing.assert_array_equal, ours[1], theirs[1])


@pytest.mark.golden("pix2pix_resnet_generator*")
def test_another_program(folder):
    case, a, close = read(folder)
    weights = {k: v for k, v in load_file(folder / "weights.safetensors").items() if not k.endswith("tracked")}
    blocks = case["config"]["n_blocks"]
    places = {"inc.inconv": 1, "down1.down": 4, "down2.down": 7, "up1.up": 10 + blocks, "up2.up": 13 + blocks}
    places |= {"outc.outconv": 17 + blocks}
    found = {}
    for name, value in weights.items():
        part, layer, leaf = name.rsplit(".", 2)
        if part.startswith("resblocks"):
            found[f"model.{10 + int(part.split('.')[1])}.conv_block.{layer}.{leaf}"] = value
        else:
            first = 1 if part in ("inc.inconv", "outc.outconv") else 0
            found[f"model.{places[part] + int(layer) - first}.{leaf}"] = value
    module, variables = from_author(found)
    y = jax.jit(module.clone(relu_after=True).apply)(variables, images_last(a["x"]))
    np.testing.assert_allclose(y, images_last(a["y"]), **close)


@pytest.mark.golden("cyclegan_resnet*")
def test_the_pool_of_pictures(folder):
    """By the reference's own draws: once it is full a uniform number each, and a place where that is above 1/2."""
    told = json.loads((folder / "case.json").read_text())["image_pool"]
    pool, drawn, number, full = empty_pool(told["size"], ()), iter(told["draws"]), 0, 0
    for size, wanted in zip(told["batches"], told["returned"], strict=True):
        swap, place = np.zeros(size, bool), np.zeros(size, int)
        for i in range(size):
            if full < told["size"]:
                full += 1
            elif swap_i := next(drawn)[1] > 0.5:
                swap[i], place[i] = swap_i, next(drawn)[1]
        pool, out = query(pool, jnp.arange(number, number + size, dtype=jnp.float32), jnp.array(swap), jnp.array(place))
        assert out.tolist() == wanted
        number += size
    assert pool["pictures"].tolist() == told["contents_at_end"] and next(drawn, None) is None

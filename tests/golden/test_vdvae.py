"""openai/vdvae: posterior and prior of every group, the bound with its gradients, samples at a temperature."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxgen.losses.pixel_likelihood import LogisticMixture, kl_each, per_example
from jaxgen.nets.vdvae import Vdvae

NAMES = {  # ours -> theirs, in turn
    "first": "encoder.in_conv", "down_": "encoder.enc_blocks.", "draw_": "decoder.dec_blocks.", "/posterior": ".enc",
    "/project": ".z_proj", "/": ".", "ends.c1": "decoder.out_net.out_conv",
}  # fmt: skip


def theirs(path: str, starts: list[str]) -> str:
    """The name in their state_dict of a parameter."""
    if path in starts:
        return f"decoder.bias_xs.{starts.index(path)}"
    if path in ("ends/scale", "ends/bias"):
        return {"ends/scale": "decoder.gain", "ends/bias": "decoder.bias"}[path]
    layer, _, kind = re.sub(r"Conv_(\d)", lambda m: f"c{int(m[1]) + 1}", path).rpartition("/")
    for ours, other in NAMES.items():
        layer = layer.replace(ours, other)
    return f"{layer}.{'weight' if kind == 'kernel' else kind}"


@pytest.mark.golden("vdvae_tiny*")
def test_vdvae(folder, recipe_weights):
    case = json.loads((folder / "case.json").read_text())
    tolerance = {k: case["tolerance"][k] for k in ("rtol", "atol")}
    config, io, weights = case["config"], dict(np.load(folder / "io.npz")), recipe_weights(case)
    shape = (config["image_size"], config["image_size"], config["image_channels"])
    module = Vdvae(
        shape=shape, width=config["width"], z=config["zdim"], bottleneck=config["bottleneck_multiple"],
        enc=config["enc_blocks"], dec=config["dec_blocks"], learned=config["no_bias_above"],
    )  # fmt: skip
    likelihood = LogisticMixture(mixtures=config["num_mixtures"], levels=32 if config["dataset"] == "ffhq_256" else 256)
    channels, size = likelihood.params(shape[-1]), len(io["x"])
    like = traverse_util.flatten_dict(
        jax.eval_shape(lambda: module.init(jax.random.key(0), io["x"], channels))["params"], sep="/"
    )
    starts = sorted((k for k in like if k.startswith("start_")), key=lambda k: int(k.removeprefix("start_")))
    names = {path: theirs(path, starts) for path in like}
    assert sorted(names.values()) == sorted(case["shapes"])

    def ours(path):
        value = weights[names[path]]
        value = (
            value.transpose(2, 3, 1, 0)
            if path.endswith("kernel")
            else np.moveaxis(value, 1, -1)[0]
            if value.ndim == 4
            else value
        )
        return value.reshape(like[path].shape)

    params = traverse_util.unflatten_dict({path: ours(path) for path in like}, sep="/")

    def noise(key):
        parts = [io[f"{key}{i}"] for i in range(len(module.sizes))]
        return jnp.concatenate([np.moveaxis(e, 1, -1).reshape(size, -1) for e in parts], -1)

    def bound(params):
        seen = module.apply({"params": params}, io["x"], method="encode")
        found = module.apply({"params": params}, seen, noise("eps"), channels, method="infer")
        kl = jnp.stack([per_example(kl_each(*group)) for group in found.groups])
        nll = -likelihood.log_prob(found.out, io["target"])
        return (nll + kl.sum(0)).mean() / np.prod(shape), (found, nll.mean() / np.prod(shape), kl)

    @jax.jit
    def run(params):
        return jax.value_and_grad(bound, has_aux=True)(params)

    @jax.jit
    def drawn(params, z):
        return module.apply({"params": params}, z, channels, method="decode")

    (elbo, (found, distortion, kl)), grads = run(params)
    np.testing.assert_allclose(found.out, io["nll_logits"], **tolerance)
    np.testing.assert_allclose(kl, io["kl_per_block"], **tolerance)
    wanted = [io["elbo"], io["distortion"], io["rate"]]
    np.testing.assert_allclose([elbo, distortion, kl.sum(0).mean() / np.prod(shape)], wanted, **tolerance)
    for path, grad in traverse_util.flatten_dict(grads, sep="/").items():
        np.testing.assert_allclose(jnp.linalg.norm(grad), case["grad_l2_norms"][names[path]], rtol=1e-3, err_msg=path)

    last = params["ends"]["Conv_0"]
    warm = np.moveaxis(io["uncond_px_z_t07"], 1, -1) @ last["kernel"][0, 0] + last["bias"]
    np.testing.assert_allclose(drawn(params, 0.7 * noise("uncond_eps")), warm, **tolerance)
    np.testing.assert_allclose(
        drawn(params, found.z), found.out, rtol=1e-3, atol=1e-3
    )  # latents as the prior counts them

"""PatchGAN discriminators of pix2pix and taming-transformers: logits, running statistics, losses and gradients of two orders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import images_last
from safetensors.numpy import load_file

from jaxgen.losses.gan import Hinge, LeastSquares, NonSaturating, Wasserstein
from jaxgen.nets.patchgan import PatchGan


def names(weights):
    """Prefix of each convolution and each batch norm of a torch Sequential, in order."""
    layers = sorted({name.rsplit(".", 1)[0] for name in weights}, key=lambda name: int(name.split(".")[-1]))
    convs = [name for name in layers if np.ndim(weights[f"{name}.weight"]) == 4]
    return convs, [name for name in layers if name not in convs]


def variables(weights):
    """torch's weights as ours."""
    convs, norms = names(weights)
    params, stats = {}, {}
    for i, name in enumerate(convs):
        params[f"Conv_{i}"] = {"kernel": weights[f"{name}.weight"].transpose(2, 3, 1, 0)}
        if f"{name}.bias" in weights:
            params[f"Conv_{i}"]["bias"] = weights[f"{name}.bias"]
    for i, name in enumerate(norms):
        params[f"Norm_{i}"] = {"BatchNorm_0": {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}}
        moments = {"mean": weights[f"{name}.running_mean"], "var": weights[f"{name}.running_var"]}
        stats[f"Norm_{i}"] = {"BatchNorm_0": moments}
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": stats} if stats else {"params": params})


def theirs(grads, weights):
    """Norms of our gradients by torch's names."""
    convs, norms = names(weights)
    found = {}
    for i, name in enumerate(convs):
        found |= {f"{name}.{'weight' if k == 'kernel' else k}": g for k, g in grads[f"Conv_{i}"].items()}
    for i, name in enumerate(norms):
        own = grads[f"Norm_{i}"]["BatchNorm_0"]
        found |= {f"{name}.weight": own["scale"], f"{name}.bias": own["bias"]}
    return {name: float(jnp.linalg.norm(g.ravel())) for name, g in found.items()}


@pytest.mark.golden("patchgan*")
def test_pix2pix(folder, recipe_weights):
    case, a = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    close = dict(rtol=case["tolerance"]["rtol"], atol=case["tolerance"]["atol"])
    config, weights = case["config"], recipe_weights(case)
    layers = {"basic": 3, "n_layers": config["n_layers"], "pixel": 0}[config["netD"]]
    net = PatchGan(width=config["ndf"], layers=layers, norm=config["norm"])
    v = variables(weights)
    real, fake = images_last(a["real"]), images_last(a["fake"])
    run = lambda params, x: net.apply({**v, "params": params}, x, train=True, mutable=["batch_stats"])[0]  # noqa: E731
    judge = jax.jit(run)
    np.testing.assert_allclose(net.apply(v, real), a["y_eval"][:, 0], **close)
    y_real, y_fake = judge(v["params"], real), judge(v["params"], fake)
    np.testing.assert_allclose(y_real, a["y_real"][:, 0], **close)
    np.testing.assert_allclose(y_fake, a["y_fake"][:, 0], **close)

    for game, name, share in (
        (LeastSquares(), "lsgan", 0.5),
        (NonSaturating(), "vanilla", 1),
        (Wasserstein(), "wgangp", 1),
    ):
        want = case["losses"][name]["real_true"] + case["losses"][name]["fake_false"]
        np.testing.assert_allclose(game.disc(y_real, y_fake).mean(), share * want, rtol=1e-4)
        fooled = game.gen(y_fake, y_real).mean()
        np.testing.assert_allclose(fooled, share * case["losses"][name]["fake_true"], rtol=1e-4)

    @jax.jit
    def d_grads(params):
        return jax.value_and_grad(lambda p: LeastSquares().disc(run(p, real), run(p, fake)).mean())(params)

    loss, grads = d_grads(v["params"])
    np.testing.assert_allclose(loss, case["lsgan_d_loss"], rtol=1e-4)
    for name, norm in theirs(grads, weights).items():
        np.testing.assert_allclose(norm, case["grad_l2_norms"][name], rtol=1e-3, atol=1e-5, err_msg=name)

    mix = jnp.asarray(a["gp_alpha"]).reshape(-1, 1, 1, 1)
    between = mix * real + (1 - mix) * fake

    def penalty(params):
        slope = jax.grad(lambda x: run(params, x).sum())(between)
        norm = jnp.linalg.norm((slope + 1e-16).reshape(len(slope), -1), axis=1)
        return 10 * ((norm - 1) ** 2).mean(), slope

    (value, slope), grads = jax.jit(jax.value_and_grad(penalty, has_aux=True))(v["params"])
    flat = np.moveaxis(np.asarray(slope), -1, 1).reshape(len(slope), -1)
    np.testing.assert_allclose(value, a["gp"], rtol=1e-3)
    np.testing.assert_allclose(flat, a["gp_grad"], rtol=1e-3, atol=1e-4 * np.abs(a["gp_grad"]).max())
    norms = {name: norm for name, norm in theirs(grads, weights).items() if name in case["grad_l2_norms_of_gp"]}
    scale = max(norms.values())
    for name, norm in norms.items():
        np.testing.assert_allclose(norm, case["grad_l2_norms_of_gp"][name], rtol=2e-3, atol=1e-5 * scale, err_msg=name)

    pixel = recipe_weights(case["pixel_discriminator"])
    net = PatchGan(width=config["ndf"], layers=0, norm=config["norm"])
    np.testing.assert_allclose(net.apply(variables(pixel), real), a["y_pixel_eval"][:, 0], **close)


@pytest.mark.golden("patchgan*")
def test_the_published_width(folder):
    case = json.loads((folder / "case.json").read_text())
    x = jax.ShapeDtypeStruct((1, 256, 256, case["config"]["input_nc"]), jnp.float32)
    y, v = jax.eval_shape(PatchGan().init_with_output, jax.random.key(0), x)
    assert y.shape == (1, 30, 30)
    assert sum(leaf.size for leaf in jax.tree.leaves(v["params"])) == case["true_width_params_6ch"]


@pytest.mark.golden("taming_vq_and_patchgan*")
def test_taming_transformers(folder):
    case, a = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    close = dict(rtol=case["tolerance"]["rtol"], atol=case["tolerance"]["atol"])
    weights = {name: w for name, w in load_file(folder / "weights.safetensors").items() if not name.endswith("tracked")}
    v, (convs, norms) = variables(weights), names(weights)
    net = PatchGan(width=len(weights[f"{convs[0]}.weight"]), layers=len(convs) - 2)
    x = images_last(a["disc_x"])
    np.testing.assert_allclose(net.apply(v, x), a["disc_eval"][:, 0], **close)
    y, new = net.apply(v, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, a["disc_train_mode"][:, 0], **close)
    for i, name in enumerate(norms):
        stats = new["batch_stats"][f"Norm_{i}"]["BatchNorm_0"]
        np.testing.assert_allclose(stats["mean"], a[f"bn:{name}.running_mean"], **close)
        np.testing.assert_allclose(stats["var"], a[f"bn:{name}.running_var"], **close)
    for game, key in ((Hinge(), "hinge_d"), (NonSaturating(), "vanilla_d")):  # the one as real, the other as generated
        real, fake = jnp.asarray(a["disc_eval"][:, 0]), y
        np.testing.assert_allclose(0.5 * game.disc(real, fake).mean(), a[key], **close)

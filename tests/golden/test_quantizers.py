"""Quantisers of taming-transformers, VAR and VQ-VAE-2: codes, losses, gradients, and the codebooks that a step leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import case_of, images_first, images_last
from safetensors.numpy import load_file

from jaxgen.nets.quantize import EmaQuantizer, GradientQuantizer, MultiscaleQuantizer
from jaxgen.nets.vqvae2 import VqVae2Net


@pytest.mark.golden("taming_vq*")
@pytest.mark.parametrize("legacy", [0, 1])
def test_taming(folder, legacy):
    _, a, close = case_of(folder)
    codes, dim = a["codebook"].shape
    quantizer = GradientQuantizer(codes=codes, dim=dim, beta=0.25, legacy=bool(legacy))
    z = images_last(a["z"])
    start = quantizer.init(jax.random.key(0), jnp.zeros((1, codes, dim)))

    def loss(params, z):
        q = quantizer.apply({**start, "params": params}, z)
        return (q.codes**2).sum() + q.loss.mean(), q

    grads, q = jax.grad(loss, (0, 1), has_aux=True)({"embed": jnp.asarray(a["codebook"])}, z)
    name = f"vq2_legacy{legacy}_"
    np.testing.assert_array_equal(q.ids.ravel(), a[f"{name}ind"])
    np.testing.assert_allclose(images_first(q.codes), a[f"{name}zq"], **close)
    np.testing.assert_allclose(q.loss.mean(), a[f"{name}loss"], **close)
    np.testing.assert_allclose(images_first(grads[1]), a[f"{name}gz"], **close)
    np.testing.assert_allclose(grads[0]["embed"], a[f"{name}ge"], **close)


@pytest.mark.golden("var_multiscale_vq*")
def test_var(folder):
    case, a, close = case_of(folder)
    c, w = case["config"], load_file(folder / "weights.safetensors")
    sizes = tuple(c["v_patch_nums"])
    quantizer = MultiscaleQuantizer(
        codes=c["vocab_size"], dim=c["Cvae"], sizes=sizes, share=c["share_quant_resi"], mix=c["quant_resi"],
        cosine=c["using_znorm"],
    )  # fmt: skip
    z = images_last(a["f"])
    variables = jax.jit(quantizer.init)(jax.random.key(0), jnp.tile(z, (32, 1, 1, 1)))
    params = {"embed": w["embedding.weight"]}
    for i in range(c["share_quant_resi"]):
        stem = f"quant_resi.qresi_ls.{i}."
        params[f"phi_{i}"] = {"kernel": w[f"{stem}weight"].transpose(2, 3, 1, 0), "bias": w[f"{stem}bias"]}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, variables["params"])
    variables = {**variables, "params": params}
    run = jax.jit(lambda x, method: quantizer.apply(variables, x, method=method), static_argnums=1)
    q = run(z, None)
    for i, (ids, said) in enumerate(zip(q.ids, run(q.ids, "sums"), strict=True)):
        np.testing.assert_array_equal(ids.reshape(len(z), -1), a[f"idx_{i}"])
        np.testing.assert_allclose(images_first(said), a[f"fhat_{i}"], **close)
    np.testing.assert_allclose(images_first(q.codes), a["fhat_last"], **close)
    np.testing.assert_allclose(run(q.ids, "inputs"), a["var_input"], **close)


def vqvae2(weights):
    """rosinality's tensors as ours."""

    def conv(name):
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if name.startswith("quantize_conv"):
            return {"kernel": kernel[:, :, 0, 0].T, "bias": bias}
        if name.startswith(("upsample", "dec")) and kernel.shape[-1] == 4:  # [in, out, kh, kw]
            return {"kernel": kernel.transpose(2, 3, 0, 1), "bias": bias}
        return {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}

    def trunk(name, convs, block, more=()):
        found = {f"Conv_{i}": conv(f"{name}.blocks.{place}") for i, place in enumerate(convs)}
        parts = {f"Conv_{i}": conv(f"{name}.blocks.{block}.conv.{place}") for i, place in enumerate((1, 3))}
        found |= {f"ConvTranspose_{i}": conv(f"{name}.blocks.{place}") for i, place in enumerate(more)}
        return {**found, "Blocks_0": {"Residual_0": parts}}

    params = {
        "enc_b": trunk("enc_b", (0, 2, 4), 5),
        "enc_t": trunk("enc_t", (0, 2), 3),
        "dec_t": trunk("dec_t", (0,), 1, (3,)),
        "dec": trunk("dec", (0,), 1, (3, 5)),
        "project_t": conv("quantize_conv_t"),
        "project_b": conv("quantize_conv_b"),
        "up_t": conv("upsample_t"),
    }
    books = {
        f"quantize_{x}": {
            "embed": weights[f"quantize_{x}.embed"].T,
            "count": weights[f"quantize_{x}.cluster_size"],
            "sum": weights[f"quantize_{x}.embed_avg"].T,
            "ready": np.ones((), bool),
        }
        for x in "tb"
    }
    return jax.tree.map(jnp.asarray, {"params": params, "codebook": books})


@pytest.mark.golden("vq_vae_2*")
def test_vqvae2(folder, recipe_weights):
    case, a, close = case_of(folder)
    c = case["config"]
    weights = {k: v * (case["recipe_gain"] if v.ndim > 1 else 1.0) for k, v in recipe_weights(case).items()}
    quantizer = EmaQuantizer(codes=c["n_embed"], dim=c["embed_dim"], dead=0.0)
    net = VqVae2Net(quantizer, c["channel"], c["n_res_channel"], c["n_res_block"])
    v, x = vqvae2(weights), images_last(a["x"])
    want = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((8, *x.shape[1:])), 3))
    assert jax.tree.map(jnp.shape, v) == jax.tree.map(jnp.shape, want)
    y, q = jax.jit(lambda x: net.apply(v, x, 3))(x)
    np.testing.assert_allclose(images_first(y), a["y"], **close)
    for level, ids, codes in zip(("top", "bottom"), q.ids, q.codes, strict=True):
        np.testing.assert_array_equal(ids, a[f"ids_{level}"])
        np.testing.assert_allclose(images_first(codes), a[f"quant_{level}"], **close)
    errors = q.metrics["commitment_top"].mean() + q.metrics["commitment_bottom"].mean()
    np.testing.assert_allclose(errors, a["diff"][0], **close)
    np.testing.assert_allclose(
        images_first(jax.jit(lambda ids: net.apply(v, ids, 3, method="decode"))(q.ids)), a["decoded_from_ids"], **close
    )

    def loss(params):
        rngs = {"codebook": jax.random.key(0)}
        (y, q), new = net.apply({**v, "params": params}, x, 3, train=True, mutable=["codebook"], rngs=rngs)
        return ((y - x) ** 2).mean() + q.loss.mean(), new["codebook"]

    (value, books), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(v["params"])
    np.testing.assert_allclose(value, a["loss"], **close)
    for x in "tb":
        for ours, theirs in (("embed", "embed"), ("count", "cluster_size"), ("sum", "embed_avg")):
            np.testing.assert_allclose(books[f"quantize_{x}"][ours].T, a[f"after:quantize_{x}.{theirs}"], **close)
    places = vqvae2({k: np.full_like(w, float(i)) for i, (k, w) in enumerate(weights.items())})["params"]
    norms = {list(weights)[int(p.ravel()[0])]: jnp.linalg.norm(g.ravel()) for p, g in
             zip(jax.tree.leaves(places), jax.tree.leaves(grads), strict=True)}  # fmt: skip
    assert norms.keys() == case["grad_l2_norms"].keys()
    for name, norm in norms.items():
        np.testing.assert_allclose(norm, case["grad_l2_norms"][name], rtol=1e-3, err_msg=name)

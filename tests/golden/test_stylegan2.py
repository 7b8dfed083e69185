"""StyleGAN2-ADA reproduced: its operations, and generator and discriminator from their own weights, with the gradients
that its penalties need."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxgen.nets.fir import upfirdn
from jaxgen.nets.stylegan2 import ACTIVATIONS, activate
from jaxgen.pretrained.stylegan2 import discriminator, from_author, generator, to_author


def tolerance(case):
    return {name: case["tolerance"][name] for name in ("rtol", "atol")}


def nhwc(a):
    return a.transpose(0, 2, 3, 1)


def line(f):
    """The numbers of a filter, its sum 1."""
    f = np.asarray(f, np.float64)
    return f / f.sum()


def two(n):
    """(of rows, of columns) from one number, or from (x, y)."""
    return (n, n) if isinstance(n, int) else (n[1], n[0])


@pytest.mark.golden("stylegan2_ops*")
def test_resampling(folder):
    case, arrays = json.loads((folder / "case.json").read_text()), np.load(folder / "io.npz")
    x, close = nhwc(arrays["x"]), tolerance(case)
    assert case["cases"]
    for name, options in case["cases"].items():
        f = line(options["filter"])
        np.testing.assert_allclose(np.outer(f, f) if f.ndim == 1 else f, arrays[f"{name}_f"], rtol=1e-6)
        f = np.flip(f) if options["flip_filter"] else f
        left, right, top, bottom = options["padding_x0x1y0y1"]
        geometry = two(options["up"]), two(options["down"]), ((top, bottom), (left, right))
        for form in (f, np.outer(f, f)) if f.ndim == 1 else (f,):  # by lines and as a whole
            got = upfirdn(x, form, *geometry, gain=options["gain"])
            np.testing.assert_allclose(got, nhwc(arrays[name]), **close, err_msg=name)
    f, edges = line([1, 3, 3, 1]), ((2, 1), (2, 1))
    close_to = partial(np.testing.assert_allclose, **close)
    close_to(upfirdn(x, f, up=(2, 2), padding=edges, gain=4.0), nhwc(arrays["upsample2d"]))
    close_to(upfirdn(x, f, down=(2, 2), padding=((1, 1), (1, 1))), nhwc(arrays["downsample2d"]))
    close_to(upfirdn(x, f, padding=edges), nhwc(arrays["filter2d"]))


@pytest.mark.golden("stylegan2_ops*")
def test_activations(folder):
    case, arrays = json.loads((folder / "case.json").read_text()), np.load(folder / "io.npz")
    x, close = nhwc(arrays["x"]) + arrays["bias"], tolerance(case)
    straight, cut = nhwc(arrays["bias_act_linear"]), nhwc(arrays["bias_act_linear_clamp"])
    clamp = float(np.abs(cut).max())  # these two options of the clamped cases are not stored
    gain = float(np.median((cut / straight)[np.abs(cut) < clamp]))
    for kind, (_, own) in ACTIVATIONS.items():
        np.testing.assert_allclose(activate(x, kind), nhwc(arrays[f"bias_act_{kind}"]), **close, err_msg=kind)
        got = activate(x, kind, gain / own, clamp)
        np.testing.assert_allclose(got, nhwc(arrays[f"bias_act_{kind}_clamp"]), **close, err_msg=kind)


def loaded(folder):
    """(case, arrays [B, H, W, C], tensors)."""
    case, arrays = json.loads((folder / "case.json").read_text()), dict(np.load(folder / "io.npz"))
    arrays = {name: nhwc(a) if a.ndim == 4 else a for name, a in arrays.items()}
    return case, arrays, load_file(folder / "weights.safetensors")


def label(c):
    """One-hot rows [B, K] -> conditions; K may be 0."""
    return {"label": jnp.asarray(c.argmax(1))} if c.shape[1] else {}


@pytest.mark.golden("stylegan2_generator_*")
def test_generator(folder):
    case, arrays, weights = loaded(folder)
    gen, close = generator(case["config"]), tolerance(case)
    variables, cond = from_author(gen, weights), label(arrays["c"])
    psi, cutoff = re.search(r"psi ([\d.]+), cutoff (\d+|None)", case["config"]["truncation"]).groups()
    psi, cutoff = float(psi), None if cutoff == "None" else int(cutoff)

    def run(method, *args, **options):
        return jax.jit(lambda v: gen.apply(v, *args, method=method, **options))(variables)

    ws = run("map", arrays["z"], cond)
    np.testing.assert_allclose(ws, arrays["ws"], **close)
    near = run("truncate", ws, cond, psi, cutoff)
    np.testing.assert_allclose(near, arrays["ws_trunc"], **close)
    np.testing.assert_allclose(run("synthesize", ws, noise="const"), arrays["image_const_noise"], **close)
    np.testing.assert_allclose(run("synthesize", near, noise="none"), arrays["image_trunc_no_noise"], **close)
    whole = run(None, arrays["z"], cond, psi=psi, cutoff=cutoff, noise="none")
    np.testing.assert_allclose(whole, arrays["image_trunc_no_noise"], **close)


@pytest.mark.golden("stylegan2_discriminator_*")
def test_discriminator(folder):
    case, arrays, weights = loaded(folder)
    disc, close = discriminator(case["config"]), tolerance(case)
    variables, cond, x = from_author(disc, weights), label(arrays["c"]), arrays["x"]
    strength = float(re.fullmatch(r"([\d.]+)\*mean\(r1\)\+mean\(softplus\(logits\)\).*", case["loss"])[1])

    def loss(params):
        """strength x mean R1 + mean softplus(logits), as the case says."""
        judge = lambda x: disc.apply({**variables, "params": params}, x, cond)  # noqa: E731
        logits, back = jax.vjp(judge, x)
        (slope,) = back(jnp.ones_like(logits))
        r1 = (slope**2).sum((1, 2, 3))
        return strength * r1.mean() + jax.nn.softplus(logits).mean(), (logits, slope, r1)

    grads, (logits, slope, r1) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(logits[:, None], arrays["logits"], **close)
    np.testing.assert_allclose(slope, arrays["grad_x"], **close)
    np.testing.assert_allclose(r1, arrays["r1_penalty"], **close)
    norms = {name: np.linalg.norm(g) for name, g in to_author(disc, {"params": grads}).items()}
    assert case["grad_l2_norms"]
    for name, norm in case["grad_l2_norms"].items():
        np.testing.assert_allclose(norms[name], norm, rtol=close["rtol"], err_msg=name)


@pytest.mark.golden("stylegan2_[gd]*r_*")
def test_import_then_export_is_the_identity(folder):
    case, _, want = loaded(folder)
    module = (generator if "z_dim" in case["config"] else discriminator)(case["config"])
    got = to_author(module, from_author(module, want))
    assert got.keys() == want.keys()
    for name, a in want.items():
        np.testing.assert_array_equal(got[name], a, err_msg=name)

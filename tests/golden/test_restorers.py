"""Nets that enlarge and denoise: their references' pictures and gradients, their files there and back, a real DnCNN on BSD68."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import case_of, images_last
from PIL import Image
from safetensors.numpy import load_file

from jaxgen import convert
from jaxgen.errors import UserError
from jaxgen.nets.dncnn import FfdNet
from jaxgen.nets.patchgan import PatchGan
from jaxgen.pretrained import restorers
from jaxgen.pretrained.torch_files import write_tensors
from jaxgen.pretrained.translation import to_author
from jaxgen.runs.trained import Trained

WHITE = {"edsr": 255.0}  # of the range in which a reference works


@pytest.fixture
def published(folder, recipe_weights):
    """(the case, its arrays and tolerance, its tensors, our net of them)."""
    case, a, tolerance = case_of(folder)
    tensors = recipe_weights(case) | {k[2:]: v for k, v in a.items() if k.startswith("W:")}
    return case, a, tolerance, tensors, restorers.from_tensors(tensors)


@pytest.mark.golden("[ers][drs]*[brt]")
def test_enlarged_pictures_and_gradients(folder, published):
    """In the reference's own range; norms of the gradients of its loss by every tensor."""
    case, a, tolerance, _, (module, variables, form) = published
    white = WHITE.get(folder.stem, 1.0)
    x = a["x_u8"][None].astype(np.float32) if white > 1 else images_last(a["x"])
    cond = {"seen": 2.0 * x / white - 1.0}

    def loss(params):
        y = 0.5 * white * (module.apply({"params": params}, cond) + 1.0)
        off = jnp.abs(y - a["target_u8"][None]).mean() if "l1" in a else jnp.square(y).mean()
        return off, y

    (value, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(y, images_last(a["y"]), **tolerance)
    np.testing.assert_allclose(value, a.get("l1", a.get("mean_square")), rtol=1e-4)
    found = restorers.to_tensors(module, {"params": grads}, form)
    for name, norm in case["grad_l2_norms"].items():
        np.testing.assert_allclose(np.linalg.norm(found[name]), norm, rtol=2e-3, err_msg=name)


@pytest.mark.golden("[ers][drs]*[brt]")
def test_files_there_and_back(folder, published, tmp_path):
    """The tensors come back to the bit in the names that they came in, and in BasicSR's; a tensor less is told by its name."""
    *_, tensors, (module, variables, form) = published
    restorers.save(tmp_path / "net.safetensors", module, variables, form)
    found = load_file(tmp_path / "net.safetensors")
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        np.testing.assert_allclose(found[name], value, atol=0 if "mean" not in name else 0.05)
    for other in (name for name, one in restorers.FORMS.items() if isinstance(module, one.kinds)):
        again = restorers.from_tensors(
            {f"params.{k}": v for k, v in restorers.to_tensors(module, variables, other).items()}
        )
        assert again.module == module and again.form == other
        jax.tree.map(np.testing.assert_array_equal, again.variables, variables)
    with pytest.raises(UserError, match=r"lack tensor (conv_last|tail.1)\.weight"):
        restorers.from_tensors({k: v for k, v in tensors.items() if k not in ("conv_last.weight", "tail.1.weight")})


@pytest.mark.golden("dncnn_sigma25_real")
def test_the_real_dncnn(folder):
    """Its authors' pictures; the file comes back; with the norms folded in it is KAIR's form, with the same pictures."""
    case, a, tolerance = case_of(folder)
    net = restorers.load(folder / "weights.safetensors")
    assert sum(x.size for x in jax.tree.leaves(net.variables["params"])) == case["params"]
    run = jax.jit(lambda module, variables, x: module.apply(variables, {"seen": x}), static_argnums=0)
    for i in (0, 1):
        y = run(net.module, net.variables, 2.0 * a[f"noisy{i}"][None, ..., None] - 1.0)
        np.testing.assert_allclose(0.5 * (y[0, ..., 0] + 1.0), a[f"y{i}"], **tolerance)
    tensors, back = load_file(folder / "weights.safetensors"), restorers.to_tensors(net.module, net.variables)
    for name in back.keys() | {k for k in tensors if not k.endswith("num_batches_tracked")}:
        np.testing.assert_array_equal(back[name], tensors[name], err_msg=name)
    folded = {}
    for i in range(net.module.depth):
        conv, norm = {k: tensors.get(f"dncnn.{max(3 * i - 1, 0)}.{k}") for k in ("weight", "bias")}, f"dncnn.{3 * i}."
        scale = tensors[f"{norm}weight"] / np.sqrt(tensors[f"{norm}running_var"] + 1e-4) if 0 < i < 16 else np.ones(1)
        shift = tensors[f"{norm}bias"] - tensors[f"{norm}running_mean"] * scale if 0 < i < 16 else 0.0
        folded[f"model.{2 * i}.weight"] = (conv["weight"] * scale[:, None, None, None]).astype(np.float32)
        bias = conv["bias"] if conv["bias"] is not None else np.zeros(len(conv["weight"]))
        folded[f"model.{2 * i}.bias"] = (bias + shift).astype(np.float32)
    kair = restorers.from_tensors(folded)
    assert kair.form == "kair" and not kair.module.norm
    y = run(kair.module, kair.variables, 2.0 * a["noisy1"][None, ..., None] - 1.0)
    np.testing.assert_allclose(0.5 * (y[0, ..., 0] + 1.0), a["y1"], rtol=1e-4, atol=1e-4)


def test_ffdnet_has_kairs_form():
    """A map of the level beside the quarters of a colour picture; the file is known again by its channels."""
    module = FfdNet(depth=3, width=8, **restorers._made(3, 1))
    cond = {"seen": jnp.zeros((1, 5, 7, 3)), "level": jnp.full((1, 1), 0.4)}
    variables = module.init(jax.random.key(0), cond)
    tensors = restorers.to_tensors(module, variables, "kair")
    assert tensors["model.0.weight"].shape == (8, 13, 3, 3) and tensors["model.4.weight"].shape == (12, 8, 3, 3)
    again = restorers.from_tensors(tensors)
    assert again.module == module.clone(shape=(8, 8, 3))
    told = jax.jit(again.module.apply)
    assert told(again.variables, cond).shape == (1, 5, 7, 3)
    assert (
        np.abs(told(again.variables, cond) - told(again.variables, {**cond, "level": jnp.zeros((1, 1))})).max() > 1e-3
    )


@pytest.mark.slow
@pytest.mark.golden("dncnn_sigma25_real")
def test_the_real_dncnn_on_bsd68(folder):
    """29.24 dB, the mean over all pictures with the noise that its authors' program draws (numpy's seed 0 for each)."""
    net = restorers.load(folder / "weights.safetensors")
    run = jax.jit(lambda x: net.module.apply(net.variables, {"seen": x}))
    files = sorted((folder.parents[1] / "data/dncnn/bsd68").glob("*.webp"))
    found = []
    for file in files:
        x = np.asarray(Image.open(file).convert("L"), np.float32) / 255.0
        np.random.seed(0)
        noisy = x + np.random.normal(0, 25 / 255.0, x.shape).astype(np.float32)
        y = 0.5 * (np.asarray(run(2.0 * noisy[None, ..., None] - 1.0))[0, ..., 0] + 1.0)
        found.append(-10 * np.log10(np.mean((y - x) ** 2)))
    assert len(found) == 68 and abs(np.mean(found) - 29.24) < 0.02


@pytest.mark.golden("rrdb")
def test_a_published_file_becomes_a_run_and_a_file_again(folder, published, tmp_path):
    """Its answers are the reference's at a size of its own; what comes out has the same numbers."""
    _, a, _, tensors, _ = published
    write_tensors(tmp_path / "net.safetensors", {f"params_ema.{k}": v for k, v in tensors.items()})
    assert "Rrdb (esrgan)" in convert.inspect(tmp_path / "net.safetensors")[0]
    run = Trained.open(convert.convert(tmp_path / "net.safetensors", tmp_path / "run", "run", size=32))
    made = run.exp.method.answer(run.state.view(), {"small": 2.0 * images_last(a["x"]) - 1.0})
    np.testing.assert_allclose(made, np.clip(2.0 * images_last(a["y"]) - 1.0, -1, 1), rtol=1e-4, atol=4e-5)
    convert.convert(tmp_path / "run", tmp_path / "again.safetensors", "published")
    again = load_file(tmp_path / "again.safetensors")
    for name, value in tensors.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_a_discriminator_is_no_restorer():
    """Its kernels have the names of KAIR's, and 4 pixels a side."""
    module = PatchGan(width=4, layers=2, norm="batch")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32))
    tensors = to_author(module, jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes))
    assert "model.0.weight" in tensors and not restorers.form_of(tensors)
    with pytest.raises(UserError, match="of no restorer known here"):
        restorers.from_tensors(tensors)

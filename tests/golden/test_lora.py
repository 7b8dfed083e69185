"""kohya's and PEFT's LoRA on diffusers' `UNet2DConditionModel`: outputs of the merged net, files out as they came in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import case_of, images_last

from jaxgen.pretrained import lora, unet_condition
from jaxgen.pretrained.torch_files import metadata, read_tensors

FILES = {"kohya": "lora.safetensors", "peft": "pytorch_lora_weights.safetensors"}
WRITE = {"kohya": lora.write_kohya, "peft": lora.write_peft}


def form_of(folder):
    return next(form for form in FILES if form in folder.name)


@pytest.fixture
def base(folder):
    """(module, variables, inputs) of the net that the pairs are of."""
    at = folder.with_name("unet_sd_tiny")
    module, variables = unet_condition.load(at)
    a = case_of(at)[1]
    cond = {"states": jnp.asarray(a["encoder_hidden_states"])}
    return module, variables, (images_last(a["x"]), jnp.asarray(a["t"], jnp.float32), cond)


@pytest.mark.golden("lora_*_tiny")
def test_outputs_of_the_merged_net(folder, base):
    module, variables, inputs = base
    _, a, close = case_of(folder)
    file = folder / FILES[form_of(folder)]
    run = jax.jit(module.apply)
    pairs = lora.read(file, module)
    weights = {"y": 1.0, "y_base": 0.0, "y_scale_0_6": 0.6, "y_scale_0_5": 0.5}
    for name in a.keys() & weights:
        y = run(lora.merged(module, variables, [(pairs, weights[name])]), *inputs)
        np.testing.assert_allclose(y, images_last(a[name]), **close, err_msg=name)
    twice = lora.merged(module, variables, [(pairs, 0.25), (pairs, 0.75)])  # several adapters add up
    np.testing.assert_allclose(run(twice, *inputs), images_last(a["y"]), **close)
    if "y_without_header" in a:
        bare = {name: lora.Pair(pair.down, pair.up, None) for name, pair in pairs.items()}
        y = run(lora.merged(module, variables, [(bare, 1.0)]), *inputs)
        np.testing.assert_allclose(y, images_last(a["y_without_header"]), **close)


@pytest.mark.golden("lora_*_tiny")
def test_import_then_export_is_the_identity(folder, base, tmp_path):
    form = form_of(folder)
    file, out = folder / FILES[form], tmp_path / "out.safetensors"
    pairs = lora.read(file, base[0])
    WRITE[form](out, pairs, **metadata(file))
    want, got = read_tensors(file), read_tensors(out)
    assert got.keys() == want.keys() and metadata(out) == {"format": "pt", **metadata(file)}
    for name, value in want.items():
        assert got[name].dtype == value.dtype and got[name].tobytes() == value.tobytes()
    other = next(name for name in WRITE if name != form)  # through the other form no rank and no alpha is lost
    WRITE[other](out, pairs)
    for name, pair in lora.read(out, base[0]).items():
        np.testing.assert_array_equal(pair.update(), pairs[name].update())


@pytest.mark.golden("lora_kohya_tiny")
def test_a_scanned_net_takes_the_same_pairs(folder, base):
    module, variables, _ = base
    pairs = lora.read(folder / FILES["kohya"], module)
    plain = lora.merged(module, variables, [(pairs, 1.0)])
    scanned, stacked = module.clone(scan=True), unet_condition.from_diffusers(
        module.clone(scan=True), unet_condition.to_diffusers(module, variables)
    )  # fmt: skip
    got = unet_condition.to_diffusers(scanned, lora.merged(scanned, stacked, [(pairs, 1.0)]))
    for name, value in unet_condition.to_diffusers(module, plain).items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)

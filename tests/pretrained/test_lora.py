"""LoRA files that do not fit are refused in one line that says why."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.unet_condition import UNetCondition
from jaxgen.pretrained import lora
from jaxgen.pretrained.torch_files import metadata, read_tensors, write_tensors

MODULE = UNetCondition(
    shape=(4, 4, 3),
    conditions=Spec(states=Field((5, 6), "float32", "embedding")),
    width=8,
    mults=(1,),
    blocks=1,
    heads=2,
    groups=4,
    attend_down=(True,),
    attend_up=(True,),
)
QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def pair(out=8, width=8, rank=2, alpha=1.0):
    return lora.Pair(np.ones((rank, width), np.float32), np.ones((out, rank), np.float32), alpha)


@pytest.fixture
def written(tmp_path):
    def write(how, pairs, **told):
        how(tmp_path / "lora.safetensors", pairs, **told)
        return tmp_path / "lora.safetensors"

    return write


def refused(path, message, **options):
    with pytest.raises(UserError, match=message) as error:
        lora.read(path, MODULE, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", [lora.write_kohya, lora.write_peft], ids=["kohya", "peft"])
def test_a_file_for_another_base(written, how):
    assert lora.read(written(how, {QUERY: pair()}), MODULE).keys() == {QUERY}
    refused(written(how, {QUERY: pair(width=16)}), r"another base: .*to_q is \(8, 16\) there and \(8, 8\) in the net")
    refused(written(how, {QUERY.replace("to_q", "to_w"): pair()}), "the net has no .*to_w; the nearest is .*to_[qkv]$")


def test_a_file_of_peft_must_say_alpha(written, tmp_path):
    bare = written(lora.write_peft, {QUERY: pair()}, lora_adapter_metadata="")
    refused(bare, "says no alpha: its header has no lora_adapter_metadata; give alpha=")
    assert np.all(lora.read(bare, MODULE, alpha=4.0)[QUERY].update() == 4.0)
    assert np.all(lora.read(bare, MODULE, alpha=0)[QUERY].update() == 2.0)
    refused(written(lora.write_peft, {QUERY: pair()}, lora_adapter_metadata='{"unet.use_dora": true}'), "use_dora")


def test_other_adapters_and_halves_of_pairs(tmp_path):
    file, stem = tmp_path / "odd.safetensors", "lora_unet_" + QUERY.replace(".", "_")
    write_tensors(file, {f"{stem}.hada_w1_a": np.ones((2, 2), np.float32)})
    refused(file, "hada_w1_a is no part of a LoRA")
    write_tensors(file, {f"{stem}.lora_up.weight": np.ones((8, 2), np.float32)})
    refused(file, f"lacks {stem}.lora_down.weight")


@pytest.mark.parametrize(
    "name", ["lora_te_text_model_layers_0.lora_down.weight", "text_encoder.layers.0.lora_A.weight"]
)
def test_pairs_of_text_encoders_are_left_out_and_told(written, name):
    file = written(lora.write_peft if name.endswith("A.weight") else lora.write_kohya, {QUERY: pair()})
    write_tensors(file, {**read_tensors(file), name: np.ones((2, 8), np.float32)}, **metadata(file))
    with pytest.warns(UserWarning, match=f"text encoders are left out, 1 tensors such as {name}") as told:
        assert lora.read(file, MODULE).keys() == {QUERY}
    assert len(told) == 1 and "\n" not in str(told[0].message)


def test_stored_types_and_ranks_of_their_own_survive(written):
    half = lora.Pair(np.ones((1, 8), jnp.bfloat16), np.ones((8, 1), np.float16), np.asarray(3.0, np.float16))
    pairs = {QUERY: half, QUERY.replace("to_q", "to_k"): pair(alpha=None)}
    found = lora.read(written(lora.write_kohya, pairs), MODULE)
    for name, want in pairs.items():
        assert (found[name].down.dtype, found[name].up.dtype) == (want.down.dtype, want.up.dtype)
        np.testing.assert_array_equal(found[name].update(), want.update())
    assert found[QUERY].alpha.dtype == np.float16 and found[QUERY.replace("to_q", "to_k")].alpha is None
    found = lora.read(written(lora.write_peft, pairs), MODULE)
    assert [found[name].alpha for name in pairs] == [3.0, 2.0]

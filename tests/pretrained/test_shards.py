"""Weights in one file or several, of a variant, in .safetensors or .bin; what is missing is named."""

import json

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.pretrained.shards import read_weights, weight_files
from jaxgen.pretrained.torch_files import write_tensors

A, B = np.arange(4, dtype=np.float16), np.ones((2, 3), np.float32)


def sharded(folder, stem="diffusion_pytorch_model", end=""):
    names = {"a": f"{stem}-00001-of-00002{end}.safetensors", "b": f"{stem}-00002-of-00002{end}.safetensors"}
    for key, value in (("a", A), ("b", B)):
        write_tensors(folder / names[key], {key: value})
    index = folder / f"{stem}.safetensors.index{end}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": names}))
    return index


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model"])
@pytest.mark.parametrize("variant", ["", "fp16"])
def test_shards_of_a_variant(tmp_path, stem, variant):
    index = sharded(tmp_path, stem, f".{variant}" if variant else "")
    found = read_weights(tmp_path, variant)
    assert weight_files(tmp_path, variant)[0] == index and found.keys() == {"a", "b"}
    np.testing.assert_array_equal(found["a"], A)
    assert found["a"].dtype == np.float16


def test_one_file_goes_before_shards_and_variants(tmp_path):
    sharded(tmp_path)
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        write_tensors(tmp_path / name, {"x": A if "fp16" in name else B})
    assert [f.name for f in weight_files(tmp_path)] == ["diffusion_pytorch_model.safetensors"]
    assert read_weights(tmp_path, "fp16")["x"].shape == (4,)


def test_a_pytorch_file(tmp_path):
    write_tensors(tmp_path / "pytorch_model.bin", {"x": B})  # the layout is told by the content
    np.testing.assert_array_equal(read_weights(tmp_path)["x"], B)


@pytest.mark.parametrize(
    "broken, said",
    [
        (lambda index: (index.parent / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink(),
         r"lacks diffusion_pytorch_model-00002-of-00002\.safetensors, one of 2 files of its weights; load it anew"),
        (lambda index: index.write_text("{}"), "is no index of weights .*load it anew"),
        (lambda index: _cut(index.parent / "diffusion_pytorch_model-00001-of-00002.safetensors"),
         "00001-of-00002.safetensors is not a whole safetensors file .*load it anew"),
    ],
)  # fmt: skip
def test_broken_shards(tmp_path, broken, said):
    broken(sharded(tmp_path))
    with pytest.raises(UserError, match=said):
        read_weights(tmp_path)


def _cut(file):
    file.write_bytes(file.read_bytes()[:-2])


def test_another_variant_is_named(tmp_path):
    with pytest.raises(UserError, match="give the folder of a model with its weights"):
        weight_files(tmp_path)
    sharded(tmp_path, end=".fp16")
    with pytest.raises(UserError, match="variant ''; say variant=fp16"):
        weight_files(tmp_path)
    with pytest.raises(UserError, match="variant 'bf16'; say variant=fp16"):
        weight_files(tmp_path, "bf16")

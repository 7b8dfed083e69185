"""Files of torch.save read without torch: both layouts, views, damage, and pickles that mean harm."""

import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from pickles import Call, Name, Reference, Storages, pickled, state_dict, stream_file, zip_file
from safetensors.numpy import save_file

from jaxgen.errors import UserError
from jaxgen.pretrained.torch_files import metadata, read_tensors, write_tensors

RNG = np.random.default_rng(0)
WEIGHTS = {
    "conv.weight": RNG.standard_normal((4, 3, 2, 2)).astype(np.float32),
    "conv.bias": RNG.standard_normal(4).astype(np.float32),
    "half": RNG.standard_normal((2, 5)).astype(np.float16),
    "steps": np.array(2**40 + 1),
    "empty": np.zeros((0, 3), np.float32),
}
LAYOUTS = [zip_file, stream_file]


def saved(tmp_path, content: bytes, name="weights.pth"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name
        np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts(layout, tmp_path):
    storages = Storages()
    content = layout(state_dict(WEIGHTS, storages), storages)
    assert_same(read_tensors(saved(tmp_path, content)), WEIGHTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nested_dicts_and_what_is_no_tensor(layout, tmp_path):
    storages = Storages()
    inner = Call(Name("collections", "OrderedDict"), (), {"_metadata": {"": {"version": 1}}})
    tree = {"model": state_dict({"w": WEIGHTS["half"]}, storages), "epoch": 3, "args": inner, "size": (1, None)}
    tree["lost"] = [storages.tensor(WEIGHTS["steps"])]  # a storage that no name leads to
    assert_same(read_tensors(saved(tmp_path, layout(tree, storages))), {"model.w": WEIGHTS["half"]})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_of_a_storage(layout, tmp_path):
    base, storages = np.arange(24, dtype=np.float32).reshape(4, 6), Storages()
    tree = {
        "transposed": storages.tensor(base, shape=(6, 4), strides=(1, 6)),
        "column": storages.tensor(base, offset=2, shape=(4,), strides=(6,)),
        "expanded": storages.tensor(base, offset=5, shape=(3, 2), strides=(0, 1)),
        "scalar": storages.tensor(base, offset=23, shape=(), strides=()),
    }
    want = dict(transposed=base.T, column=base[:, 2], expanded=np.tile([5, 6], (3, 1)).astype("f"), scalar=base[3, 5])
    assert_same(read_tensors(saved(tmp_path, layout(tree, storages))), want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_stays(layout, tmp_path):
    values = np.array([1.0, -2.5, 3.140625, 1e30], np.float32)
    storages = Storages()
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    got = read_tensors(saved(tmp_path, layout({"w": storages.tensor(upper)}, storages)))["w"]
    assert got.dtype == np.dtype("bfloat16")
    np.testing.assert_array_equal(got.view(np.uint16), upper)
    write_tensors(tmp_path / "w.safetensors", {"w": got}, base="nothing")
    assert_same(read_tensors(tmp_path / "w.safetensors"), {"w": got})
    assert metadata(tmp_path / "w.safetensors")["base"] == "nothing"


def old_torch(weights):
    """As PyTorch 0.1 wrote torchvision's VGG: Parameters, the first form of tensors, a storage inside another."""
    storages, tree = Storages(), {}
    for name, value in weights.items():
        state = (False, False, Call(Name("collections", "OrderedDict"), ()))
        tree[name] = Call(Name("torch.nn.parameter", "Parameter"), (storages.tensor(value, version=""),), state)
    return stream_file(tree, storages)


def test_calls_of_the_first_torch(tmp_path):
    weights = {name: WEIGHTS[name] for name in ("conv.weight", "conv.bias")}
    assert_same(read_tensors(saved(tmp_path, old_torch(weights))), weights)


def test_a_storage_within_a_storage(tmp_path):
    base, storages = np.arange(10, dtype=np.float32), Storages()
    inner = storages.reference(base, ("view", 3, 5))
    tree = {"w": Call(Name("torch._utils", "_rebuild_tensor"), (inner, 1, (2, 2), (2, 1)))}
    want = np.array([[4, 5], [6, 7]], np.float32)
    assert_same(read_tensors(saved(tmp_path, stream_file(tree, storages))), {"w": want})


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert_same(read_tensors(tmp_path / "w.safetensors"), WEIGHTS)
    (tmp_path / "w.safetensors").rename(tmp_path / "w.pth")  # told by the content
    assert_same(read_tensors(tmp_path / "w.pth"), WEIGHTS)


# ----------------------------------------------------------------------------------------------------------------------
# Harm


class Harm:
    def __reduce__(self):
        return os.system, ("echo harm > " + self.target,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_never_run(layout, protocol, tmp_path, monkeypatch):
    harm = Harm()
    harm.target = str(tmp_path / "harm")
    monkeypatch.setattr(
        "pickles.pickled",
        lambda tree, *stream: pickle.dumps({"w": harm}, protocol) if tree == "harm" else pickled(tree),
    )
    path = saved(tmp_path, layout("harm", Storages()))
    with pytest.raises(UserError, match=r"names (posix|nt|os)\.system.*not run"):
        read_tensors(path)
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(harm))  # the test can fail: a bare unpickle does run it
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_lightning_checkpoint_the_state_dict_alone_is_read(layout, tmp_path):
    """What else it names is neither imported nor called, as a key of a dict or as an object with a state."""
    storages, target = Storages(), tmp_path / "harm"
    harm = Call(Name("os", "system"), (f"echo harm > {target}",))
    own = Call(Name("pytorch_lightning.callbacks", "ModelCheckpoint"), ("x",), {"best": 1})
    tree = {"state_dict": state_dict(WEIGHTS, storages), "callbacks": {Name("absent", "Class"): harm}, "hyper": own}
    path = saved(tmp_path, layout(tree, storages), "last.ckpt")
    assert_same(read_tensors(path, "state_dict"), WEIGHTS)
    assert not target.exists()
    with pytest.raises(UserError, match="not run"):
        read_tensors(path)
    with pytest.raises(UserError, match="it holds no model"):
        read_tensors(path, "model")
    storages = Storages()
    plain = saved(tmp_path, layout(state_dict(WEIGHTS, storages), storages), "plain.pt")
    assert_same(read_tensors(plain, "state_dict"), WEIGHTS)  # it is the dict itself


@pytest.mark.parametrize(
    "module, name",
    [("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("torch._utils", "os"), ("os", "FloatStorage")],
)
def test_other_names_are_refused(module, name, tmp_path):
    with pytest.raises(UserError, match=rf"names {module}\.{name}"):
        read_tensors(saved(tmp_path, zip_file({"w": Call(Name(module, name), ("1",))}, Storages())))


def test_dotted_names_lead_nowhere(tmp_path):
    name = b"OrderedDict.__init__.__globals__"
    content = b"\x80\x04\x8c\x0bcollections\x8c" + bytes([len(name)]) + name + b"\x93."
    with pytest.raises(UserError, match=f"names collections.{name.decode()}"):
        read_tensors(saved(tmp_path, content))


def outside(**changes):
    storages = Storages()
    return zip_file({"w": storages.tensor(np.arange(6, dtype=np.float32), **changes)}, storages)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(shape=(7,)), "beyond its storage"),
        (dict(offset=6, shape=(1,)), "beyond its storage"),
        (dict(offset=-1, shape=(1,)), "strides"),
        (dict(strides=(-1,)), "strides"),
        (dict(shape=(2, 3)), "strides"),
        (dict(shape=("a",)), "strides"),
        (dict(strides=(2**62,)), "beyond its storage"),
    ],
)
def test_a_tensor_stays_inside_its_storage(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_tensors(saved(tmp_path, outside(**changes)))


def test_a_tensor_altered_after_it_was_built_is_checked(tmp_path):
    storages = Storages()
    tensor = storages.tensor(np.arange(6, dtype=np.float32))
    tensor.state = {"shape": (600,), "strides": (1,)}
    with pytest.raises(UserError, match="beyond its storage"):
        read_tensors(saved(tmp_path, zip_file({"w": tensor}, storages)))


def test_no_pickle_changes_what_names_mean_to_the_next(tmp_path):
    storages = Storages()
    rebuild = Call(Name("torch", "Size"), ())
    evil = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__(K\x01ts\x86b."  # setattr by slot state
    path = saved(tmp_path, evil)
    with pytest.raises(UserError):
        read_tensors(path)
    tree = state_dict(WEIGHTS, storages) | {"size": rebuild}
    assert_same(read_tensors(saved(tmp_path, zip_file(tree, storages))), WEIGHTS)


def test_references_to_other_things_are_refused(tmp_path):
    tree = {"w": Reference(("module", Name("torch", "FloatStorage"), "file.py", "source", 1))}
    with pytest.raises(UserError, match="no storage"):
        read_tensors(saved(tmp_path, zip_file(tree, Storages())))


# ----------------------------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_is_written_is_read_again_by_those_whom_the_umask_lets(umask, tmp_path):
    before = os.umask(umask)
    try:
        for _ in range(2):  # over an older file too
            write_tensors(tmp_path / "new/weights.safetensors", WEIGHTS | {"turned": WEIGHTS["conv.weight"].T})
    finally:
        os.umask(before)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["weights.safetensors"]
    assert (tmp_path / "new/weights.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
    assert_same(read_tensors(tmp_path / "new/weights.safetensors"), WEIGHTS | {"turned": WEIGHTS["conv.weight"].T})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_cut_short_anywhere_is_refused(layout, tmp_path):
    storages = Storages()
    content = layout(state_dict(WEIGHTS, storages), storages)
    for end in [*range(0, len(content), 37), len(content) - 1]:
        with pytest.raises(UserError, match=r"weights.pth"):
            read_tensors(saved(tmp_path, content[:end]))


def test_a_safetensors_file_cut_short_is_refused(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    for end in (0, 4, 20, len(content) - 1):
        with pytest.raises(UserError, match=r"w\.safetensors is not a whole safetensors"):
            read_tensors(saved(tmp_path, content[:end], "w.safetensors"))


def test_a_changed_byte_of_a_zip_is_noticed(tmp_path):
    storages = Storages()
    content = bytearray(zip_file(state_dict(WEIGHTS, storages), storages))
    content[content.index(WEIGHTS["conv.weight"].tobytes()) + 5] ^= 1
    with pytest.raises(UserError, match="CRC"):
        read_tensors(saved(tmp_path, bytes(content)))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<!DOCTYPE html><html>Not found</html>", "not a whole PyTorch file"),
        (pickle.dumps({"w": 1}, 2), "not a file of torch.save"),
        (zip_file({"epoch": 1}, Storages()), "no named tensors"),
    ],
)
def test_files_of_other_kinds(content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_tensors(saved(tmp_path, content))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_tensors(tmp_path / "absent.pth")


def test_a_missing_storage(tmp_path):
    storages = Storages()
    tree = state_dict(WEIGHTS, storages)
    storages.arrays.pop()
    with pytest.raises(UserError, match="storage 4 is missing"):
        read_tensors(saved(tmp_path, zip_file(tree, storages)))


# ----------------------------------------------------------------------------------------------------------------------
# Against torch itself


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    tensors = OrderedDict(
        double=torch.randn(3, dtype=torch.float64),
        transposed=torch.randn(3, 5).T,
        window=torch.arange(20).reshape(4, 5)[1:3, 2:4],
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
        bf16=torch.randn(7).bfloat16(),
        half=torch.randn(7).half(),
        flags=torch.tensor([True, False]),
        bytes=torch.arange(5, dtype=torch.uint8),
        complex=torch.randn(3, dtype=torch.complex64),
        scalar=torch.tensor(3.0),
        empty=torch.zeros(0, 2),
    )
    tensors["shared"] = tensors["double"][1:]
    path = tmp_path / "weights.pth"
    torch.save(
        dict(net=net.state_dict(), extra=tensors, size=net[0].weight.shape), path, _use_new_zipfile_serialization=zipped
    )
    want = {f"net.{k}": v for k, v in net.state_dict().items()} | {f"extra.{k}": v for k, v in tensors.items()}
    bits = {k: v.view(torch.int16).numpy() for k, v in want.items() if v.dtype == torch.bfloat16}
    want = {k: bits[k].view("bfloat16") if k in bits else v.detach().numpy() for k, v in want.items()}
    assert_same(read_tensors(path), want)


@pytest.mark.parametrize("layout", [*LAYOUTS, old_torch])
def test_torch_reads_the_files_of_these_tests_alike(layout, tmp_path):
    torch = pytest.importorskip("torch")
    weights, storages = {name: WEIGHTS[name] for name in ("conv.weight", "half")}, Storages()
    content = old_torch(weights) if layout is old_torch else layout(state_dict(weights, storages), storages)
    theirs = torch.load(io.BytesIO(content), weights_only=layout is not old_torch)
    assert_same(read_tensors(saved(tmp_path, content)), {k: v.detach().numpy() for k, v in theirs.items()})

"""Tensors of PyTorch's files (.pth, .pt, .ckpt) and of .safetensors, read without PyTorch and without running code; the
latter are written too.

A .pth is a pickle, and a pickle is a program that names functions and calls them. Here the only names that mean
anything are those of a dict of tensors, none of them does more than write down its arguments, and any other is refused.

Two layouts. Since PyTorch 1.6 a zip archive: `*/data.pkl`, and one member `*/data/KEY` per storage. Before, a stream:
magic number, protocol, description of the machine, the pickled object, the list of storage keys, and for each key an
int64 count and the elements. torchvision's oldest weights (VGG, AlexNet, SqueezeNet) are streams that use the calls of
PyTorch 0.1, `_rebuild_tensor` and `Parameter`.
"""

import collections
import io
import json
import math
import mmap
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jaxgen.errors import UserError

assert jnp.bfloat16  # JAX has taught numpy the name
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the stream layout

# storage class -> its elements
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def _elements(data: Any, dtype: str) -> np.ndarray:
    """Bytes -> a flat array, a view of them."""
    return np.frombuffer(data, np.dtype(dtype))


# ----------------------------------------------------------------------------------------------------------------------
# The pickle. What it builds is only a description, checked when it is followed, since a pickle can alter what it built.


@dataclass(frozen=True)
class _Kind:
    """A storage class, such as torch.FloatStorage."""

    dtype: str


@dataclass(frozen=True)
class _Storage:
    """`count` elements of the stored array `key`, from `start` on (PyTorch 0.1 had storages within storages)."""

    key: str
    dtype: str
    count: int
    start: int


@dataclass(frozen=True)
class _Tensor:
    """Element (i, j, ...) is element offset + i strides[0] + j strides[1] + ... of the storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Parameter:
    """torch.nn.Parameter(tensor) of PyTorch 0.1."""

    def __new__(cls, data: Any = None, *_: Any) -> "_Parameter":
        self = super().__new__(cls)
        self.data = data
        return self

    def __setstate__(self, state: tuple) -> None:
        if len(state) == 5:  # the oldest form keeps the tensor here, the later one only requires_grad and hooks
            self.data = state[0]


class Record:
    """What a pickle would have made: the name that it called, the arguments, and what it would have done to the result."""

    name: ClassVar[str] = ""

    def __new__(cls, *args: Any, **options: Any) -> "Record":
        self = super().__new__(cls)
        self.args, self.options, self.state, self.pairs = args, options, None, []
        return self

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))

    def append(self, value: Any) -> None:
        """Of lists and sets; nobody follows these."""

    extend = add = update = append


def _meaning(module: str, name: str) -> Any:
    """What a name in the pickle stands for; made anew each time, so that no pickle can leave a trace in the next."""
    if module in ("torch", "torch.cuda") and name in STORAGES:
        return _Kind(STORAGES[name])
    known: dict[tuple[str, str], Callable] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch", "Size"): lambda size=(): tuple(size),
        ("torch._utils", "_rebuild_tensor"): lambda *args: _Tensor(*args),
        ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _Tensor(*args[:4]),
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        ("torch.nn.parameter", "Parameter"): _Parameter,
    }
    if (module, name) not in known:
        raise UserError(
            f"it names {module}.{name}, which no dict of tensors needs; not run. Save the model's state_dict() alone"
        )
    return known[module, name]


class _Unpickler(pickle.Unpickler):
    """Reads one pickle; `dtypes` are the storages that it mentions. part: the dict that is wanted; others may be of anything."""

    def __init__(self, file: BinaryIO, part: str = ""):
        super().__init__(file, encoding="utf-8")
        self.dtypes: dict[str, str] = {}
        self.part, self.foreign = part, False

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _meaning(module, name)
        except UserError:
            if not self.part:
                raise
            self.foreign = True
            return type(name, (Record,), {"name": f"{module}.{name}"})

    def wanted(self, tree: Any) -> Any:
        """The part of what was read; all of it where there is no such part and nothing but tensors was named."""
        if self.part and isinstance(tree, dict) and isinstance(tree.get(self.part), dict):
            return tree[self.part]
        if self.foreign:
            raise UserError(f"it holds no {self.part}")
        return tree

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _Kind)):
            raise UserError(f"it refers to {str(pid)[:60]}, which is no storage of tensors")
        _, kind, key, _location, count, *view = pid
        self.dtypes[key] = kind.dtype
        if view and view[0] is not None:
            _, start, count = view[0]
            return _Storage(key, kind.dtype, count, start)
        return _Storage(key, kind.dtype, count, 0)


def _array(tensor: _Tensor, stored: np.ndarray, name: str) -> np.ndarray:
    """A tensor of the elements that its storage's key stands for."""
    storage = tensor.storage
    if not all(type(n) is int and n >= 0 for n in (storage.start, storage.count)):
        raise UserError(f"tensor {name} is of elements {storage.start} to {storage.start} + {storage.count}")
    stored = stored[storage.start : storage.start + storage.count]
    return strided(stored, tensor.offset, tensor.shape, tensor.strides, name)


def strided(stored: np.ndarray, offset: Any, shape: Any, strides: Any, name: str) -> np.ndarray:
    """Element (i, j, ...) is stored[offset + i strides[0] + j strides[1] + ...]: inside `stored`, and nowhere else."""
    shape, strides = tuple(shape), tuple(strides)
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise UserError(f"tensor {name} has shape {shape} and strides {strides}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(stored):
        raise UserError(f"tensor {name} reaches beyond its storage of {len(stored)} elements")
    if 0 in shape:
        return np.empty(shape, stored.dtype)
    view = np.lib.stride_tricks.as_strided(stored[offset:], shape, [s * stored.itemsize for s in strides])
    return np.asarray(view, order="C")


def _named(tree: Any, prefix: str = "") -> dict[str, _Tensor]:
    """The tensors of nested dicts by dotted name; everything else is passed over."""
    if isinstance(tree, _Parameter):
        tree = tree.data
    if isinstance(tree, _Tensor):
        return {prefix: tree}
    found = {}
    for key, value in tree.items() if isinstance(tree, dict) else ():
        found |= _named(value, f"{prefix}.{key}" if prefix else str(key))
    return found


# ----------------------------------------------------------------------------------------------------------------------
# The layouts


def _read_zip(path: Path, part: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if not pickles:
            raise UserError("it is a zip archive, but not one of PyTorch's: no data.pkl in it")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise UserError("it was written on a big-endian machine; save it again on a little-endian one")
        with archive.open(pickles[0]) as file:
            unpickler = _Unpickler(file, part)
            tensors = _named(unpickler.wanted(unpickler.load()))
        stored: dict[tuple[str, str], np.ndarray] = {}
        for tensor in tensors.values():
            key, dtype = tensor.storage.key, tensor.storage.dtype
            member = members.get(f"{root}data/{key}")
            if member is None:
                raise UserError(f"storage {key} is missing")
            if member.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"storage {key} is compressed, as PyTorch never does")
            if (key, dtype) not in stored:
                stored[key, dtype] = _elements(archive.read(member), dtype)
    return {name: _array(t, stored[t.storage.key, t.storage.dtype], name) for name, t in tensors.items()}


def _stream(file: BinaryIO, raw: np.ndarray, part: str = "") -> tuple[Any, dict[str, np.ndarray]]:
    """(what the pickle describes, its storages by key) of a file in the stream layout and the same as bytes."""
    if _Unpickler(file).load() != MAGIC or _Unpickler(file).load() != PROTOCOL:
        raise UserError("it is not a file of torch.save")
    if _Unpickler(file).load()["little_endian"] is not True:
        raise UserError("it was written on a big-endian machine; save it again on a little-endian one")
    unpickler = _Unpickler(file, part)
    tree = unpickler.wanted(unpickler.load())
    keys, stored = _Unpickler(file).load(), {}
    start = file.tell()
    for key in keys:
        dtype = unpickler.dtypes[key]
        count = int(np.frombuffer(raw[start : start + 8], "<i8")[0])
        end = start + 8 + count * np.dtype(dtype).itemsize
        if count < 0 or end > len(raw):
            raise UserError(f"it ends within storage {key}, {len(raw)} of at least {end} bytes; load it anew")
        stored[key] = _elements(raw[start + 8 : end], dtype)
        start = end
    return tree, stored


def _read_stream(path: Path, part: str) -> dict[str, np.ndarray]:
    with path.open("rb") as file:  # of the memmap a classifier's 400 MB that nobody uses are never read
        tree, stored = _stream(file, np.memmap(path, np.uint8, "r"), part)
    return {name: _array(t, stored[t.storage.key], name) for name, t in _named(tree).items()}


def read_storage(data: bytes) -> np.ndarray:
    """The elements of one storage that `torch.save` wrote to bytes in the stream layout, as a plain pickle of tensors has it."""
    storage, stored = _stream(io.BytesIO(data), np.frombuffer(data, np.uint8))
    if not isinstance(storage, _Storage):
        raise UserError("it holds something else where a storage of tensors belongs")
    return stored[storage.key]


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What a .safetensors file says of its tensors and of itself (`__metadata__`), and where the numbers begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size)
    if len(text) < size:
        raise ValueError(f"its header has {len(text)} of {size} bytes")
    return json.loads(text), 8 + size


def _read_safetensors(path: Path, _: str) -> dict[str, np.ndarray]:
    found, (told, start) = {}, _header(path)
    told.pop("__metadata__", None)
    have = path.stat().st_size - start
    if have != (want := max((entry["data_offsets"][1] for entry in told.values()), default=0)):
        raise ValueError(f"{have} bytes of numbers, and the header says {want}")
    for name, entry in told.items():
        if entry["dtype"] not in SAFETENSORS:
            raise UserError(f"tensor {name} has type {entry['dtype']}; save it as float32")
        dtype, shape, (first, last) = (
            np.dtype(SAFETENSORS[entry["dtype"]]),
            tuple(entry["shape"]),
            entry["data_offsets"],
        )
        if (need := dtype.itemsize * math.prod(shape)) != last - first or first < 0:
            raise ValueError(f"tensor {name} has {last - first} bytes where {shape} needs {need}")
        found[name] = np.memmap(path, dtype, "r", start + first, shape) if need else np.empty(shape, dtype)
    return found


def metadata(path: str | Path) -> dict[str, str]:
    """What a .safetensors file says of itself besides its tensors; {} where it says nothing."""
    return _header(Path(path))[0].get("__metadata__", {})


def let_go(tensor: np.ndarray) -> None:
    """Give back the memory of a tensor that was read from a mapped file; it is read again when it is looked at again."""
    mapped = getattr(tensor, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def read_tensors(path: str | Path, part: str = "") -> dict[str, np.ndarray]:
    """Every tensor of a .pth, .pt or .safetensors file by name; names of nested dicts are joined by dots.

    part: the dict of a pickle that is wanted alone, where it has one ("state_dict" of a Lightning checkpoint). What the pickle
    names besides becomes inert records, never imported or called.

    The layout is told by the content, not by the suffix. Every type stays. The arrays may be read-only views of the file; those of
    .safetensors are mapped, so that nothing of them is read before it is looked at. Raises UserError for a file that is missing,
    damaged or cut short, or whose pickle asks for anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(512)
    if head[:4] == b"PK\x03\x04":
        read, kind = _read_zip, "PyTorch file"
    elif head[8:9] == b"{" or path.suffix == ".safetensors":
        read, kind = _read_safetensors, "safetensors file"
    else:
        read, kind = _read_stream, "PyTorch file"
    try:
        tensors = read(path, part)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can break its reader in any way; the cure is the same
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path} is not a whole {kind} ({reason}); load it anew") from error
    if not tensors:
        raise UserError(f"{path} holds no named tensors; save a state_dict()")
    return tensors


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], **told: str) -> None:
    """Write a .safetensors file that PyTorch reads too; it appears whole, and readable by whom the umask says.

    told: what the file is to say of itself, see `metadata`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.touch()
    mode = part.stat().st_mode
    try:
        save_file(
            {name: np.asarray(a, order="C") for name, a in tensors.items()}, part, metadata={"format": "pt", **told}
        )
        part.chmod(mode)  # safetensors makes files that only their owner may read
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

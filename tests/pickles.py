"""Writes PyTorch's two file layouts opcode by opcode: without PyTorch, and with whatever a test wants in them."""

import io
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "uint16": "BFloat16Storage"}


@dataclass(frozen=True)
class Name:
    module: str
    name: str


@dataclass
class Call:
    """function(*args), then __setstate__(state) if there is one."""

    function: Any
    args: tuple
    state: Any = None


@dataclass
class Reference:
    """A persistent id."""

    value: tuple


def opcodes(value: Any, stream: bool = False) -> bytes:
    def each(values: Iterable) -> bytes:
        return b"".join(opcodes(v, stream) for v in values)

    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"\x8a" + bytes([9]) + value.to_bytes(9, "little", signed=True)
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + each(value) + b"t"
        case list():
            return b"](" + each(value) + b"e"
        case dict():
            return b"}(" + each(part for item in value.items() for part in item) + b"u"
        case Name():
            return f"c{value.module}\n{value.name}\n".encode()
        case Reference():
            view = (None,) if stream and len(value.value) == 5 else ()
            return opcodes((*value.value, *view), stream) + b"Q"
        case Call():
            call = each((value.function, value.args)) + b"R"
            return call if value.state is None else call + each([value.state]) + b"b"
    raise TypeError(type(value))


def pickled(value: Any, stream: bool = False) -> bytes:
    return b"\x80\x02" + opcodes(value, stream) + b"."


@dataclass
class Storages:
    """Collects arrays under keys "0", "1", ...; `tensor` describes one as the pickle does."""

    arrays: list[np.ndarray] = field(default_factory=list)

    def reference(self, array: np.ndarray, *view) -> Reference:
        self.arrays.append(array.reshape(-1))
        kind = Name("torch", STORAGES[array.dtype.name])
        return Reference(("storage", kind, str(len(self.arrays) - 1), "cpu", array.size, *view))

    def tensor(self, array: np.ndarray, version: str = "_v2", **changes) -> Call:
        """array [C-contiguous]; changes: offset, shape or strides other than its own, in elements."""
        own = dict(offset=0, shape=array.shape, strides=tuple(s // array.itemsize for s in array.strides))
        own |= changes
        hooks = Call(Name("collections", "OrderedDict"), ())
        args = (own["offset"], tuple(own["shape"]), tuple(own["strides"]), *((False, hooks) if version else ()))
        return Call(Name("torch._utils", f"_rebuild_tensor{version}"), (self.reference(array), *args))


def zip_file(tree: Any, storages: Storages, root: str = "archive") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled(tree))
        archive.writestr(f"{root}/byteorder", "little")
        for key, array in enumerate(storages.arrays):
            archive.writestr(f"{root}/data/{key}", array.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return buffer.getvalue()


def stream_file(tree: Any, storages: Storages) -> bytes:
    sizes = dict(short=2, int=4, long=4)
    magic = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    head = [magic, pickled(1001), pickled(dict(protocol_version=1001, little_endian=True, type_sizes=sizes))]
    keys = [str(i) for i in range(len(storages.arrays))]
    data = [struct.pack("<q", array.size) + array.tobytes() for array in storages.arrays]
    return b"".join([*head, pickled(tree, True), pickled(keys), *data])


def state_dict(weights: dict[str, np.ndarray], storages: Storages) -> dict:
    return {name: storages.tensor(np.asarray(value, order="C")) for name, value in weights.items()}

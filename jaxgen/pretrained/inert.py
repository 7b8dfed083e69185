"""Pickles read without running anything in them: every name is an inert record of what it was called with.

A pickle is a program that names functions and calls them. Here no name is looked up: each stands for a class of its own that
writes down its arguments and what would have been set on it. Who wants a value follows the records afterwards.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxgen.errors import UserError
from jaxgen.pretrained.torch_files import Record, read_storage, strided


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")
        self.known: dict[str, type[Record]] = {}

    def find_class(self, module: str, name: str) -> type[Record]:
        full = f"{module}.{name}"
        return self.known.setdefault(full, type(name, (Record,), {"name": full}))

    def persistent_load(self, pid: Any) -> Any:
        raise UserError(f"it refers to {str(pid)[:60]}, which is stored elsewhere; give a pickle that is whole")


def read_pickle(path: str | Path) -> Any:
    """What the file describes. Raises UserError for one that is missing, damaged or no pickle."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can break its reader in any way; the cure is the same
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path} is not a whole pickle ({reason}); load it anew") from error


def named(value: Any, *names: str) -> bool:
    """Whether it is a record of one of these names, without their module."""
    return isinstance(value, Record) and value.name.rpartition(".")[2] in names


def items(value: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a dict, or of a record of some kind of dict."""
    if isinstance(value, Mapping):
        return iter(value.items())
    if isinstance(value, Record):
        given = value.args[0] if value.args and isinstance(value.args[0], list | dict) else ()
        return iter([*(given.items() if isinstance(given, dict) else map(tuple, given)), *value.pairs])
    return iter(())


def array(value: Any, name: str) -> np.ndarray:
    """The tensor or array that a record describes; `name` is for the error. float16 and others stay as they are."""
    if named(value, "_rebuild_parameter"):
        return array(value.args[0], name)
    if named(value, "_rebuild_tensor_v2", "_rebuild_tensor"):
        storage, offset, shape, strides = value.args[:4]
        if named(storage, "_load_from_bytes"):
            shape = shape.args[0] if named(shape, "Size") else shape
            return strided(read_storage(_bytes(storage.args[0])), offset, shape, strides, name)
    if named(value, "_reconstruct") and isinstance(value.state, tuple) and len(value.state) == 5:  # numpy's
        _, shape, dtype, fortran, data = value.state
        flat = np.frombuffer(_bytes(data), _dtype(dtype))
        return flat.reshape(shape, order="F" if fortran else "C").copy()
    if named(value, "scalar") and len(value.args) == 2:
        return np.frombuffer(_bytes(value.args[1]), _dtype(value.args[0])).reshape(())
    raise UserError(f"{name} is {getattr(value, 'name', type(value).__name__)}, which is no array")


def _bytes(value: Any) -> bytes:
    if named(value, "encode"):  # how Python 3 writes bytes for Python 2
        value = value.args[0]
    return value.encode("latin1") if isinstance(value, str) else value


def _dtype(record: Any) -> np.dtype:
    """numpy.dtype("f4", ...) with its byte order; never one of objects."""
    kind = str(record.args[0]) if named(record, "dtype") else "?"
    order = record.state[1] if record.state and record.state[1] in "<>" else ""
    if kind[:1] not in "fiub" or not kind[1:].isdigit():
        raise UserError(f"numbers of type {kind!r} are none that a net has")
    return np.dtype(order + kind)

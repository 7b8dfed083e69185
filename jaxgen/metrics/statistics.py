"""Reference statistics in the files of other projects: a mean and a covariance of features, without a copy of the data.

    .npz  mu, sigma                        pytorch-fid
    .npz  mu, sigma, mu_s, sigma_s, arr_0  ADM: with the spatial features of sFID and the images themselves
    .pkl  {mu, sigma}                      EDM
    .pkl  {fid: {mu, sigma}, ...}          EDM2: one pair per feature net

A pickle is a program. These are read by an interpreter that knows arrays of numbers and plain containers, rebuilds the
arrays itself from their bytes, and refuses every other name: nothing that a file says is ever called.
"""

import json
import os
import pickle
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError

ABOUT = "jaxgen"  # the entry that says how statistics were made


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and unbiased covariance [D, D] in float64, and those of the spatial features if there are any."""

    mean: np.ndarray
    cov: np.ndarray
    spatial_mean: np.ndarray | None = None
    spatial_cov: np.ndarray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)  # how they were made, where the file says so


def read_statistics(path: str | os.PathLike, measure: str = "fid") -> Statistics:
    """Statistics of an .npz or .pkl file; `measure` chooses among the pairs of an EDM2 file."""
    path = _existing(path)
    if path.suffix == ".npz":
        table, known = _archived(path, ("mu", "sigma", "mu_s", "sigma_s", ABOUT))
    elif path.suffix == ".pkl":
        table = _unpickled(path)
        known = list(table)
        if "mu" not in table and isinstance(table.get(measure), dict):
            table = table[measure]
    else:
        raise UserError(f"{path}: statistics are read from .npz (pytorch-fid, ADM) and .pkl (EDM) files")
    if not ("mu" in table and "sigma" in table):
        raise UserError(f"{path} has no mu and sigma of {measure!r}, only {', '.join(map(str, known)) or 'nothing'}")
    spatial = _pair(path, table, "mu_s", "sigma_s") if "mu_s" in table and "sigma_s" in table else (None, None)
    return Statistics(*_pair(path, table, "mu", "sigma"), *spatial, _about(table))


def read_images(path: str | os.PathLike) -> np.ndarray:
    """The images [N, H, W, C] uint8 that an ADM .npz holds as arr_0."""
    path = _existing(path)
    table, known = _archived(path, ("arr_0",))
    if not table:
        raise UserError(f"{path} holds no images (arr_0), only {', '.join(known) or 'nothing'}")
    images = table["arr_0"]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UserError(f"{path}: arr_0 is {images.dtype} of shape {images.shape}; images are uint8 [N, H, W, C]")
    return images


def write_statistics(path: str | os.PathLike, statistics: Statistics, about: Mapping[str, Any] | None = None) -> None:
    """Write .npz (pytorch-fid's, ADM's if there are spatial features) or .pkl (EDM's), beside the target and then renamed.

    `about` is added as a line of JSON, which other projects do not look at.
    """
    path = Path(path)
    table = {"mu": statistics.mean, "sigma": statistics.cov}
    if statistics.spatial_mean is not None and statistics.spatial_cov is not None:
        table |= {"mu_s": statistics.spatial_mean, "sigma_s": statistics.spatial_cov}
    if path.suffix not in (".npz", ".pkl"):
        raise UserError(f"{path}: statistics are written as .npz (pytorch-fid, ADM) or .pkl (EDM)")
    for mean, cov in (("mu", "sigma"), ("mu_s", "sigma_s")):
        if mean in table:
            table[mean], table[cov] = _pair(path, table, mean, cov)
    if about:
        table[ABOUT] = np.array(json.dumps(about)) if path.suffix == ".npz" else json.dumps(about)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # another process may write the same
    try:
        with open(part, "wb") as file:
            if path.suffix == ".npz":
                np.savez(file, **table)
            else:
                pickle.dump(table, file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _about(table: Mapping[str, Any]) -> dict[str, Any]:
    """What jaxgen wrote beside the numbers; {} for files of others."""
    try:
        found = json.loads(str(table.get(ABOUT, "{}")))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _existing(path: str | os.PathLike) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of the statistics")
    return path


def _archived(path: Path, names: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """Those of the named arrays that an .npz holds, and the names of all it holds."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}, list(file.files)
    except (zipfile.BadZipFile, zlib.error, ValueError, TypeError, AttributeError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a readable .npz archive of numbers ({error}); fetch it again") from error


def _pair(path: Path, table: dict[str, Any], mean_name: str, cov_name: str) -> tuple[np.ndarray, np.ndarray]:
    """The checked mean [D] and covariance [D, D] of a table."""
    try:
        mean, cov = (np.asarray(table[name], np.float64) for name in (mean_name, cov_name))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {mean_name} and {cov_name} are not arrays of numbers ({error})") from error
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise UserError(
            f"{path}: {mean_name} {mean.shape} and {cov_name} {cov.shape} do not match; they must be [D], [D, D]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise UserError(f"{path}: {mean_name} or {cov_name} hold numbers that are not finite; compute them anew")
    return mean, cov


class _Refused(Exception):
    """The pickle asks for what statistics do not need."""


class _Dtype:
    """What a pickle says about a dtype: only numbers of a fixed size become one."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch(r"[<>|=]?([fiu][1248]|b1)", str(name)):
            raise _Refused(f"an array of type {name!r}")
        self.name, self.order = str(name).lstrip("<>|="), "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "|"

    def numpy(self) -> np.dtype:
        return np.dtype(self.name).newbyteorder(self.order)


class _Array:
    """What a pickle says about an array, in numpy's own order: version, shape, dtype, column-major, bytes."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, columns, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if columns else "C")


def _from_bytes(data: bytes | str, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    data = data.encode("latin1") if isinstance(data, str) else data  # Python 2's bytes
    return np.frombuffer(data, dtype.numpy()).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _Dtype, data: bytes | str) -> float:
    return float(_from_bytes(data, dtype, (), "C"))


def _latin(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how protocols below 3 spell bytes, whatever they call it


# (module, name) -> what stands in for it; nothing else exists
GLOBALS: dict[tuple[str, str], Callable] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin,
}
for _numpy in ("numpy.core", "numpy._core"):
    GLOBALS[f"{_numpy}.multiarray", "_reconstruct"] = lambda *_: _Array()
    GLOBALS[f"{_numpy}.multiarray", "scalar"] = _scalar
    GLOBALS[f"{_numpy}.numeric", "_frombuffer"] = _from_bytes


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in GLOBALS:
            raise _Refused(f"the global {module}.{name}")
        return GLOBALS[module, name]


def _unpickled(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        try:
            value = _plain(_Reader(file, encoding="latin1").load())
        except _Refused as error:
            raise UserError(
                f"{path} asks for {error}, which statistics do not need and which is not executed; "
                f"use a file with arrays of numbers only"
            ) from error
        except Exception as error:  # a broken stream of opcodes can fail in any way
            raise UserError(f"{path} is not a readable pickle of arrays ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, not a dict with mu and sigma")
    return value


def _plain(value: Any) -> Any:
    """Containers of arrays instead of containers of what was said about arrays."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(v) for v in value)
    return value

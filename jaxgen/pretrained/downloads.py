"""Weights that can be downloaded: where from, under which licence, and the SHA-256 that they must have.

A file is loaded once, to `JAXGEN_CACHE` (else ~/.cache/jaxgen) / weights, taken up again where a connection broke, and
believed only when its hash is right. What lies there already is verified too: a file may be put there by hand.
"""

import fcntl
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxgen.core.given import expand
from jaxgen.errors import UserError

CHUNK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Download:
    """A file. size: bytes, 0 = unknown. sha256: 64 digits, or the leading ones where no more of them is published."""

    url: str
    size: int
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[-1]


TORCHVISION = "BSD-3-Clause (torchvision; trained on ImageNet)"

# Each hash begins with the 8 digits in the file's own name, and is the same wherever several people wrote it down.
TABLE = {
    "inception_fid": Download(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "Apache-2.0 (pytorch-fid, from TensorFlow's Inception of 2015-12-05; trained on ImageNet)",
    ),
    "vgg16": Download(
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        TORCHVISION,
    ),
    "alexnet": Download(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        244_408_911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        TORCHVISION,
    ),
    "squeezenet1_1": Download(
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        4_958_839,
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        TORCHVISION,
    ),
}


def folder() -> Path:
    """Where weights are kept."""
    return Path(os.environ.get("JAXGEN_CACHE") or Path.home() / ".cache/jaxgen").expanduser() / "weights"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _append(part: Path, record: Download, bar: tqdm) -> bool:
    """What one connection brings of the file, from where `part` ends. True if the server left nothing out."""
    have = part.stat().st_size
    request = urllib.request.Request(record.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, part.open("ab") as file:
        if have and answer.status != HTTPStatus.PARTIAL_CONTENT:  # this server begins at the beginning
            file.truncate(0)
            have = 0
        bar.total = record.size or (have + answer.length if answer.length else None)
        bar.n = have
        while block := answer.read(CHUNK):
            file.write(block)
            bar.update(len(block))
        return not answer.length  # of a cut answer, http.client only says how many bytes are missing


def _download(record: Download, target: Path) -> None:
    """Bring the file to `target` by way of NAME.part, which stays for the next run if this one is broken off."""
    part = target.with_name(f"{record.file}.part")
    part.touch()
    have = part.stat().st_size
    free = shutil.disk_usage(target.parent).free
    if record.size - have > free:
        raise UserError(
            f"{record.file} needs {record.size - have:,} bytes, {target.parent} has {free:,}; set JAXGEN_CACHE"
        )
    with tqdm(desc=record.file, unit="B", unit_scale=True, disable=None) as bar:
        whole = 0 < record.size <= have
        while not whole:
            reason = "the connection broke off"
            try:
                whole = _append(part, record, bar)
            except urllib.error.HTTPError as error:
                whole = error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE  # nothing is left to send
                reason = f"HTTP {error.code}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            before, have = have, part.stat().st_size
            if not whole and have <= before:  # as long as a connection brings something, another one is tried
                raise UserError(
                    f"{record.file} cannot be loaded ({reason}). Offline, put the file of {record.url} "
                    f"(licence: {record.licence}) at {target}"
                )
    digest = _sha256(part)
    if not digest.startswith(record.sha256):
        part.unlink()
        raise UserError(
            f"{record.file} came with SHA-256 {digest[:16]}..., not {record.sha256[:16]}...: the download was damaged "
            "and is removed; run again"
        )
    part.replace(target)


def fetch(name: str, path: str | Path = "") -> Path:
    """The file of `TABLE[name]`, loaded if it is not in the cache.

    path: a file of your own, which is taken as it is; only if it has the record's file name must it have the hash too.
    Raises UserError for an unknown name, a missing or wrong file, no connection (saying which file to put where).
    """
    if name not in TABLE:
        raise UserError(f"no weights called {name!r}; known: {', '.join(TABLE)}")
    record = TABLE[name]
    if path:
        path = Path(expand(path))
        if not path.is_file():
            raise UserError(f"{path}: no such file; weights {name!r} are {record.file}, from {record.url}")
        if path.name == record.file and not (digest := _sha256(path)).startswith(record.sha256):
            raise UserError(
                f"{path} has SHA-256 {digest[:16]}..., not {record.sha256[:16]}...: load it anew from {record.url}"
            )
        return path
    target = folder() / record.file
    if target.is_file():
        digest = _sha256(target)
        if digest.startswith(record.sha256):
            return target
        aside = target.rename(target.with_name(f"{record.file}.wrong"))
        raise UserError(
            f"{target} has SHA-256 {digest[:16]}..., not {record.sha256[:16]}...; it is set aside as {aside.name}: "
            "run again to load the right one"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f"{record.file}.lock").open("w")
    except OSError as error:
        raise UserError(f"{target.parent} cannot be written ({error.strerror}); set JAXGEN_CACHE") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of one run ask at the same moment: one loads, the others wait
        if not target.is_file():
            _download(record, target)
    return target


def weights_hash(variables: Any) -> str:
    """SHA-256 over the names, types, shapes and numbers of a tree of arrays, in the order of the names: 64 digits.

    The same for equal numbers under equal names, whatever their order, container, device and layout in memory.
    """
    leaves = {
        jax.tree_util.keystr(k, simple=True, separator="/"): v
        for k, v in jax.tree_util.tree_leaves_with_path(variables)
    }
    digest = hashlib.sha256()
    for name in sorted(leaves):
        value = np.asarray(leaves[name])
        digest.update(f"{name} {value.dtype.name} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()

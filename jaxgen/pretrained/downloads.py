"""Weights that can be downloaded: where from, under which licence, and the SHA-256 that they must have.

A file is loaded once, to `JAXGEN_CACHE` (else ~/.cache/jaxgen) / weights, taken up again where a connection broke, and
believed only when its hash is right. What lies there already is verified too: a file may be put there by hand.
"""

import fcntl
import hashlib
import http.client
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

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


def _append(part: BinaryIO, have: int, record: Download, bar: tqdm) -> bool:
    """What one connection brings of the file, of which `part` holds `have` bytes. True if the server left nothing out."""
    request = urllib.request.Request(record.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if have and answer.status != HTTPStatus.PARTIAL_CONTENT:  # this server begins at the beginning
            part.truncate(0)
            have = 0
        bar.total = record.size or (have + answer.length if answer.length else None)
        bar.n = have
        while block := answer.read(CHUNK):
            view = memoryview(block)
            try:
                while view:
                    view = view[part.write(view) :]
            except OSError as error:
                raise UserError(
                    f"{part.name} cannot be written ({error.strerror}); free some space or set JAXGEN_CACHE to a "
                    "folder with more, and run again: it goes on from there"
                ) from error
            bar.update(len(block))
        return not answer.length  # of a cut answer, http.client only says how many bytes are missing


def _download(part: BinaryIO, record: Download, target: Path) -> None:
    """Fill `part`, which stays for the next run if this one is broken off, and make it the file `target`."""
    have = os.fstat(part.fileno()).st_size
    free = shutil.disk_usage(target.parent).free
    if record.size - have > free:
        raise UserError(
            f"{record.file} needs {record.size - have:,} bytes, {target.parent} has {free:,}; set JAXGEN_CACHE"
        )
    size = f" ({record.size / 1e6:.0f} MB)" if record.size else ""
    print(f"loading {record.file}{size} to {target.parent}", file=sys.stderr)
    with tqdm(desc=record.file, unit="B", unit_scale=True, disable=None) as bar:
        whole = 0 < record.size <= have
        while not whole:
            reason = "the connection broke off"
            try:
                whole = _append(part, have, record, bar)
            except urllib.error.HTTPError as error:
                whole = error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE  # nothing is left to send
                reason = f"HTTP {error.code}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            before, have = have, os.fstat(part.fileno()).st_size
            if not whole and have <= before:  # as long as a connection brings something, another one is tried
                raise UserError(
                    f"{record.file} cannot be loaded ({reason}). Offline, put the file of {record.url} "
                    f"(licence: {record.licence}) at {target}"
                )
    digest = _sha256(Path(part.name))
    if not digest.startswith(record.sha256):
        os.unlink(part.name)
        size = f"{have:,} bytes instead of {record.size:,}" if record.size not in (0, have) else "its size"
        raise UserError(
            f"{record.file} came with SHA-256 {digest[:16]}..., not {record.sha256[:16]}... ({size}): the download was "
            f"damaged and is removed; run again, or put the file of {record.url} at {target}"
        )
    os.replace(part.name, target)


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file `path`, opened to be added to by this process alone: of those that ask at once, one loads, the others wait.

    The file is its own lock, so nothing else lies about; without a byte in it, it does not stay either.
    """
    while True:
        with path.open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process is loading {path.stem}; waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # some network drives know no locks: a file that two have written fails its hash
            if not _is_at(path, file):  # whoever held it has made it the whole file, or removed it
                continue
            try:
                yield file
            finally:
                if _is_at(path, file) and not path.stat().st_size:
                    path.unlink()
            return


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
        with _alone(target.with_name(f"{record.file}.part")) as part:
            if not target.is_file():
                _download(part, record, target)
    except OSError as error:
        raise UserError(f"{target.parent} cannot be written ({error.strerror}); set JAXGEN_CACHE") from error
    return target

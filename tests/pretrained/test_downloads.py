"""Downloads from a server of the test's own: resumption, damage, wrong files, no connection."""

import errno
import hashlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROOT

from jaxgen.core.lender import weights_hash
from jaxgen.errors import UserError
from jaxgen.pretrained import downloads
from jaxgen.pretrained.downloads import TABLE, Download, fetch

CONTENT = np.random.default_rng(0).bytes(700_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at any path. cuts: after how many bytes the coming answers break off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.ranges, self.status = CONTENT, [], True, 200
        self.asked: list[str] = []  # the Range headers
        self.damaged = 0  # how many of the coming answers have a wrong byte


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range", "")
        server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if server.status != 200 or (start and start >= len(server.content)):
            self.send_response(416 if server.status == 200 else server.status)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else len(server.content)
        content = server.content[start:end]
        if server.damaged:
            server.damaged, content = server.damaged - 1, content[:-1] + b"?"
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
    monkeypatch.setitem(
        TABLE, "toy", Download(f"http://127.0.0.1:{server.server_port}/a/toy.pth", len(CONTENT), SHA256, "CC0")
    )
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def change(monkeypatch, **fields):
    monkeypatch.setitem(TABLE, "toy", Download(**(TABLE["toy"].__dict__ | fields)))


def left(tmp_path):
    return sorted(p.name for p in (tmp_path / "weights").iterdir())


def test_loaded_once_then_found(server, tmp_path):
    path = fetch("toy")
    assert path == tmp_path / "weights/toy.pth"
    assert path.read_bytes() == CONTENT
    assert fetch("toy") == path
    assert server.asked == [""]
    assert left(tmp_path) == ["toy.pth"]


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cuts = [300_000, 1, 250_000]
    assert fetch("toy").read_bytes() == CONTENT
    assert server.asked == ["", "bytes=300000-", "bytes=300001-", "bytes=550001-"]
    assert left(tmp_path) == ["toy.pth"]


def test_the_next_run_resumes(server, tmp_path):
    server.cuts = [200_000, 0]
    with pytest.raises(UserError, match="broke off"):
        fetch("toy")
    assert left(tmp_path) == ["toy.pth.part"]
    assert (tmp_path / "weights/toy.pth.part").stat().st_size == 200_000
    assert fetch("toy").read_bytes() == CONTENT
    assert server.asked[2:] == ["bytes=200000-"]


def test_a_server_without_ranges_starts_over(server):
    server.ranges, server.cuts = False, [500_000]
    assert fetch("toy").read_bytes() == CONTENT
    assert server.asked == ["", "bytes=500000-"]


@pytest.mark.parametrize("size", [len(CONTENT), 0])
def test_a_whole_part_is_not_loaded_again(size, server, monkeypatch, tmp_path):
    change(monkeypatch, size=size)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/toy.pth.part").write_bytes(CONTENT)
    assert fetch("toy").read_bytes() == CONTENT
    assert server.asked == ([] if size else [f"bytes={len(CONTENT)}-"])


def test_an_unknown_size_and_a_hash_of_eight_digits(server, monkeypatch):
    change(monkeypatch, size=0, sha256=SHA256[:8])
    server.cuts = [300_000]
    assert fetch("toy").read_bytes() == CONTENT


def test_damage_on_the_way_is_refused_and_leaves_nothing(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(UserError, match="damaged"):
        fetch("toy")
    assert left(tmp_path) == []
    server.content = CONTENT
    assert fetch("toy").read_bytes() == CONTENT


def test_damage_in_what_was_there_before_is_not_resumed_for_ever(server, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/toy.pth.part").write_bytes(b"?" * 1000)
    with pytest.raises(UserError, match="damaged"):
        fetch("toy")
    assert fetch("toy").read_bytes() == CONTENT


def test_a_wrong_file_in_the_cache_is_set_aside(server, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/toy.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"set aside as toy\.pth\.wrong"):
        fetch("toy")
    assert (tmp_path / "weights/toy.pth.wrong").read_bytes() == b"something else"
    assert fetch("toy").read_bytes() == CONTENT


def test_a_file_put_there_by_hand(server, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/toy.pth").write_bytes(CONTENT)
    assert fetch("toy").read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("status", [404, 503])
def test_a_server_that_refuses(status, server, tmp_path):
    server.status = status
    with pytest.raises(UserError, match=rf"HTTP {status}.*Offline, put the file of http://"):
        fetch("toy")
    assert left(tmp_path) == []


def test_offline_one_line_says_what_to_put_where(server, monkeypatch, tmp_path):
    change(monkeypatch, url="http://127.0.0.1:1/a/toy.pth")
    with pytest.raises(UserError) as error:
        fetch("toy")
    line = str(error.value)
    assert "\n" not in line
    for word in ("http://127.0.0.1:1/a/toy.pth", "CC0", str(tmp_path / "weights/toy.pth"), "refused"):
        assert word in line
    assert left(tmp_path) == []


def test_a_path_of_ones_own_wins(server, tmp_path):
    own = tmp_path / "mine.pth"
    own.write_bytes(b"my weights")
    assert fetch("toy", own) == own
    assert server.asked == []
    with pytest.raises(UserError, match=r"absent\.pth: no such file.*toy\.pth"):
        fetch("toy", tmp_path / "absent.pth")
    named = own.rename(tmp_path / "toy.pth")  # it now claims to be the published file
    with pytest.raises(UserError, match="SHA-256"):
        fetch("toy", named)
    assert named.read_bytes() == b"my weights"


def at_once(number):
    """What so many callers of `fetch` get: the content or the error's text."""

    def ask(_):
        try:
            return fetch("toy").read_bytes()
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(ask, range(number)))


def test_those_that_ask_at_once_load_once(server, tmp_path):
    assert at_once(6) == [CONTENT] * 6
    assert server.asked == [""]
    assert left(tmp_path) == ["toy.pth"]


def test_those_that_wait_for_one_that_fails_try_themselves(server, tmp_path):
    server.cuts = [300_000, 0]  # the first to come gives up, the next takes up what it left
    got = at_once(4)
    assert sorted(g == CONTENT for g in got) == [False, True, True, True]
    assert any("broke off" in g for g in got if g != CONTENT)
    assert left(tmp_path) == ["toy.pth"]


def test_those_that_wait_for_a_damaged_one_load_it_anew(server, tmp_path):
    server.damaged = 1
    got = at_once(4)
    assert sorted(g == CONTENT for g in got) == [False, True, True, True]
    assert any("damaged" in g for g in got if g != CONTENT)
    assert left(tmp_path) == ["toy.pth"]


def test_a_drive_without_locks_serves(server, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(downloads.fcntl, "flock", none)
    assert fetch("toy").read_bytes() == CONTENT


def test_a_disk_that_fills_up_on_the_way(server, tmp_path):
    """A quota of half the file: the line says how to make room, and the next run goes on."""
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        "from jaxgen.pretrained.downloads import *\n"
        f"TABLE['toy'] = {TABLE['toy']!r}\n"
        "try: fetch('toy')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", limited], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot be written (File too large); free some space" in done.stdout
    assert (tmp_path / "weights/toy.pth.part").stat().st_size == 400_000
    assert fetch("toy").read_bytes() == CONTENT
    assert server.asked[1:] == ["bytes=400000-"]


def test_another_page_instead_of_the_file(server, tmp_path):
    """What a portal answers to everything: its size tells it from damage."""
    server.content = b"<html>please log in</html>"
    with pytest.raises(UserError, match=r"26 bytes instead of 700,001.*put the file of http://"):
        fetch("toy")
    assert left(tmp_path) == []


def test_a_full_disk_is_noticed_first(server, monkeypatch):
    change(monkeypatch, size=1 << 60)
    with pytest.raises(UserError, match="set JAXGEN_CACHE"):
        fetch("toy")
    assert server.asked == []


def test_a_cache_that_cannot_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set JAXGEN_CACHE"):
        fetch("toy")


def test_an_unknown_name():
    with pytest.raises(UserError, match="known: inception_fid, vgg16"):
        fetch("inception")


def test_the_default_cache_is_at_home(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXGEN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert downloads.folder() == tmp_path / ".cache/jaxgen/weights"


@pytest.mark.parametrize("name", list(TABLE))
def test_hashes_begin_as_the_files_are_named(name):
    record = TABLE[name]
    assert record.file.removesuffix(".pth").endswith(record.sha256[:8])  # torch hub's convention
    assert len(record.sha256) == 64
    assert record.url.startswith("https://")
    assert record.size > 1e6
    assert record.licence


def test_the_hash_of_variables():
    tree = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": {"x": np.zeros(2, np.float32)}}
    digest = weights_hash(tree)
    assert digest == weights_hash({"a": {"x": jnp.zeros(2)}, "b": jnp.arange(6.0).reshape(2, 3)})
    assert digest == weights_hash({"b": np.asfortranarray(tree["b"]), "a": tree["a"]})
    others = [
        {"b": tree["b"] + 1e-6, "a": tree["a"]},
        {"b": tree["b"].reshape(3, 2), "a": tree["a"]},
        {"b": tree["b"], "a": {"y": tree["a"]["x"]}},
        {"b": tree["b"].astype(np.float64), "a": tree["a"]},
    ]
    assert len({digest, *map(weights_hash, others)}) == 5

"""One training at a time in a run directory: a lock with an owner that shows signs of life.

The lock is a plain file that is created exclusively, since locks of the operating system (fcntl) are unknown to many network
drives and say nothing of their owner. Its owner touches it every few seconds. Whether an owner of this machine lives is asked
of the machine; one of another machine (a cluster's other node, yesterday's Colab) is dead when it shows no sign for a minute.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxgen.errors import UserError

BEAT, SILENCE = 10.0, 60.0  # seconds between signs of life, and without one until an owner counts as dead
SETTLED = 0.5  # seconds in which two that take over the same lock have both written


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text()
    return ""


def machine() -> str:
    """This boot of this machine (in a container: of its process numbers); "" where the system does not say."""
    boot = _read("/proc/sys/kernel/random/boot_id").strip()
    with suppress(OSError):
        return f"{boot} {os.readlink('/proc/self/ns/pid')}" if boot else ""
    return boot


def born(pid: int) -> str:
    """When a process of this machine started, in ticks since the boot: with its number it names one process; "": it is gone."""
    state, *fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split() or [""]
    return fields[18] if fields and state not in "ZX" else ""  # a zombie has ended


def myself() -> dict[str, Any]:
    """The owner that this process would be."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "born": born(pid), "machine": machine(), "since": time.time()}


class Lock:
    """`with Lock(DIR):` holds DIR/lock while it lasts; a UserError names the owner where another process holds it."""

    def __init__(
        self, folder: str | Path, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    ) -> None:
        self.path, self.say = Path(folder) / "lock", say
        self.text, self.ended = "", threading.Event()

    def __enter__(self) -> "Lock":
        self.made = not self.path.parent.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.text = json.dumps(myself())
        while not self._create():
            found = _read(str(self.path))
            if self._lives(found):
                found = _read(str(self.path)) or found
                raise UserError(f"--workdir={self.path.parent} is in use: {self._owner(found)}; {self._cure(found)}")
            if self._replace(found):
                self.say(f"lock     of {self._owner(found)} is taken over: that process is gone")
                break
        self.pulse = threading.Thread(target=self._beat, daemon=True)
        self.pulse.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.pulse.join()
        with suppress(OSError):
            if _read(str(self.path)) == self.text:
                self.path.unlink()
            if self.made:
                self.path.parent.rmdir()  # only where nothing was written

    def confirm(self) -> None:
        """A UserError where another process has taken the directory over, as after a machine that slept."""
        if (found := _read(str(self.path))) not in ("", self.text):
            raise UserError(
                f"--workdir={self.path.parent} was taken over, as this process showed no sign of life: {self._owner(found)}; "
                "nothing more is written here"
            )

    def _create(self) -> bool:
        """Whether there was no lock."""
        try:
            with self.path.open("x") as file:
                file.write(self.text)
        except FileExistsError:
            return False
        return True

    def _replace(self, stale: str) -> bool:
        """Take over; False where another process was quicker."""
        if _read(str(self.path)) != stale:
            return False
        part = self.path.with_name(f"lock.{secrets.token_hex(4)}.part")
        part.write_text(self.text)
        part.replace(self.path)
        time.sleep(SETTLED)
        return _read(str(self.path)) == self.text

    def _lives(self, text: str) -> bool:
        """Whether the owner of a lock is alive: asked of this machine where it is the owner's, else waited for."""
        owner = _parsed(text)
        if owner.get("machine") and owner["machine"] == machine():
            return born(int(owner.get("pid", 0))) == owner.get("born")
        seen = self._touched()
        left = min(SILENCE, SILENCE - (time.time() - seen))  # clocks of two machines are seldom a minute apart
        if left > 0:
            self.say(f"lock     waiting up to {left:.0f} s for a sign of life of {self._owner(text)}")
        while left > 0:
            time.sleep(min(left, 1.0))
            left -= 1.0
            if not self.path.exists():
                return False
            if self._touched() != seen or _read(str(self.path)) != text:
                return True
        return False

    def _touched(self) -> float:
        with suppress(OSError), self.path.open() as file:  # opening asks a network drive for news
            return os.fstat(file.fileno()).st_mtime
        return 0.0

    def _owner(self, text: str) -> str:
        owner = _parsed(text)
        if not owner:
            return "an unknown process"
        age = max(0, int(time.time() - owner.get("since", 0)))
        old = f"{age} s" if age < 120 else f"{age // 60} min" if age < 7200 else f"{age // 3600} h"
        return f"process {owner.get('pid')} on {owner.get('host')} has trained here for {old}"

    def _cure(self, text: str) -> str:
        here = _parsed(text).get("machine") == machine()
        stop = f"stop it (kill {_parsed(text).get('pid')}; it saves first)" if here else "stop it there"
        return f"wait for it, {stop}, or choose another --workdir"

    def _beat(self) -> None:
        """Signs of life, until the end."""
        while not self.ended.wait(BEAT):
            with suppress(OSError):
                if _read(str(self.path)) == self.text:
                    os.utime(self.path)
                elif not self.path.exists():  # deleted by hand
                    self._create()


def _parsed(text: str) -> dict[str, Any]:
    with suppress(json.JSONDecodeError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}

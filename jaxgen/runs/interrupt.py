"""Signals to a training: heard at once, obeyed between two steps."""

import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any

from jaxgen.runs.writers import say

PATIENCE = 3.0  # seconds between a second Ctrl-C and the end of a process that does not hear it


class Interrupt:
    """SIGTERM and SIGINT set a flag that the loop reads between steps; a second SIGINT stops at once.

    A thread answers as soon as the signal arrives, even while the main thread is inside a program or a compilation.
    """

    def __init__(self) -> None:
        self.name = ""

    def __enter__(self) -> "Interrupt":
        self.old = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        self.ear, mouth = socket.socketpair()
        mouth.setblocking(False)
        self.mouth, self.before = mouth, signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self.answer, daemon=True).start()
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def answer(self) -> None:
        """Say that a signal was heard; leave when the main thread cannot hear the second SIGINT."""
        heard = 0
        while number := self.ear.recv(1)[:1]:
            name = signal.Signals(number[0]).name
            if name not in ("SIGINT", "SIGTERM"):
                continue
            heard += name == "SIGINT"
            if heard < 2:
                say(f"{name}: ending after what runs now, with everything saved (Ctrl-C again: at once)")
            else:
                time.sleep(PATIENCE)
                if self.mouth.fileno() >= 0:  # the main thread is still busy
                    os._exit(130)

    def __exit__(self, *_: Any) -> None:
        signal.set_wakeup_fd(self.before)
        self.mouth.close()
        for number, handler in self.old.items():
            signal.signal(number, handler)

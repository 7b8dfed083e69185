"""Work that is begun ahead, in a thread of its own, while the main thread does other things and hears signals."""

import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Generic, TypeVar

T = TypeVar("T")
TICK = 0.1  # seconds between two looks at the signals
FIRST_WORD = 30.0  # seconds of waiting before the first word of it; every further one after twice the time


class Ahead(Generic[T]):
    """`Ahead(work).result(...)` is `work()`, which runs from the moment it is asked for.

    The thread is one that a process need not wait for; but an interpreter that ends while XLA compiles in it crashes, so one
    that leaves in order waits.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self.began, self.future = time.monotonic(), Future()
        self.thread = threading.Thread(target=self._run, args=(work,), name="ahead", daemon=True)
        atexit.register(self.thread.join)
        self.thread.start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self.future.set_result(work())
        except BaseException as error:  # it is raised where the result is asked for
            self.future.set_exception(error)
        finally:
            atexit.unregister(self.thread.join)

    def result(self, stop: Callable[[], bool], still: Callable[[float], None] = lambda seconds: None) -> T | None:
        """What the work gave; None once `stop()` is true before it ends. `still(seconds)` is called now and then while it runs."""
        word = FIRST_WORD
        while not wait_for([self.future], timeout=TICK).done:
            if stop():
                return None
            if (seconds := time.monotonic() - self.began) >= word:
                still(seconds)
                word *= 2
        return self.future.result()

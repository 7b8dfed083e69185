"""The exceptions whose message is meant for the person at the keyboard."""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any


class UserError(ValueError):
    """Something the user can mend: one line that names the thing, the place and the cure."""


class NotFinite(UserError):
    """NaN or infinity where there was to be a picture or a figure."""


def line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def told(error: Exception) -> str:
    """What an error says to a person: of the system's, the file and the reason without its number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def command(
    run: Callable[[list[str]], Any], usage: Callable[[], None], again: str = "", leave: Callable[[int], Any] = sys.exit
) -> None:
    """A program: `run` is given the arguments, and without any `usage` is told.

    Exit code 0: done; 1: an error told in one line, or shown whole by --traceback; 130: interrupted, and `again` says what then.
    """
    warn_in_a_line()
    if len(sys.argv) == 1:
        usage()
        return
    try:
        run(sys.argv[1:])
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:
        if "--traceback" in sys.argv:
            raise
        print(f"error: {told(error)}", file=sys.stderr)
        sys.unraisablehook = lambda _: None  # what a broken write leaves behind has nothing to add
        leave(1)
    except KeyboardInterrupt as why:
        print(f"interrupted: {str(why) or again}".removesuffix(": "), file=sys.stderr)
        leave(130)


def warn_in_a_line() -> None:
    """From now on a warning is a line, without the place in the code that it comes from."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)

"""The exceptions whose message is meant for the person at the keyboard."""

import sys
import warnings


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


def warn_in_a_line() -> None:
    """From now on a warning is a line, without the place in the code that it comes from."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)

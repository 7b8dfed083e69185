"""What the type of a config field says besides its plain kind: who decides it where a config leaves it open, what it names."""

import os
from typing import Annotated, NamedTuple


class Given(NamedTuple):
    """`shape: Annotated[tuple[int, ...], Given("shape")]`; the ready types are in jaxgen.core.spec."""

    what: str


class OnDisk(NamedTuple):
    """The text names a file or a folder."""


FilePath = Annotated[str, OnDisk()]  # "~" is expanded where the registry reads it


def expand(path: str | os.PathLike) -> str:
    """A path as its user meant it: `~` and `~name` are home directories. Every path from a flag or a config goes through here."""
    return os.path.expanduser(path)

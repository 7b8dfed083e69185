"""The picture files below a folder: found, put in order, and all that is not taken accounted for."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from jaxgen.data import decode
from jaxgen.errors import UserError

NUMBER = re.compile(r"\d+")


def natural(name: str) -> tuple[str, str]:
    """A sorting key: numbers inside names by their value (2 before 10), folder by folder."""
    return NUMBER.sub(lambda found: found[0].zfill(32), name).replace(
        "/", "\0"
    ), name  # the name itself: 1 and 01 are two


def readable(name: str) -> str:
    """A file's name as it can be printed: bytes that are not UTF-8 are written as \\xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass
class Found:
    """What lies below a folder, by names relative to it (with "/"), in natural order."""

    names: list[str] = field(default_factory=list)  # of the pictures, by their suffix
    others: dict[str, list[str]] = field(default_factory=dict)  # why they are no pictures -> their names

    def below(self, folder: str) -> "Found":
        """The part in one of its folders; the names as seen from there."""
        head = f"{folder}/"

        def cut(names: Iterable[str]) -> list[str]:
            return [name.removeprefix(head) for name in names if name.startswith(head)]

        return Found(cut(self.names), {why: left for why, names in self.others.items() if (left := cut(names))})

    def notes(self) -> tuple[str, ...]:
        """What is left aside, in one line: how many of each kind, and the first."""
        if not self.others:
            return ()
        kinds = (
            f"{why} ({len(names):,}, such as '{readable(names[0])}')" for why, names in sorted(self.others.items())
        )
        return (f"left aside: {'; '.join(kinds)}",)


def find(root: str, key: str = "data.path") -> Found:
    """All pictures below a folder; hidden files and folders (a dot first) are passed over. key: of the config, which names it.

    A linked folder is entered unless its pictures are there already or it holds the root itself. Errors: no folder, one
    that must not be read, no picture.
    """
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"image folder '{readable(root)}' {what}; where it is now says --config.{key}=FOLDER")
    found, links, real = Found(), [""], os.path.realpath(root)
    seen: dict[str, str] = {}  # real place of a folder -> its name here
    while (
        links
    ):  # a link waits until all real folders of its depth are seen, so that what it repeats keeps its own name
        link = links.pop(0)
        place = os.path.realpath(os.path.join(root, link))
        if place in seen or (link and f"{real}/".startswith(f"{place.rstrip('/')}/")):
            found.others.setdefault("links to folders that are here already", []).append(link)
        else:
            links += _walk(root, link, found, seen)
    if not found.names:
        told = "".join(f" ({note})" for note in found.notes())
        raise UserError(f"image folder '{readable(root)}' holds no image: {', '.join(decode.SUFFIXES)}{told}")
    found.names.sort(key=natural)
    if bare := {name for name in seen.values() if name and "/" not in name} - {
        n.partition("/")[0] for n in found.names
    }:
        found.others["folders without a picture"] = [*bare]
    for names in found.others.values():
        names.sort(key=natural)
    return found


def _walk(root: str, start: str, found: Found, seen: dict[str, str]) -> list[str]:
    """Adds what is below `start` without following links to folders -> those links."""
    links, folders = [], [start]
    for folder in folders:
        place = os.path.join(root, folder)
        seen[os.path.realpath(place)] = folder
        try:
            entries = list(os.scandir(place))
        except OSError as e:
            raise UserError(f"folder '{readable(place)}' cannot be read: {e.strerror}") from e
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link in a circle
                is_folder = is_file = False
            if is_folder:
                (links if entry.is_symlink() else folders).append(name)
            elif not is_file:
                why = "links to nothing" if entry.is_symlink() else "pipes and devices"
                found.others.setdefault(why, []).append(name)
            elif entry.name.lower().endswith(decode.SUFFIXES):
                found.names.append(name)
            else:
                suffix = os.path.splitext(entry.name)[1].lower()
                found.others.setdefault(readable(suffix) or "no suffix", []).append(name)
    return sorted(links, key=natural)

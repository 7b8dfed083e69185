"""Image files in folders."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxgen.core.given import FilePath
from jaxgen.core.ranges import BelowOne, Natural
from jaxgen.core.spec import Spec, pictures
from jaxgen.data import decode
from jaxgen.data.sources.source import Source, line, one_of, split_rows
from jaxgen.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderSource(Source):
    """Image files, decoded when asked for. A file that cannot be decoded stands aside for the next that can."""

    spec: Spec
    root: str
    names: tuple[str, ...]  # of the files below the root, with "/"
    size: int
    resize: str
    on_broken: str
    broken: dict[str, Exception] = field(default_factory=dict)  # the files already warned about

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        for j in itertools.chain(range(i, len(self)), range(i)):
            try:
                example = {"image": decode.photo(self.file(j), self.spec.shape[2], self.size, self.resize)}
                if example["image"].shape != self.spec.shape:
                    raise ValueError(f"its shape is {example['image'].shape}, not {self.spec.shape}")
            except decode.BROKEN as e:
                if self.on_broken == "stop":
                    raise UserError(f"image '{self.file(j)}' is broken: {line(e)}") from e
                if self.broken.setdefault(self.names[j], e) is e:  # atomic: threads may meet the same file
                    log.warning("skipped broken image '%s': %s", self.file(j), line(e))
                continue
            return example | {"label": self.labels[j]} if self.spec.classes else example
        raise UserError(f"none of the {len(self)} images can be decoded, such as '{self.file(0)}'")

    def file(self, i: int) -> str:
        """The path of image i."""
        return os.path.join(self.root, self.names[i])

    @cached_property
    def labels(self) -> np.ndarray | None:
        """int32 [N], by the names of the class folders."""
        if not self.spec.classes:
            return None
        index = {name: k for k, name in enumerate(self.spec["label"].names)}
        return np.array([index[name.partition("/")[0]] for name in self.names], np.int32)

    def facts(self) -> Any:
        """Names and sizes of the files, and how they are brought to one size."""
        with ThreadPoolExecutor(8) as pool:
            sizes = list(pool.map(os.path.getsize, map(self.file, range(len(self)))))
        return [super().facts(), self.names, sizes, self.size, self.resize]

    def contents(self) -> Iterator[bytes]:
        """The files as they are stored."""
        return (Path(self.file(i)).read_bytes() for i in range(len(self)))


@dataclass(frozen=True)
class Folder:
    """A directory of PNG, JPEG, WebP and BMP files, flat (unlabelled) or one folder per class (names sorted).

    size: side of the square images; 0 keeps them as they are, then all must be equal.
    resize: "cover" (scale the shorter side, cut the centre), "contain" (scale the longer side, black bars), "stretch",
    "none" (all must be `size` already); antialiased. Images are turned upright by EXIF; transparency becomes white.
    channels: 1 or 3; 0 looks: 3 if any image has colour. labels=False ignores folders: any tree, unlabelled.
    on_broken: "skip" (one warning for each) or "stop". Files with a broken header leave the set when it is opened; one
    whose pixels turn out broken is replaced by the next. With size and channels given, no header is read in advance.
    eval_path: a second directory for evaluation; without it `eval_fraction` of the files, by a hash of their names.
    """

    path: FilePath
    eval_path: FilePath = ""
    eval_fraction: BelowOne = 0.1
    size: Natural = 0
    resize: str = "cover"
    channels: Literal[0, 1, 3] = 0
    labels: bool = True
    on_broken: str = "skip"

    def open(self, split: str) -> FolderSource:
        """The "train" or "eval" part. Errors: no folder, no readable image, sizes that differ with no `size` given."""
        one_of(split, ("train", "eval"), "split")
        one_of(self.resize, decode.RESIZE, "resize policy")
        one_of(self.on_broken, ("skip", "stop"), "on_broken")
        root, names = Path(self.path), _image_files(self.path)
        classes = self._classes(names)
        shape, broken = self._shape(root, names, self.channels)
        if not self.eval_path:
            names = [names[row] for row in split_rows(names, split, self.eval_fraction, f"folder '{self.path}'")]
        elif split == "eval":
            root, names = Path(self.eval_path), _image_files(self.eval_path)
            if unknown := sorted(set(self._classes(names)) - set(classes)):
                raise UserError(f"'{self.eval_path}' has a class {unknown[0]!r} that '{self.path}' has not")
            own, broken = self._shape(root, names, shape[2])
            if own != shape:
                raise UserError(f"'{self.eval_path}' has images {own}, '{self.path}' has {shape}: set size")
        names = self._sound(root, names, broken)
        spec = pictures(shape, len(classes), classes)
        return FolderSource(spec, str(root), tuple(names), self.size, self.resize, self.on_broken)

    def _classes(self, names: list[str]) -> tuple[str, ...]:
        """Sorted names of the class folders; () if the set is flat."""
        inside = sorted({name.partition("/")[0] for name in names if "/" in name}) if self.labels else []
        if inside and (flat := next((name for name in names if "/" not in name), "")):
            raise UserError(
                f"'{self.path}' mixes images ('{flat}') and class folders ('{inside[0]}'): "
                "move the images into folders, or set labels=False"
            )
        return tuple(inside)

    def _sound(self, root: Path, names: list[str], broken: dict[str, str]) -> list[str]:
        """The names without the broken ones, each of which is told."""
        for name in names:
            if name in broken:
                log.warning("skipped broken image '%s': %s", root / name, broken[name])
        sound = [name for name in names if name not in broken]
        if not sound:
            raise UserError(f"none of the {len(names)} images that '{root}' gives to this split can be read")
        return sound

    def _shape(self, root: Path, names: list[str], channels: int) -> tuple[tuple[int, int, int], dict[str, str]]:
        """[H, W, C] of the set; and what is wrong with each name whose header is broken."""
        natural = not self.size or self.resize == "none"
        if not natural and channels:
            return (self.size, self.size, channels), {}
        with ThreadPoolExecutor(4) as pool:
            heads = dict(zip(names, pool.map(_head, [str(root / name) for name in names]), strict=True))
        broken = {name: head for name, head in heads.items() if isinstance(head, str)}
        if broken and self.on_broken == "stop":
            name = min(broken)
            raise UserError(f"image '{root / name}' is broken: {broken[name]}")
        found = [head for head in heads.values() if not isinstance(head, str)]
        if not found:
            raise UserError(f"none of the {len(names)} images in '{root}' can be read: '{names[0]}': {heads[names[0]]}")
        channels = channels or (3 if any(colour for _, colour in found) else 1)
        if not natural:
            return (self.size, self.size, channels), broken
        sizes = Counter(size for size, _ in found)
        if self.size:
            sizes[self.size, self.size] += 0
        if len(sizes) > 1:
            kinds = ", ".join(f"{w}x{h}" for (w, h), _ in sizes.most_common(3))
            raise UserError(
                f"the images in '{root}' differ in size ({kinds} ...): make them equal with size=64 and resize"
            )
        ((w, h),) = sizes
        return (h, w, channels), broken


def _image_files(path: str) -> list[str]:
    """Relative names (with "/") of the image files below `path`, sorted; hidden ones are left out."""
    if not os.path.isdir(path):
        raise UserError(f"image folder '{path}' {'is not a folder' if os.path.exists(path) else 'does not exist'}")
    names = []
    for folder, inner, files in os.walk(path, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = Path(folder).relative_to(path)
        images = (f for f in files if f.lower().endswith(decode.SUFFIXES) and not f.startswith("."))
        names += [(below / image).as_posix() for image in images]
    if not names:
        raise UserError(f"image folder '{path}' holds no image ({', '.join(decode.SUFFIXES)})")
    return sorted(names)


def _head(file: str) -> tuple[tuple[int, int], bool] | str:
    """((width, height), is it colour) from the header, or what is wrong with it."""
    try:
        if os.path.getsize(file) == 0:
            return "the file is empty"
        with decode.open_image(file) as image:
            size = decode.upright_size(image)
            return (size, decode.is_colour(image)) if min(size) else f"the image is {size[0]}x{size[1]}"
    except decode.BROKEN as e:
        return line(e)

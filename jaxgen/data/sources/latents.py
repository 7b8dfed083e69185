"""Latents that `--mode=cache` has written: memory-mapped, one of a picture as it is and, where asked for, one of it mirrored."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.given import FilePath
from jaxgen.core.spec import Spec
from jaxgen.data.sources.source import NothingHeldOut, Rows, one_of, plain
from jaxgen.errors import UserError

META = "meta.json"


@dataclass(frozen=True)
class CachedLatents(Rows):
    """Rows of a cache, with what is told of them in `meta.json`."""

    told: Any = None

    @property
    def codec(self) -> str:
        """The hash of the codec's weights."""
        return self.told["codec"]

    @property
    def latents(self) -> dict[str, list[float]]:
        """Mean and standard deviation of each channel of the latents, over all of them, in float64."""
        return self.told["statistics"]

    @property
    def pictures(self) -> dict[str, Any]:
        """The keys of `config.data` of the pictures that were encoded."""
        return self.told["data"]

    def distinct(self, name: str) -> np.ndarray:
        """The tokens of all captions that differ, [M, L]."""
        field, tokens = self.spec[name], self.arrays[name]
        rows = np.unique(tokens.reshape(-1, *field.shape[field.kind == "captions" :]), axis=0)
        return rows[(rows >= 0).reshape(len(rows), -1).all(1)]

    def facts(self) -> Any:
        """Which pictures and which codec."""
        return [plain(self.spec), self.told["num"], self.told["pictures"], self.told["codec"]]


@dataclass(frozen=True)
class Latents:
    """What `--mode=cache` made of a codec and pictures."""

    path: FilePath

    def open(self, split: str) -> CachedLatents:
        """The "train" or "eval" part. Errors: no cache, one that is not whole."""
        one_of(split, ("train", "eval"), "split")
        folder = Path(self.path) / split
        if not (folder / META).is_file():
            if split == "eval" and (folder.parent / "train" / META).is_file():
                raise NothingHeldOut(
                    f"'{self.path}' holds no held-out latents; cache them of pictures that are held out"
                )
            raise UserError(f"'{self.path}' holds no latents; write them first by --mode=cache --workdir={self.path}")
        told = json.loads((folder / META).read_text())
        if told["done"] < told["num"]:
            raise UserError(
                f"'{folder}' has {told['done']:,} of {told['num']:,} pictures; go on by the same --mode=cache command"
            )
        spec = Spec.from_json(told["spec"])
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in spec}
        notes = (f"latents of {told['num']:,} pictures of {told['data']['name']}, cached in '{folder}'",)
        return CachedLatents(spec, arrays, np.arange(told["num"]), notes, told)

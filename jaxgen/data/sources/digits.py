"""The embedded digits."""

import importlib.resources
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxgen.core.ranges import Count
from jaxgen.core.spec import pictures
from jaxgen.data import decode
from jaxgen.data.sources.source import Rows, one_of


@dataclass(frozen=True)
class Digits:
    """The default that needs no download: 1,797 scanned digits, 8 x 8 grey, 10 labels (see DIGITS.md).

    1,500 train and 297 eval, the same share of every digit. `size` other than 8 resizes bicubically.
    """

    size: Count = 8

    def open(self, split: str) -> Rows:
        """The "train" or "eval" part."""
        one_of(split, ("train", "eval"), "split")
        with importlib.resources.files("jaxgen.data").joinpath("digits.npz").open("rb") as f, np.load(f) as stored:
            levels, labels = stored["images"], stored["labels"].astype(np.int32)
        images = np.rint(levels * (255 / 16)).astype(np.uint8)  # 0 .. 16 -> 0 .. 255
        if self.size != 8:
            images = np.stack([decode.RESIZE["stretch"](Image.fromarray(image), self.size) for image in images])
        # sorted by label, every sixth or so is held out: 297 in all, evenly over the digits
        by_label = np.argsort(labels, kind="stable")
        held = np.diff(np.arange(len(labels) + 1) * 297 // len(labels)).astype(bool)
        rows = np.sort(by_label[held == (split == "eval")])
        notes = (f"held out: {held.sum()} of {len(held):,} pictures, the same share of every digit",)
        spec = pictures((self.size, self.size, 1), 10, tuple("0123456789"), 17 if self.size == 8 else 256)
        return Rows(spec, {"image": images[..., None], "label": labels}, rows, notes)

"""Arrays in NumPy files."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxgen.core.given import FilePath
from jaxgen.core.ranges import BelowOne
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.data.sources.source import Rows, hold_out, one_of, split_rows, told_of_classes, told_of_split, warn_once
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Arrays:
    """A .npz or .npy file of uint8 images [N, H, W] or [N, H, W, C] or clips [N, T, H, W, C]; .npy is memory-mapped.

    `image_key` and `label_key` name arrays of the .npz; common names (images, x, arr_0; labels, y, arr_1) are found
    too. `also` names further arrays that a method is told: pictures (uint8) or masks (bool). Without `eval_path`,
    `eval_fraction` of the rows is held out.
    """

    path: FilePath
    eval_path: FilePath = ""
    eval_fraction: BelowOne = 0.1
    image_key: str = "image"
    label_key: str = "label"
    also: tuple[str, ...] = ()

    def open(self, split: str) -> Rows:
        """The "train" or "eval" part. Errors: no such file, not images, not uint8, labels that do not fit."""
        one_of(split, ("train", "eval"), "split")
        arrays = self._load(self.path)
        classes = int(arrays["label"].max()) + 1 if "label" in arrays else 0
        spec = pictures(arrays["image"].shape[1:], classes, tuple(str(c) for c in range(classes)))
        kinds = {name: "mask" if arrays[name].dtype == bool else "image" for name in self.also}
        spec = Spec(spec, **{k: Field(arrays[k].shape[1:], str(arrays[k].dtype), kind) for k, kind in kinds.items()})
        num, labels, names = len(arrays["image"]), arrays.get("label"), spec["label"].names if classes else ()
        if classes and labels.min() > 0:
            warn_once(
                f"the labels of '{self.path}' count from {labels.min()}, and classes from 0, so that "
                f"{labels.min()} of {classes} classes have no picture; save label - {labels.min()}"
            )
        if not self.eval_path:
            held = hold_out([str(i) for i in range(num)], self.eval_fraction, labels)
            notes = told_of_split(held, f"eval_fraction={self.eval_fraction:g}", labels, names)
            return Rows(spec, arrays, split_rows(held, split, f"'{self.path}'"), notes)
        held = self._load(self.eval_path)
        for name in ("image", *self.also):
            own, shape = held[name].shape[1:], arrays[name].shape[1:]
            if own != shape:
                raise UserError(f"'{self.eval_path}' has {name}s {own}, '{self.path}' has {shape}; make them alike")
        if held.keys() != arrays.keys() or (classes and held["label"].max() >= classes):
            raise UserError(f"the labels of '{self.eval_path}' do not fit the {classes} of '{self.path}'")
        notes = (f"held out: the {len(held['image']):,} pictures of '{self.eval_path}'",)
        notes += told_of_classes(labels, held["label"], names) if classes else ()
        arrays = arrays if split == "train" else held
        return Rows(spec, arrays, np.arange(len(arrays["image"])), notes)

    def _load(self, path: str) -> dict[str, np.ndarray]:
        if not Path(path).is_file():
            raise UserError(f"array file '{path}' does not exist")
        try:
            stored = np.load(path, mmap_mode="r" if path.endswith(".npy") else None, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                if self.also:
                    raise UserError(f"'{path}' is one array and has no {self.also[0]!r}: save an .npz, or set also=()")
                return {"image": _as_images(stored, path)}
            with stored:
                known = {
                    "image": (self.image_key, "images", "x", "arr_0"),
                    "label": (self.label_key, "labels", "y", "arr_1"),
                }
                known |= {name: (name,) for name in self.also}
                keys = {name: next((k for k in names if k in stored), "") for name, names in known.items()}
                if missing := [known[name][0] for name, key in keys.items() if not key and name != "label"]:
                    held = ", ".join(stored)
                    raise UserError(
                        f"'{path}' has no '{missing[0]}'; it holds {held}: set image_key or also to such names"
                    )
                arrays = {name: stored[key] for name, key in keys.items() if key}
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as e:
            raise UserError(f"array file '{path}' cannot be read: {e}") from e
        except ValueError as e:
            if isinstance(e, UserError):
                raise
            raise UserError(f"array file '{path}' is not a NumPy file of plain numbers: {e}") from e
        for name in ("image", *self.also):
            arrays[name] = _as_images(arrays[name], path, masks=name != "image")
            if len(arrays[name]) != len(arrays["image"]):
                raise UserError(
                    f"'{path}' has {len(arrays['image'])} images and {len(arrays[name])} of {name!r}: save as many"
                )
        if "label" in arrays:
            arrays["label"] = _as_labels(arrays["label"], len(arrays["image"]), path)
        return arrays


def _as_images(images: np.ndarray, path: str, masks: bool = False) -> np.ndarray:
    """[N, H, W(, C)] uint8 (masks: or bool) -> [N, H, W, C]; anything else is a UserError which says how to convert."""
    if images.dtype != np.uint8 and not (masks and images.dtype == bool):
        raise UserError(f"the images of '{path}' are {images.dtype}, not uint8: save {_as_levels(images)}")
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4) and images.shape[1] in (1, 3, 4):
        raise UserError(f"the images of '{path}' are [N, C, H, W] {images.shape}: save x.transpose(0, 2, 3, 1)")
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim not in (4, 5) or images.shape[-1] not in (1, 3, 4):
        raise UserError(f"'{path}' has shape {images.shape}; images are [N, H, W] or [N, H, W, C] with C = 1, 3 or 4")
    if images.size == 0:
        raise UserError(f"'{path}' has no pixels: its shape is {images.shape}")
    return images


def _as_levels(images: np.ndarray) -> str:
    """How these images become uint8, going by the first of them."""
    if images.dtype.kind not in "fiu" or not images.size:
        return "(x * 255).astype(np.uint8)" if images.dtype == bool else "x.astype(np.uint8), in 0 .. 255"
    low, high = float(np.min(images[:64])), float(np.max(images[:64]))
    if low < 0:
        return "((x + 1) * 127.5).round().astype(np.uint8)" if high <= 1 else "x scaled to 0 .. 255, as np.uint8"
    if high <= 1 and images.dtype.kind == "f":
        return "(x * 255).round().astype(np.uint8)"
    if high <= 255:
        return "x.round().astype(np.uint8)" if images.dtype.kind == "f" else "x.astype(np.uint8)"
    return "(x / 65535 * 255).round().astype(np.uint8)"


def _as_labels(labels: np.ndarray, num: int, path: str) -> np.ndarray:
    if labels.size == num and labels.dtype.kind in "iu" and labels.min() >= 0:
        return labels.reshape(num).astype(np.int32)
    cure = "save label.astype(int)"
    if labels.ndim == 2 and labels.shape[0] == num and labels.shape[1] > 1:
        cure = "save label.argmax(1)"
    elif labels.size == num and labels.dtype.kind in "iu":
        cure = f"save label - ({labels.min()}), or leave the unlabelled out"
    elif labels.size == num and labels.dtype.kind in "SU":
        cure = "save np.unique(label, return_inverse=True)[1]"
    elif labels.size != num:
        cure = "save one for each image"
    raise UserError(
        f"the labels of '{path}' must be {num} integers from 0, and are {labels.dtype} {labels.shape}: {cure}"
    )

"""Where images come from. A spec (frozen dataclass, its fields are config keys) opens a split as a `Source`.

Every source is random-access, deterministic and picklable; `source[i]` is dict(image=uint8 [H, W, C]) and, where the
set is labelled, label=np.int32; a captioned set adds caption=str. What is wrong with the data is said when it is
opened, in one line.
"""

import difflib
import importlib.resources
import io
import itertools
import logging
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from jaxgen.data import decode, scenes
from jaxgen.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Info:
    """What a run must know of its data: `shape` is [H, W, C], `classes` the number of labels (0 = unlabelled)."""

    shape: tuple[int, int, int]
    classes: int
    num: int
    label_names: tuple[str, ...]


class Source(Protocol):
    """A split of a data set."""

    info: Info

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Example i: image uint8 [H, W, C], label np.int32 if labelled, caption str if captioned."""


def _one_of(value: str, known: Iterable[str], what: str) -> None:
    known = list(known)
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
        raise UserError(f"{what} {value!r} is unknown; {hint}")


def _held_out(names: Iterable[str], fraction: float) -> np.ndarray:
    """Which items are kept for evaluation, bool [N]: by a hash of the name, so that new items move no old one.

    At least one is (the one with the smallest hash) if the fraction is not 0.
    """
    hashes = np.array([zlib.crc32(name.encode()) for name in names], np.uint32)
    return hashes <= max(fraction * 2**32, hashes.min()) if fraction > 0 else np.zeros(len(hashes), bool)


def _rows(names: Sequence[str], split: str, fraction: float, where: str) -> np.ndarray:
    """Indices of the items of a split; a single item serves both."""
    if not 0 <= fraction < 1:
        raise UserError(f"eval_fraction={fraction} must be at least 0 and below 1")
    held = _held_out(names, fraction)
    rows = np.flatnonzero(held == (split == "eval"))
    if rows.size == 0 and split == "eval":
        raise UserError(f"{where} has no held-out part: set eval_fraction above 0 or eval_path")
    return rows if rows.size else np.arange(len(names))


@dataclass(frozen=True)
class ArraySource:
    """Rows of an array in memory or memory-mapped: images [N, H, W, C] uint8, labels [N] (empty if unlabelled)."""

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    info: Info

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = self.rows[i]
        example = {"image": np.asarray(self.images[row])}
        return example | {"label": np.int32(self.labels[row])} if self.info.classes else example


@dataclass(frozen=True)
class Digits:
    """The default that needs no download: 1,797 scanned digits, 8 x 8 grey, 10 labels (see DIGITS.md).

    1,500 train and 297 eval, the same share of every digit. `size` other than 8 resizes bicubically.
    """

    size: int = 8

    def open(self, split: str) -> ArraySource:
        """The "train" or "eval" part."""
        _one_of(split, ("train", "eval"), "split")
        with importlib.resources.files("jaxgen.data").joinpath("digits.npz").open("rb") as f, np.load(f) as stored:
            levels, labels = stored["images"], stored["labels"].astype(np.int32)
        images = np.rint(levels * (255 / 16)).astype(np.uint8)  # 0 .. 16 -> 0 .. 255
        if self.size != 8:
            images = np.stack([decode.RESIZE["stretch"](Image.fromarray(image), self.size) for image in images])
        # sorted by label, every sixth or so is held out: 297 in all, evenly over the digits
        by_label = np.argsort(labels, kind="stable")
        held = np.diff(np.arange(len(labels) + 1) * 297 // len(labels)).astype(bool)
        rows = np.sort(by_label[held == (split == "eval")])
        info = Info((self.size, self.size, 1), 10, len(rows), tuple("0123456789"))
        return ArraySource(images[..., None], labels, rows, info)


@dataclass(frozen=True)
class ShapesSource:
    """Rendered scenes; example i is a pure function of (seed, split, i)."""

    spec: "Shapes"
    split: int
    info: Info

    def __len__(self) -> int:
        return self.info.num

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        scene = scenes.scene(i, self.spec.seed, self.split, self.spec.max_shapes)
        return {
            "image": scenes.render(scene, self.spec.size),
            "label": np.int32(self.info.label_names.index(scene.shapes[0].kind)),
            "caption": scenes.caption(scene),
        }


@dataclass(frozen=True)
class Shapes:
    """Captioned procedural scenes at any `size`; the label is the kind of the first shape. See jaxgen.data.scenes."""

    size: int = 32
    num: int = 10_000
    eval_num: int = 1_000
    seed: int = 0
    max_shapes: int = 1

    def open(self, split: str) -> ShapesSource:
        """The "train" or "eval" stream of scenes: different scenes of one distribution."""
        _one_of(split, ("train", "eval"), "split")
        for key in ("size", "num", "eval_num", "max_shapes"):
            if getattr(self, key) < 1:
                raise UserError(f"shapes: {key}={getattr(self, key)} must be at least 1")
        if self.max_shapes > len(scenes.CORNERS):
            raise UserError(f"shapes: max_shapes={self.max_shapes} is more than the {len(scenes.CORNERS)} that fit")
        names, num = tuple(scenes.SHAPES), self.num if split == "train" else self.eval_num
        return ShapesSource(self, int(split == "eval"), Info((self.size, self.size, 3), len(names), num, names))


@dataclass(frozen=True)
class Arrays:
    """A .npz or .npy file of uint8 images [N, H, W] or [N, H, W, C]; .npy is memory-mapped (and has no labels).

    `image_key` and `label_key` name arrays of the .npz; common names (images, x, arr_0; labels, y, arr_1) are found
    too. Without `eval_path`, `eval_fraction` of the rows is held out.
    """

    path: str
    eval_path: str = ""
    eval_fraction: float = 0.1
    image_key: str = "image"
    label_key: str = "label"

    def open(self, split: str) -> ArraySource:
        """The "train" or "eval" part. Errors: no such file, not images, not uint8, labels that do not fit."""
        _one_of(split, ("train", "eval"), "split")
        images, labels = self._load(self.path)
        classes = int(labels.max()) + 1 if len(labels) else 0
        if not self.eval_path:
            rows = _rows([str(i) for i in range(len(images))], split, self.eval_fraction, f"'{self.path}'")
        else:
            if split == "eval":
                shape, (images, labels) = images.shape[1:], self._load(self.eval_path)
                if images.shape[1:] != shape:
                    raise UserError(f"'{self.eval_path}' has images {images.shape[1:]}, '{self.path}' has {shape}")
                if bool(classes) != bool(len(labels)) or (classes and labels.max() >= classes):
                    raise UserError(f"the labels of '{self.eval_path}' do not fit the {classes} of '{self.path}'")
            rows = np.arange(len(images))
        info = Info(tuple(images.shape[1:]), classes, len(rows), tuple(str(c) for c in range(classes)))
        return ArraySource(images, labels, rows, info)

    def _load(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        if not Path(path).is_file():
            raise UserError(f"array file '{path}' does not exist")
        try:
            stored = np.load(path, mmap_mode="r" if path.endswith(".npy") else None, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                return _as_images(stored, path), np.zeros(0, np.int32)
            with stored:
                key = next((k for k in (self.image_key, "images", "x", "arr_0") if k in stored), "")
                if not key:
                    raise UserError(f"'{path}' has no '{self.image_key}'; it holds {', '.join(stored)}: set image_key")
                images = _as_images(stored[key], path)
                key = next((k for k in (self.label_key, "labels", "y", "arr_1") if k in stored), "")
                return images, _as_labels(stored[key], len(images), path) if key else np.zeros(0, np.int32)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as e:
            raise UserError(f"array file '{path}' cannot be read: {e}") from e
        except ValueError as e:
            if isinstance(e, UserError):
                raise
            raise UserError(f"array file '{path}' is not a NumPy file of plain numbers: {e}") from e


def _as_images(images: np.ndarray, path: str) -> np.ndarray:
    """[N, H, W(, C)] uint8 -> [N, H, W, C]; anything else is a UserError which says how to convert."""
    if images.dtype != np.uint8:
        how = "x.astype(np.uint8) if they lie in 0 .. 255"
        if images.dtype.kind == "f" and images.size:
            low = float(np.min(images[:64]))
            how = "((x + 1) * 127.5).round().astype(np.uint8)" if low < 0 else "(x * 255).round().astype(np.uint8)"
        raise UserError(f"the images of '{path}' are {images.dtype}, not uint8: save {how}")
    if images.ndim == 4 and images.shape[3] not in (1, 3, 4) and images.shape[1] in (1, 3, 4):
        raise UserError(f"the images of '{path}' are [N, C, H, W] {images.shape}: save x.transpose(0, 2, 3, 1)")
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        raise UserError(f"'{path}' has shape {images.shape}; images are [N, H, W] or [N, H, W, C] with C = 1, 3 or 4")
    if images.size == 0:
        raise UserError(f"'{path}' has no pixels: its shape is {images.shape}")
    return images


def _as_labels(labels: np.ndarray, num: int, path: str) -> np.ndarray:
    if labels.size != num or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(f"the labels of '{path}' must be {num} integers from 0; got {labels.dtype} {labels.shape}")
    return labels.reshape(num).astype(np.int32)


@dataclass(frozen=True)
class FolderSource:
    """Image files, decoded when asked for. A file that cannot be decoded stands aside for the next that can."""

    files: tuple[str, ...]
    labels: np.ndarray
    info: Info
    size: int
    resize: str
    on_broken: str
    broken: dict[str, Exception] = field(default_factory=dict)  # the files already warned about

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        for j in itertools.chain(range(i, len(self)), range(i)):
            try:
                example = {"image": decode.photo(self.files[j], self.info.shape[2], self.size, self.resize)}
                if example["image"].shape != self.info.shape:
                    raise ValueError(f"its shape is {example['image'].shape}, not {self.info.shape}")
            except decode.BROKEN as e:
                if self.on_broken == "stop":
                    raise UserError(f"image '{self.files[j]}' is broken: {_line(e)}") from e
                if self.broken.setdefault(self.files[j], e) is e:  # atomic: threads may meet the same file
                    log.warning("skipped broken image '%s': %s", self.files[j], _line(e))
                continue
            return example | {"label": self.labels[j]} if self.info.classes else example
        raise UserError(f"none of the {len(self)} images can be decoded, such as '{self.files[0]}'")


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

    path: str
    eval_path: str = ""
    eval_fraction: float = 0.1
    size: int = 0
    resize: str = "cover"
    channels: int = 0
    labels: bool = True
    on_broken: str = "skip"

    def open(self, split: str) -> FolderSource:
        """The "train" or "eval" part. Errors: no folder, no readable image, sizes that differ with no `size` given."""
        _one_of(split, ("train", "eval"), "split")
        _one_of(self.resize, decode.RESIZE, "resize policy")
        _one_of(self.on_broken, ("skip", "stop"), "on_broken")
        if self.channels not in (0, 1, 3):
            raise UserError(f"channels={self.channels} must be 1 (grey), 3 (colour) or 0 (as the images are)")
        if self.size < 0:
            raise UserError(f"size={self.size} must be the side of the images in pixels, or 0 to keep theirs")
        root, names = Path(self.path), _image_files(self.path)
        classes = self._classes(names)
        shape, broken = self._shape(root, names, self.channels)
        if not self.eval_path:
            names = [names[row] for row in _rows(names, split, self.eval_fraction, f"folder '{self.path}'")]
        elif split == "eval":
            root, names = Path(self.eval_path), _image_files(self.eval_path)
            if unknown := sorted(set(self._classes(names)) - set(classes)):
                raise UserError(f"'{self.eval_path}' has a class {unknown[0]!r} that '{self.path}' has not")
            own, broken = self._shape(root, names, shape[2])
            if own != shape:
                raise UserError(f"'{self.eval_path}' has images {own}, '{self.path}' has {shape}: set size")
        names = self._sound(root, names, broken)
        index = {name: np.int32(k) for k, name in enumerate(classes)}
        labels = np.array([index[name.partition("/")[0]] for name in names] if classes else [], np.int32)
        info = Info(shape, len(classes), len(names), classes)
        files = tuple(str(root / name) for name in names)
        return FolderSource(files, labels, info, self.size, self.resize, self.on_broken)

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


def _line(e: Exception) -> str:
    return " ".join(str(e).split()) or type(e).__name__


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
        return _line(e)


@dataclass(frozen=True)
class TfdsSource:
    """Records of a TFDS split, decoded by Pillow (which reads more formats than tf.io, and never needs TensorFlow)."""

    records: Sequence[bytes]
    spec: "Tfds"
    info: Info

    def __len__(self) -> int:
        return self.info.num

    def __getitem__(self, i: int) -> dict[str, Any]:
        from tensorflow_datasets.proto import tf_example_pb2

        # only the two features in use are touched: TFDS's own decoding of the whole example takes twice the time
        features, spec = tf_example_pb2.Example.FromString(self.records[i]).features.feature, self.spec
        try:
            data = io.BytesIO(features[spec.image_key].bytes_list.value[0])
            image = decode.record(data, self.info.shape[2], spec.size, spec.resize)
        except decode.BROKEN as e:
            raise UserError(f"record {i} of {spec.dataset!r} is broken ({_line(e)}): prepare the data set again") from e
        if not self.info.classes:
            return {"image": image}
        return {"image": image, "label": np.int32(features[spec.label_key].int64_list.value[0])}


@dataclass(frozen=True)
class Tfds:
    """Any image set of TensorFlow Datasets ("cifar10", "imagenet_resized/64x64:0.1.0"), stored as ArrayRecord.

    data_dir: where it was prepared; "" is TFDS's own default (TFDS_DATA_DIR, then ~/tensorflow_datasets).
    split, eval_split: TFDS split names, slices too ("train[:90%]"). label_key="" trains without labels.
    size, resize: as in `Folder`; needed where the images of the set vary in size.
    """

    dataset: str
    data_dir: str = ""
    split: str = "train"
    eval_split: str = "test"
    image_key: str = "image"
    label_key: str = "label"
    size: int = 0
    resize: str = "cover"

    def open(self, split: str) -> TfdsSource:
        """The "train" or "eval" part. Errors: unknown or unprepared set, no such split or feature, images that vary."""
        _one_of(split, ("train", "eval"), "split")
        _one_of(self.resize, decode.RESIZE, "resize policy")
        import tensorflow_datasets as tfds  # here, because it takes a second that other sources need not spend

        with _quiet("absl"):
            builder = self._builder(tfds)
            part = self.split if split == "train" else self.eval_split
            try:
                records = builder.as_data_source(split=part, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
            except (ValueError, KeyError) as e:
                known = ", ".join(builder.info.splits)
                raise UserError(f"TFDS set {self.dataset!r} cannot give split {part!r}; its splits: {known}") from e
        classes, names = self._labels(builder.info.features, tfds)
        info = Info(self._shape(builder.info.features, tfds), classes, len(records), names)
        return TfdsSource(records.data_source, self, info)

    def _builder(self, tfds: Any) -> Any:
        try:
            builder = tfds.builder(self.dataset, data_dir=self.data_dir or None)
        except tfds.core.registered.DatasetNotFoundError as e:
            name = self.dataset.partition("/")[0].partition(":")[0]
            _one_of(name, tfds.list_builders(with_community_datasets=False), "TFDS set")
            raise UserError(f"TFDS set {self.dataset!r} is unknown: {_line(e)}") from e
        except (ValueError, AssertionError) as e:
            raise UserError(f"TFDS set {self.dataset!r} cannot be opened: {str(e).splitlines()[0]}") from e
        command = f"python -m jaxgen.data.prepare {self.dataset}"
        if not builder.is_prepared():
            where = f" --data_dir={self.data_dir}" if self.data_dir else ""
            raise UserError(
                f"TFDS set {self.dataset!r} is not prepared in '{builder.data_dir}': "
                f"pip install 'jaxgen[prepare]', then {command}{where}"
            )
        stored = builder.info.file_format.value
        if stored != "array_record":
            raise UserError(
                f"TFDS set {self.dataset!r} in '{builder.data_dir}' is stored as {stored}, which has no random access: "
                f"prepare it again in another folder, {command} --data_dir=OTHER"
            )
        return builder

    def _shape(self, features: Any, tfds: Any) -> tuple[int, int, int]:
        feature = self._feature(features, self.image_key, "image_key", tfds.features.Image)
        h, w, c = feature.shape
        if feature.np_dtype != np.uint8:
            raise UserError(f"the images of TFDS set {self.dataset!r} are {np.dtype(feature.np_dtype)}, not uint8")
        if self.size and self.resize != "none":
            h = w = self.size
        if not h or not w:
            raise UserError(f"the images of TFDS set {self.dataset!r} vary in size: set size=64 (and resize)")
        return h, w, c or 3

    def _labels(self, features: Any, tfds: Any) -> tuple[int, tuple[str, ...]]:
        if not self.label_key:
            return 0, ()
        feature = self._feature(features, self.label_key, "label_key", tfds.features.ClassLabel)
        return feature.num_classes, tuple(feature.names)

    def _feature(self, features: Any, key: str, field: str, kind: type) -> Any:
        if key in features and isinstance(features[key], kind):
            return features[key]
        known = ", ".join(f"{k} ({type(v).__name__})" for k, v in features.items())
        cure = ", or '' to train without labels" if field == "label_key" else ""
        raise UserError(
            f"TFDS set {self.dataset!r} has no {kind.__name__} {key!r}: set {field} to one of {known}{cure}"
        )


@contextmanager
def _quiet(name: str) -> Iterable[None]:
    """Keeps a library's advice on its own internals off the console; its errors are told in our words."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

"""Sets of TensorFlow Datasets, read without TensorFlow."""

import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.given import FilePath
from jaxgen.core.ranges import Natural
from jaxgen.core.spec import Spec, pictures
from jaxgen.data import decode
from jaxgen.data.sources.source import NothingHeldOut, Source, one_of, plain
from jaxgen.errors import UserError, line


@dataclass(frozen=True)
class TfdsSource(Source):
    """Records of a TFDS split, decoded by Pillow (which reads more formats than tf.io, and never needs TensorFlow)."""

    spec: Spec
    records: Sequence[bytes]
    options: "Tfds"
    about: tuple  # the set's name and version; of each shard in use its file's name and size, the records skipped and taken
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        from tensorflow_datasets.proto import tf_example_pb2

        # only the two features in use are touched: TFDS's own decoding of the whole example takes twice the time
        features, options = tf_example_pb2.Example.FromString(self.records[i]).features.feature, self.options
        try:
            data = io.BytesIO(features[options.image_key].bytes_list.value[0])
            image = decode.record(data, self.spec.shape[2], options.size, options.resize)
        except (decode.Unreadable, IndexError) as e:
            raise UserError(
                f"record {i} of {options.dataset!r} is broken ({line(e)}): prepare the data set again"
            ) from e
        if not self.spec.classes:
            return {"image": image}
        label = features[options.label_key].int64_list.value[0]
        if not 0 <= label < self.spec.classes:  # TFDS gives -1 where a test split is published without labels
            raise UserError(
                f"record {i} of {options.dataset!r} has the label {label}, which is none of its {self.spec.classes} "
                "classes: name another split (config.data.split, eval_split), or train without labels "
                '(config.data.label_key="")'
            )
        return {"image": image, "label": np.int32(label)}

    @property
    def lossy(self) -> bool:
        """By the first bytes of the first record's picture."""
        from tensorflow_datasets.proto import tf_example_pb2

        stored = tf_example_pb2.Example.FromString(self.records[0]).features.feature[self.options.image_key]
        return stored.bytes_list.value[0].startswith(b"\xff\xd8")

    def facts(self) -> Any:
        """Of the set's files: a look at every record would cost as much as reading the set."""
        options = self.options
        return [plain(self.spec), self.about, options.image_key, options.label_key, options.size, options.resize]

    def contents(self) -> Iterator[bytes]:
        """The records as they are stored."""
        return (self.records[i] for i in range(len(self)))


@dataclass(frozen=True)
class Tfds:
    """Any image set of TensorFlow Datasets ("cifar10", "imagenet_resized/64x64:0.1.0"), stored as ArrayRecord.

    data_dir: where it was prepared; "" is TFDS's own default (TFDS_DATA_DIR, then ~/tensorflow_datasets).
    split, eval_split: TFDS split names, slices too ("train[:90%]"); eval_split="" holds nothing out. label_key="" trains
    without labels.
    size, resize: as in `Folder`; needed where the images of the set vary in size.
    """

    dataset: str
    data_dir: FilePath = ""
    split: str = "train"
    eval_split: str = "test"
    image_key: str = "image"
    label_key: str = "label"
    size: Natural = 0
    resize: str = "cover"

    def open(self, split: str) -> TfdsSource:
        """The "train" or "eval" part. Errors: unknown or unprepared set, no such split or feature, images that vary."""
        one_of(split, ("train", "eval"), "split")
        one_of(self.resize, decode.RESIZE, "resize policy")
        import tensorflow_datasets as tfds  # here, because it takes a second that other sources need not spend

        with _quiet("absl"):
            builder = self._builder(tfds)
            part = self.split if split == "train" else self.eval_split
            if not part:
                raise NothingHeldOut(
                    f"no picture of TFDS set {self.dataset!r} is held out (eval_split=''): name another of its splits "
                    f"by --config.data.eval_split=SPLIT; there are {', '.join(builder.info.splits)}"
                )
            try:
                records = builder.as_data_source(split=part, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
            except (ValueError, KeyError) as e:
                known = ", ".join(builder.info.splits)
                cure = f"set config.data.{'split' if split == 'train' else 'eval_split'}; "
                if split == "eval" and list(builder.info.splits) == ["train"]:
                    cure = "set config.data.split='train[:90%]' and config.data.eval_split='train[90%:]'; "
                raise UserError(
                    f"TFDS set {self.dataset!r} cannot give split {part!r}: {cure}its splits are {known}"
                ) from e
        classes, names = self._labels(builder.info.features, tfds)
        spec = pictures(self._shape(builder.info.features, tfds), classes, names)
        shards = builder.info.splits[part].file_instructions
        files = tuple((Path(s.filename).name, Path(s.filename).stat().st_size, s.skip, s.take) for s in shards)
        source = TfdsSource(spec, records.data_source, self, (builder.info.full_name, *files), self._notes(builder))
        if spec.classes:
            source[0]  # a split without labels is told now
        return source

    def _notes(self, builder: Any) -> tuple[str, ...]:
        if not self.eval_split:
            return ("held out: none (eval_split='')",)
        try:
            held = (
                f"held out: {builder.info.splits[self.eval_split].num_examples:,} pictures, split {self.eval_split!r}",
            )
        except (ValueError, KeyError):  # told where it is opened
            held = ()
        wide = builder.info.features[self.image_key].np_dtype == np.uint16
        return (*held, *(["converted: 16 bits scaled to 8"] if wide else []))

    def _builder(self, tfds: Any) -> Any:
        try:
            builder = tfds.builder(self.dataset, data_dir=self.data_dir or None)
        except tfds.core.registered.DatasetNotFoundError as e:
            name = self.dataset.partition("/")[0].partition(":")[0]
            one_of(name, tfds.list_builders(with_community_datasets=False), "TFDS set")
            raise UserError(f"TFDS set {self.dataset!r} is unknown: {line(e)}") from e
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
        if feature.np_dtype not in (np.uint8, np.uint16):
            kind = np.dtype(feature.np_dtype)
            raise UserError(
                f"the images of TFDS set {self.dataset!r} are {kind}, not of 8 or 16 bits: choose another image_key"
            )
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

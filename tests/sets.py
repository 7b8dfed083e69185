"""Small data sets on disk, in every format: the same pictures as class folders, as an array file, as a TFDS set."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def noise(num: int, h: int = 6, w: int = 5, c: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 [N, H, W, C]."""
    return np.random.default_rng(seed).integers(0, 256, (num, h, w, c), np.uint8)


def write_folder(path: Path, images: np.ndarray, labels: Sequence[int], names: Sequence[str]) -> Path:
    """PNGs in a folder per class."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (path / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / names[label] / f"{i:03}.png")
    return path


def write_arrays(path: Path, images: np.ndarray, labels: Sequence[int]) -> Path:
    """One .npz."""
    np.savez(path, image=images, label=np.asarray(labels))
    return path


def write_tfds(path: Path, images: Sequence[np.ndarray], labels: Sequence[int], names: Sequence[str]) -> Path:
    """A prepared TFDS set called `pictures`, without TensorFlow: its only split, train, in one file."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    folder = path / "pictures" / "1.0.0"
    folder.mkdir(parents=True)
    writer = array_record_module.ArrayRecordWriter(
        str(folder / "pictures-train.array_record-00000-of-00001"), "group_size:1"
    )
    for image, label in zip(images, labels, strict=True):
        file, example = io.BytesIO(), tf_example_pb2.Example()
        Image.fromarray(np.squeeze(image, -1) if image.shape[-1] == 1 else image).save(file, "PNG")
        example.features.feature["image"].bytes_list.value.append(file.getvalue())
        example.features.feature["label"].int64_list.value.append(int(label))
        writer.write(example.SerializeToString())
    writer.close()
    image = tfds.features.Image(shape=images[0].shape, dtype=images[0].dtype.type)
    label = tfds.features.ClassLabel(names=list(names))
    tfds.features.FeaturesDict({"image": image, "label": label}).save_config(str(folder))
    split = {"name": "train", "numBytes": "1", "shardLengths": [str(len(images))],
             "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}  # fmt: skip
    about = {"name": "pictures", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    return path

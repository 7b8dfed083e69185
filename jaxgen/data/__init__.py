"""Data: sources (where examples come from), transforms (host augmentations), pipeline (batches by step number)."""

from jaxgen.data.pipeline import Stream, eval_batches, index_stream, load_all, share, train_stream
from jaxgen.data.sources import (
    Arrays,
    Digits,
    Folder,
    Lattice,
    Negative,
    NothingHeldOut,
    Pairs,
    Ring,
    Shapes,
    Source,
    Tfds,
    Unpaired,
)
from jaxgen.data.transforms import Crop, Flip

__all__ = [
    "Arrays",
    "Crop",
    "Digits",
    "Flip",
    "Folder",
    "Lattice",
    "Negative",
    "NothingHeldOut",
    "Pairs",
    "Ring",
    "Shapes",
    "Source",
    "Stream",
    "Tfds",
    "Unpaired",
    "eval_batches",
    "index_stream",
    "load_all",
    "share",
    "train_stream",
]

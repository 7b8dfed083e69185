"""Where examples come from. A frozen dataclass of options, one file a format, opens a split as a `Source`.

What is wrong with the data is said when it is opened, in one line.
"""

from jaxgen.data.sources.arrays import Arrays
from jaxgen.data.sources.crops import Crops
from jaxgen.data.sources.digits import Digits
from jaxgen.data.sources.folder import Folder
from jaxgen.data.sources.latents import CachedLatents, Latents
from jaxgen.data.sources.pairs import Pairs
from jaxgen.data.sources.points import Lattice, Points, Ring
from jaxgen.data.sources.shapes import Shapes
from jaxgen.data.sources.source import NothingHeldOut, OnLevels, Source
from jaxgen.data.sources.tfds import Tfds
from jaxgen.data.sources.tokenized import Templated, Tokenized
from jaxgen.data.sources.unpaired import Negative, Unpaired

__all__ = [
    "Arrays",
    "CachedLatents",
    "Crops",
    "Digits",
    "Folder",
    "Latents",
    "Lattice",
    "Negative",
    "NothingHeldOut",
    "OnLevels",
    "Pairs",
    "Points",
    "Ring",
    "Shapes",
    "Source",
    "Templated",
    "Tfds",
    "Tokenized",
    "Unpaired",
]

"""Procedural scenes with true captions: what is drawn is decided first, how large it is rendered comes later.

A `Scene` is a pure function of (seed, split, index, max_shapes) and knows nothing of pixels: coordinates are fractions
of the image side, so that 32 x 32 and 256 x 256 renderings show the same picture. Shapes are signed distance functions
(negative inside); a pixel's coverage is the distance to the edge in pixels, which is analytic antialiasing.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]

BACKGROUNDS = {"black": (0, 0, 0), "grey": (128, 128, 128), "white": (255, 255, 255)}
COLOURS = {
    "red": (225, 35, 35),
    "orange": (250, 150, 20),
    "yellow": (250, 225, 40),
    "green": (40, 165, 60),
    "cyan": (40, 205, 225),
    "blue": (40, 75, 225),
    "purple": (135, 45, 180),
    "pink": (255, 130, 190),
}
RADII = {"small": (0.10, 0.13), "large": (0.18, 0.22)}  # range of the radius, in image sides
CORNERS = {
    "at the top left": (0.25, 0.25),
    "at the top right": (0.75, 0.25),
    "at the bottom left": (0.25, 0.75),
    "at the bottom right": (0.75, 0.75),
}
PLACES = CORNERS | {
    "at the top": (0.5, 0.25),
    "at the left": (0.25, 0.5),
    "in the centre": (0.5, 0.5),
    "at the right": (0.75, 0.5),
    "at the bottom": (0.5, 0.75),
}
JITTER = 0.02  # how far a centre strays from its place, in image sides


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


def _box(x: np.ndarray, y: np.ndarray, w: float, h: float) -> np.ndarray:
    return np.maximum(np.abs(x) - w, np.abs(y) - h)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _box(x, y, 0.85, 0.85)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_box(x, y, 1.0, 0.35), _box(x, y, 0.35, 1.0))


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # the corners lie on the unit circle, so each edge is half a radius away from the centre
    return np.maximum(y, np.sqrt(0.75) * np.abs(x) - y / 2) - 0.5


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # five-fold symmetry: fold the plane onto one half tip, whose edge runs from the tip to the notch
    fifth, notch = 2 * np.pi / 5, 0.45
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)
    radius = np.hypot(x, y)
    dx, dy = notch * np.sin(fifth / 2), notch * np.cos(fifth / 2) - 1
    return (-dy * radius * np.sin(angle) + dx * (radius * np.cos(angle) - 1)) / np.hypot(dx, dy)


SHAPES: dict[str, Distance] = {  # the order is the label
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "star": _star,
    "cross": _cross,
}
ATTRIBUTES = {"kind": SHAPES, "colour": COLOURS, "size": RADII, "place": PLACES}  # of a shape, and their words


@dataclass(frozen=True)
class Shape:
    """One thing in a scene: names for the caption, numbers (in image sides, y downwards) for the picture."""

    kind: str
    colour: str
    size: str
    place: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A background and the shapes on it; several shapes never overlap."""

    background: str
    shapes: tuple[Shape, ...]


def scene(
    index: int, seed: int = 0, split: int = 0, max_shapes: int = 1, without: frozenset[tuple[str, str]] = frozenset()
) -> Scene:
    """Scene `index` of stream (seed, split): one to `max_shapes` (at most 4) shapes, the number uniform.

    A scene that holds one of the (colour, kind) of `without` is drawn again, and the others stay what they are.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, split], counter=[0, 0, 0, index]))
    while True:
        found = _drawn(rng, max_shapes)
        if not without & {(shape.colour, shape.kind) for shape in found.shapes}:
            return found


def _drawn(rng: np.random.Generator, max_shapes: int) -> Scene:
    """The next scene of a stream."""

    def pick(names: dict) -> str:
        return tuple(names)[rng.integers(len(names))]

    count = int(rng.integers(1, max_shapes + 1))
    # several shapes stand in different corners, where even large ones stay apart
    places = [pick(PLACES)] if count == 1 else [tuple(CORNERS)[k] for k in rng.permutation(len(CORNERS))[:count]]
    background, shapes = pick(BACKGROUNDS), []
    for place in places:
        kind, colour, size = pick(SHAPES), pick(COLOURS), pick(RADII)
        radius = rng.uniform(*RADII[size])
        x, y = PLACES[place] + rng.uniform(-JITTER, JITTER, 2)
        shapes.append(Shape(kind, colour, size, place, float(x), float(y), float(radius)))
    return Scene(background, tuple(shapes))


def caption(scene: Scene) -> str:
    """`a small red circle at the top left and a large blue star at the bottom right, on grey`."""
    things = (f"a {s.size} {s.colour} {s.kind} {s.place}" for s in scene.shapes)
    return f"{' and '.join(things)}, on {scene.background}"


def reading(scene: Scene) -> list[Shape]:
    """The shapes from top to bottom, then from left to right."""
    return sorted(scene.shapes, key=lambda shape: PLACES[shape.place][::-1])


def heads(max_shapes: int) -> list[tuple[int, str]]:
    """(shape, attribute) of all that can be said of so many shapes."""
    return [(i, name) for i in range(max_shapes) for name in ATTRIBUTES]


def head(name: str, i: int) -> str:
    """What an attribute of a shape is called: kind, ..., kind_2, ..."""
    return f"{name}_{i + 1}" if i else name


def attributes(max_shapes: int) -> dict[str, tuple[str, ...]]:
    """Names of all that can be said of a scene of up to so many shapes; of all but the first "none"."""
    found = {head(name, i): (*ATTRIBUTES[name], *["none"] * bool(i)) for i, name in heads(max_shapes)}
    return {**found, "background": tuple(BACKGROUNDS)}


def answered(words: dict[str, str]) -> "Told":
    """What a scene shows by such attributes."""
    num = sum(key.startswith("kind") for key in words)
    named = [{name: words[head(name, i)] for name in ATTRIBUTES} for i in range(num)]
    return Told(words["background"], tuple(Thing(**one) for one in named if one["kind"] != "none"))


class Thing(NamedTuple):
    """What a caption says of a shape."""

    size: str
    colour: str
    kind: str
    place: str


class Told(NamedTuple):
    """What a caption says of a scene."""

    background: str
    things: tuple[Thing, ...]


def read(caption: str) -> Told | None:
    """The inverse of `caption`; None for every other text."""
    found = re.fullmatch(r"(a .+), on (\w+)", caption.strip())
    things = (
        [re.fullmatch(r"a (\w+) (\w+) (\w+) (\w+ the .+)", part) for part in found[1].split(" and ")] if found else []
    )
    if not found or found[2] not in BACKGROUNDS or not all(things):
        return None
    told = Told(found[2], tuple(Thing(*thing.groups()) for thing in things))
    sound = all(word in ATTRIBUTES[name] for thing in told.things for name, word in thing._asdict().items())
    return told if sound else None


def agreement(told: Told | None, true: Told) -> dict[str, float]:
    """0 to 1: the share of things that agree in each attribute, the background, `all`; of several things `binding`.

    Things are paired so that they agree as far as they can; too many or too few of them count as wrong. binding: every thing has
    its own colour and kind, not another's.
    """
    if told is None:
        return dict.fromkeys((*Thing._fields, "background", "all", *["binding"] * (len(true.things) > 1)), 0.0)
    num = max(len(told.things), len(true.things))
    fewer, more = sorted((told.things, true.things), key=len)
    same = max(
        ([[x == y for x, y in zip(*pair, strict=True)] for pair in zip(fewer, order, strict=True)]
         for order in itertools.permutations(more, len(fewer))),
        key=lambda pairs: sum(map(sum, pairs)),
    )  # fmt: skip
    found = {name: sum(pair[i] for pair in same) / num for i, name in enumerate(Thing._fields)}
    found["background"] = float(told.background == true.background)
    found["all"] = float(all(v == 1.0 for v in found.values()))
    if len(true.things) > 1:
        bound = [sorted((thing.colour, thing.kind) for thing in things) for things in (told.things, true.things)]
        found["binding"] = float(bound[0] == bound[1])
    return found


def render(scene: Scene, size: int) -> np.ndarray:
    """The picture at `size` x `size` pixels: uint8 [size, size, 3]."""
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = BACKGROUNDS[scene.background]
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    for shape in scene.shapes:
        rows, columns = (_around(centre, shape.radius, size) for centre in (shape.y, shape.x))
        x = (centres[None, columns] - shape.x) / shape.radius
        y = (centres[rows, None] - shape.y) / shape.radius
        edge = SHAPES[shape.kind](x, y) * (shape.radius * size)  # pixels to the edge, negative inside
        cover = np.clip(0.5 - edge, 0, 1)[..., None]  # [h, w, 1]
        under = canvas[rows, columns].astype(np.float32)
        canvas[rows, columns] = np.rint(under + cover * (np.float32(COLOURS[shape.colour]) - under))
    return canvas


def _around(centre: float, radius: float, size: int) -> slice:
    """The pixels a shape can touch along one axis."""
    return slice(max(0, int((centre - radius) * size) - 1), int((centre + radius) * size) + 2)

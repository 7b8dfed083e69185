"""Rendered scenes with captions."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np

from jaxgen.core.ranges import Count, Range, Seed
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.data import scenes
from jaxgen.data.sources.source import Source, one_of, plain
from jaxgen.errors import UserError


@dataclass(frozen=True)
class ShapesSource(Source):
    """Rendered scenes; example i is a pure function of (seed, split, i)."""

    spec: Spec
    options: "Shapes"
    split: int
    num: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        scene = self._scene(i)
        told = self._told(scene) if self.options.attributes else {"label": self._label(scene)}
        return {"image": scenes.render(scene, self.options.size), **told, "caption": scenes.caption(scene)}

    @cached_property
    def labels(self) -> np.ndarray:
        """int32 [N]: what the scenes are, without a picture of them."""
        return np.array([self._label(self._scene(i)) for i in range(len(self))], np.int32)

    @cached_property
    def captions(self) -> list[tuple[str, ...]]:
        """What the scenes are, in words."""
        return [(scenes.caption(self._scene(i)),) for i in range(len(self))]

    def facts(self) -> Any:
        """All that the scenes are a function of."""
        options = asdict(self.options)
        for later in ("hold_out", "attributes"):  # a run from before there were these goes on
            options = options if options[later] else {k: v for k, v in options.items() if k != later}
        return [plain(self.spec), options, self.split, len(self)]

    def _scene(self, i: int) -> scenes.Scene:
        without = frozenset() if self.split else self.options.unseen
        return scenes.scene(i, self.options.seed, self.split, self.options.max_shapes, without)

    def _label(self, scene: scenes.Scene) -> np.int32:
        first = scenes.reading(scene)[0] if self.options.attributes else scene.shapes[0]
        return np.int32(tuple(scenes.SHAPES).index(first.kind))

    def _told(self, scene: scenes.Scene) -> dict[str, np.int32]:
        """The number of every attribute of every shape, in reading order; "none" where there is no such shape."""
        known, shapes = scenes.attributes(self.options.max_shapes), scenes.reading(scene)
        words = {"background": scene.background}
        for i, name in scenes.heads(self.options.max_shapes):
            words[scenes.head(name, i)] = getattr(shapes[i], name) if i < len(shapes) else "none"
        return {head: np.int32(known[head].index(words[head])) for head in known}


@dataclass(frozen=True)
class Shapes:
    """Captioned procedural scenes at any `size`; the label is the kind of the first shape. See jaxgen.data.scenes.

    attributes: labels for all that a caption says, in place of that one: kind, colour, size and place of every shape in reading
    order (kind, kind_2, ...), and background. hold_out: shapes that are never shown in training, ("purple star", ...).
    """

    size: Count = 32
    num: Count = 10_000
    eval_num: Count = 1_000
    seed: Seed = 0
    max_shapes: Annotated[int, Range(least=1, most=len(scenes.CORNERS))] = 1
    attributes: bool = False
    hold_out: tuple[str, ...] = ()

    @cached_property
    def unseen(self) -> frozenset[tuple[str, str]]:
        """The (colour, kind) of `hold_out`; a UserError for what is none, or for all."""
        found = [tuple(words.split()) for words in self.hold_out]
        for words, pair in zip(self.hold_out, found, strict=True):
            if len(pair) != 2 or pair[0] not in scenes.COLOURS or pair[1] not in scenes.SHAPES:
                raise UserError(f"config.data.hold_out={words!r} is no colour and kind, such as 'purple star'")
        if len(set(found)) == len(scenes.COLOURS) * len(scenes.SHAPES):
            raise UserError("config.data.hold_out leaves no shape to be trained on; set config.data.hold_out=()")
        return frozenset(found)

    def open(self, split: str) -> ShapesSource:
        """The "train" or "eval" stream of scenes: different scenes of one distribution."""
        one_of(split, ("train", "eval"), "split")
        spec = pictures((self.size, self.size, 3), len(scenes.SHAPES), tuple(scenes.SHAPES))
        if self.attributes:
            told = scenes.attributes(self.max_shapes).items()
            told = {head: Field((), "int32", "label", values=len(names), names=names) for head, names in told}
            spec = Spec(pictures((self.size, self.size, 3)), **told)
        spec = Spec(spec, caption=Field((), "str", "text"))
        num = self.num if split == "train" else self.eval_num
        notes = (f"held out: {self.eval_num:,} scenes of their own",)
        notes += (f"never shown in training: {', '.join(self.hold_out)}",) if self.unseen else ()
        return ShapesSource(spec, self, int(split == "eval"), num, notes)

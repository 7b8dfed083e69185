"""Rendered scenes with captions."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np

from jaxgen.core.ranges import Count, Range, Seed
from jaxgen.core.spec import Field, Spec, pictures
from jaxgen.data import scenes
from jaxgen.data.sources.source import Source, one_of, plain


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
        return {
            "image": scenes.render(scene, self.options.size),
            "label": self._label(scene),
            "caption": scenes.caption(scene),
        }

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
        return [plain(self.spec), asdict(self.options), self.split, len(self)]

    def _scene(self, i: int) -> scenes.Scene:
        return scenes.scene(i, self.options.seed, self.split, self.options.max_shapes)

    def _label(self, scene: scenes.Scene) -> np.int32:
        return np.int32(self.spec["label"].names.index(scene.shapes[0].kind))


@dataclass(frozen=True)
class Shapes:
    """Captioned procedural scenes at any `size`; the label is the kind of the first shape. See jaxgen.data.scenes."""

    size: Count = 32
    num: Count = 10_000
    eval_num: Count = 1_000
    seed: Seed = 0
    max_shapes: Annotated[int, Range(least=1, most=len(scenes.CORNERS))] = 1

    def open(self, split: str) -> ShapesSource:
        """The "train" or "eval" stream of scenes: different scenes of one distribution."""
        one_of(split, ("train", "eval"), "split")
        spec = pictures((self.size, self.size, 3), len(scenes.SHAPES), tuple(scenes.SHAPES))
        spec = Spec(spec, caption=Field((), "str", "text"))
        num = self.num if split == "train" else self.eval_num
        return ShapesSource(
            spec, self, int(split == "eval"), num, (f"held out: {self.eval_num:,} scenes of their own",)
        )

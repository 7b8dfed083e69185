"""What tools of latents have in common: what they find, and the labels of samples."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from jaxgen.config.registry import nearest
from jaxgen.errors import UserError
from jaxgen.evaluation import features
from jaxgen.evaluation.per_image import Report
from jaxgen.latents.space import Name, Points, Space

NEEDS_W = "set --tool.space=z"  # the cure, where a net has no w


@dataclass
class Outcome(Report):
    """What a tool found and drew: a Report, and what is kept besides."""

    frames: np.ndarray | None = None  # uint8 [T, N, H, W, C]: the grids of a film
    frame_columns: int = 0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # [N, ...] each


class Tool(Protocol):
    """A tool of the table `latents`: its fields are its keys."""

    space: Name
    without_w: str  # what to do instead where it asks for w and there is none

    def __call__(self, space: Space) -> Outcome:
        """Do it."""


def judged(space: Space, native: str, images: np.ndarray) -> tuple[features.Judge, dict[str, np.ndarray]]:
    """The classifier of a run, and what it sees in uint8 images; one that tells other labels apart is a UserError."""
    judge = features.native_judge(native)
    if space.label and judge.classes != (names := label_names(space, native)):
        raise UserError(
            f"--tool.native={native} tells {', '.join(judge.classes[:5])} ... apart and the run knows {', '.join(names[:5])} "
            "...; name a classifier of the same data"
        )
    return judge, features.Viewer(judge, space.exp.mesh)(images)


def label_names(space: Space, native: str) -> tuple[str, ...]:
    """What labels are called, by the run or by the classifier."""
    if space.label:
        field = space.exp.spec[space.label]
        return tuple(field.called(i) for i in range(field.values))
    return features.native_judge(native).classes


def number_of(space: Space, name: str, native: str) -> int:
    """Of a label."""
    names = label_names(space, native)
    if name not in names:
        raise UserError(f"label:{name} is no label of this run{nearest(name, names)}")
    return names.index(name)


def labels_of(space: Space, points: Points, images: np.ndarray, native: str) -> np.ndarray:
    """The labels of samples [N]: those asked for, where they are in the latent; else as a classifier finds."""
    if space.label and not space.styled:
        raise UserError("z says nothing of the label, which the net is told besides; ask for one by --labels=NAME")
    if space.label:
        return points.cond[space.label]
    return judged(space, native, images)[1]["logits"].argmax(-1)


def with_label(space: Space, name: str, num: int, native: str) -> Points:
    """Those of `num` samples that have a label."""
    points = space.drawn(np.arange(num), space.seed)
    number = number_of(space, name, native)
    found = labels_of(space, points, space.render(points) if not space.label else np.empty(0), native) == number
    if not found.any():
        raise UserError(f"none of {num} samples is of label {name}; raise --tool.num, or leave --labels out")
    return points[found]


def named(space: Space, points: Points) -> dict[str, np.ndarray]:
    """The labels of points, for a file."""
    return {"labels": points.cond[space.label]} if space.label else {}

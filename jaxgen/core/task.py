"""Tasks: what stands between the data and the method, on the device. Conditions, codecs and augmentations are of one kind.

A task maps the Spec of an example and, inside every program of a run, a batch of examples. What it does to the target is
undone after sampling, last task first.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import jax

from jaxgen.core.given import Given
from jaxgen.core.lender import Frozen, Loan
from jaxgen.core.linear import Linear
from jaxgen.core.spec import PICTURES, Field, Spec
from jaxgen.errors import UserError

Array = jax.Array
Batch = dict[str, Array]


class Task:
    """A frozen dataclass of options with these functions; the plain one changes nothing."""

    always: ClassVar[bool] = True  # False: while training only, as augmentations are
    last: ClassVar[bool] = False  # True: the target is another thing afterwards, so that the others come first

    def spec(self, spec: Spec) -> Spec:
        """The fields after the task; a UserError for a field that it needs and the data lack."""
        return spec

    def __call__(self, spec: Spec, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """A batch of `spec`, which `self.spec` has seen, after the task. Only fields of the Spec after it count."""
        return batch

    def undo(self, frozen: dict[str, Frozen], x: Array) -> Array:
        """A sample of the target as it was before the task."""
        return x

    def loans(self) -> dict[str, Loan]:
        """Name -> a frozen model that it works with."""
        return {}

    def kept_in(self, folder: Path) -> "Task":
        """The task with the copies of lent runs in that folder, where there are any."""
        return self

    def settle(self, spec: Spec, frozen: dict[str, Frozen], batches: Iterator[Batch], source: Any) -> dict[str, Any]:
        """Options that are left open and found out of the data, once, before the first step; the run's config keeps them.

        batches: the first of the data, of `spec`; source: where they come from, which may know more of them.
        """
        return {}


@runtime_checkable
class Enlarges(Protocol):
    """A task of pictures that are made from small ones, `factor` times smaller; noise: of the small ones, a level or True: all."""

    factor: int
    noise: bool | float

    def told(self, small: Array, rng: Array) -> Batch:
        """The conditions of small pictures [B, ..., h, w, C] in [-1, 1]."""


@runtime_checkable
class Asks(Protocol):
    """A task whose conditions a person's picture can give, where nothing is known of the target."""

    def given(self, spec: Spec) -> Field:
        """What that picture must be, of data of that Spec."""

    def ask(self, images: Array, known: Array | None = None) -> Batch:
        """The conditions of pictures [B, ..., h, w, C] in [-1, 1]; known [B, ..., H, W, 1]: 1 where a pixel is to stay as it is.

        A UserError for a mask where there can be none, and for none where there must be one.
        """

    def finish(self, cond: Batch, made: Array) -> Array:
        """Samples as the task's data are, with what its conditions say put back: pixels that are known have their very bits."""


@runtime_checkable
class Measures(Protocol):
    """A task whose conditions are a linear map of the target and noise: what no net was told of can be undone (zero-shot)."""

    @property
    def noisy(self) -> bool:
        """Whether there is noise. A UserError where the task, as it is set, is not linear."""

    def linear(self, cond: Batch) -> Linear:
        """The map and what was seen through it, of the task's own conditions."""


Measured = Annotated[Any, Given("measures")]  # the task that a method undoes without having learned to, a `Measures`


def is_cached(spec: Spec) -> bool:
    """Whether the target of data is what a cache holds of pictures: [sides, h, w, ...] of latents, [sides, ...] of codes."""
    return spec[spec.target].kind in ("latent", "tokens")


def pictures_of(spec: Spec, task: Task) -> Spec:
    """The fields that have places, [..., H, W, C]; a UserError if there are none."""
    if found := spec.of(*PICTURES):
        return found
    raise UserError(f"{_name(task)} needs a picture, and the data hold {spec or 'nothing'}; leave it out")


def picture_target(spec: Spec, task: Task) -> Field:
    """The target, a picture or a clip; a UserError if it is anything else."""
    field = spec[spec.target]
    if field.kind not in ("image", "frames"):
        raise UserError(f"{_name(task)} needs a picture to work on, and {spec.target!r} is of kind {field.kind}; "
                        "let it stand before the task that changed it, or leave it out")  # fmt: skip
    return field


def with_conditions(spec: Spec, task: Task, **fields: Field) -> Spec:
    """The Spec with further conditions; a UserError for a name that is taken."""
    if taken := sorted(fields.keys() & spec.keys()):
        raise UserError(f"{_name(task)} adds {taken[0]!r}, which the data have already; leave out one of the two")
    return Spec(spec, **fields)


def _name(task: Task) -> str:
    return f"task {type(task).__name__.lower()}"

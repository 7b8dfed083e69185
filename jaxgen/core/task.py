"""Tasks: what stands between the data and the method, on the device. Conditions, codecs and augmentations are of one kind.

A task maps the Spec of an example and, inside every program of a run, a batch of examples. What it does to the target is
undone after sampling, last task first.
"""

from typing import ClassVar

import jax

from jaxgen.core.lender import Frozen, Loan
from jaxgen.core.spec import Spec

Array = jax.Array
Batch = dict[str, Array]


class Task:
    """A frozen dataclass of options with these functions; the plain one changes nothing."""

    always: ClassVar[bool] = True  # False: while training only, as augmentations are

    def spec(self, spec: Spec) -> Spec:
        """The fields after the task; a UserError for a field that it needs and the data lack."""
        return spec

    def __call__(self, frozen: dict[str, Frozen], batch: Batch, rng: Array) -> Batch:
        """The batch after the task. Only fields of the Spec after it count."""
        return batch

    def undo(self, frozen: dict[str, Frozen], x: Array) -> Array:
        """A sample of the target as it was before the task."""
        return x

    def loans(self) -> dict[str, Loan]:
        """Name -> a frozen model that it works with."""
        return {}

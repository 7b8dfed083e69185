"""Reverse: what was seen is made, of what was made."""

from dataclasses import dataclass, replace

from jaxgen.core.spec import Spec
from jaxgen.core.task import Task, picture_target
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Reverse(Task):
    """Turns the roles of the target and of the picture that is told round; a CycleGAN has learned both ways."""

    def spec(self, spec: Spec) -> Spec:
        """With the roles exchanged; a UserError where not exactly one picture is told."""
        made, told = picture_target(spec, self), spec.conditions.of("image")
        if len(told) != 1:
            raise UserError(
                f"task reverse exchanges the target and one picture that is told, and the data hold {spec}; set "
                "config.tasks.reverse=None"
            )
        ((name, seen),) = told.items()
        return Spec({**spec, spec.target: replace(made, role="condition"), name: replace(seen, role="target")})

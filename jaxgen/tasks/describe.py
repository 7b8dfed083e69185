"""Describe: what was told becomes what is to be made. The words are the target, the picture is the condition."""

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxgen.core.spec import Spec
from jaxgen.core.task import Task, picture_target
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Describe(Task):
    """Turns the roles of picture and caption round; augmentations and other tasks see the picture before."""

    last: ClassVar[bool] = True

    def spec(self, spec: Spec) -> Spec:
        """With the caption's tokens as the target; a UserError where there is no picture, or no caption."""
        picture = picture_target(spec, self)
        if len(spec.texts) != 1:
            raise UserError(
                f"task describe needs a caption as tokens, and the data hold {spec}; set config.data.tokenizer=bytes, on data with "
                "captions"
            )
        ((name, text),) = spec.texts.items()
        return Spec({**spec, spec.target: replace(picture, role="condition"), name: replace(text, role="target")})

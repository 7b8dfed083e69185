"""How a field of a config part says, by its type, that the data or the run decide it where a config leaves it open."""

from typing import NamedTuple


class Given(NamedTuple):
    """`shape: Annotated[tuple[int, ...], Given("shape")]`; the ready types are in jaxgen.core.spec."""

    what: str

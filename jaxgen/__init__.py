"""jaxgen: image generation in JAX/Flax, every family in one house."""

from jaxgen import tables
from jaxgen.config import registry

__version__ = "0.2.0"

registry.TABLES.update(tables.TABLES)
registry.KEYS.update(tables.KEYS)
registry.MANY.update(tables.MANY)
registry.OWN.update(tables.OWN)
registry.NEEDS.update(tables.NEEDS)
registry.NET_PARTS.update(tables.NET_PARTS)


def open(workdir, step: int = -1, changes=None):
    """A trained run: `run = jaxgen.open("runs/digits")`, `images = run.sample(16, labels=["3"], steps=20)` (uint8 [16, H, W, C]).

    The newest checkpoint, or that of `step`; `changes` to its config hold for this use, as {"method.solver.steps": 20}.
    """
    from jaxgen.runs import setup

    setup.configure()  # before JAX starts, where it has not
    from jaxgen.runs.trained import Trained

    return Trained.open(workdir, step, changes)

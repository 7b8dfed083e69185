"""A run on a person's pictures: `python -m jaxgen.apply IN OUT --run=DIR`, and the same as a function."""

from jaxgen.apply.pictures import apply

__all__ = ["apply"]

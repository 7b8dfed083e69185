"""Random keys by name: every use of randomness in a run has a stream of its own.

`jax.random.fold_in(key, i)` equals `jax.random.split(key, n)[i]` in current JAX, so keys told apart by small numbers alone
may meet; a name is folded in first.
"""

import zlib

import jax

from jaxgen.core.ranges import refuse_seed

Array = jax.Array


def root(seed: int) -> Array:
    """The key of a seed of 32 bits; any other is a UserError, since it would be the key of one of these."""
    refuse_seed(seed)
    return jax.random.key(seed)


def named(key: Array, name: str, *numbers: int | Array) -> Array:
    """The key of one use, such as named(key, "sample", batch)."""
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key

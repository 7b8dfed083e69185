"""Random keys by name: every use of randomness in a run has a stream of its own.

`jax.random.fold_in(key, i)` equals `jax.random.split(key, n)[i]` in current JAX, so keys told apart by small numbers alone
may meet; a name is folded in first.
"""

import zlib

import jax

Array = jax.Array


def root(seed: int) -> Array:
    """The key of any seed from 0 on; those of 2**32 and more are different keys too."""
    key = jax.random.key(seed % 2**32)
    while seed := seed >> 32:
        key = jax.random.fold_in(named(key, "seed"), seed % 2**32)
    return key


def named(key: Array, name: str, *numbers: int | Array) -> Array:
    """The key of one use, such as named(key, "sample", batch)."""
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key

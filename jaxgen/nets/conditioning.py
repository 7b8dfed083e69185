"""How nets are told their conditions.

A label is a row of a table or a one-hot vector, an embedding a projection, and a picture is resized to the net's input and
joins its channels. Parameters are called by the condition's name. What `cond` does not hold is null. Conditions are taken in
the order of their names, so that the order of a Spec means nothing.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond
from jaxgen.core.spec import Spec
from jaxgen.errors import UserError
from jaxgen.nets.layers import Dense, Initializer

TAKES = ("label", "embedding", "image", "latent", "mask")  # what the nets of diffusion can be told


def halvings(side: int) -> int:
    """How often a side can be halved."""
    return (side & -side).bit_length() - 1


def image_shape(shape: tuple[int, ...], net: nn.Module, what: str = "images") -> tuple[int, int, int]:
    """The shape (H, W, C) of what the net works on; a UserError for any other rank."""
    if len(shape) != 3:
        raise UserError(f"{type(net).__name__} needs {what} of shape [H, W, C], not {list(shape)}; choose another net")
    return tuple(shape)


def value(conditions: Spec, cond: Cond | None, name: str, num: int, has_null: bool = True) -> Array:
    """The condition of that name, [num, ...]: null where `cond` lacks it, or a UserError where the net has no null."""
    if cond and name in cond:
        return cond[name]
    if not has_null:
        raise UserError(
            f"the net knows no null for {name!r} (one of {conditions[name].values} labels); give one for every example, or set "
            "null_label=True of a net that has it"
        )
    return conditions[name].null(num)


def one_hot(conditions: Spec, cond: Cond | None, name: str, num: int, has_null: bool = True) -> Array:
    """A label as float32 [num, values]; zeros for the null label, as for any other number out of range."""
    return jax.nn.one_hot(value(conditions, cond, name, num, has_null), conditions[name].values)


def add_vectors(
    emb: Array,
    conditions: Spec,
    cond: Cond | None,
    null_label: bool,
    table_init: Initializer,
    kernel_init: Initializer,
) -> Array:
    """emb [B, D] plus a row of a table for every label and a projection of every embedding; D-vectors in emb's dtype.

    null_label: tables have a last row for the null label; an embedding's null, zeros, adds nothing.
    """
    num, width = emb.shape
    for name, field in sorted(conditions.of("label").items()):
        label = value(conditions, cond, name, num, null_label)
        table = nn.Embed(field.values + null_label, width, embedding_init=table_init, name=name)
        emb += table(label).astype(emb.dtype)
    for name in sorted(conditions.of("embedding")):
        dense = Dense(width, use_bias=False, dtype=emb.dtype, kernel_init=kernel_init, name=name)
        emb += dense(vector(conditions, cond, name, num))
    return emb


def vector(conditions: Spec, cond: Cond | None, name: str, num: int) -> Array:
    """An embedding [num, D]; a UserError where it has another rank."""
    found = value(conditions, cond, name, num)
    if found.ndim != 2:
        raise UserError(f"an embedding is one vector for each example, and {name!r} has shape {list(found.shape[1:])}")
    return found


def join_pictures(x: Array, conditions: Spec, cond: Cond | None, net: nn.Module) -> Array:
    """x [B, H, W, C] with the picture-like conditions, resized to H x W (cubic), behind its channels."""
    image_shape(x.shape[1:], net)
    parts = [x]
    for name in sorted(conditions.of("image", "latent", "mask")):
        picture = value(conditions, cond, name, len(x))
        image_shape(picture.shape[1:], net, f"the condition {name!r}")
        size = (*x.shape[:3], picture.shape[-1])
        parts.append((picture if picture.shape == size else jax.image.resize(picture, size, "cubic")).astype(x.dtype))
    return jnp.concatenate(parts, -1) if len(parts) > 1 else x

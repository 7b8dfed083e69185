"""How nets are told their conditions.

A label is a row of a table or a one-hot vector, an embedding a projection, and a picture is resized to the net's input and
joins its channels. Parameters are called by the condition's name. What `cond` does not hold is null. Conditions are taken in
the order of their names, so that the order of a Spec means nothing. A text is an embedding of several vectors [L, D], its states,
and perhaps a mask [L], 1 for its tokens and 0 for what fills it up; nets that read it attend to its states.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.conditions import Cond, says_something
from jaxgen.core.conditions import heard as hear
from jaxgen.core.spec import Spec, encoded
from jaxgen.errors import UserError
from jaxgen.nets.layers import Dense, Initializer, attention, merge_heads, split_heads, torch_kernel_init

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


class Text(NamedTuple):
    """What a net is told in words: states of tokens [B, L, D], and which may be looked at, bool [B, 1, L]; None: all."""

    states: Array
    mask: Array | None = None


def sequences(conditions: Spec) -> tuple[str, str]:
    """The names of the states of a text, an embedding [L, D], and of its mask [L]; "" for what is not told."""
    of = {"embedding": 2, "mask": 1}
    found = [[n for n, f in conditions.of(kind).items() if len(f.shape) == rank] for kind, rank in of.items()]
    return next(iter(found[0]), ""), next(iter(found[1]), "")


def beside_text(conditions: Spec) -> Spec:
    """The conditions that are no states of a text, and no mask of one."""
    text = sequences(conditions)
    return conditions.where(lambda name, _: name not in text)


def read_text(conditions: Spec, cond: Cond | None, num: int, net: nn.Module) -> Text:
    """The text that the net is told; a UserError where it is told none."""
    states, mask = sequences(conditions)
    if not states:
        raise UserError(
            f"{type(net).__name__} reads a text, and it is told: {conditions or 'nothing'}; choose another net"
        )
    seen = value(conditions, cond, mask, num)[:, None] > 0 if mask else None
    told = value(conditions, cond, states, num)
    if getattr(net, "learned_null", False) and seen is not None:
        nothing = net.param("null_text", nn.initializers.normal(0.02), conditions[states].shape)
        there = seen.any(2, keepdims=True)
        told, seen = jnp.where(there, told, nothing.astype(told.dtype)), jnp.where(there, seen, True)
    return Text(told, seen)


def seen_by_all(mask: Array | None, places: int) -> Array | None:
    """The mask of a text [B, 1, L] and of places behind it, which all may look at: bool [B, 1, L + places]; None: all."""
    return None if mask is None else jnp.pad(mask, ((0, 0), (0, 0), (0, places)), constant_values=True)


class Listens(nn.Module, kw_only=True):
    """A net that reads a text.

    text: an encoder of its own, trained along, for a text that comes as tokens. learned_null: states that are learned stand where
    nothing is told (with a frozen encoder: null="learned"), and not those of the empty text.
    """

    text: nn.Module | None = None
    learned_null: bool = False

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of conditions."""
        return (*TAKES, *(["tokens"] if self.text else []))

    @property
    def heard(self) -> Spec:
        """The conditions after `listen`."""
        if not (self.text and self.conditions.texts):
            return self.conditions
        (name, field), rest = next(iter(self.conditions.texts.items())), self.conditions
        told = encoded(math.prod(field.shape), self.text.width, self.text.whole)
        return Spec({k: f for k, f in rest.items() if k != name}, **told)

    def listen(self, num: int, cond: Cond | None, train: bool = False) -> Cond:
        """The conditions with states, text_mask and pooled in place of tokens; a solver has them made once for all of its steps."""
        cond = cond or {}
        if self.heard == self.conditions or "states" in cond:
            return cond
        name, field = next(iter(self.conditions.texts.items()))
        ids = value(self.conditions, cond, name, num)
        made = hear(lambda ids: self.text(ids, train), ids)
        if self.learned_null:
            made["text_mask"] *= says_something(field, ids)[:, None]
        return {**{k: v for k, v in cond.items() if k != name}, **made}


class TextAttention(nn.Module):
    """Looks from x [B, N, D] at a text -> [B, N, D]. Keys and values depend on the text alone: loops find them once."""

    heads: int
    use_bias: bool = False
    dtype: Any = "float32"
    init: Initializer = torch_kernel_init
    out_bias: bool = True
    out_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array, text: Text) -> Array:
        d = x.shape[-1]

        def linear(features, name, use_bias=self.use_bias, init=self.init):
            return Dense(features, use_bias, self.dtype, init, name=name)

        (q,) = split_heads(linear(d, "q")(x), self.heads, 1)
        h = attention(q, *split_heads(linear(2 * d, "kv")(text.states), self.heads, 2), text.mask)
        return linear(d, "out", self.out_bias, self.out_init or self.init)(merge_heads(h))


def join_pictures(x: Array, conditions: Spec, cond: Cond | None, net: nn.Module) -> Array:
    """x [B, H, W, C] with the picture-like conditions, resized to H x W (cubic), behind its channels."""
    image_shape(x.shape[1:], net)
    parts = [x]
    for name in sorted(beside_text(conditions).of("image", "latent", "mask")):
        picture = value(conditions, cond, name, len(x))
        image_shape(picture.shape[1:], net, f"the condition {name!r}")
        size = (*x.shape[:3], picture.shape[-1])
        parts.append((picture if picture.shape == size else jax.image.resize(picture, size, "cubic")).astype(x.dtype))
    return jnp.concatenate(parts, -1) if len(parts) > 1 else x

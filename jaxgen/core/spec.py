"""What an example consists of: the one contract between data, tasks, methods, nets and checkpoints.

A `Spec` names the fields of an example. Exactly one is the target, what a method learns to make; conditions are what it is
told; the rest is aside. Parts of a config that need a fact of the data (shape, classes, conditions) or of the run (batch,
length) say so by the type of a field: `shape: TargetShape`. The registry fills these, and no field because of its name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.given import Given
from jaxgen.core.ranges import Count, Natural, Range
from jaxgen.errors import UserError

KINDS = ("image", "frames", "latent", "mask", "label", "tokens", "captions", "embedding", "text")
PICTURES = ("image", "frames", "latent", "mask")  # [..., H, W, C]: what has places
ROLES = ("target", "condition", "aside")


@dataclass(frozen=True)
class Field:
    """One part of an example: shape and dtype without the batch's axis, what kind of thing it is, what it is for."""

    shape: tuple[int, ...]
    dtype: str
    kind: str
    """One of KINDS. Text is a string on the host; captions [K, L] are several rows of tokens, of which one is drawn. A long text is
    several rows too, [rows, L], each with a start and an end. An encoded text is an embedding [L, D], its states; a mask [L], 1
    where a token is no pad; perhaps an embedding [P] of the whole."""
    role: str = "condition"  # one of ROLES
    values: int = 0  # classes of a label, vocabulary of tokens
    names: tuple[str, ...] = ()  # of a label's values
    empty: tuple[float, ...] = ()  # of tokens the empty text's; of an embedding what says nothing, where not zeros
    end: int = -1  # tokens of a text: the one behind its last piece; what follows it is pad
    levels: int = 256  # of the values of a picture in uint8: evenly from 0 to 255; 0: unknown
    order: int = 0  # fields of another number are of another set and drawn apart: they do not belong together

    def __post_init__(self) -> None:
        for value, known in ((self.kind, KINDS), (self.role, ROLES)):
            if value not in known:
                raise UserError(f"a field cannot be {value!r}; there are: {', '.join(known)}")

    def called(self, value: int) -> str:
        """A label's name; its number where the data know none."""
        return self.names[value] if value < len(self.names) else str(value)

    def null(self, num: int) -> jax.Array:
        """The value [num, *shape] that says nothing: the label after the last, the empty text's tokens, else zeros (grey)."""
        shape = (num, *self.shape)
        if self.kind == "label":
            return jnp.full(shape, self.values, jnp.int32)
        if self.kind in ("tokens", "captions"):
            return jnp.broadcast_to(jnp.asarray(self.empty or 0, jnp.int32), shape)
        return jnp.broadcast_to(jnp.asarray(self.empty or 0, jnp.float32), shape)


def weighed(ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Tokens that say how much they count, int32: below 2^18 the number, above it thousandths of a weight in 0..8; 0 there is 1."""
    return (ids | ((np.rint(1000 * weights).astype(np.int64) - 1000) % 8192 << 18)).astype(np.int32)


def unweighed(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tokens, their weights float32): the inverse of `weighed`."""
    return ids & (2**18 - 1), ((ids >> 18) + 1000) % 8192 / 1000


class Spec(Mapping[str, Field]):
    """Name -> Field, immutable and hashable."""

    def __init__(self, fields: Mapping[str, Field] | Iterable[tuple[str, Field]] = (), **more: Field) -> None:
        self._fields = dict(fields, **more)

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __hash__(self) -> int:
        return hash(frozenset(self._fields.items()))

    def __repr__(self) -> str:
        return f"Spec({self})"

    def __str__(self) -> str:
        """`image uint8 8x8x1, label of 10`: a line for people."""

        def told(name: str, f: Field) -> str:
            few = f" of {f.levels} levels" if 0 < f.levels < 256 else ""
            return (
                f"{name} of {f.values}" if f.kind == "label" else f"{name} {f.dtype} {'x'.join(map(str, f.shape))}{few}"
            )

        return ", ".join(told(name, f) for name, f in self.items())

    def where(self, keep: Callable[[str, Field], bool]) -> "Spec":
        """The fields for which `keep(name, field)`."""
        return Spec({name: field for name, field in self.items() if keep(name, field)})

    def of(self, *kinds: str) -> "Spec":
        """The fields of these kinds."""
        return self.where(lambda _, field: field.kind in kinds)

    def changed(self, other: "Spec") -> tuple[str, bool]:
        """How `other` differs, in words ("" where it does not), and whether what was made for this goes on with the other.

        It does where only names of labels are new: a name that both have must be in its old place, or labels change meaning.
        """
        names = [name for name in {**self, **other} if self.get(name) != other.get(name)]
        told = [_changed(name, self.get(name), other.get(name)) for name in names]
        return "; ".join(text for text, _ in told if text), all(fits for _, fits in told)

    def unnamed(self) -> "Spec":
        """The same without the names of labels, which data of two formats may not both know, and levels, which nets do not."""
        return Spec({name: replace(field, names=(), levels=0) for name, field in self.items()})

    @property
    def target(self) -> str:
        """The name of what is to be made."""
        found = list(self.where(lambda _, field: field.role == "target"))
        if len(found) != 1:
            raise UserError(
                f"the data have {len(found)} targets ({', '.join(found) or 'none'}) among {self}; one is needed"
            )
        return found[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the target."""
        return self[self.target].shape

    @property
    def levels(self) -> int:
        """That a value of the target can take; 0: it has none, as floats and latents, or nobody knows."""
        field = self[self.target]
        return field.levels if field.kind in ("image", "frames") and field.dtype == "uint8" else 0

    @property
    def conditions(self) -> "Spec":
        """What the method is told."""
        return self.where(lambda _, field: field.role == "condition")

    @property
    def texts(self) -> "Spec":
        """The conditions that are a text as tokens; tokens without an end are codes."""
        return self.conditions.of("tokens").where(lambda _, field: field.end >= 0)

    @property
    def label(self) -> str:
        """The name of the (first) label among the conditions; "" if there is none."""
        return next(iter(self.conditions.of("label")), "")

    @property
    def classes(self) -> int:
        """Values of that label; 0: unlabelled."""
        return self[self.label].values if self.label else 0

    @property
    def answers(self) -> int:
        """Values of all labels together, which a classifier tells apart."""
        return sum(field.values for field in self.conditions.of("label").values())

    @property
    def vocabulary(self) -> int:
        """Values of a token of the target: codes, or the levels of pixels; 0: it is not made of tokens."""
        return self[self.target].values or self.levels

    def abstract(self, num: int | tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of so many examples, of several sets (by their order) so many of each; text stays on the host."""
        crossing = self.where(lambda _, field: field.kind != "text")
        many = num if isinstance(num, tuple) else (num,) * (1 + max((f.order for f in crossing.values()), default=0))
        return {name: jax.ShapeDtypeStruct((many[f.order], *f.shape), f.dtype) for name, f in crossing.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {name: asdict(field) for name, field in self.items()}

    @staticmethod
    def from_json(stored: Mapping[str, Mapping[str, Any]]) -> "Spec":
        """What `to_json` gave, also after JSON made lists of its tuples, and before there were levels."""
        return Spec({
            name: Field(**{"levels": 0, **{k: tuple(v) if isinstance(v, list) else v for k, v in field.items()}})
            for name, field in stored.items()
        })  # fmt: skip


def _changed(name: str, old: Field | None, new: Field | None) -> tuple[str, bool]:
    """`Spec.changed` of one field."""
    if not old or not new:
        return f"{Spec({name: old or new})} is {'gone' if old else 'new'}", False
    if not (old.levels and new.levels):  # one is of a run from before there were levels
        old, new = replace(old, levels=0), replace(new, levels=0)
    if replace(old, names=()) != replace(new, names=()):
        words = [f"{n!r} is new" for n in new.names if n not in old.names]
        words += [f"{n!r} is gone" for n in old.names if n not in new.names]
        which = f" ({', '.join(words[:3])}{', ...' * (len(words) > 3)})" if old.names and new.names and words else ""
        return f"{Spec({name: old})} -> {Spec({name: new})}{which}", False
    places = [i for i, pair in enumerate(zip(old.names, new.names, strict=False)) if pair[0] != pair[1]]
    if not places:  # of two formats of a set one knows the names
        return "", True
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    moved = any(old.names[i] in new.names or new.names[i] in old.names for i in places)
    return f"{name} {places[0]} was {old.names[places[0]]!r} and is {new.names[places[0]]!r}{more}", not moved


def pictures(shape: tuple[int, ...], classes: int = 0, names: tuple[str, ...] = (), levels: int = 256) -> Spec:
    """The Spec of uint8 pictures [H, W, C] (or clips [T, H, W, C]) to be made, told a label where there are classes."""
    kind = "image" if len(shape) == 3 else "frames"
    spec = Spec(image=Field(tuple(shape), "uint8", kind, "target", levels=levels))
    return Spec(spec, **labels(classes, names))


def labels(classes: int, names: tuple[str, ...] = ()) -> Spec:
    """The conditions of a net or method that is told a label of so many classes; none for 0."""
    return Spec(label=Field((), "int32", "label", "condition", classes, tuple(names))) if classes else Spec()


def encoded(length: int, width: int, pooled: int = 0, masked: bool = True) -> Spec:
    """The conditions of a net that is told an encoded text: states [L, D], text_mask [L], pooled [P], where there are any."""
    states, mask = Field((length, width), "float32", "embedding"), Field((length,), "float32", "mask")
    whole = Field((pooled,), "float32", "embedding")
    there = {"states": (states, length), "text_mask": (mask, length and masked), "pooled": (whole, pooled)}
    return Spec({name: field for name, (field, told) in there.items() if told})


TargetShape = Annotated[tuple[Count, ...], Given("shape")]
Classes = Annotated[Count, Given("classes")]  # of all labels together
Vocabulary = Annotated[Count, Given("vocabulary")]  # values that a token of the target takes
TextValues = Annotated[Count, Given("text_values")]  # numbers of a token of the text that the run is told
TextLength = Annotated[Count, Given("text_length")]  # tokens of that text
Levels = Annotated[int, Given("levels"), Range(least=2)]
Conditions = Annotated[Spec, Given("conditions")]
DataSpec = Annotated[Spec, Given("spec")]
BatchSize = Annotated[Count, Given("batch")]  # examples of one update
RunLength = Annotated[Natural, Given("steps")]
PhaseSpan = Annotated[tuple[Natural, ...], Given("phase")]  # the first step of the phase and the last


def given(spec: Spec, batch: int, steps: int, phase: tuple[int, int]) -> dict[str, Any]:
    """The facts that `Given` fields ask for."""
    facts = {"shape": spec.shape, "classes": spec.answers, "conditions": spec.conditions, "levels": spec.levels}
    for field in list(spec.texts.values())[:1]:
        facts |= {"text_values": field.values, "text_length": field.shape[-1]}
    return {"spec": spec, "vocabulary": spec.vocabulary, "batch": batch, "steps": steps, "phase": phase, **facts}

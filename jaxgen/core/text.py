"""Frozen encoders of text between the conditions of a run and its net: tokens in, states, text_mask and what is pooled out.

Examples lose their text, are asked for by it and are guided against it as tokens; so null is what the encoder makes of the empty
text (Stable Diffusion), or nothing at all: zeros, of which no token is real (Saharia et al. 2022, arXiv:2205.11487, section 2).

A net may be told by several: two CLIPs whose states stand side by side (SDXL, arXiv:2307.01952), T5's behind them (Stable Diffusion
3, arXiv:2403.03206), or the pooled vector of one and the states of another (Flux). The i-th reads the tokens of the i-th tokenizer,
or of the only one.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import keys
from jaxgen.core.conditions import Cond, heard, says_something
from jaxgen.core.given import FilePath
from jaxgen.core.lender import Frozen, Lender, Loan, Role, weights_hash
from jaxgen.core.method import EncodesText
from jaxgen.core.ranges import BelowOne
from jaxgen.core.spec import Field, Spec, encoded
from jaxgen.core.state import Array
from jaxgen.errors import UserError

NAMES = ("text", "text2", "text3", "text4")  # of what is lent, in the state
STATES = "_states"  # behind these: what was cached
META = "meta.json"
ROLE = Role(EncodesText, "encoder of text", target=False)
KEY = "config.method.text_encoder"


def place_of(ids: Array, rows: Array) -> Array:
    """int32 [B]: where ids [B, n] stand among rows [M, n], which are in order and differ; M where they come behind all of them."""

    def halved(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        row = rows[middle]
        first = jnp.argmax(row != ids, 1)[:, None]  # place at which they differ
        before = (jnp.take_along_axis(row, first, 1) < jnp.take_along_axis(ids, first, 1))[:, 0] & (low < high)
        return jnp.where(before, middle + 1, low), jnp.where(before, high, middle)

    start = jnp.zeros(len(ids), jnp.int32)
    return jax.lax.fori_loop(0, len(rows).bit_length(), halved, (start, start + len(rows)))[0]


def _looked_up(weights: dict[str, Array], ids: Array) -> dict[str, Array]:
    """The states of texts that are there, and NaN for others."""
    rows, flat = weights["ids"].reshape(len(weights["ids"]), -1), ids.reshape(len(ids), -1)
    at = jnp.minimum(place_of(flat, rows), len(rows) - 1)
    there = (rows[at] == flat).all(1)
    found = {k: v[at].astype(jnp.float32) for k, v in weights.items() if k != "ids"}
    return {k: jnp.where(there.reshape(-1, *[1] * (v.ndim - 1)), v, jnp.nan) for k, v in found.items()}


@dataclass(frozen=True)
class CachedStates:
    """What `--mode=cache` kept of an encoder: states of every caption that differs from others, and of the empty text."""

    path: str
    name: str  # of the encoder
    text: str  # the tokens that it read

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return Path(self.path) / self.name

    @cached_property
    def told(self) -> dict[str, Any]:
        """What meta.json says."""
        return json.loads((self.folder / META).read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """By name, memory-mapped: ids [M, L] in order, states, text_mask, pooled."""
        return {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self.told["arrays"]}

    @property
    def abstract(self) -> Frozen:
        """Shapes and dtypes."""
        return Frozen({k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in self.arrays.items()}, _looked_up)

    def load(self, places: Frozen) -> Frozen:
        """On those shardings."""

        def put(array: np.ndarray, place: Any) -> Array:
            return jax.make_array_from_callback(array.shape, place, lambda index: np.asarray(array[index]))

        return Frozen({k: put(v, places.weights[k]) for k, v in self.arrays.items()}, _looked_up)

    def check(self, name: str, role: Role, spec: Spec, borrower: Any) -> None:
        """A UserError unless it is there, of tokens of that length."""
        if not (self.folder / META).is_file():
            raise UserError(
                f"{name}={self.path} holds no states of texts; write them first by --mode=cache --workdir={self.path}"
            )
        if self.arrays["ids"].shape[1:] != spec[self.text].shape:
            raise UserError(
                f"{name}={self.path} holds states of {self.arrays['ids'].shape[1:]} tokens, not {spec[self.text].shape}; cache "
                "them anew by --mode=cache, in another folder"
            )

    def refuse_other(self, encoder: Frozen) -> None:
        """A UserError unless they are of that encoder."""
        if self.told["encoder"] != weights_hash(encoder.weights):
            raise UserError(
                f"the states of texts in {self.folder} are of another encoder; delete them, and cache them anew by --mode=cache"
            )

    def refuse_new(self, ids: np.ndarray) -> None:
        """A UserError for texts [N, L] that are not there."""
        flat = [np.ascontiguousarray(v.reshape(len(v), -1)) for v in (ids, self.arrays["ids"])]
        rows = [v.view([("", v.dtype)] * v.shape[1]).ravel() for v in flat]
        if new := (~np.isin(*rows)).sum():
            raise UserError(
                f"{new:,} of {len(ids):,} captions that differ have no states in {self.folder}: the data or the tokenizer changed; "
                "delete them, and cache them anew by --mode=cache"
            )

    def copy_to(self, folder: Path) -> None:
        """All of it."""
        shutil.copytree(self.folder, folder)

    def kept_in(self, folder: Path) -> "CachedStates":
        """Itself: no run keeps a copy."""
        return self


@dataclass(frozen=True)
class FrozenText:
    """The encoder that a lender lends, and what of it the net is told."""

    run: Lender
    null: Literal["empty", "zeros", "learned"] = "empty"  # the empty text; or nothing: zeros, learned_null
    masked: bool = True  # whether pads are hidden from the net (Imagen, PixArt) or are looked at (SD, Flux)
    states: bool = True  # whether the net is told a vector of every token
    pooled: bool = True  # and one of the whole text, where there is any
    join: Literal["beside", "behind"] = "beside"  # of the states of those before: further numbers, or further tokens
    dropout: BelowOne = 0.0  # share of examples whose text this one alone is not shown in training
    cache: FilePath = ""  # states of all captions, by --mode=cache, which training looks up; "": made in every step

    def made(self, spec: Spec, name: str, key: str) -> dict[str, tuple[int, ...]]:
        """Shapes of what it makes of the tokens `name`; a UserError for tokens that the encoder lacks. `key` holds it."""
        self.run.check(f"{key}.run", ROLE, spec, self)
        lent, field = self.run.abstract, spec[name]
        if field.values > lent.model.values:
            raise UserError(
                f"config.data.tokenizer has {field.values} numbers and the encoder of {key} a table of {lent.model.values}; "
                "name the tokenizer that belongs to it"
            )
        ids = jax.ShapeDtypeStruct((1, *field.shape), jnp.int32)
        made = jax.eval_shape(lambda lent, ids: self(lent, field, ids), lent, ids)
        return {k: v.shape[1:] for k, v in made.items()}

    def __call__(
        self, lent: Frozen, field: Field, ids: Array, rng: Array | None = None, known: Frozen | None = None
    ) -> dict[str, Array]:
        """What the net is told of tokens [B, L]; with rng some are lost. known: the states of all texts that there can be."""
        if rng is not None and self.dropout:
            lost = jax.random.bernoulli(rng, self.dropout, (len(ids), *[1] * (ids.ndim - 1)))
            ids = jnp.where(lost, jnp.asarray(field.empty, ids.dtype), ids)
        made = known(ids) if known else heard(lambda ids: lent.model.encode_text(lent.weights, ids), ids)
        made = jax.lax.stop_gradient(made)
        told = {"pooled": self.pooled}
        made = {k: v.astype(jnp.float32) for k, v in made.items() if told.get(k, self.states)}
        there = says_something(field, ids)
        if self.null != "empty":
            made = {k: jnp.where(there.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for k, v in made.items()}
        if "text_mask" in made and not self.masked:
            seen = there[:, None] if self.null == "learned" else True
            made["text_mask"] = jnp.broadcast_to(jnp.float32(seen), made["text_mask"].shape)
        return made


Encoders = FrozenText | tuple[FrozenText, ...] | None


def each(encoders: Encoders, spec: Spec) -> Iterator[tuple[FrozenText, str, str, str]]:
    """(encoder, its name in the state, the tokens that it reads, the key that holds it) of all."""
    texts = list(spec.texts)
    several = isinstance(encoders, tuple)
    for i, one in enumerate(encoders if several else [encoders] if encoders else ()):
        yield one, NAMES[i], texts[min(i, len(texts) - 1)] if texts else "", f"{KEY}.{i}" if several else KEY


def refuse_null(encoders: Encoders, net: Any) -> None:
    """A UserError unless encoders and net agree on who says nothing."""
    learned = any(one.null == "learned" for one in (encoders if isinstance(encoders, tuple) else (encoders,)) if one)
    if learned and not getattr(net, "learned_null", False):
        raise UserError(f"{KEY} has null=learned, and the net learns none; set config.method.net.learned_null=True")
    if encoders and not learned and getattr(net, "learned_null", False):
        key = f"{KEY}.0" if isinstance(encoders, tuple) else KEY
        raise UserError(f"config.method.net.learned_null=True is never shown with {KEY}; set {key}.null=learned")


def loses_each(encoders: Encoders) -> bool:
    """Whether there are examples in training that every encoder says nothing of, as its own text is lost (SD 3)."""
    return bool(encoders) and all(one.dropout for one in (encoders if isinstance(encoders, tuple) else (encoders,)))


def loans(encoders: Encoders, spec: Spec) -> dict[str, Loan]:
    """The encoders, and what was cached of them."""
    found = {}
    for one, name, text, key in each(encoders, spec):
        key = key.removeprefix("config.")
        found[name] = Loan(one.run, ROLE, f"{key}.run")
        if one.cache:
            found[f"{name}{STATES}"] = Loan(CachedStates(one.cache, name, text), ROLE, f"{key}.cache")
    return found


def kept_in(encoders: Encoders, folder: Path) -> Encoders:
    """With their copies in that folder, where there are any."""
    if isinstance(encoders, tuple):
        return tuple(
            replace(one, run=one.run.kept_in(folder / name)) for one, name in zip(encoders, NAMES, strict=False)
        )
    return encoders and replace(encoders, run=encoders.run.kept_in(folder / NAMES[0]))


def told_by(encoders: Encoders, spec: Spec) -> Spec:
    """What the net is told in place of the tokens; a UserError for a run without text, or encoders that do not fit together."""
    many, texts = len(encoders) if isinstance(encoders, tuple) else 1, spec.texts
    if not texts:
        raise UserError(
            f"{KEY} reads tokens, and the run is told {spec.conditions or 'nothing'}; set config.data.tokenizer, or {KEY}=None"
        )
    if many > len(NAMES) or len(texts) not in (1, many):
        raise UserError(
            f"{KEY} names {many} encoders and config.data.tokenizer {len(texts)} tokenizers; name one for each, at most "
            f"{len(NAMES)}, or one tokenizer for all"
        )
    shapes = [one.made(spec, name, key) for one, _, name, key in each(encoders, spec)]
    parts = [{k: jax.ShapeDtypeStruct((1, *v), jnp.float32) for k, v in made.items()} for made in shapes]
    made = jax.eval_shape(lambda parts: _joined(encoders, parts), parts)
    length, width = made["states"].shape[1:] if "states" in made else (0, 0)
    rest = spec.where(lambda key, _: key not in texts)
    return Spec(
        {**rest, **encoded(length, width, made["pooled"].shape[1] if "pooled" in made else 0, "text_mask" in made)}
    )


def encode(encoders: Encoders, spec: Spec, frozen: dict[str, Frozen], cond: Cond, rng: Array | None = None) -> Cond:
    """The conditions as the net is told them. rng: of training, where some are lost to each encoder alone."""
    parts = []
    for one, name, text, _ in each(encoders, spec):
        key, known = (None, None) if rng is None else (keys.named(rng, name), frozen.get(f"{name}{STATES}"))
        parts.append(one(frozen[name], spec[text], cond[text], key, known))
    return {**{k: v for k, v in cond.items() if k not in spec.texts}, **_joined(encoders, parts)}


def _joined(encoders: Encoders, parts: list[dict[str, Array]]) -> dict[str, Array]:
    """What several say as one: states beside each other, or behind with zeros up to the wider ones; pooled vectors in a row."""
    all_of = encoders if isinstance(encoders, tuple) else (encoders,)
    made: dict[str, Array] = {}
    for i, (one, part) in enumerate(zip(all_of, parts, strict=True)):
        if "states" not in part:
            continue
        states, mask = part["states"], part["text_mask"]
        if made and one.join == "beside":
            before = made["states"]
            if before.shape[1] != states.shape[1]:
                raise UserError(
                    f"{KEY}.{i} makes {states.shape[1]} states and those before it {before.shape[1]}, which cannot stand side by "
                    f"side; give their tokenizers one length, or set {KEY}.{i}.join=behind"
                )
            states, mask = jnp.concatenate([before, states], -1), jnp.maximum(made["text_mask"], mask)
        elif made:
            width = max(made["states"].shape[-1], states.shape[-1])
            wide = [jnp.pad(s, ((0, 0), (0, 0), (0, width - s.shape[-1]))) for s in (made["states"], states)]
            states, mask = jnp.concatenate(wide, 1), jnp.concatenate([made["text_mask"], mask], 1)
        made = {"states": states, "text_mask": mask}
    if not any(one.masked or one.null == "learned" for one in all_of):
        made.pop("text_mask", None)
    pooled = [part["pooled"] for part in parts if "pooled" in part]
    return made | ({"pooled": jnp.concatenate(pooled, -1)} if pooled else {})

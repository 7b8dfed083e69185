"""Conditions: a dict of arrays [B, ...] that a net is told, from the batch to the command line; each knows its own null."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxgen.core.spec import Field, Spec, unweighed
from jaxgen.errors import UserError
from jaxgen.images import to_float

Array = jax.Array
Cond = dict[str, Array]


def prepare(spec: Spec, name: str, value: Array) -> Array:
    """A condition as nets take it: pictures as floats in [-1, 1], masks in [0, 1], integers as int32."""
    if spec[name].kind == "mask":
        return value.astype(jnp.float32)
    return to_float(value) if spec[name].kind in ("image", "frames") else value


def read(spec: Spec, batch: Mapping[str, Array], num: int) -> Cond:
    """The conditions of a batch of `num` examples, complete: what the batch does not say is null."""
    return {k: prepare(spec, k, batch[k]) if k in batch else f.null(num) for k, f in spec.conditions.items()}


def with_one_caption(spec: Spec) -> Spec:
    """The Spec after one of several captions was drawn."""
    one = {k: replace(f, kind="tokens", shape=f.shape[1:]) for k, f in spec.of("captions").items()}
    return Spec({**spec, **one})


def one_caption(spec: Spec, batch: dict[str, Array], rng: Array) -> dict[str, Array]:
    """The batch with one of the captions [B, K, L] of each example, [B, L]; rows of -1 are no captions."""
    drawn = {}
    for name in spec.of("captions"):
        tokens = batch[name]
        there = (tokens.reshape(*tokens.shape[:2], -1)[:, :, 0] >= 0).sum(1)
        which = (jax.random.uniform(rng, (len(tokens),)) * there).astype(jnp.int32)
        drawn[name] = jnp.take_along_axis(tokens, which.reshape(-1, *[1] * (tokens.ndim - 1)), 1)[:, 0]
    return {**batch, **drawn}


def says_something(field: Field, ids: Array) -> Array:
    """bool [B]: texts that are not the empty one."""
    return (ids != jnp.asarray(field.empty, ids.dtype)).any(tuple(range(1, ids.ndim)))


def heard(encode: Callable[[Array], Cond], ids: Array) -> Cond:
    """What an encoder makes of a text [B, L], or of a long one [B, rows, L]: the states of its rows behind each other.

    Words that were asked for with a weight have states so many times larger, and all of them the mean of before (AUTOMATIC1111's
    web UI; diffusers' long-prompt-weighting pipelines). What is pooled is of the first row.
    """
    ids, weights = unweighed(ids)
    num, length = len(ids), ids.shape[-1]
    made = encode(ids.reshape(-1, length))
    made = {k: v.reshape(num, -1, *v.shape[1:]) for k, v in made.items()}
    made = {k: v[:, 0] if k == "pooled" else v.reshape(num, -1, *v.shape[3:]) for k, v in made.items()}
    if "states" in made:
        states, weights = made["states"], weights.reshape(num, -1, 1)
        means = [x.mean((1, 2), keepdims=True) for x in (states, states * weights)]
        louder = states * weights * (means[0] / jnp.where(means[1] == 0, 1, means[1]))
        made["states"] = jnp.where((weights != 1).any((1, 2), keepdims=True), louder, states)
    return made


def nulls(spec: Spec, num: int) -> Cond:
    """Every condition at its null."""
    return read(spec, {}, num)


def drop(spec: Spec, cond: Cond, share: float, rng: Array) -> Cond:
    """A share of the examples loses all of its conditions at once (Ho & Salimans 2022, algorithm 1)."""
    if not share or not cond:
        return cond
    num = len(next(iter(cond.values())))
    lost = jax.random.bernoulli(rng, share, (num,))
    null = nulls(spec, num)
    return {k: jnp.where(lost.reshape(num, *[1] * (v.ndim - 1)), null[k], v) for k, v in cond.items()}


def refuse_unknown(spec: Spec, cond: Mapping[str, object], where: str) -> None:
    """A UserError for a condition that the run is not told."""
    known = spec.conditions
    for name in cond:
        if name not in known:
            there = f"it is told: {', '.join(known)}" if known else "it is told nothing"
            raise UserError(f"{where}: the run knows no condition {name!r}; {there}")

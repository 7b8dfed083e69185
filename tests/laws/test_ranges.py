"""Every number that a config may hold says by its type what it may be; what is outside is refused in one line."""

import dataclasses
import inspect
import math
import re
import typing
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import pytest
from cases import ROOT

from jaxgen.config import files as configs
from jaxgen.config import registry
from jaxgen.core.ranges import Range
from jaxgen.core.spec import Field, Spec
from jaxgen.diffusion.process import VP
from jaxgen.errors import UserError
from jaxgen.nets.causal import Around

MEMBERS = [(table, name) for table, members in registry.TABLES.items() for name in members]


def numbers(kind):
    """The types of the numbers in a type: those of a tuple's entries and of a union's members too."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        marks = [mark for mark in parts[1:] if isinstance(mark, Range)]
        return [kind] if parts[0] in (int, float) and marks else numbers(parts[0])
    if origin is Literal or origin is typing.ClassVar:
        return []
    return [kind] if kind in (int, float) else [found for part in parts for found in numbers(part)]


def fields():
    """(where, field) of all that a config may hold."""
    for table, name in MEMBERS:
        for key, field in registry.fields(registry.lookup(table, name, "")).items():
            yield f"{table}.{name}.{key}", field
    for options in (configs.RunOptions, configs.Feed):
        for field in dataclasses.fields(options):
            yield f"{options.__name__}.{field.name}", field


FIELDS = list(fields())


def several(kind) -> bool:
    """Whether a type is that of a tuple."""
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    return typing.get_origin(plain) is tuple


def span(kind) -> Range:
    return next(mark for mark in typing.get_args(kind)[1:] if isinstance(mark, Range))


def edges(kind):
    """(values at the ends of a range, values just outside)."""
    whole, limits = typing.get_args(kind)[0] is int, span(kind)
    inside, outside = [], [] if whole else [math.nan, math.inf, -math.inf]
    for end, way in ((limits.least, -1), (limits.most, 1)):
        if math.isfinite(end):
            inside.append(int(end) if whole else float(end))
            outside.append(int(end) + way if whole else math.nextafter(end, way * math.inf))
    for end, way in ((limits.above, 1), (limits.below, -1)):
        if math.isfinite(end):
            assert not whole, "whole numbers have no open ends"
            inside.append(math.nextafter(end, way * math.inf) if end else 1e-30)
            outside.append(float(end))
    return inside, outside


def test_every_number_has_a_range():
    open_ended = [where for where, field in FIELDS for kind in numbers(field.type) if kind in (int, float)]
    assert not open_ended, f"say by their types what these may be (jaxgen.core.ranges): {open_ended}"
    loose = [where for where, field in FIELDS if field.name == "dtype" and typing.get_origin(field.type) is not Literal]
    assert not loose


def test_every_default_lies_in_its_range_and_what_lies_outside_is_refused():
    for where, field in FIELDS:
        default = registry.default(field)
        if default is not dataclasses.MISSING:
            assert registry.fit(default, field.type) == default, where
        wrapped = several(field.type)
        for kind in numbers(field.type):
            inside, outside = edges(kind)
            for value in inside:
                value = (value,) if wrapped else value
                assert registry.typed(value, field, where) == value, where
            for value in outside:
                with pytest.raises(UserError) as refused:
                    registry.typed((value,) if wrapped else value, field, where)
                assert str(refused.value).startswith(f"{where}=") and "\n" not in str(refused.value)


ROUTES = {
    "the run": ({"steps": 0}, "config.steps=0 must be at least 1, such as 1000"),
    "how data are fed": ({"data.batch": -8}, "config.data.batch=-8 must be at least 1"),
    "a source": ({"data.size": 0}, "config.data.size=0 must be at least 1"),
    "a net": ({"method.net.width": -64}, "config.method.net.width=-64 must be at least 1"),
    "a tuple": ({"method.net.mults": "(1, 0)"}, r"config.method.net.mults=(1, 0) must each be above 0"),
    "a precision": ({"method.net.dtype": "bf16"}, "dtype='bf16' must be one of float32, bfloat16, float16, such as 'bfloat16'"),
    "an optimizer": ({"method.net.optimizer.lr": "-1"}, "config.method.net.optimizer.lr=-1 must be above 0"),
    "an average": ({"method.net.ema": 1.5}, "config.method.net.ema.rate=1.5 must be at least 0 and below 1"),
    "a method": ({"method.condition_dropout": 1}, "config.method.condition_dropout=1 must be at least 0 and below 1"),
    "an evaluator": ({"eval.grid.num": 0}, "config.eval.grid.num=0 must be at least 1"),
    "not a number": ({"method.net.dropout": "nan"}, "config.method.net.dropout='nan' must be a number"),
    "a seed of 33 bits": ({"seed": 2**32}, "config.seed=4294967296 must be at least 0 and at most 4294967295"),
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return configs.load(f"{ROOT}/configs/ddpm_digits.py:tiny")


@pytest.mark.parametrize("changes, message", ROUTES.values(), ids=ROUTES)
def test_every_way_into_a_config_is_watched(digits, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        configs.override(digits, changes)


def test_whole_numbers_may_be_written_as_people_do(digits):
    assert configs.override(digits, {"steps": "1e4", "seed": 2**32 - 1}).steps == 10_000


def least(cls):
    """Every number of a class at the least that it may be."""
    found = {}
    for key, field in registry.fields(cls).items():
        for kind in numbers(field.type):
            if key not in registry.asked(cls) and typing.get_origin(field.type) is Annotated:
                found[key] = min(edges(kind)[0], default=registry.default(field))
    return found


@pytest.mark.parametrize("table, member", MEMBERS)
def test_a_part_at_the_edge_is_built_or_refused(table, member):
    cls = registry.lookup(table, member, "")
    needed = {k for k, f in registry.fields(cls).items() if registry.default(f) is dataclasses.MISSING}
    if table in ("source", "module", "method") or needed - {"path"}:
        return
    for key, field in registry.fields(cls).items():
        for kind in () if key in registry.asked(cls) else numbers(field.type):  # what the run fills in, no config sets
            for value in edges(kind)[0]:
                value = (value,) if several(field.type) else value
                try:
                    part = registry.build(table, {"name": member, key: value}, {"steps": 10, "batch": 8})
                    if table == "solver":
                        part.nfe(VP(steps=max(part.steps, 1)))
                except UserError as error:
                    assert "\n" not in str(error)


@pytest.mark.parametrize("member", registry.TABLES["module"])
def test_a_net_at_the_edge_is_built_or_refused(member):
    cls = registry.lookup("module", member, "")
    if any(f.default is dataclasses.MISSING and k != "classes" for k, f in registry.fields(cls).items()):
        return
    given = {"shape": (8, 8, 3), "classes": 2}
    takes = inspect.signature(cls.__call__).parameters
    answers = "cond" in takes and takes["cond"].default is inspect.Parameter.empty  # a picture by a picture
    given |= {"conditions": Spec(seen=Field((8, 8, 3), "float32", "image"))} if answers else {}
    net = cls(**least(cls), **{k: given[what] for k, what in registry.asked(cls).items() if what in given})
    image, vector = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 1))
    ids = jnp.zeros((1, 8 * 8 * 3), jnp.int32)
    inputs = {"x": image, "z": vector, "ids": ids, "t": jnp.ones(1), "clock": jnp.ones(1), "channels": 3}
    inputs |= {"around": Around.of(image), **({"cond": {"seen": image}} if answers else {})}
    wanted = [k for k in takes if k in inputs]
    if "quantizer" in member:
        inputs["z"] = jnp.zeros((1, 1, 1, 1))
    if member == "normal":
        inputs["z"] = jnp.zeros((1, 1, 1, 2))
    try:
        jax.eval_shape(lambda: net.init(jax.random.key(0), **{k: inputs[k] for k in wanted}))
    except UserError as error:
        assert "\n" not in str(error)

"""Names -> objects: the only place where a name, or a `module:Class` of one's own, becomes a class.

Every config dict with a `name` is one frozen dataclass (or linen module) whose fields are the keys. A key listed in
KEYS holds a member of that table; everything else is a plain value. What the data and the run decide (the Spec, shapes,
batch, length of the run) goes to the fields whose type asks for it (jaxgen.core.given).
"""

import copy
import dataclasses
import difflib
import importlib
import os
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any

from jaxgen.core.given import Given, OnDisk, expand
from jaxgen.core.ranges import Range
from jaxgen.errors import UserError

TABLES: dict[str, dict[str, str]] = {}  # table -> name -> "module:Class"; jaxgen.tables fills all of these
KEYS: dict[str, str] = {}  # config key -> the table of which it holds a member
MANY: set[str] = set()  # tables of which a key may hold several members, as a tuple
OWN: dict[str, tuple[str, ...]] = {}  # table -> keys that a member does not hand on to another
NEEDS: dict[str, tuple[str, ...]] = {}  # table -> what a class of one's own must have to be a member
NET_PARTS: dict[str, Any] = {}  # keys of a net that are not fields of its module, with their defaults


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or the list of what there is: the end of every message about a wrong name."""
    known = list(known) if isinstance(known, tuple) else sorted(known)  # a tuple is in an order of its own
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; there are: {', '.join(known[:60]) or 'none'}{', ...' if known[60:] else ''}"
    )


def is_known(table: str, name: Any) -> bool:
    """Whether a name can stand for a class of a table: it is there, or it is a `module:Class` of one's own."""
    return isinstance(name, str) and (name in TABLES["module" if table == "net" else table] or ":" in name)


def lookup(table: str, name: str, where: str) -> type:
    """The class called `name`, or the one that `module:Class` names; `where` is the config path for the message."""
    table = "module" if table == "net" else table
    if not is_known(table, name):
        own = f" (or a class of your own: {where}=MODULE:CLASS)" if table in NEEDS else ""
        raise UserError(f"{where}.name={name!r} is unknown{nearest(str(name), TABLES[table])}{own}")
    if name not in TABLES[table]:
        return _own(table, name, where)
    module, _, attribute = TABLES[table][name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _own(table: str, name: str, where: str) -> type:
    """A class from a module of the user's, in the current folder or on Python's path."""
    module, _, attribute = name.partition(":")
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())  # a console script's path does not have it
    try:
        cls = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise UserError(f"{where}.name={name!r}: {module} needs {error.name}, which is not installed") from error
        cure = f"run where {error.name}.py lies, or add its folder to PYTHONPATH"
        raise UserError(f"{where}.name={name!r}: there is no module {error.name!r}; {cure}") from error
    except Exception as error:  # whatever somebody's own file does
        told = " ".join(str(error).split())
        raise UserError(
            f"{where}.name={name!r}: {module} cannot be imported: {type(error).__name__}: {told}"
        ) from error
    if not isinstance(cls, type):
        classes = [k for k, v in vars(sys.modules[module]).items() if isinstance(v, type) and v.__module__ == module]
        raise UserError(f"{where}.name={name!r}: {module} has no class {attribute!r}{nearest(attribute, classes)}")
    lacks = [part for part in NEEDS.get(table, ()) if not hasattr(cls, part)]
    if lacks or not dataclasses.is_dataclass(cls):
        what = (
            f"it lacks {', '.join(lacks)}"
            if lacks
            else "it must be a dataclass (@dataclass(frozen=True, kw_only=True))"
        )
        raise UserError(f"{where}.name={name!r} cannot be a {table}: {what}")
    return cls


def fields(cls: type) -> dict[str, dataclasses.Field]:
    """What a config may set: the dataclass fields but linen's own (`parent`, `name`)."""
    own = {f.name: f for f in dataclasses.fields(cls) if f.init}
    if any(isinstance(f.type, str) for f in own.values()):  # a module whose annotations are text
        hints = typing.get_type_hints(cls, include_extras=True)
        own = {k: copy.copy(f) for k, f in own.items()}
        for k, f in own.items():
            f.type = hints[k]
    return {k: f for k, f in own.items() if k not in ("parent", "name")}


def asked(cls: type) -> dict[str, str]:
    """Field -> the fact that it asks for by its type; a config may still say otherwise."""
    marks = {
        k: [m for m in getattr(f.type, "__metadata__", ()) if isinstance(m, Given)] for k, f in fields(cls).items()
    }
    return {k: found[0].what for k, found in marks.items() if found}


def default(field: dataclasses.Field) -> Any:
    """A field's default, or dataclasses.MISSING."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def as_spec(table: str, value: Any, where: str) -> dict[str, Any]:
    """The long form of a member: "eps" -> {"name": "eps"}, ema=0.999 -> decay of that rate, a run's directory, an object."""
    table = "module" if table == "net" else table
    if table == "ema" and isinstance(value, int | float) and not isinstance(value, bool):
        return {"name": "decay", "rate": float(value)} if value else {"name": "none"}
    if isinstance(value, str):
        path = table == "run" and value not in TABLES["run"]
        return {"name": "run", "path": value} if path else {"name": value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        path = f"{type(value).__module__}:{type(value).__name__}"
        name = next((n for n, target in TABLES[table].items() if target == path), path)
        return {"name": name, **{k: getattr(value, k) for k in fields(type(value)) if k not in asked(type(value))}}
    if not hasattr(value, "items") or "name" not in value:
        raise UserError(f"{where}={value!r} must be a name or a dict with a name{nearest('', TABLES[table])}")
    return dict(value.items())


WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", tuple: "a tuple", dict: "a dict"}


def fit(value: Any, kind: Any) -> Any:
    """`value` as a type wants it: lists as tuples, 1 as 1.0, 1e3 as 1000, paths without `~`.

    A ValueError says what it must be, and may hold a value that is.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        value = fit(value, parts[0])
        for mark in parts[1:]:
            if isinstance(mark, Range) and value not in mark:
                raise ValueError(str(mark))
            if isinstance(mark, OnDisk):
                value = expand(value)
        return value
    if origin is typing.Literal:
        if (type(value), value) in [(type(part), part) for part in parts]:
            return value
        raise ValueError(
            f"one of {', '.join(map(str, parts))}", *difflib.get_close_matches(str(value), map(str, parts), n=1)
        )
    if origin in (types.UnionType, typing.Union):
        return _fit_any(value, parts)
    if (kind is tuple or origin is tuple) and isinstance(value, tuple | list):
        return tuple(fit(one, parts[0]) for one in value) if parts and parts[-1] is Ellipsis else tuple(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if (plain := origin or kind) in WORDS and type(value) is not plain:
        raise ValueError(WORDS[plain], *([(value,)] if plain is tuple else ()))
    return value


def _fit_any(value: Any, kinds: tuple) -> Any:
    wanted = []
    for kind in kinds:
        try:
            return fit(value, kind)
        except ValueError as error:
            wanted.append(str(error))
    raise ValueError(" or ".join(wanted))


def typed(value: Any, field: dataclasses.Field, where: str) -> Any:
    """`value` as the field's type wants it and within its range; all else is a UserError."""
    try:
        return fit(value, field.type)
    except ValueError as error:
        what, like = (*error.args, default(field))[:2]
        such_as = "" if like is dataclasses.MISSING else f", such as {like!r}"
        each = " each" if isinstance(value, tuple | list) else ""
        raise UserError(f"{where}={value!r} must{each} be {what}{such_as}") from None


def keys(table: str, name: str, where: str) -> tuple[str, ...]:
    """What a config dict of this name may hold."""
    return (*fields(lookup(table, name, where)), *(NET_PARTS if table == "net" else ()))


def takes(table: str, name: str, key: str, value: Any, where: str) -> bool:
    """Whether a config dict of this name may hold `value` at `key`."""
    known = fields(lookup(table, name, where))
    try:
        return key not in known or fit(value, known[key].type) is not None
    except ValueError:
        return False


def members(table: str, name: str, where: str) -> dict[str, Any]:
    """The members of other tables that this name holds by default."""
    known = {k: default(f) for k, f in fields(lookup(table, name, where)).items() if k in KEYS}
    return {
        k: as_spec(KEYS[k], v, f"{where}.{k}")
        for k, v in known.items()
        if v is not dataclasses.MISSING and v is not None
    }


def _holds(table: str, spec: Any, key: str) -> bool:
    """Whether the member that a config dict or a name stands for has a field of that name."""
    name = spec.get("name") if isinstance(spec, dict) else spec
    return is_known(table, name) and key in fields(lookup(table, name, key))


def complete(table: str, spec: Any, where: str = "config") -> Any:
    """A spec with every default spelled out (but what is given), every key and value looked at.

    A key of MANY may hold several: a tuple of specs. One alone is that one, none is "none".
    """
    if table in MANY and isinstance(spec, tuple | list):
        several = tuple(complete(table, one, f"{where}[{i}]") for i, one in enumerate(spec or ("none",)))
        return several if len(several) > 1 else several[0]
    spec = as_spec(table, spec, where)
    parts = NET_PARTS if table == "net" else {}
    cls = lookup(table, spec["name"], where)
    known, open_fields = fields(cls), asked(cls)
    out: dict[str, Any] = {"name": spec["name"]}
    for key in spec:
        if key != "name" and key not in known and key not in parts:
            inner = [sub for sub in (*known, *parts) if sub in KEYS and _holds(KEYS[sub], spec.get(sub), key)]
            hint = f"; did you mean {where}.{inner[0]}.{key}?" if inner else nearest(key, [*known, *parts])
            raise UserError(f"{where}.{key} is not a field of {spec['name']}{hint}")
    for key, field in known.items():
        like = default(field)
        value = spec.get(key, like)
        if key in KEYS and value is not dataclasses.MISSING and value is not None:
            out[key] = complete(KEYS[key], value, f"{where}.{key}")
        elif key in spec:
            out[key] = typed(value, field, f"{where}.{key}")
        elif key in open_fields:
            continue
        elif like is dataclasses.MISSING:
            raise UserError(f"{where}.{key} is missing: {spec['name']} needs it; set {where}.{key}=VALUE")
        else:
            out[key] = value
    for key, like in parts.items():
        if (value := spec.get(key, like)) is not None:
            out[key] = complete(KEYS[key], value, f"{where}.{key}")
    return out


def build(table: str, spec: Any, given: dict[str, Any] | None = None, where: str = "config") -> Any:
    """Spec -> object. `given` (see jaxgen.core.spec) fills the fields that ask for it and that the spec leaves open."""
    given = given or {}
    spec = complete(table, spec, where)
    if isinstance(spec, tuple):
        return tuple(build(table, one, given, f"{where}[{i}]") for i, one in enumerate(spec))
    cls = lookup(table, spec.pop("name"), where)
    parts = {
        key: build(KEYS[key], spec.pop(key), given, f"{where}.{key}")
        for key in NET_PARTS
        if key in spec and table == "net"
    }
    part = lambda k, v: build(KEYS[k], v, given, f"{where}.{k}") if k in KEYS and v is not None else v  # noqa: E731
    values = {k: part(k, v) for k, v in spec.items()}
    values |= {k: given[fact] for k, fact in asked(cls).items() if k not in spec and fact in given}
    built = cls(**values)
    if table == "net":
        from jaxgen.core.net import Net, NoEma

        rules = parts["ema"] if isinstance(parts["ema"], tuple) else (parts["ema"],)
        kept, optimizer = tuple(rule for rule in rules if not isinstance(rule, NoEma)), parts["optimizer"]
        alike = getattr(optimizer, "alike", None)
        return Net(
            built, tx=optimizer.build(), ema=kept, alike=alike, optimizer=optimizer, adapter=parts.get("adapter")
        )
    return built

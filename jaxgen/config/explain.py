"""What every key of a config means: `--mode=show`. Meanings are the comments and docstrings of the classes themselves."""

import functools
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from jaxgen.config.files import FEED, SECTIONS, Feed, RunOptions, normalise
from jaxgen.config.registry import KEYS, NET_PARTS, default, fields, lookup

WIDE = 48  # columns of a key and its value
HEAD = "# KEY = VALUE, change any by --config.KEY=VALUE   # what it means; the default, where it is another"
# what the same word means in every member of a table, for classes that do not say it themselves
COMMON = {
    "evaluator": {
        "every": "steps between evaluations while training; 0: at the end and by --mode=eval only",
        "num": "images; 0: all that are held out",
        "seed": "of the noise that samples start from",
    },
    "solver": {
        "steps": "steps from noise to picture: more are slower and finer",
        "eta": "noise that is added again on the way: 0 none",
        "clip": "keep the predicted picture within [-1, 1] at every step",
        "grid": "which noise levels the steps stop at",
    },
    "guide": {"scale": "how strictly samples follow what they are asked for; 1: no guidance"},
    "module": {
        "width": "channels of the first level; the size of the net",
        "mults": "channels of every level, as multiples of width; one level more halves the image once more",
        "blocks": "residual blocks of every level",
        "depth": "blocks",
        "dropout": "share of activations that are dropped in training, against memorising small data",
        "groups": "of group normalisation; they must divide all channels",
        "heads": "of attention",
        "attend_mid": "whether the smallest level attends",
        "activation": "the nonlinearity",
        "null_label": "a label that means none, which guidance needs",
        "out_channels": "0: as many as the image has",
        "dtype": "of activations; parameters stay float32",
        "remat": "what the backward pass computes again, for less memory: False nothing; cheap all but products, at little cost; "
        "True all, slower",
    },
    "optimizer": {
        "lr": "learning rate, after the warm-up",
        "final": "share of lr that a cosine or linear schedule ends at",
        "b1": "decay of the mean of gradients",
        "b2": "decay of the mean of squared gradients",
        "eps": "against division by zero",
    },
    "process": {"steps": "of the chain, which training knows; a solver may take fewer"},
}


def explained(config: ConfigDict) -> str:
    """A line for every key: its path, its value, what it means, its default where the value is another."""
    config = normalise(config)
    lines = []
    for path, value, meaning, usual in _options(config.to_dict()):
        left = f"{path} = {value!r}" if value is not ... else path
        told = [meaning.rstrip(".")] if meaning else []
        told += [f"default {usual!r}"] if usual is not ... and usual != value else []
        lines.append(f"{left:<{WIDE}}  # {'; '.join(told)}" if told else left)
    return "\n".join([HEAD, *lines])


def meanings(cls: type) -> dict[str, str]:
    """Field -> what the class says of it: the comment behind it, or `field: ...` in the docstring; else what its parents say."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if one.__module__ == "builtins" or "__annotations__" not in vars(one):
            continue
        found |= _documented(inspect.getdoc(one) if "__doc__" in vars(one) else None) | _commented(one)
    return found


def _documented(doc: str | None) -> dict[str, str]:
    """`size: side of the images ...`, up to the next such line or an empty one."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (doc or "").splitlines():
        head = re.match(r"(\w+(?:, \w+)*): (.+)", line)
        if head:
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2])
        elif line.strip() and names:
            found |= dict.fromkeys(names, f"{found[names[0]]} {line.strip()}")
        else:
            names = []
    return found


@functools.cache
def _commented(cls: type) -> dict[str, str]:
    """`width: int = 128  # channels of the first level`."""
    try:
        source = inspect.cleandoc("\n" + inspect.getsource(cls))
    except (OSError, TypeError):  # a class of a notebook, say
        return {}
    found: dict[str, str] = {}
    lines: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source + "\n").readline):
        line = token.start[0]
        if token.type == tokenize.NAME and token.start[1] == 4 and re.match(r"\s{4}\w+\s*:(?!\s*ClassVar)", token.line):
            lines[line] = token.string
        if token.type == tokenize.COMMENT and line in lines:
            found[lines[line]] = token.string.lstrip("# ").strip()
    return found


def _first(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n")[0]


def _options(config: dict[str, Any]) -> Iterator[tuple[str, Any, str, Any]]:
    """(path, value, meaning, default) of all; a section has its name for a value, or ... where it has none."""
    told = meanings(RunOptions)
    for key, field in fields(RunOptions).items():
        value = config[key]
        if key == "data":
            yield from _member("source", value, "data", FEED)
            usual = fields(Feed)
            plain = [k for k in FEED if k != "tokenizer"]
            yield from ((f"data.{k}", value[k], meanings(Feed).get(k, ""), default(usual[k])) for k in plain)
            said = value["tokenizer"]
            for i, one in enumerate(said if isinstance(said, tuple) else (said,)):
                yield from _member("tokenizer", one, f"data.tokenizer{f'.{i}' * isinstance(said, tuple)}")
        elif key == "method":
            yield from _member("method", value, "method")
        elif key in SECTIONS:
            yield key, ..., told.get(key, ""), ...
            for name, spec in value.items():
                yield from _member(SECTIONS[key], {"name": name, **spec}, f"{key}.{name}")
        elif key == "init" and value:
            yield from _member("run", value, "init")
        else:
            yield key, value, told.get(key, ""), default(field)


def _member(
    table: str, spec: dict[str, Any], path: str, skip: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, str, Any]]:
    cls = lookup(table, spec["name"], path)
    told, known = COMMON.get("module" if table == "net" else table, {}) | meanings(cls), fields(cls)
    yield path, spec["name"], _first(cls), ...
    for key in (*known, *(NET_PARTS if table == "net" else ())):
        value, usual = spec.get(key), default(known[key]) if key in known else ...
        if key not in spec or key in skip:
            continue
        if key in KEYS and isinstance(value, dict) and "name" in value:
            yield from _member(KEYS[key], value, f"{path}.{key}")
        elif key in KEYS and isinstance(value, tuple):
            for i, one in enumerate(value):
                yield from _member(KEYS[key], one, f"{path}.{key}.{i}")
        else:
            yield f"{path}.{key}", value, told.get(key, ""), usual

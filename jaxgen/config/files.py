"""Config files, overrides and the options of a run: where text becomes one checked ConfigDict."""

import ast
import importlib.util
import json
import traceback
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from jaxgen.config.registry import KEYS, MANY, OWN, TABLES, complete, is_known, keys, members, nearest, takes, typed
from jaxgen.core.given import expand
from jaxgen.core.ranges import Count, Natural, Range, Seed
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Feed:
    """How data reaches the step; the keys of config.data that are not the source's."""

    batch: Count = 64  # global batch of one update, over all devices and hosts
    levels: Annotated[int, Range(least=0, most=256)] = 0  # of pictures, even ones; 0: what the source says
    labels: bool = False  # hand the labels to the method (and so make it conditional)
    tokenizer: dict | tuple = field(default_factory=lambda: {"name": "none"})  # of captions, which are told then
    templates: tuple[str, ...] = ()  # captions made of labels, such as "a handwritten {label}"
    augment: tuple = ()  # on the device, inside the step: names or dicts of the table `augment`
    transforms: tuple = ()  # on the host, by Grain: names or dicts of the table `transform`
    placement: Literal["auto", "host", "device"] = "auto"  # auto: all on the device when it fits in `device_mb`
    device_mb: Natural = 1024  # megabytes of device memory that the data may take
    workers: Natural = 0  # decoding threads; 0: what suits the image size
    prefetch: Natural = 4  # batches that are read ahead


FEED = tuple(f.name for f in dataclass_fields(Feed))
SECTIONS = {"tasks": "task", "eval": "evaluator"}  # sections of members by name -> their table


WATCH = ("disc_wins", "by_heart", "augment_full", "collapse", "swing", "past_best", "inverts")


@dataclass(frozen=True)
class RunOptions:
    """Options of a run: the top level of every config."""

    data: dict = field(default_factory=dict)  # what is learned from: a source and how it is read
    method: dict = field(default_factory=dict)  # the generative procedure and its nets
    tasks: dict = field(default_factory=dict)  # task name -> its fields, in the order in which they see the data
    eval: dict = field(default_factory=dict)  # evaluator name -> its fields
    init: str | dict = ""  # the run directory whose weights the nets start from, where path and shape are the same
    seed: Seed = 0  # of everything random: weights, order of the data, noise
    steps: Count = 1000  # training steps in all
    steps_per_call: Count = 1  # steps that run as one program; raise it where a step is short
    log_every: Count = 100  # steps between lines of figures
    save_every: Count = 5_000  # steps between checkpoints
    keep: Count = 3  # newest checkpoints kept
    snapshot_every: Natural = 0  # keep the power averages of these steps for good, to reconstruct others from; 0: none
    mesh: dict = field(default_factory=lambda: {"data": -1})  # how devices are arranged: axis -> number, -1: the rest
    sharding: tuple = ((".*", "replicate"),)  # regex on names of arrays -> replicate | fsdp | axis names
    watch: tuple = WATCH  # rules that look at the logged figures of a GAN and say what is wrong; (): none
    since: Natural = 0  # the first step of the phase that a config is of; `phases` sets it
    phases: tuple = ()  # ({"until": step, "data.batch": ..., ...}, ...): changes that hold up to a step


def tiny(c: ConfigDict, **overrides: Any) -> ConfigDict:
    """The form of a config that runs on a CPU in seconds: few steps, small built-in data, then `overrides` by path.

    Grey sets become 8x8 digits, colour sets 16x16 shapes, points of the plane fewer; everything else stays the recipe's.
    """
    batch = min(8, c.data.get("batch", 8))
    keep = {k: v for k, v in c.data.items() if k in ("labels", "tokenizer", "templates", "augment", "transforms")}
    grey = c.data.name == "digits" or "mnist" in c.data.get("dataset", "")
    few = {"num": 256, "eval_num": 32}
    source = {"name": "digits"} if grey else {"name": "shapes", "size": 16, **few}
    source = {"name": c.data.name, **few} if c.data.name in ("ring", "grid") else source
    c.data = ConfigDict({**source, **keep, "batch": batch})
    c.update(steps=4, log_every=2, save_every=2, steps_per_call=1, snapshot_every=2 if c.get("snapshot_every") else 0)
    for name in c.get("eval", {}):
        c.eval[name].update(every=4, num=8)
    with c.unlocked(), c.ignore_type():
        for path, value in overrides.items():
            _set(c, path, value)
    return c


def _set(c: ConfigDict, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        if not isinstance(c.get(key), ConfigDict):
            c[key] = ConfigDict({"name": c[key]} if isinstance(c.get(key), str) else {})
        c = c[key]
    c[last] = value


def shipped() -> Path:
    """The folder of the configs that come with jaxgen: inside the package where it was installed, beside it in a clone."""
    package = Path(__file__).parents[1]
    return next((p for p in (package / "configs", package.parent / "configs") if p.is_dir()), package / "configs")


def available(folder: str | Path = "") -> dict[str, str]:
    """Name of a config -> first line of its docstring; of those that come with jaxgen, or of a folder of one's own."""
    found = {}
    for path in sorted(Path(folder or shipped()).glob("*.py")):
        with path.open(errors="replace") as file:
            found[path.stem] = file.readline().strip().strip('"')
    return found


def load(argument: str) -> ConfigDict:
    """`FILE.py`, or the name of a config that comes with jaxgen, or either with `:ARG` -> what its get_config(ARG) returns.

    ARG is `tiny`, or a folder where the file's FOLDER says what it must hold. A run's directory stands for the config that it was
    trained with.
    """
    name, _, arg = expand(argument).partition(":")
    path = Path(name)
    if not arg and (path / "config.json").is_file():
        return from_json((path / "config.json").read_text())
    if not path.is_file() and (shipped() / f"{name}.py").is_file():
        path = shipped() / f"{name}.py"
    if not path.is_file():
        known = [str(path.with_name(f"{other}.py")) for other in available(path.parent)] if path.suffix == ".py" else []
        hint = nearest(name, known) if known else nearest(path.stem, available())
        if "did you mean" not in hint:
            hint = "; name a config that --help lists, or a FILE.py of your own"
        raise UserError(f"--config={name}: no such {'file' if path.suffix or path.parent.name else 'config'}{hint}")
    if path.suffix != ".py":
        raise UserError(
            f"--config={name} is no config: that is a Python file with get_config(arg), or a name from --help"
        )
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"--config={name} defines no get_config(arg), which returns a ConfigDict")
        config = module.get_config(_argument(argument, arg, getattr(module, "FOLDER", "")))
    except UserError:
        raise
    except Exception as error:  # whatever somebody's own file does
        raise UserError(
            f"--config={name}{_line(error, path)}: {type(error).__name__}: {' '.join(str(getattr(error, 'msg', error)).split())}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={name}: get_config returned a {type(config).__name__}; return a ConfigDict")
    return config


def _argument(argument: str, arg: str, what: str) -> str:
    """The argument of a config; a UserError for one that is not known. what: that it may name the folder of; "": no folder."""
    if arg in ("", "tiny"):
        return arg
    if not what:
        raise UserError(f"--config={argument}: the argument {arg!r} is unknown{nearest(arg, ['tiny'])}")
    if not Path(expand(arg)).is_dir():
        raise UserError(f"--config={argument}: there is no folder {arg}; name that of {what}, or tiny")
    return expand(arg)


def _line(error: Exception, path: Path) -> str:
    """`, line 12`: where in a file something went wrong."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f", line {lines[-1]}" if lines else ""


def split(argv: list[str], prefix: str = "--config.") -> tuple[list[str], dict[str, str]]:
    """Take `--config.KEY=VALUE` (or `--config.KEY VALUE`) out of argv -> (the rest, {KEY: VALUE})."""
    rest, changes, pending = [], {}, ""
    for word in argv:
        if pending:
            changes[pending], pending = word, ""
        elif word.startswith(prefix):
            key, equals, value = word.removeprefix(prefix).partition("=")
            changes[key], pending = value, "" if equals else key
        else:
            rest.append(word)
    if pending:
        raise UserError(f"{prefix}{pending} needs a value: {prefix}{pending}=VALUE")
    return rest, changes


def parse_value(text: str) -> Any:
    """Python literals as themselves, true/false as bools, all else as text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def override(config: ConfigDict, changes: dict[str, Any]) -> ConfigDict:
    """Apply `{"method.net.width": "64"}` (text is parsed) -> a normalised config.

    Names go first: a section that becomes another part (`method.solver.name=ddim`, or just `method.solver=ddim`) keeps
    the keys that both parts have, but those of OWN, and takes the defaults of the rest. None drops a member of `eval` or `tasks`.
    """
    tree = plain(normalise(config))
    values = {k: parse_value(v) if isinstance(v, str) else plain(v) for k, v in changes.items()}

    def is_name(path: str) -> bool:
        left_out = find(tree, path) is None and path.rpartition(".")[2] in KEYS  # a part that there may be
        named = path.endswith(".name") or isinstance(find(tree, path), dict) or left_out
        return named or (isinstance(values[path], str) and path.partition(".")[0] in SECTIONS and path.count(".") == 1)

    if not isinstance(tree["init"], dict) and any(path.startswith("init") for path in values):
        tree["init"] = {"name": "run"}
    for path in sorted(values, key=lambda p: (not is_name(p), p.count("."))):
        value = values[path]
        if value is None and path.partition(".")[0] in SECTIONS and path.count(".") == 1:
            _drop(tree, *path.split("."))
        elif is_name(path) and not isinstance(value, dict):
            section = path.removesuffix(".name")
            _put(tree, section, _renamed(section, find(tree, section), value))
        else:
            _put(tree, path, value)
    return normalise(ConfigDict(tree))


def holds(config: ConfigDict, path: str, value: Any) -> bool:
    """Whether a config says that already; a section is asked for its name."""
    found = find(plain(config), path)
    return (found.get("name") if isinstance(found, dict) and isinstance(value, str) else found) == plain(value)


def _drop(tree: dict[str, Any], section: str, member: str) -> None:
    if member not in tree[section]:
        raise UserError(f"config.{section}.{member} is not there to be dropped{nearest(member, tree[section])}")
    del tree[section][member]


def _under(node: Any, key: str) -> Any:
    """What is there under a key; of several members (a tuple) one by its number."""
    if isinstance(node, tuple):
        return node[int(key)] if key.isdecimal() and int(key) < len(node) else None
    return node.get(key) if isinstance(node, dict) else None


def find(tree: Any, path: str) -> Any:
    """What plain values hold at a path; None where there is nothing."""
    return reduce(_under, path.split("."), tree)


def places(config: ConfigDict, path: str) -> list[str]:
    """The paths of the members that a key holds: itself, or path.0, path.1, ... of several; [] where it holds none."""
    held = find(plain(config), path)
    return [f"{path}.{i}" for i in range(len(held))] if isinstance(held, tuple) else [path] if held else []


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    node, (*parents, last), here = tree, path.split("."), "config"
    for key in parents:
        if here.removeprefix("config.") in SECTIONS:
            node.setdefault(key, {})
        known = node if isinstance(node, dict) else tuple(map(str, range(len(node))))
        if key not in known:
            raise UserError(f"{here}.{key} is not a key of this config{nearest(key, known)}")
        node, here = _under(node, key), f"{here}.{key}"
        if not isinstance(node, dict) and not (isinstance(node, tuple) and here.count(".") < len(parents)):
            kind = "a list" if isinstance(node, tuple) else "a plain value"
            raise UserError(f"{here} is {kind} and has no key {last!r}; set {here}=VALUE")
    node[last] = value  # `normalise` refuses what does not belong there


def _renamed(section: str, old: Any, name: Any) -> Any:
    key = section.rpartition(".")[2]
    special = {"method": "method", "data": "source", "init": "run"}
    special |= {f"{name}.{key}": table for name, table in SECTIONS.items()}
    table = special.get(section) or KEYS.get(key)
    if table is None:
        raise UserError(f"config.{section} is a section; set one of its keys: {', '.join(old or {})}")
    if not isinstance(name, str):
        return name  # ema=0.999 and the like: normalise knows the short forms
    if table == "run" and name not in TABLES["run"]:
        return {"name": "run", "path": name}
    allowed = keys(table, name, f"config.{section}") + (FEED if table == "source" else ())
    same = old.items() if isinstance(old, dict) else ()  # several (a tuple) have nothing to hand on to one
    own = members(table, name, f"config.{section}")  # so that their keys can be set in the same breath
    handed = {k: v for k, v in same if k in allowed and (k not in OWN.get(table, ()) or name == old["name"])}
    kept = {k: v for k, v in handed.items() if takes(table, name, k, v, f"config.{section}")}
    return {**own, **kept, "name": name}


def normalise(config: ConfigDict) -> ConfigDict:
    """A config with every default spelled out and every key checked; applied twice it changes nothing."""
    raw = plain(config)
    known = {f.name: f for f in dataclass_fields(RunOptions)}
    for key in raw:
        if key not in known:
            raise UserError(f"config.{key} is not a key of a run{nearest(key, known)}")
    out = {k: typed(raw.get(k, getattr(RunOptions(), k)), f, f"config.{k}") for k, f in known.items()}
    for key in ("data", "method"):
        if not out[key]:
            like = {"data": "digits", "method": "diffusion"}[key]
            raise UserError(f"config.{key} is missing: a dict with a name, such as {key}=dict(name={like!r}, ...)")
    out["data"] = _data(out["data"])
    out["method"] = complete("method", out["method"], "config.method")
    out["init"] = complete("run", out["init"], "config.init") if out["init"] else ""
    for section, table in SECTIONS.items():
        out[section] = {k: _section(section, table, k, v) for k, v in out[section].items()}
    return ConfigDict(out)


def _data(spec: dict[str, Any]) -> dict[str, Any]:
    """config.data is a source and a Feed in one dict."""
    known = {f.name: f for f in dataclass_fields(Feed)}
    name = spec.get("name", "")
    allowed = keys("source", name, "config.data")
    for key in spec:
        if key != "name" and key not in allowed and key not in known:
            others = [one for one in TABLES["source"] if key in keys("source", one, "config.data")]
            others.sort(key=lambda one: one != "folder")  # where what is one's own most often lies
            hint = f", but of {', '.join(others)}: add --config.data={others[0]}" if others else ""
            raise UserError(f"config.data.{key} is not a field of {name}{hint or nearest(key, [*allowed, *known])}")
    said = {**spec, "tokenizer": complete("tokenizer", spec.get("tokenizer", "none"), "config.data.tokenizer")}
    feed = {k: typed(said.get(k, getattr(Feed(), k)), f, f"config.data.{k}") for k, f in known.items()}
    return {**complete("source", {k: v for k, v in spec.items() if k not in known}, "config.data"), **feed}


def _section(section: str, table: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A member of `eval` or `tasks` is called by its name, or says its `name` (so that there may be two of a kind)."""
    where = f"config.{section}.{name}"
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, dict):
        raise UserError(
            f"{where}={spec!r} must be a section; set its keys ({where}.KEY=VALUE), or drop it: {where}=None"
        )
    if not is_known(table, spec.get("name", name)):
        what = {"evaluator": "an evaluator"}.get(table, f"a {table}")
        raise UserError(f"{where} is not {what}{nearest(name, TABLES[table])}")
    whole = complete(table, {"name": name, **spec}, where)
    return {k: v for k, v in whole.items() if k != "name" or v != name}


def plain(config: Any) -> Any:
    """ConfigDict -> dict all the way down; lists become tuples (JSON has none)."""
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    if isinstance(config, dict):
        return {k: plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return tuple(plain(v) for v in config)
    return config


@dataclass(frozen=True)
class Phase:
    """A stretch of a run under one config: from step `start` up to step `stop`."""

    start: int
    stop: int
    config: ConfigDict


def phases(config: ConfigDict) -> list[Phase]:
    """One phase per entry of config.phases, each until its own step, then the plain config to the end.

    phases=({"until": 1000, "data.batch": 32},) trains the first 1,000 steps with batches of 32.
    """
    found, start = [], 0
    for i, entry in enumerate(config.phases):
        changes = dict(entry)
        until = changes.pop("until", None)
        if not isinstance(until, int) or not start < until < config.steps:
            raise UserError(f"config.phases[{i}]['until']={until!r} must be a step between {start} and {config.steps}")
        found.append(Phase(start, until, override(config, {**changes, "since": start})))
        start = until
    return [*found, Phase(start, config.steps, override(config, {"since": start}) if start else config)]


def span(config: ConfigDict) -> tuple[int, int]:
    """The first step of a config's phase and the last."""
    ends = (entry["until"] for entry in config.phases if entry["until"] > config.since)
    return config.since, min(ends, default=config.steps)


def owner(stages: list[Phase], step: int) -> int:
    """Index of the phase that made a checkpoint: one of a border belongs to the phase that ends there."""
    return next((i for i, stage in enumerate(stages) if step <= stage.stop), len(stages) - 1)


def to_json(config: ConfigDict) -> str:
    """The text kept in run directories and checkpoints."""
    return json.dumps(plain(config), indent=2)


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`, with keys that were added since filled in."""
    return normalise(ConfigDict(plain(json.loads(text))))


def differences(a: ConfigDict, b: ConfigDict) -> list[str]:
    """Paths at which two configs differ, with both values."""
    left, right = _flat(plain(a)), _flat(plain(b))
    return [f"{k}: {left.get(k)!r} -> {right.get(k)!r}" for k in sorted({*left, *right}) if left.get(k) != right.get(k)]


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, tuple) and KEYS.get(path.rpartition(".")[2]) in MANY:
        tree = {str(i): one for i, one in enumerate(tree)}
    if isinstance(tree, dict):
        return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{path}.{key}" if path else key).items()}
    return {path: tree}

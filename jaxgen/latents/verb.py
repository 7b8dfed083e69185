"""`--mode=latents --tool=NAME --tool.KEY=VALUE`: a tool by its name, and its files."""

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from jaxgen.config import registry
from jaxgen.config.explain import meanings
from jaxgen.config.files import parse_value
from jaxgen.core import parallel
from jaxgen.core.given import expand
from jaxgen.errors import UserError
from jaxgen.images import grid, save_gif, save_grid, write_npz
from jaxgen.latents.space import Space
from jaxgen.latents.tool import Outcome, Tool
from jaxgen.runs.trained import Labels, Trained
from jaxgen.runs.writers import say


def build(name: str, given: Mapping[str, Any]) -> Tool:
    """The tool of that name with these keys; text from the command line is read as its field wants it."""
    if not name:
        raise UserError(f"--tool=NAME is missing{registry.nearest('', registry.TABLES['latents'])}")
    known = registry.fields(registry.lookup("latents", name, "--tool"))
    values = {k: _read(v, known[k].type) if k in known and isinstance(v, str) else v for k, v in given.items()}
    return registry.build("latents", {"name": name, **values}, where="--tool")


def _read(text: str, kind: Any) -> Any:
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    if plain is str or typing.get_origin(plain) is Literal:
        return text
    value = parse_value(text)
    return value if typing.get_origin(plain) is not tuple or isinstance(value, tuple | list) else (value,)


def _short(value: Any) -> str:
    """As part of a file's name: paths without their folders."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else re.sub(r"[^,]*/", "", str(value))


def explained() -> str:
    """Every tool with its keys, for the command line's help."""
    lines = []
    for name in registry.TABLES["latents"]:
        cls = registry.lookup("latents", name, "--tool")
        lines.append(f"  {name:<12} {(cls.__doc__ or '').splitlines()[0]}")
        told = meanings(cls)
        lines += [
            f"    --tool.{key}={registry.default(f)!r}  {told.get(key, '')}" for key, f in registry.fields(cls).items()
        ]
    return "\n".join(lines)


def latents(
    workdir: str | Path,
    tool: str = "",
    given: Mapping[str, Any] | None = None,
    out: str | Path = "",
    seed: int = 0,
    labels: Labels = (),
    weights: str = "ema",
    step: int = -1,
    changes: Mapping[str, Any] | None = None,
) -> Outcome:
    """Use a tool on the latents of a run; pictures, films and arrays go to OUT.png, .gif and .npz, figures to results.jsonl too.

    given: the tool's keys. The rest as in `sample`. OUT is by default samples/STEP_TOOL_... in the run's directory.
    """
    act = build(tool, given or {})
    trained = Trained.open(workdir, step, changes)
    (choice,) = trained.choose([weights])
    asked = trained.asked(labels)
    w = choice.weights()
    space = Space.open(trained, w, act.space, seed, asked, act.without_w)
    with trained.exp.explaining({choice.name: w, "raw": trained.state.view()}):
        trained.exp.refuse_broken(w)
        found = act(space)
    if not parallel.is_lead():
        return found
    usual = {k: registry.default(f) for k, f in registry.fields(type(act)).items()}
    said = {k: getattr(act, k) for k in usual if getattr(act, k) != usual[k]}
    label = trained.exp.spec.label
    called = ",".join(trained.exp.spec[label].called(int(i)) for i in asked.get(label, ()))
    parts = [tool, f"seed{seed}", *[choice.name] * (weights != "ema"), *[f"labels-{called}"] * bool(called)]
    stem = trained.stem(*parts, *(f"{k}-{_short(v)}" for k, v in said.items()))
    path = Path(expand(out)) if str(out) else trained.run.path / "samples" / stem
    record = {"evaluator": f"latents/{tool}", **found.about, **said, "labels": called, "ema": choice.name}
    for key, value in found.scalars.items():
        print(f"{key:<40}{value:.6g}")
        trained.run.result({"metric": key, "value": value, **record, "step": trained.at, "seed": seed})
    write(found, path.with_suffix("") if path.suffix in (".png", ".gif", ".npz") else path)
    return found


def write(found: Outcome, path: Path) -> None:
    """PATH.png (PATH_NAME.png where there are several), PATH.gif and PATH.npz."""

    def beside(end: str) -> Path:
        return path.with_name(f"{path.name}{end.replace(':', '-')}")

    for name, images in found.images.items():
        save_grid(file := beside(f"_{name}.png" if name else ".png"), images, found.columns, found.captions)
        say(f"pictures: {file}")
    if found.frames is not None:
        save_gif(file := beside(".gif"), np.stack([grid(x, found.frame_columns) for x in found.frames]))
        say(f"film: {file}")
    if found.arrays:
        arrays = {name.replace(":", "-"): rows for name, rows in found.arrays.items()}
        write_npz(file := beside(".npz"), len(next(iter(arrays.values()))), [arrays])
        say(f"arrays: {file} ({', '.join(arrays)})")

"""What of a config depends on the length of the run: schedules, curricula, warm-up, averages, and how often something is done."""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from jaxgen.config.files import override
from jaxgen.config.registry import KEYS, asked, lookup

FEW = 50  # steps below which a run is a trial of the machinery, and no remark is made


def parts(tree: dict[str, Any], path: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, table, spec) of every named part of a section, itself first."""
    key = path.rpartition(".")[2]
    table = "method" if path == "method" else KEYS.get(key)
    if table and "name" in tree:
        yield path, table, tree
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from parts(value, f"{path}.{name}")


def scheduled(config: ConfigDict) -> dict[str, int]:
    """Path -> steps of everything that is laid out for a length of the run (learning rates, curricula); 0: that of the run."""
    found = {}
    for path, table, spec in parts(config.method.to_dict(), "method"):
        fields = asked(lookup(table, spec["name"], f"config.{path}"))
        found |= {f"{path}.{field}": spec.get(field, 0) for field, fact in fields.items() if fact == "steps"}
    return found


def laid_out(config: ConfigDict, begun: ConfigDict | None) -> ConfigDict:
    """The config with every schedule's length said: that of the run which has `begun`, else of this one.

    So a run that goes on to a later step keeps the schedule that it began with, unless the config says another.
    """
    before = scheduled(begun) if begun else {}
    length = begun.steps if begun else config.steps
    return override(
        config, {path: before.get(path) or length for path, steps in scheduled(config).items() if not steps}
    )


def optimizers(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """Path -> spec of every optimizer."""
    return {path: spec for path, table, spec in parts(config.method.to_dict(), "method") if table == "optimizer"}


def remarks(config: ConfigDict, at: int) -> list[str]:
    """What a person should know of the schedules from step `at` on, each with what to paste for another; mostly nothing."""
    found, steps = [], config.steps
    for path, o in optimizers(config).items():
        length, ends = (
            o.get("schedule_steps") or steps,
            o["schedule"] in ("cosine", "linear", "half_linear", "exponential"),
        )
        paste = f"--config.{path}.schedule_steps={steps} lays it out for the whole run"
        if ends and length < steps:
            zero = ", so that nothing more is learned" if not o["final"] else ""
            since = "has ended" if length <= at else "ends"
            found.append(
                f"{path}: the rate's {o['schedule']} {since} at step {length:,}, and stays at {o['final']:.0%} of its peak "
                f"until {steps:,}{zero}; {paste}"
            )
        elif ends and length > steps:
            share = (steps - o["warmup"]) / max(1, length - o["warmup"])
            left = 0.5 + 0.5 * math.cos(math.pi * share) if o["schedule"] == "cosine" else 1.0 - share
            left = min(1.0, 2.0 * left) if o["schedule"] == "half_linear" else left
            left = o["final"] + (1.0 - o["final"]) * min(1.0, max(0.0, left))
            left = o["final"] ** share if o["schedule"] == "exponential" else left
            found.append(
                f"{path}: the run sees {steps / length:.0%} of the rate's {o['schedule']} over {length:,} steps and ends at "
                f"{left:.0%} of its peak; {paste}"
            )
    for path, length in scheduled(config).items():
        if length > steps and not path.endswith("optimizer.schedule_steps"):
            found.append(
                f"the run sees {steps / length:.0%} of {path.rpartition('.')[0]}; --config.{path}={steps} lays it out for it"
            )
    keys = shortened(config) if steps >= FEW else {}
    if keys:
        found.append(f"{steps:,} steps are few for this recipe; to fit it: {pasted(keys)}")
    return found


def shortened(config: ConfigDict) -> dict[str, Any]:
    """Path -> value of what does not fit in so few steps: warm-up, averages, rhythms, sampling; {} where all fits.

    Warm-up takes a tenth of the run at most, averages reach back a third of it, something is seen ten times, and a sample
    takes no more steps than a sixth of the run (20 at least).
    """
    steps, keys = config.steps, {}
    for path, table, spec in parts(config.method.to_dict(), "method"):
        if table == "optimizer" and 2 * spec["warmup"] > steps:
            keys[f"{path}.warmup"] = steps // 10
        if table == "ema" and spec["name"] == "decay" and not spec["warmup"] and 3 / (1 - spec["rate"]) > steps:
            keys[f"{path}.rate"] = round(1 - 3 / steps, 4)
        if table == "ema" and spec["name"] == "half_life" and not spec["rampup"]:
            images = steps * config.data.batch // 6
            keys |= {f"{path}.images": float(images)} if spec["images"] > images else {}
    keys |= {f"eval.{name}.every": max(1, steps // 10) for name, spec in config.eval.items() if spec["every"] > steps}
    keys |= {"log_every": max(1, steps // 10)} if config.log_every > steps else {}
    if not keys:
        return {}
    solver = config.method.get("solver")
    most = max(20, steps // 6)
    sampled = solver.get("steps", 0) if isinstance(solver, ConfigDict) else 0
    return keys | ({"method.solver.steps": most} if sampled > most else {})


def pasted(keys: dict[str, Any]) -> str:
    """As a command line takes them."""
    return " ".join(f"--config.{path}={value}" for path, value in keys.items())

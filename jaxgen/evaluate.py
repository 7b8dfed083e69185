"""Run evaluators on a run directory, or for the training loop."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxgen import config as configs
from jaxgen import parallel, registry
from jaxgen.checkpoint import Checkpoints
from jaxgen.data.sources import Source
from jaxgen.errors import UserError
from jaxgen.evaluators import Evaluator, Report, check
from jaxgen.experiment import Experiment, open_source
from jaxgen.images import save_grid
from jaxgen.rundir import RunDir, environment
from jaxgen.state import Weights


def evaluators(exp: Experiment) -> dict[str, Evaluator]:
    """Those of config.eval by name; a method that lacks what one needs is a UserError."""
    built = {}
    for name, spec in exp.config.eval.to_dict().items():
        built[name] = registry.build("evaluator", {"name": name, **spec}, where=f"config.eval.{name}")
        check(name, built[name], exp)
    return built


def reports(
    exp: Experiment, tests: dict[str, Evaluator], raw: Weights, ema: Weights, source: Source
) -> Iterator[tuple[str, Report]]:
    """(name, report) of each evaluator in turn; all hosts take part."""
    for name, test in tests.items():
        yield name, test(exp, raw, ema, source)


def evaluate(workdir: str | Path, step: int = -1, changes: dict[str, str] | None = None) -> dict[str, float]:
    """Every evaluator of a run on a checkpoint (the newest by default); printed, and appended to results.jsonl.

    `changes` to the run's config hold for this evaluation: other evaluators, another solver or guide.
    """
    run = RunDir(workdir)
    config = run.config()
    if changes:
        config = configs.override(config, changes)
        run.check(config)
    source = open_source(config, "eval")
    exp = Experiment.open(config, source.info)
    tests = evaluators(exp)
    if not tests:
        raise UserError(f"{run.path}/config.json names no evaluator; add one: --config.eval.loss.num=0")
    at, state = Checkpoints(run.path, read_only=True).trained(exp.abstract, step)
    figures: dict[str, float] = {}
    for name, report in reports(exp, tests, state.view(), state.view(ema=True), source):
        figures |= report.scalars
        if not parallel.is_lead():
            continue
        for key, value in report.scalars.items():
            print(f"{name:<16}{key:<32}{value:.6g}")
            run.result({"metric": key, "value": value, "evaluator": name, **report.about, **origin(exp, at)})
        for label, images in report.images.items():
            path = run.path / "samples" / f"{at:07d}_{label}.png"
            save_grid(path, images, report.columns)
            print(f"{name:<16}{path}", file=sys.stderr)
    return figures


def origin(exp: Experiment, step: int) -> dict[str, Any]:
    """What every figure depends on: checkpoint, sampler, guidance, seed, versions."""
    method = exp.config.method.to_dict()
    told = environment()
    return {
        "step": step,
        "images": step * exp.batch,
        "seed": exp.config.seed,
        **{key: method[key] for key in ("solver", "guide") if key in method},
        **{key: told[key] for key in ("jaxgen", "commit", "versions", "devices")},
    }

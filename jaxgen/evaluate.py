"""Run evaluators on a run directory, or for the training loop."""

import sys
from collections.abc import Iterator
from pathlib import Path

from jaxgen import parallel, registry
from jaxgen.checkpoint import Checkpoints
from jaxgen.data.sources import Source
from jaxgen.errors import UserError
from jaxgen.evaluators import Evaluator, Report, check
from jaxgen.experiment import Experiment, open_source
from jaxgen.images import save_grid
from jaxgen.rundir import RunDir
from jaxgen.state import Weights


def evaluators(exp: Experiment) -> list[Evaluator]:
    """Those of config.eval; a method that lacks what one needs is a UserError."""
    built = []
    for name, spec in exp.config.eval.to_dict().items():
        built.append(registry.build("evaluator", {"name": name, **spec}, where=f"config.eval.{name}"))
        check(name, built[-1], exp)
    return built


def reports(
    exp: Experiment, tests: list[Evaluator], raw: Weights, ema: Weights, source: Source
) -> Iterator[tuple[str, Report]]:
    """(name, report) of each evaluator in turn; all hosts take part."""
    for test in tests:
        yield type(test).__name__.lower(), test(exp, raw, ema, source)


def evaluate(workdir: str | Path, step: int = -1) -> dict[str, float]:
    """Every evaluator of a run on a checkpoint (the newest by default); printed, and appended to results.jsonl."""
    run = RunDir(workdir)
    config = run.config()
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
            print(f"{name:<16}{key:<16}{value:.6g}")
        for label, images in report.images.items():
            path = run.path / "samples" / f"{at:07d}_{label}.png"
            save_grid(path, images, report.columns)
            print(f"{name:<16}{path}", file=sys.stderr)
    if parallel.is_lead():
        run.result({"step": at, "images": at * exp.batch, "seed": config.seed, **figures})
    return figures

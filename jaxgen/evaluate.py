"""Run evaluators on a run directory, for one average or a sweep over several, or for the training loop."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxgen.config import registry
from jaxgen.core import parallel
from jaxgen.core.lender import Frozen, weights_hash
from jaxgen.core.state import Weights
from jaxgen.data.sources import NothingHeldOut, Source
from jaxgen.errors import NotFinite, UserError
from jaxgen.evaluation.per_image import Evaluator, Report, best, examine
from jaxgen.images import save_grid
from jaxgen.runs.directory import environment, facts
from jaxgen.runs.experiment import Experiment
from jaxgen.runs.posthoc import Choice
from jaxgen.runs.trained import Trained
from jaxgen.runs.writers import plot_sweep


def evaluators(exp: Experiment) -> dict[str, Evaluator]:
    """Those of config.eval by name; a method that lacks what one needs is a UserError."""
    built = {}
    for name, spec in exp.config.eval.to_dict().items():
        built[name] = registry.build("evaluator", {"name": name, **spec}, where=f"config.eval.{name}")
        examine(name, built[name], exp)
    return built


def with_data(exp: Experiment, tests: dict[str, Evaluator]) -> tuple[dict[str, Evaluator], Source | None]:
    """The evaluators that can work, and the held-out data that they read (None: they read none).

    Where nothing is held out those that would read it are left out, which is told in one line.
    """
    reading = [name for name, test in tests.items() if test.reads or exp.from_data]
    if not reading:
        return tests, None
    try:
        return tests, exp.open_source("eval")
    except NothingHeldOut as error:
        if parallel.is_lead():
            print(f"left out: {', '.join(f'config.eval.{name}' for name in reading)}: {error}", file=sys.stderr)
    return {name: test for name, test in tests.items() if name not in reading}, None


def reports(
    exp: Experiment,
    tests: dict[str, Evaluator],
    raw: Weights,
    ema: Weights,
    source: Source | None,
    label: str = "ema",
    owners: dict[str, str] | None = None,
) -> Iterator[tuple[str, Report]]:
    """(name, report) of each evaluator in turn; all hosts take part. `label`: what the averaged weights are called.

    Nothing that is not finite is reported: a NotFinite names the weights, the cause and the cure. A figure that an earlier
    evaluator has reported by the same name is called by its evaluator too: `other/psnr`; `owners` remembers whose are whose.
    """
    owners = {} if owners is None else owners
    for name, test in tests.items():
        at_work = {"raw": raw} if getattr(test, "raw", False) else {label: ema, "raw": raw}
        with exp.explaining(at_work, f"config.eval.{name}: "):
            exp.refuse_broken(next(iter(at_work.values())))
            report = test(exp, raw, ema, source)
            if broken := report.broken():
                raise NotFinite(f"{', '.join(broken)} became NaN or infinite")
        scalars = {k if owners.setdefault(k, name) == name else f"{name}/{k}": v for k, v in report.scalars.items()}
        yield name, replace(report, scalars=scalars)


def measured(
    trained: Trained, tests: dict[str, Evaluator], source: Source | None, choice: Choice
) -> Iterator[tuple[str, Report]]:
    """(name, report) of each evaluator with those weights as the averaged ones; figures go to results.jsonl."""
    exp, state = trained.exp, trained.state
    depends = origin(exp, trained.at, source, state.frozen)
    for name, report in reports(exp, tests, state.view(), choice.weights(), source, choice.name):
        for key, value in report.scalars.items() if parallel.is_lead() else ():
            ema = choice.name if report.about.get("averaged", True) else "raw"
            record = {"metric": key, "value": value, "evaluator": name, **report.about, "ema": ema}
            trained.run.result({**record, **depends})
        for key, value in report.beside.items() if parallel.is_lead() else ():
            trained.run.note(trained.at, f"{key}-{choice.name}", value)
        yield name, report


def draw(trained: Trained, name: str, report: Report, *made_by: str) -> None:
    """The report's grids as files, whose names tell what made them: those of the raw weights are of no average."""
    for label, images in report.images.items() if parallel.is_lead() else ():
        weights = () if label == "raw" else made_by
        path = trained.run.path / "samples" / f"{trained.stem(label, *weights, evaluators=[name])}.png"
        save_grid(path, images, report.columns, report.captions)
        print(f"{name:<16}{path}", file=sys.stderr)


def open_tests(
    workdir: str | Path, step: int, changes: dict[str, str] | None
) -> tuple[Trained, dict[str, Evaluator], Source | None]:
    """A checkpoint of a run, its evaluators and the held-out data."""
    trained = Trained.open(workdir, step, changes)
    tests = evaluators(trained.exp)
    if not tests:
        raise UserError(f"{trained.run.path}/config.json names no evaluator; add one: --config.eval.loss.num=0")
    tests, source = with_data(trained.exp, tests)
    if not tests:
        raise UserError(f"nothing is left to measure: the evaluators of {trained.run.path} need held-out pictures")
    if source and (changed := trained.run.other_data(facts(trained.exp.open_source("train")))) and parallel.is_lead():
        print(f"warning: {changed}", file=sys.stderr)
    return trained, tests, source


def evaluate(
    workdir: str | Path, step: int = -1, changes: dict[str, str] | None = None, weights: str = "ema"
) -> dict[str, float]:
    """Every evaluator of a run on a checkpoint (the newest by default); printed, and appended to results.jsonl.

    `changes` to the run's config hold for this evaluation: other evaluators, another solver or guide. `weights`: ema,
    raw, the label of an average, or stdX for a power average of any width, reconstructed from the run's snapshots.
    """
    trained, tests, source = open_tests(workdir, step, changes)
    (choice,) = trained.choose([weights])
    if parallel.is_lead():
        print(f"measuring step {trained.at} of {trained.run.path} ({choice})", file=sys.stderr, flush=True)
    figures: dict[str, float] = {}
    for name, report in measured(trained, tests, source, choice):
        figures |= report.scalars
        for key, value in report.scalars.items() if parallel.is_lead() else ():
            print(f"{name:<16}{key:<32}{value:<12.6g}{report.note}".rstrip())
        draw(trained, name, report, *[choice.name] * (weights != "ema"))
    if figures and parallel.is_lead():
        print(f"figures with all that they depend on: {trained.run.path}/results.jsonl", file=sys.stderr)
    return figures


def sweep(
    workdir: str | Path, stds: tuple[float, ...] = (), step: int = -1, changes: dict[str, str] | None = None
) -> dict[str, dict[str, float]]:
    """Figures of a run by the length of its average, name -> metric -> value: `stds`, or all averages that it keeps.

    Prints a table, appends to results.jsonl and draws samples/<step>_ema_sweep_<stds>.png. Grids have the name in theirs.
    """
    trained, tests, source = open_tests(workdir, step, changes)
    names = list(dict.fromkeys(f"std{std}" for std in stds)) or list(trained.state.labels)
    if len(names) < 2:
        raise UserError(
            f"a sweep needs two averages at least, and {trained.run.path} keeps {', '.join(names) or 'none'}; name widths "
            "(--stds=0.05,0.1,0.2), which need power averages and config.snapshot_every"
        )
    found: dict[str, dict[str, float]] = {}
    for i, choice in enumerate(trained.choose(names)):
        figures: dict[str, float] = {}
        for name, report in measured(trained, tests, source, choice):
            figures |= report.scalars
            pictures = {k: v for k, v in report.images.items() if k != "raw" or i == 0}
            draw(trained, name, replace(report, images=pictures), choice.name)
        found[choice.name] = figures
        if parallel.is_lead():
            line = "  ".join(f"{k} {v:.5g}" for k, v in figures.items())
            how = f"  ({choice.how})" if choice.how else ""
            print(f"sweep {i + 1}/{len(names)}  {choice.name}: {line}{how}", file=sys.stderr)
    if parallel.is_lead() and (metrics := list(dict.fromkeys(k for figures in found.values() for k in figures))):
        rows = {metric: [figures[metric] for figures in found.values()] for metric in metrics}
        marks = {metric: best(metric, values) for metric, values in rows.items()}
        print(table(list(found), rows, marks))
        stem = trained.stem("ema_sweep", *[",".join(map(str, stds))] * bool(stds), evaluators=tests)
        path = trained.run.path / "samples" / f"{stem}.png"
        plot_sweep(path, list(found), rows, marks)
        print(path, file=sys.stderr)
    return found


def table(names: list[str], rows: dict[str, list[float]], marks: dict[str, int]) -> str:
    """Metrics down, averages across, the best of a row (index; -1: none) with a star."""
    wide = max(map(len, rows)) + 2
    lines = [" " * wide + "".join(f"{name:>13} " for name in names)]
    for metric, values in rows.items():
        cells = (f"{value:>13.6g}{'*' if i == marks[metric] else ' '}" for i, value in enumerate(values))
        lines.append(f"{metric:<{wide}}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def origin(exp: Experiment, step: int, source: Source | None, lent: dict[str, Frozen]) -> dict[str, Any]:
    """What every figure depends on: checkpoint, held-out data, sampler, guidance, frozen models, seed, versions."""
    method = exp.config.method.to_dict()
    machine = environment()
    return {
        "step": step,
        "images": step * exp.batch,
        "seed": exp.config.seed,
        **({"data": {"num": len(source), "fingerprint": source.fingerprint()}} if source else {}),
        **({"lent": {k: weights_hash(getattr(f.weights, "nets", f.weights)) for k, f in lent.items()}} if lent else {}),
        **{key: method[key] for key in ("solver", "guide") if key in method},
        **{key: machine[key] for key in ("jaxgen", "commit", "versions", "devices")},
    }

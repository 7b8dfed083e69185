"""Adversarial families, at most ten minutes a run on two cores: what must be reached, and what was.

    python experiments/gans.py --runs=runs --data_dir=DIR_OF_TFDS_SETS [--only digits/ "grid/plain"] [--seeds=1] [--table]

Trains what is not there yet, one run at a time, judges it by a classifier that jaxgen trained on the same data, and writes
experiments/gans/: result.json, the table of its README.md and a grid of samples for every row. What is in result.json is
not done again: delete its entry. `--only`: beginnings of rows' names.
`--seeds`: of a row, at most. `--table`: no run, only the table anew.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jaxgen.runs import setup

setup.configure()

import numpy as np  # noqa: E402

import jaxgen  # noqa: E402
from jaxgen.core import parallel  # noqa: E402
from jaxgen.data.sources import Digits  # noqa: E402
from jaxgen.evaluate import evaluate  # noqa: E402
from jaxgen.evaluation import features as measure  # noqa: E402
from jaxgen.images import save_grid  # noqa: E402
from jaxgen.runs.experiment import open_source  # noqa: E402

OUT = Path(__file__).parent / "gans"
MEASURES = ("fid", "precision_recall", "entropy")
JUDGES = {  # set -> (config, changes, samples, images of the reference): those of family_table.py
    "digits": ("classifier_digits", {}, 297, 1_500),
    "mnist": ("classifier_mnist", {"steps": 1_500, "method.net.width": 16}, 500, 10_000),
    "cifar": ("classifier_cifar", {"steps": 1_000, "method.net.width": 32, "method.net.blocks": 1}, 500, 10_000),
    "emoji": (
        "classifier_cifar",
        {"steps": 400, "method.net.width": 16, "method.net.blocks": 1, "data.name": "folder", "data.size": 64},
        0, 0,
    ),
}  # fmt: skip
WIDTH = {"method.gen.width": 32, "method.disc.width": 32}
RATES = {"method.gen.optimizer.lr": 5e-4, "method.disc.optimizer.lr": 5e-4}  # of a run that is so much shorter
SPECTRAL = {"method.gen.optimizer.lr": 5e-4, "method.disc.optimizer.lr": 1e-3}
ADAM = {  # the program's SGD is for 400,000 steps
    f"method.{net}.{key}": value
    for net in ("gen", "disc", "base_gen", "base_disc")
    for key, value in {"optimizer": "adam", "optimizer.lr": 2e-4, "optimizer.b1": 0.5, "ema": 0.999}.items()
    if key != "ema" or "gen" in net
}


@dataclass(frozen=True)
class Row:
    """A run: figure -> the bar in `least` and `most`, `seeds` of them."""

    config: str
    changes: dict = field(default_factory=dict)
    least: dict = field(default_factory=dict)
    most: dict = field(default_factory=dict)
    seeds: int = 2


def toy(config: str, modes: int, steps: int) -> dict[str, Row]:
    """The games on Gaussians of the plane; the last, without any help, is only reported."""
    gentle = {"method.disc_penalties.strength": 0.1}  # as the program of Gulrajani et al. 2017 for the plane
    wgan_gp = {"method.loss": "wasserstein", "method.disc_penalties": "gradient", **gentle, "method.n_critic": 5}
    hinge = {"method.loss": "hinge", "method.disc_penalties": "none", "method.disc.spectral": True}
    bars = {"modes": modes, "near": 0.85}
    rows = {
        "ns + R1": Row(config, {"steps": steps}, bars),
        "hinge + SN": Row(config, {"steps": steps, **hinge}, bars),
        "WGAN-GP": Row(config, {"steps": steps, **wgan_gp}, bars),
        "plain ns": Row(config, {"steps": steps, "method.disc_penalties": "none"}),
    }
    return {f"{config.removeprefix('gan_')}/{name}": row for name, row in rows.items()}


LABELS = {"rarest_label": 0.05}
ROWS: dict[str, Row] = {
    **toy("gan_ring8", 8, 6_000),
    "digits/concatenation": Row("cgan_digits", {}, {"agreement": 0.95}, {"fid": 0.45}),
    "digits/projection + SN": Row("sngan_digits", {}, {"agreement": 0.95}, {"fid": 0.45}),
    "digits/BigGAN": Row("biggan_digits", {}, {"agreement": 0.95}, {"fid": 0.45}),
    "digits/LAPGAN": Row("lapgan_digits", {}),
    "digits/ProGAN": Row("progan_digits", {}),
    "digits/StyleGAN2 + ADA": Row(
        "stylegan2_digits", {"steps": 2_500, "method.augment": "ada"}, {"agreement": 0.95}, {"fid": 0.30}
    ),
    **toy("gan_grid25", 25, 12_000),
    "mnist/DCGAN": Row("dcgan_mnist", {"steps": 5_000}, LABELS, {"fid": 1.2}),
    "mnist/conditional GAN": Row("cgan_mnist", {"steps": 25_000}, {**LABELS, "agreement": 0.92}),
    "mnist/WGAN-GP": Row("wgan_gp_mnist", {"steps": 1_600, **WIDTH, **RATES}, LABELS),
    "mnist/LSGAN": Row("lsgan_mnist", {"steps": 15_000, **WIDTH}, LABELS),
    "mnist/WGAN": Row("wgan_mnist", {"steps": 1_600, **WIDTH, **RATES}, LABELS),
    "mnist/SNGAN": Row("sngan_mnist", {"steps": 2_000, **WIDTH, **SPECTRAL}, {**LABELS, "agreement": 0.92}),
    "mnist/SAGAN": Row("sagan_mnist", {"steps": 2_000, **WIDTH, **SPECTRAL}, {**LABELS, "agreement": 0.92}),
    "mnist/LAPGAN": Row("lapgan_mnist", {"steps": 3_000}, {"agreement": 0.75}),
    "mnist/ProGAN": Row("progan_mnist", {}, {"agreement": 0.85}),
    "mnist/StyleGAN2": Row("stylegan2_mnist", {"steps": 3_750}, {"agreement": 0.88}),
    "cifar/DCGAN": Row("dcgan_cifar", {"steps": 1_000, **WIDTH}),
    "cifar/LSGAN": Row("lsgan_cifar", {"steps": 2_000, **WIDTH}, {}, {"fid": 4.9}),
    "cifar/SNGAN, 1:1": Row("sngan_cifar", {"steps": 1_500, "method.n_critic": 1, **WIDTH}, {}, {"fid": 4.9}),
    "cifar/SAGAN": Row("sagan_cifar", {"steps": 1_500, **WIDTH}, {}, {"fid": 4.9}),
    "cifar/BigGAN": Row("biggan_cifar", {"steps": 1_000, **WIDTH}, {}, {"fid": 4.9}),
    "cifar/LAPGAN": Row("lapgan_cifar", {"steps": 800, **WIDTH, **ADAM}, {}, {"fid": 4.9}),
    "cifar/StyleGAN2": Row("stylegan2_cifar_conditional", {"steps": 1_500}, {}, {"fid": 4.9}),
}


def bare(figure: str) -> str:
    """Its name without number and protocol."""
    return figure.partition("@")[0].partition(":")[0]


def name_of(row: str) -> str:
    """As part of a file's name."""
    return re.sub(r"\W+", "_", row.replace("++", "pp")).strip("_")


def train(folder: Path, config: str, changes: dict) -> float:
    """A run from where it is to its end -> seconds of all cores together, which others on the machine do not change much."""
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", "jaxgen.main", f"--config={config}", f"--workdir={folder}", *flags]
    subprocess.run(command, check=True)
    spent = folder / "cpu_seconds.txt"  # of a run that was broken off, too
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start
    seconds += float(spent.read_text()) if spent.is_file() else 0.0
    spent.write_text(f"{seconds}")
    return seconds


def budget(changes: dict) -> dict:
    """The rhythm of a run of that length."""
    return {"save_every": changes["steps"], "log_every": max(1, changes["steps"] // 20)} if "steps" in changes else {}


def place(kind: str, args: argparse.Namespace) -> dict:
    """Where the pictures of a set lie."""
    if kind == "emoji":
        return {"data.path": args.pictures}
    return {"data.data_dir": args.data_dir} if kind in ("mnist", "cifar") else {}


def judge_of(kind: str, args: argparse.Namespace, seed: int = 0) -> Path:
    """The run of a set's judge, trained where it is not there; another seed is another classifier."""
    config, changes, *_ = JUDGES[kind]
    folder = args.runs / (f"classifier_{kind}_{seed}" if seed else f"classifier_{kind}")
    if not list(folder.glob("checkpoints/[0-9]*")):
        train(folder, config, {**changes, **budget(changes), **place(kind, args), "seed": seed})
    return folder


def viewer_of(kind: str, args: argparse.Namespace) -> measure.Viewer:
    """Through the judge of a set."""
    return measure.Viewer(measure.native_judge(judge_of(kind, args)), parallel.make_mesh({"data": -1}))


def judged(kind: str, folder: Path, viewer: measure.Viewer, grid: Path) -> dict[str, float]:
    """Figures of a run's samples, with a grid of them."""
    *_, num, reference = JUDGES[kind]
    run, needs = jaxgen.open(folder), measure.needs_of(MEASURES)
    images = run.sample(num)
    told = np.arange(num) % run.exp.spec.classes if run.exp.spec.label else None
    made = measure.summarise(viewer, [(images, told)], needs)
    data = (
        Digits().open("train") if kind == "digits" else open_source(run.exp.config, "train")
    )  # a run may have seen fewer
    pictures = measure.Pictures.of(data, "the reference")
    real = measure.reference(viewer, pictures, needs, reference)
    measures = (*MEASURES, "agreement") if told is not None else MEASURES
    found = measure.compare(measures, made, real, viewer.judge.protocol)
    seen = np.bincount(made.logits.argmax(-1), minlength=made.logits.shape[-1]) / num
    save_grid(grid, images[:80], 10 if told is not None else 0)
    return {bare(k): v for k, v in found.items()} | {"rarest_label": seen.min()}


def planar(folder: Path, grid: Path) -> dict[str, float]:
    """Figures of a run's points, with a plot of them."""
    figures = evaluate(folder)
    shutil.copy(max((folder / "samples").glob("*_ema*.png"), key=lambda p: p.stat().st_mtime), grid)
    return {k: figures[k] for k in ("modes", "near", "least_share")}


def one(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """A row with one seed: trained and judged."""
    row, (kind, _, _) = ROWS[name], name.partition("/")
    viewer = viewer_of(kind, args) if kind in JUDGES else None
    folder = args.runs / f"{name_of(name)}_{seed}"
    changes = {**row.changes, **budget(row.changes), **place(kind, args), "seed": seed}
    seconds = train(folder, row.config, changes)
    grid = OUT / f"{name_of(name)}.png" if not seed else folder / "grid.png"
    found = judged(kind, folder, viewer, grid) if viewer else planar(folder, grid)
    exp = jaxgen.open(folder).exp
    facts = {"images": exp.batch * exp.config.steps, "cpu_minutes": seconds / 60}
    return {k: round(float(v), 4) for k, v in (facts | found).items()}


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """As Markdown: mean and, of several seeds, their standard deviation."""
    keys = ("images", "cpu_minutes", "fid", "agreement", "rarest_label", "modes", "near", "least_share")
    keys = [key for key in keys if any(key in found for row in results.values() for found in row)]
    lines = [f"| row | bar | {' | '.join(k.replace('_', ' ') for k in keys)} | met |", "|---" * (len(keys) + 3) + "|"]
    for name, row in ROWS.items():
        if not (found := results.get(name)):
            continue
        bars = [f"{k} >= {v:g}" for k, v in row.least.items()] + [f"{k} <= {v:g}" for k, v in row.most.items()]
        cells = []
        for key in keys:
            values = [f[key] for f in found if key in f]
            digits = 0 if key in ("images", "modes") else 1 if key == "cpu_minutes" else 3
            spread = (
                f" +- {stdev(values):.{digits or 1}f}"
                if len(values) > 1 and key not in ("images", "cpu_minutes")
                else ""
            )
            cells.append(f"{mean(values):,.{digits}f}{spread}" if values else "")
        met = [
            all(f[k] >= v for k, v in row.least.items()) and all(f[k] <= v for k, v in row.most.items()) for f in found
        ]
        cells.append(f"{sum(met)} of {len(met)}" if bars else "")
        lines.append(f"| {name} | {', '.join(bars) or 'reported'} | {' | '.join(cells)} |".replace("_", " "))
    return "\n".join(lines)


def insert(page: Path, begin: str, text: str) -> None:
    """Between that comment of a page and the next `end`."""
    before, _, after = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n<!-- end -->{after.partition('<!-- end -->')[2]}")


def write(results: dict) -> None:
    """The tables of the README: of these two cores, and of runs on another machine that were brought here."""
    for record, found in (
        ("result.json", results),
        ("h200/result.json", json.loads((OUT / "h200/result.json").read_text())),
    ):
        insert(OUT / "README.md", f"<!-- made by gans.py of {record} -->", table(found))


def run_rows(about: str, out: Path, rows: Mapping[str, Any], one: Callable, write: Callable[[dict], None]) -> None:
    """The command of a table: `one(name, seed, args)` for every seed that out/result.json lacks, and `write` after each."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs") / out.name)
    parser.add_argument("--data_dir", default="")
    parser.add_argument(
        "--pictures", default="", help="of rows of emoji: a folder that holds train and test, a folder for each class"
    )
    parser.add_argument("--weights", default="", help="of rows on a published codec: a folder with TAEF2's two files")
    parser.add_argument("--only", nargs="*", default=[""])
    parser.add_argument("--seeds", type=int, default=9, help="of a row, at most")
    parser.add_argument("--table", action="store_true")
    args, record = parser.parse_args(), out / "result.json"
    results = json.loads(record.read_text()) if record.is_file() else {}
    for name, row in rows.items():
        wanted = not args.table and any(name.startswith(beginning) for beginning in args.only)
        for seed in range(len(results.get(name, [])), min(row.seeds, args.seeds)) if wanted else ():
            try:
                found = one(name, seed, args)
            except subprocess.CalledProcessError as error:
                print(f"{name}: left out, its run ended with {error.returncode}", flush=True)
                break
            results.setdefault(name, []).append(found)
            record.write_text(json.dumps(results, indent=1) + "\n")
            write(results)
            print(name, seed, found, flush=True)
    write(results)


if __name__ == "__main__":
    run_rows(__doc__, OUT, ROWS, one, write)

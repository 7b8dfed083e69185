"""One healthy GAN and four made sick on purpose, on the built-in digits, and each sick one with its cure.

    python experiments/sick_gans.py --runs=runs/gans

Trains what is not there yet (under a minute a run on two quiet cores) and draws experiments/gans/sick.png: a row for each, with
what every run logs; experiments/gans/sick.json has the figures at the end. docs/gans.md says what to see.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from gans import OUT, judged, train, viewer_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jaxgen
from jaxgen.data.pipeline import load_all
from jaxgen.data.sources import Digits
from jaxgen.images import grid
from jaxgen.runs.watch import Watch
from jaxgen.runs.writers import read_metrics

STEPS = 3_000
BASE = {
    "steps": STEPS, "save_every": STEPS, "log_every": 50, "steps_per_call": 10, "eval": "{'loss': {'every': 100}}",
    "method.gen.optimizer.lr": 1e-3, "method.disc.optimizer.lr": 1e-3,
    "method.disc.norm": "none", "method.disc_penalties": "r1", "method.disc_penalties.strength": 0.5,
}  # fmt: skip
FEW = {"data": "arrays", "data.path": "FEW", "data.eval_path": "REST"}  # 300 digits; all others are held out
ALONE = {"method.disc_penalties": "none"}
R1 = {"method.disc_penalties": "r1", "method.disc_penalties.strength": 5.0}


def rates(gen: float, disc: float) -> dict[str, float]:
    return {"method.gen.optimizer.lr": gen, "method.disc.optimizer.lr": disc}


def momentum(b1: float) -> dict[str, float]:
    return {"method.gen.optimizer.b1": b1, "method.disc.optimizer.b1": b1}


RUNS: dict[str, tuple[dict, dict]] = {  # name -> (what makes it so, its cure)
    "healthy": ({}, {}),
    "D too strong": ({**ALONE, **rates(2e-5, 4e-3)}, {**R1, **rates(1e-3, 1e-3)}),
    "collapse": ({**ALONE, **rates(1e-2, 5e-5)}, rates(1e-3, 1e-3)),
    "D knows its images by heart": ({**FEW, **ALONE, **rates(1e-3, 2e-3), "method.disc.width": 128}, R1),
    "rates too large": ({**ALONE, **rates(1e-2, 1e-2), **momentum(0.9)}, {**rates(1e-3, 1e-3), **momentum(0.0)}),
}
PANELS = {
    "losses": ("d_loss_real", "d_loss_fake", "g_loss"),
    "what D says: real, fake, held out": ("d_real", "d_fake", "eval/d_real"),
    "r_t, accuracy": ("r_t", "accuracy"),
    "spread (fake / real)": ("spread",),
}


def changes(own: dict, folder: Path) -> dict:
    """BASE with a run's own keys; the strength is R1's."""
    found = {**BASE, **own}
    if found["method.disc_penalties"] != "r1":
        del found["method.disc_penalties.strength"]
    return {k: {"FEW": folder / "few.npz", "REST": folder / "rest.npz"}.get(v, v) for k, v in found.items()}


def part(folder: Path) -> None:
    """300 digits, as many of each, as few.npz; all others as rest.npz."""
    data = [load_all(Digits().open(split), 1 << 30) for split in ("train", "eval")]
    image, label = (np.concatenate([d[k] for d in data]) for k in ("image", "label"))
    few = np.concatenate([np.flatnonzero(label == i)[:30] for i in range(10)])
    for name, rows in (("few", few), ("rest", np.setdiff1d(np.arange(len(label)), few))):
        np.savez(folder / f"{name}.npz", image=image[rows], label=label[rows])


def told(run: Path) -> list[str]:
    """What the rules of `config.watch` say of a run."""
    watch = Watch(jaxgen.open(run).exp.config)
    return [text for record in read_metrics(run) for text in watch(int(record.pop("step")), record)]


def draw(runs: dict[str, Path]) -> None:
    """A row of curves for each run, and eighty of its samples."""
    figure = Figure(figsize=(17, 2.5 * len(runs)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (name, folder) in enumerate(runs.items()):
        records = read_metrics(folder)
        for column, (title, keys) in enumerate(PANELS.items()):
            axes = figure.add_subplot(len(runs), len(PANELS) + 1, row * (len(PANELS) + 1) + column + 1)
            for key in keys:
                path = key if "/" in key else f"train/{key}"
                found = [(r["step"], r[path]) for r in records if path in r]
                axes.plot(*zip(*found, strict=True), label=key, linewidth=1)
            axes.set_title(f"{name}: {title}", fontsize=8)
            axes.tick_params(labelsize=7)
            axes.legend(fontsize=6)
        axes = figure.add_subplot(len(runs), len(PANELS) + 1, (row + 1) * (len(PANELS) + 1))
        axes.imshow(grid(jaxgen.open(folder).sample(40), 8))
        axes.axis("off")
    figure.savefig(OUT / "sick.png", dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/gans"))
    args = parser.parse_args()
    folder = (args.runs / "sick").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    part(folder)
    viewer, found, shown = viewer_of("digits", args), {}, {}
    for name, (own, cure) in RUNS.items():
        for called, keys in ((name, own), *(((f"{name}, cured"), {**own, **cure}) for _ in [0] if cure)):
            run = folder / called.replace(", ", "_").replace(" ", "_")
            if not (run / f"checkpoints/{STEPS}").exists():
                train(run, "dcgan_digits", changes(keys, folder))
            last = [r for r in read_metrics(run) if "train/spread" in r][-5:]
            ends = {k: np.mean([r[f"train/{k}"] for r in last]) for k in ("d_loss", "g_loss", "r_t", "spread")}
            quality = judged("digits", run, viewer, run / "grid.png")
            found[called] = {k: round(float(v), 3) for k, v in {**ends, **quality}.items()} | {"told": told(run)}
            print(called, found[called], flush=True)
            shown |= {} if called.endswith("cured") else {called: run}
    draw(shown)
    (OUT / "sick.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

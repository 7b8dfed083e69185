"""ADA at 300 digits: one GAN with no augmentation, ADA and DiffAugment, the same images seen (Karras et al. 2020, figure 1).

    python experiments/gans/few_digits.py --runs=runs --out=experiments/gans/few_digits

The net is that of `ada_digits` with a D of 128 channels and a rate of 2e-3 without R1, so that it can know 300 images by heart.
Trains on 30 digits of each label and judges 1,500 samples by `fid:native` against the 1,497 digits that were never seen. Runs that
are there already are not trained again. OUT/result.json has, of every run and seed, FID against the images seen, r_t and p at the
end, and what the run's watch said; OUT/few_digits.png the curves.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxgen.data.pipeline import load_all
from jaxgen.data.sources import Digits
from jaxgen.runs.directory import RunDir
from jaxgen.runs.watch import Watch
from jaxgen.runs.writers import read_metrics

AUGMENTS = ("none", "ada", "diffaugment")
EACH = 30  # digits of a label
JUDGE = "classifier_digits"
CONFIG = "configs/ada_digits.py"
NET = {
    "method.disc_penalties": "none",
    "method.disc.width": 128,
    "method.disc.optimizer.lr": 2e-3,
    "method.gen.optimizer.lr": 1e-3,
}


def split(folder: Path) -> tuple[Path, Path]:
    """Files of the first digits of every label in the training set, and of all others."""
    parts = [load_all(Digits().open(name), 1 << 30) for name in ("train", "eval")]
    whole = {k: np.concatenate([part[k] for part in parts]) for k in ("image", "label")}
    few = np.zeros(len(whole["label"]), bool)
    for label in range(10):
        few[np.flatnonzero(whole["label"] == label)[:EACH]] = True
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "few.npz", folder / "unseen.npz"
    for file, chosen in zip(files, (few, ~few), strict=True):
        np.savez(file, **{k: v[chosen] for k, v in whole.items()})
    return files


def train(config: str, folder: Path, changes: dict) -> None:
    """Train, or go on."""
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    subprocess.run(
        [sys.executable, "-m", "jaxgen.main", f"--config={config}", f"--workdir={folder}", *flags], check=True
    )


def figures(folder: Path) -> dict:
    """Of a run: FID against images seen, how D ended (means over the last fifth of the steps), and what its watch said."""
    config, records = RunDir(folder).config(), read_metrics(folder)
    fids = [(r["step"] * config.data.batch, round(r[k], 4)) for r in records for k in r if k.startswith("eval/fid")]
    last = [r for r in records if "train/r_t" in r and r["step"] > 0.8 * records[-1]["step"]]
    ends = {k: [r[f"train/{k}"] for r in last if f"train/{k}" in r] for k in ("r_t", "augment_p", "spread")}
    watch = Watch(config)
    told = [
        (r["step"], text) for r in records for text in watch(r["step"], {k: v for k, v in r.items() if k != "step"})
    ]
    return {"fid": fids, **{k: round(float(np.mean(v)), 4) for k, v in ends.items() if v}, "watch": told}


def draw(results: dict, path: Path) -> None:
    """FID against images seen."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for color, augment in zip(("tab:red", "tab:blue", "tab:green"), AUGMENTS, strict=True):
        for i, found in enumerate(results.get(augment, {}).values()):
            axes.plot(*zip(*found["fid"], strict=True), color=color, label=None if i else augment, linewidth=1)
    axes.set_xlabel("images seen")
    axes.set_ylabel("fid:native to unseen digits")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    few, unseen = split(args.runs / "few_digits")
    judge = args.runs / JUDGE
    if not list(judge.glob("checkpoints/[0-9]*")):
        train(f"configs/{JUDGE}.py", judge, {})
    every = args.steps // 6
    quality = {
        "name": "quality",
        "protocol": "native",
        "native": str(judge),
        "num": 1500,
        "against": "eval",
        "every": every,
    }
    changes = {
        "data": "arrays", "data.path": few, "data.eval_path": unseen, "steps": args.steps, "log_every": every // 5,
        "eval": {"quality": quality, "loss": {"every": every}, "grid": {"every": args.steps}}, **NET,
    }  # fmt: skip
    record = args.out / "result.json"
    results = json.loads(record.read_text()) if record.is_file() else {}
    for seed in range(args.seeds):
        for augment in AUGMENTS:
            folder = args.runs / f"few_digits_{augment}_{seed}"
            own = {"seed": seed, "method.augment": augment}
            own |= {"method.augment.ramp": 100_000} if augment == "ada" else {}
            train(CONFIG, folder, changes | own)
            found = figures(folder)
            results.setdefault(augment, {})[str(seed)] = found
            record.write_text(json.dumps(results, indent=2) + "\n")
            print(augment, seed, found, flush=True)
    draw(results, args.out / "few_digits.png")


if __name__ == "__main__":
    main()

"""Judge a run on the built-in digits by a classifier of the real ones, and by distances that would betray copies.

    python experiments/judge_digits.py runs/ddpm_digits --out=experiments/ddpm_digits

Writes OUT/result.json and OUT/samples.png. `agreement`: share of samples that the classifier (scikit-learn, trained on the 1,500
real training digits) gives the label that was asked for. `classes`: histogram of its answers. `class_entropy`: entropy of the mean
answer in nats (ln 10 = 2.303 when all digits are equally frequent); `mean_entropy`: mean entropy of single answers (0 = all
are certain). Distances: Euclidean, pixels in [0, 1], to the nearest training digit, as quartiles.
"""

import argparse
import json
import resource
import shutil
from pathlib import Path

import numpy as np
from sklearn.neural_network import MLPClassifier

from jaxgen import backend

backend.configure()

from jaxgen.data.pipeline import load_all  # noqa: E402
from jaxgen.data.sources import Digits  # noqa: E402
from jaxgen.images import save_grid  # noqa: E402
from jaxgen.rundir import RunDir  # noqa: E402
from jaxgen.sample import sample  # noqa: E402
from jaxgen.writers import read_metrics  # noqa: E402


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-12))).sum(-1)


def quartiles(a: np.ndarray, b: np.ndarray, itself: bool = False) -> list[float]:
    """Of the distances from each row of a to its nearest row of b (another one, where b is a)."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    if itself:
        np.fill_diagonal(squared, np.inf)
    return [round(float(q), 3) for q in np.percentile(np.sqrt(np.maximum(squared.min(1), 0)), [0, 25, 50, 75])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run = RunDir(args.workdir)
    train, held = (load_all(Digits().open(split), 1 << 30) for split in ("train", "eval"))
    real, rest = flat(train["image"]), flat(held["image"])
    judge = MLPClassifier((256,), alpha=1e-3, max_iter=300, random_state=0).fit(real, train["label"])
    config = run.config()
    images = sample(args.workdir, args.num, args.out / "drawn", args.seed)
    answers = judge.predict_proba(flat(images))
    result = {
        "config": f"configs/{args.workdir.name}.py",
        "step": max(int(p.name) for p in (args.workdir / "checkpoints").iterdir() if p.name.isdigit()),
        "samples": args.num,
        "judge_on_held_out_digits": round(float(judge.score(rest, held["label"])), 4),
        "classes": np.bincount(answers.argmax(1), minlength=10).tolist(),
        "class_entropy": round(float(entropy(answers.mean(0))), 3),
        "mean_entropy": round(float(entropy(answers).mean()), 3),
        "mean_entropy_of_held_out_digits": round(float(entropy(judge.predict_proba(rest)).mean()), 3),
        "nearest_training_digit": {
            "of_samples": quartiles(flat(images), real),
            "of_held_out_digits": quartiles(rest, real),
            "of_training_digits": quartiles(real, real, itself=True),
            "quartiles": "min, 25 %, 50 %, 75 %",
        },
    }
    if config.data.labels:
        asked = np.load(args.out / "drawn.npz")["labels"]
        result["agreement"] = float((answers.argmax(1) == asked).mean())
    figures = [r for r in read_metrics(args.workdir) if any(k.startswith("eval/") for k in r)]
    result["held_out"] = {k: round(v, 5) for r in figures for k, v in r.items() if k != "step"}
    result["environment"] = json.loads((args.workdir / "run.json").read_text())["starts"][-1]
    result["peak_memory_of_this_script_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    save_grid(args.out / "samples.png", images[:100], 10)
    for name in ("drawn.png", "drawn.npz"):
        (args.out / name).unlink()
    shutil.copy(args.workdir / "loss.png", args.out / "loss.png")
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

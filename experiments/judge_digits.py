"""Judge a run on the built-in digits by a classifier of the real ones, and by distances that would betray copies.

    python experiments/judge_digits.py runs/ddpm_digits --out=experiments/ddpm_digits

Writes OUT/result.json and pictures. `agreement`: share of samples that the classifier (a support vector machine of
scikit-learn, trained on the 1,500 real training digits) gives the label that was asked for. `classes`: histogram of its answers.
`class_entropy`: entropy of the mean answer in nats (ln 10 = 2.303 when all digits are equally frequent); `mean_entropy`: mean
entropy of single answers (0 = all are certain). Distances: Euclidean, pixels in [0, 1], to the nearest training digit, as
quartiles. A run without samples (VQ-VAE) gives its held-out figures and reconstructions.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC

import jaxgen
from jaxgen.core.method import Samples
from jaxgen.data.pipeline import load_all
from jaxgen.data.sources import Digits
from jaxgen.images import save_grid
from jaxgen.runs.writers import read_metrics


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-12))).sum(-1)


def quartiles(a: np.ndarray, b: np.ndarray, itself: bool = False) -> str:
    """Of the distances from each row of a to its nearest row of b (another one, where b is a)."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    if itself:
        np.fill_diagonal(squared, np.inf)
    distances = np.sqrt(np.maximum(squared.min(1), 0))
    return " ".join(f"{q:.3f}" for q in np.percentile(distances, [0, 25, 50, 75]))


def judged(images: np.ndarray, asked: np.ndarray | None) -> dict[str, Any]:
    """Figures of uint8 samples [N, 8, 8, 1]; `asked` are their labels [N], if they were asked for."""
    train, held = (load_all(Digits().open(split), 1 << 30) for split in ("train", "eval"))
    real, rest = flat(train["image"]), flat(held["image"])
    judge = CalibratedClassifierCV(SVC(C=10.0), ensemble=False).fit(real, train["label"])
    answers = judge.predict_proba(flat(images))
    agreement = {} if asked is None else {"agreement": float((answers.argmax(1) == asked).mean())}
    return agreement | {
        "judge_on_held_out_digits": round(float(judge.score(rest, held["label"])), 4),
        "classes": " ".join(map(str, np.bincount(answers.argmax(1), minlength=10))),
        "class_entropy": round(float(entropy(answers.mean(0))), 3),
        "mean_entropy": round(float(entropy(answers).mean()), 3),
        "mean_entropy_of_held_out_digits": round(float(entropy(judge.predict_proba(rest)).mean()), 3),
        "nearest_training_digit": {
            "quartiles": "min, 25 %, 50 %, 75 %",
            "of_samples": quartiles(flat(images), real),
            "of_held_out_digits": quartiles(rest, real),
            "of_training_digits": quartiles(real, real, itself=True),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run, path = jaxgen.open(args.workdir), args.workdir
    args.out.mkdir(parents=True, exist_ok=True)
    figures = [r for r in read_metrics(path) if any(k.startswith("eval/") for k in r)]
    environment = json.loads((path / "run.json").read_text())["starts"][-1]
    result = {
        "command": f"python -m jaxgen.main --config=configs/{path.name}.py --workdir=runs/{path.name}",
        "step": max(r["step"] for r in figures),
        "held_out": {k: round(v, 5) for r in figures for k, v in r.items() if k != "step"},
    }
    drawn = Path("reconstruction.png")
    if isinstance(run.exp.method, Samples):
        drawn = Path("samples.png")
        images = run.sample(args.num, seed=args.seed)
        save_grid(args.out / drawn, images[:100], 10)
        result |= {"samples": args.num, **judged(images, run.exp.labels(args.num) if run.exp.spec.label else None)}
    else:
        shutil.copy(sorted((path / "samples").glob("*reconstruction.png"))[-1], args.out / drawn)
    result["environment"] = {k: environment[k] for k in ("jaxgen", "commit", "python", "versions", "devices", "hosts")}
    shutil.copy(path / "loss.png", args.out / "loss.png")
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

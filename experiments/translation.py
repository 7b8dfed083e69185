"""Measure a run that translates pictures on its held-out pictures.

    python experiments/translation.py pairs runs/facades           # pix2pix, Palette: against the originals and two guesses
    python experiments/translation.py mnist runs/cyclegan_mnist    # digits <-> negatives: is a digit still what it was?

Pairs: `l1`, the mean distance of pixels to the originals in levels of 0..255, of samples, of the mean of all training pictures and
of the training picture whose condition is nearest. `deviation`: standard deviation of all pixels over that of the originals, which
a blurred answer lacks. `edges`: mean step between neighbouring pixels over that of the originals.
MNIST: `kept`, the share of held-out digits that a judge (3 nearest of 10,000 training digits) calls what they are after the
translation, beside its share on the digits themselves; `cycle`, the mean distance there and back in [-1, 1]; `background`, the mean
level of the outer pixels, 255 for negatives.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import jaxgen
from jaxgen.config import registry
from jaxgen.data.pipeline import load_all
from jaxgen.runs.trained import Trained

LIMIT = 4 << 30


def steps(x: np.ndarray) -> float:
    """The mean step between neighbouring pixels, in levels."""
    x = x.astype(np.float32)
    return float(np.mean([np.abs(np.diff(x, axis=axis)).mean() for axis in (1, 2)]))


def pairs(run: Trained) -> dict[str, Any]:
    """Figures of a run that is told pictures, on all that is held out."""
    train, held = (load_all(run.exp.open_source(split), LIMIT) for split in ("train", "eval"))
    truth = held["image"].astype(np.float32)
    flat = [a["seen"].reshape(len(a["seen"]), -1).astype(np.float32) for a in (held, train)]
    near = ((flat[0] ** 2).sum(1)[:, None] + (flat[1] ** 2).sum(1)[None] - 2 * flat[0] @ flat[1].T).argmin(1)
    answers = {
        "run": run.sample(len(truth), seen=held["seen"]),
        "mean training picture": np.broadcast_to(train["image"].mean(0), truth.shape),
        "nearest condition's": train["image"][near],
    }
    return {
        name: {
            "l1": round(float(np.abs(x - truth).mean()), 2),
            "deviation": round(float(x.std() / truth.std()), 3),
            "edges": round(steps(x) / steps(truth), 3),
        }
        for name, x in answers.items()
    } | {"held out": len(truth)}


def digits(run: Trained, part: str, split: str) -> dict[str, np.ndarray]:
    """Digits of one half of MNIST with their labels, as they are written."""
    options = run.exp.config.data.to_dict()[part]
    return load_all(registry.build("source", options.get("source", options)).open(split), LIMIT)


def mnist(run: Trained, num: int = 1000) -> dict[str, Any]:
    """Figures of both ways on so many held-out digits each."""
    known = digits(run, "source_a", "train")
    rows = np.random.default_rng(0).permutation(len(known["image"]))[:10_000]
    near, labels = known["image"][rows].reshape(len(rows), -1) / 255.0, known["label"][rows]

    def judged(x: np.ndarray) -> np.ndarray:
        x = x.reshape(len(x), -1) / 255.0
        distance = (near**2).sum(1)[None] - 2 * x @ near.T
        votes = labels[np.argpartition(distance, 3, 1)[:, :3]]
        return np.array([np.bincount(row, minlength=10).argmax() for row in votes])

    def outer(x: np.ndarray) -> float:
        return float(np.concatenate([x[:, :2].ravel(), x[:, -2:].ravel()]).mean())

    found = {}
    ways = {
        "to negatives": ("source_a", {}, "seen", False),
        "to digits": ("source_b", {"tasks.reverse": {}}, "image", True),
    }
    runs = {way: run.changed(changes) if changes else run for way, (_, changes, _, _) in ways.items()}
    for way, (part, _, told, negative) in ways.items():
        other = next(name for name in ways if name != way)
        held = digits(run, part, "eval")
        chosen = np.random.default_rng(1).permutation(len(held["image"]))[:num]
        x, label = held["image"][chosen], held["label"][chosen]
        given = 255 - x if negative else x
        made = runs[way].sample(num, **{told: given})
        back = runs[other].sample(num, **{ways[other][2]: made})
        found[way] = {
            "kept": float((judged(made if negative else 255 - made) == label).mean()),
            "kept by the judge on the digits themselves": float((judged(x) == label).mean()),
            "cycle": round(float(np.abs(back.astype(float) - given).mean() / 127.5), 4),
            "background": round(outer(made), 1),
            "l1 to the digit's own negative, in levels": round(
                float(np.abs(made.astype(float) - (255.0 - given)).mean()), 2
            ),
        }
    return found


if __name__ == "__main__":
    kind, workdir = sys.argv[1:3]
    opened = jaxgen.open(workdir)
    result = {"pairs": pairs, "mnist": mnist}[kind](opened) | {"step": opened.at}
    print(json.dumps(result, indent=1))
    (Path(workdir) / f"translation_{kind}.json").write_text(json.dumps(result, indent=1) + "\n")

"""FID of a distribution with itself, against the number of images: never 0, and falling as 1 / N.

    python experiments/fid_bias.py --out=experiments/fid_bias [--native=runs/classifier_mnist --data=tfds:mnist --data_dir=D]

Two independent sets of N features of one distribution: normals of Inception's width with variances falling as 1 / k
(and, with --native, a classifier's features of real images, both halves of one data set). Prints the table, and draws it.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from jaxgen.runs import setup

setup.configure()

from jaxgen.compare import open_set  # noqa: E402
from jaxgen.metrics.frechet import Moments, frechet_infinity, frechet_of  # noqa: E402

SIZES = (250, 500, 1_000, 2_500, 5_000, 10_000)


def normals(num: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [num, width], coordinate k of variance 1 / k."""
    return (rng.standard_normal((num, width)) / np.sqrt(np.arange(1, width + 1))).astype(np.float32)


def curve(one: np.ndarray, two: np.ndarray, sizes: list[int]) -> list[dict[str, float]]:
    """FID of the first N rows of either, and FID-infinity of one against all of two."""
    rows = []
    for size in sizes:
        value = frechet_of(Moments.of(one[:size]), Moments.of(two[:size]))
        rows.append({"N": size, "fid": round(value, 5), "N x fid": round(size * value, 1)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--native", default="")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--size", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    sets = {f"normals, D = {args.width}": [normals(SIZES[-1], args.width, rng) for _ in range(2)]}
    if args.native:
        from jaxgen.core import parallel
        from jaxgen.evaluation import features as measure

        viewer = measure.Viewer(measure.native_judge(args.native), parallel.make_mesh({"data": -1}), 256)
        pictures = open_set(args.data, args)
        batches = pictures.batches(range(len(pictures)), viewer.size)
        features = np.concatenate([viewer(images)["features"] for images, _ in batches])
        features = features[rng.permutation(len(features))]
        sets[f"{args.data}, native, D = {features.shape[1]}"] = [features[::2], features[1::2]]
    record = {}
    for name, (one, two) in sets.items():
        print(name)
        sizes = [size for size in SIZES if size <= len(one)]
        whole = Moments.of(two)
        infinity = frechet_infinity(one, whole.mean, whole.cov, points=7).value
        record[name] = {"curve": curve(one, two, sizes), "fid_infinity": round(infinity, 5)}
        print(f"fid_infinity {infinity:.5f}")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "result.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(record, args.out / "fid_bias.png")


def draw(record: dict, path: Path) -> None:
    """FID over N, both logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, found in record.items():
        axes.loglog([r["N"] for r in found["curve"]], [r["fid"] for r in found["curve"]], "o-", label=name)
    axes.set_xlabel("images in either set (N)")
    axes.set_ylabel("FID of a distribution with itself")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

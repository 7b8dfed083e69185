"""Compare two sets of images.

python -m jaxgen.compare generated/ real/                                     FID as pytorch-fid computes it
python -m jaxgen.compare generated.npz tfds:cifar10 --measures=fid,kid,precision_recall --protocol=clean
python -m jaxgen.compare generated/ reference.npz                             against statistics (mu, sigma) of another project
python -m jaxgen.compare generated/ digits --protocol=native --native=runs/classifier_digits
python -m jaxgen.compare restored/ originals/ --paired=psnr,ssim,lpips:alex   image by image, in order of their names
python -m jaxgen.compare real/ --save=real.npz                                statistics for later, in pytorch-fid's format

A set is a folder of images, an array file (.npz, .npy), tfds:NAME or tfds:NAME:SPLIT, digits or digits:eval.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxgen.core.given import expand
from jaxgen.errors import UserError
from jaxgen.runs import setup as backend

OTHERS = ("pytorch_fid", "cleanfid", "torch_fidelity")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m jaxgen.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("made", type=expand, metavar="A", help="the generated images")
    p.add_argument(
        "real",
        type=expand,
        metavar="B",
        nargs="?",
        default="",
        help="the reference: images, or statistics (.npz, .pkl)",
    )
    p.add_argument("--measures", default="fid", help="fid, kid, is, precision_recall, density_coverage, sfid, "
                   "fid_infinity, intra_fid, agreement, entropy (default fid)")  # fmt: skip
    p.add_argument("--protocol", default="pytorch", help="pytorch, clean, fidelity, tf or native (default pytorch)")
    p.add_argument(
        "--paired", default="", help="instead: psnr, ssim, ms_ssim, mse, l1, lpips:alex, lpips:vgg, lpips:squeeze"
    )
    p.add_argument(
        "--luma", action="store_true", help="paired: measure luma (BT.601), as papers on super-resolution do"
    )
    p.add_argument("--border", type=int, default=0, help="paired: leave out so many pixels on every side")
    p.add_argument("--num", type=int, default=0, help="only the first images of A (default: all)")
    p.add_argument("--batch", type=int, default=64, help="images per dispatch (default 64)")
    p.add_argument(
        "--size", type=int, default=0, help="folders: side to which images are brought (default: as they are)"
    )
    p.add_argument("--data_dir", type=expand, default="", metavar="DIR", help="tfds: where sets are prepared")
    p.add_argument("--native", type=expand, default="", metavar="RUN", help="native: the run directory of a classifier")
    p.add_argument(
        "--weights",
        type=expand,
        default="",
        metavar="FILE",
        help="weights of Inception or of LPIPS's trunk (default: download)",
    )
    p.add_argument("--out", type=expand, default="", metavar="FILE", help="append the results to this .jsonl")
    p.add_argument(
        "--save",
        type=expand,
        default="",
        metavar="FILE",
        help="write A's statistics (.npz or .pkl) and measure nothing",
    )
    p.add_argument("--against", action="store_true", help="compute the same by pytorch-fid, clean-fid or torch-fidelity, "
                   "where installed, and compare")  # fmt: skip
    return p


def open_set(text: str, args: argparse.Namespace) -> Any:
    """The Source of a set's name."""
    from jaxgen.data.sources import Arrays, Digits, Folder, Tfds

    kind, _, rest = text.partition(":")
    if kind == "tfds":
        name, _, split = rest.partition(":")
        return Tfds(name, args.data_dir, split=split or "train", size=args.size).open("train")
    if kind == "digits":
        return Digits().open(rest or "train")
    if text.endswith((".npz", ".npy")):
        return Arrays(text, eval_fraction=0.0).open("train")
    if not Path(text).is_dir():
        raise UserError(f"{text!r} is no set of images: name a folder, an .npz or .npy file, tfds:NAME or digits")
    return Folder(text, eval_fraction=0.0, size=args.size).open("train")


def is_statistics(path: str) -> bool:
    """Whether a file holds mu and sigma rather than images."""
    if path.endswith(".npz") and Path(path).is_file():
        with np.load(path, allow_pickle=False) as stored:
            return "mu" in stored.files
    return path.endswith(".pkl")


def watch(what: str, total: int) -> Callable[[Iterable], Iterator]:
    """A progress bar over batches (images, labels)."""

    def bar(batches: Iterable) -> Iterator:
        with tqdm(desc=what, total=total, unit="img", leave=False, disable=None) as shown:
            for images, labels in batches:
                yield images, labels
                shown.update(len(images))

    return bar


def sets(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Records of the measures between two sets."""
    import jax

    from jaxgen.core import parallel
    from jaxgen.evaluation import features

    measures = [name for name in args.measures.split(",") if name]
    needs = features.needs_of(measures)
    made = open_set(args.made, args)
    num = min(args.num or len(made), len(made))
    viewer = features.Viewer(
        features.open_judge(args.protocol, args.native, args.weights), parallel.make_mesh({"data": -1}), args.batch
    )
    if args.save:
        summary = features.summarise(viewer, watch("A", num)(features.source_batches(made, num, viewer.size)), needs)
        features.write(args.save, summary, viewer.judge)
        print(f"{args.save}: mean and covariance of {num} images, protocol {args.protocol}", file=sys.stderr)
        return []
    if is_statistics(args.real):
        real = features.from_file(args.real, viewer.judge)
    else:
        source = open_set(args.real, args)
        real = features.reference(viewer, source, len(source), needs, watch("B", len(source)))
    summary = features.summarise(viewer, watch("A", num)(features.source_batches(made, num, viewer.size)), needs)
    protocol = viewer.judge.protocol
    about = {
        "N": summary.count, "protocol": asdict(protocol), "weights": viewer.judge.weights,
        "reference": {"of": Path(args.real).name, **real.origin},
        "precision": "float32 (highest)", "jax": jax.__version__,
    }  # fmt: skip
    figures = features.compare(measures, summary, real, protocol)
    return [{"metric": name, "value": value, **about} for name, value in figures.items()]


def pairs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Records of measures between images of equal place."""
    import jax

    from jaxgen.evaluation.features import borrow, source_batches
    from jaxgen.images import to_float
    from jaxgen.metrics import pixel, ssim
    from jaxgen.pretrained.features import Lpips

    known = {"psnr": pixel.psnr, "mse": pixel.mse, "l1": pixel.l1, "ssim": ssim.ssim, "ms_ssim": ssim.ms_ssim}
    made, real = open_set(args.made, args), open_set(args.real, args)
    if made.spec.shape != real.spec.shape or (len(made) != len(real) and not args.num):
        raise UserError(
            f"--paired compares image by image, and A holds {len(made)} of {made.spec.shape}, B {len(real)} of "
            f"{real.spec.shape}; give sets of one size and number (--size, --num)"
        )
    functions: dict[str, Callable] = {}
    for name in filter(None, args.paired.split(",")):
        kind, _, net = name.partition(":")
        if kind == "lpips":
            distance = borrow(Lpips(net or "alex", args.weights))
            functions[name] = lambda a, b, distance=distance: distance(*(colour(to_float(x)) for x in (a, b)))
        elif kind in known:
            functions[name] = lambda a, b, f=known[kind]: f(*(seen(x, args) for x in (a, b)))
        else:
            raise UserError(f"--paired={name} is unknown; there are: {', '.join([*known, 'lpips:alex'])}")
    num = min(args.num or len(made), len(made), len(real))
    found: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    both = zip(source_batches(made, num, args.batch), source_batches(real, num, args.batch), strict=True)
    for a, b in watch("pairs", num)((x[0], y[0]) for x, y in both):
        with jax.default_matmul_precision("highest"):
            for name, function in functions.items():
                found[name].append(np.asarray(function(a, b), np.float64))
    about = {
        "N": num,
        "luma": args.luma,
        "border": args.border,
        "precision": "float32 (highest)",
        "jax": jax.__version__,
    }
    return [{"metric": k, "value": float(np.concatenate(v).mean()), **about} for k, v in found.items()]


def seen(x: np.ndarray, args: argparse.Namespace) -> Any:
    """Images as the paired protocol looks at them, on the scale [0, 255]."""
    from jaxgen.metrics import pixel

    return pixel.shave(pixel.luma(x) if args.luma else pixel.floats(x), args.border)


def colour(x: Any) -> Any:
    """Grey repeated to three channels."""
    import jax.numpy as jnp

    return jnp.broadcast_to(x, (*x.shape[:3], 3))


def theirs(args: argparse.Namespace) -> dict[str, float]:
    """The same FID by the reference programs that are installed; they read folders only, and download their weights."""
    from importlib.util import find_spec

    there = [name for name in OTHERS if find_spec(name)]
    if not there:
        raise UserError("--against needs one of pytorch-fid, clean-fid, torch-fidelity: pip install pytorch-fid")
    for path in (args.made, args.real):
        if not Path(path).is_dir():
            raise UserError(f"--against: the reference programs read folders of images, and {path!r} is none")
    found = {}
    if args.protocol == "pytorch" and "pytorch_fid" in there:
        from pytorch_fid.fid_score import calculate_fid_given_paths

        found["pytorch-fid"] = calculate_fid_given_paths([args.made, args.real], args.batch, "cpu", 2048, 0)
    if args.protocol == "clean" and "cleanfid" in there:
        from cleanfid import fid

        found["clean-fid"] = fid.compute_fid(args.made, args.real, device="cpu", use_dataparallel=False, num_workers=0)
    if args.protocol == "fidelity" and "torch_fidelity" in there:
        from torch_fidelity import calculate_metrics

        got = calculate_metrics(input1=args.made, input2=args.real, fid=True, cuda=False, verbose=False)
        found["torch-fidelity"] = got["frechet_inception_distance"]
    if not found:
        raise UserError(f"--against: none of {', '.join(there)} computes protocol {args.protocol!r}; see --protocol")
    return {name: float(value) for name, value in found.items()}


def run(argv: list[str]) -> None:
    """Parse, measure, print and record."""
    args = parser().parse_args(argv)
    if not args.real and not args.save:
        raise UserError("B is missing: the reference set to compare with (or --save=FILE to keep A's statistics)")
    backend.configure()
    records = pairs(args) if args.paired else sets(args)
    for record in records:
        print(f"{record['metric']:<32}{record['value']:.6g}")
    if args.against:
        for name, value in theirs(args).items():
            ours = next(r["value"] for r in records if r["metric"].startswith("fid"))
            print(f"{name:<32}{value:.6g}    difference {ours - value:+.2g}")
    if args.out:
        with open(args.out, "a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)


def main() -> None:
    """Exit code 0: done; 1: an error told in one line."""
    try:
        run(sys.argv[1:])
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Compare two sets of images.

python -m jaxgen.compare generated/ real/                                     FID as pytorch-fid computes it
python -m jaxgen.compare generated.npz tfds:cifar10 --measures=fid,kid,precision_recall --protocol=clean
python -m jaxgen.compare generated/ reference.npz                             against statistics (mu, sigma) of another project
python -m jaxgen.compare generated/ digits --protocol=native --native=runs/classifier_digits
python -m jaxgen.compare restored/ originals/ --paired=psnr,ssim,lpips:alex   image by image, by their names without suffix
python -m jaxgen.compare real/ --save=real.npz                                statistics for later, in pytorch-fid's format

A set is a folder of images, an array file (.npz, .npy), tfds:NAME or tfds:NAME:SPLIT, digits or digits:eval.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxgen.core.given import expand
from jaxgen.errors import UserError, command
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
    p.add_argument(
        "--num", type=int, default=0, help="only a share of A, drawn with seed 0, as many of each class (default: all)"
    )
    p.add_argument("--batch", type=int, default=64, help="images per dispatch (default 64)")
    p.add_argument(
        "--size",
        type=int,
        default=0,
        help="folders: bring images to squares of that side, cutting (default: each as it is)",
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
    """The Pictures of a set's name."""
    from jaxgen.data.sources import Arrays, Digits, Tfds
    from jaxgen.evaluation.pictures import Pictures

    kind, _, rest = text.partition(":")
    if kind == "tfds":
        name, _, split = rest.partition(":")
        return Pictures.of(Tfds(name, args.data_dir, split=split or "train", size=args.size).open("train"), text)
    if kind == "digits":
        return Pictures.of(Digits().open(rest or "train"), text)
    if text.endswith((".npz", ".npy")):
        return Pictures.of(Arrays(text, eval_fraction=0.0).open("train"), text)
    if not Path(text).is_dir():
        raise UserError(f"{text!r} is no set of images: name a folder, an .npz or .npy file, tfds:NAME or digits")
    return Pictures.folder(text, args.size)


def of(pictures: Any) -> dict[str, str]:
    """What a record says of a set: its name and the hash of all that it holds."""
    return {"of": Path(pictures.what).name, "hash": pictures.fingerprint(content=True)}


def is_statistics(path: str) -> bool:
    """Whether a file holds mu and sigma rather than images."""
    if path.endswith(".npz") and Path(path).is_file():
        with np.load(path, allow_pickle=False) as stored:
            return "mu" in stored.files
    return path.endswith(".pkl")


def sets(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Records of the measures between two sets."""
    import jax

    from jaxgen.core import parallel
    from jaxgen.data import share
    from jaxgen.evaluation import features
    from jaxgen.evaluation.pictures import bar

    measures = [name for name in args.measures.split(",") if name]
    needs, made = features.needs_of(measures), open_set(args.made, args)
    judge = features.open_judge(args.protocol, args.native, args.weights)
    viewer = features.Viewer(judge, parallel.make_mesh({"data": -1}), args.batch)

    def summary() -> features.Summary:
        rows = share(made, args.num)
        found = features.summarise(viewer, bar("A", len(rows))(made.batches(rows, viewer.size)), needs)
        say(made.told())
        return found

    if args.save:
        found = summary()
        features.write(args.save, found, judge)
        say([f"{args.save}: mean and covariance of {found.count:,} images, protocol {args.protocol}"])
        return []
    if is_statistics(args.real):
        real = features.from_file(args.real, judge)
    else:
        source = open_set(args.real, args)
        named = {"intra_fid": source.classes, "agreement": judge.classes}
        for name in named.keys() & set(measures):
            if made.classes != named[name]:
                raise UserError(
                    f"{name} compares labels by their place, and {args.made} has the classes {', '.join(made.classes) or 'none'} "
                    f"where there are {', '.join(named[name]) or 'none'}; give class folders of the same names"
                )
        real = features.reference(viewer, source, needs, progress=bar("B", len(source)))
    found = summary()
    about = {
        "made": of(made), "N": found.count, "share": {"of": len(made), "seed": 0}, "sizes": made.span(), "side": args.size,
        "protocol": asdict(judge.protocol), "weights": judge.weights,
        "reference": {"of": Path(args.real).name, **real.origin},
        "precision": "float32 (highest)", "jax": jax.__version__,
    }  # fmt: skip
    figures = features.compare(measures, found, real, judge.protocol)
    say([f"{found.count:,} images of {args.made} against {f'{real.count:,}' if real.count else '?'} of {args.real}"])
    return [{"metric": name, "value": value, **about} for name, value in figures.items()]


def pairs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Records of measures between pictures that belong together."""
    import jax

    from jaxgen.evaluation import pairs

    made, real = open_set(args.made, args), open_set(args.real, args)
    how = pairs.Comparison(tuple(filter(None, args.paired.split(","))), args.luma, args.border, args.weights)
    with tqdm(desc="pairs", unit="pair", delay=2, leave=False, disable=None) as shown:
        figures, about = pairs.compare(made, real, how, args.num, batch=args.batch, progress=shown.update)
    about |= {
        "made": of(made),
        "reference": of(real),
        "side": args.size,
        "precision": "float32 (highest)",
        "jax": jax.__version__,
    }
    say([*made.told(), *real.told(), f"{about['N']} pairs, matched {about['matched']}"])
    if about["left_out"]:
        say([f"pairs left out, since a picture cannot be read: {about['left_out']}"])
    if about["repeated"]:
        say([f"pairs with grey pictures, repeated to three channels: {about['repeated']}"])
    if about["identical"] and "psnr" in figures:
        say([f"pairs of equal pictures, whose PSNR counts as {pairs.PERFECT:g} dB: {about['identical']}"])
    return [{"metric": name, "value": value, **about} for name, value in figures.items()]


def say(lines: Iterable[str]) -> None:
    """What is to be known beside the figures."""
    for line in lines:
        print(line, file=sys.stderr)


def theirs(args: argparse.Namespace) -> dict[str, float]:
    """The same FID by the reference programs that are installed; they read folders only, and download their weights."""
    from importlib.util import find_spec

    there = [name for name in OTHERS if find_spec(name)]
    if not there:
        raise UserError("--against needs one of pytorch-fid, clean-fid, torch-fidelity: pip install pytorch-fid")
    if args.num or args.size or args.paired:
        raise UserError(
            "--against: the reference programs take whole folders as they are; leave out --num, --size and --paired"
        )
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
    for name, least in (("batch", 1), ("num", 0), ("size", 0), ("border", 0)):
        if (value := getattr(args, name)) < least:
            raise UserError(f"--{name}={value} must be at least {least}")
    for path in filter(None, (args.out, args.save)):  # a place that cannot be written is told before all the work
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    if args.out:
        open(args.out, "a").close()
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
            file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in records)


def main() -> None:
    """The command."""
    command(run, parser().print_help)


if __name__ == "__main__":
    main()

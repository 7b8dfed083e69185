"""A run on your own pictures: a file or a whole tree in, the same out.

python -m jaxgen.apply photos/ restored/ --run=runs/dae                  every picture below photos/, in its place below restored/
python -m jaxgen.apply small.png large.png --run=runs/super_resolution   one picture, larger
python -m jaxgen.apply photo.png out.png --run=runs/inpaint --known=mask.png    what is white in the mask is made anew
python -m jaxgen.apply cut/ whole/ --run=runs/inpaint --known=alpha --num=4     what is transparent, four ways: NAME_0.png, ...
python -m jaxgen.apply photo.png out.png --run=runs/ddpm --task=hide --restorer=ddnm --known=mask.png   by one that never learned it

Pictures of any size go through in tiles. Where the net sees no farther than some pixels, the result is that of the whole picture
at once; else tiles overlap and are blended, and a line says how far they differ. A picture that is there already is skipped, so
the same command goes on where it was broken off. One that fails is told in a line and passed by; the exit code is 1 then.
OUT/apply.jsonl has a record of every file. EXIF turns the pixels; the rest of it, the colour profile, grey, alpha and 16 bits stay.
"""

import argparse

from jaxgen.config.files import split
from jaxgen.core.given import expand
from jaxgen.errors import UserError, command
from jaxgen.runs import setup as backend


def parser() -> argparse.ArgumentParser:
    """The command line; `--task.KEY=VALUE` and `--config.KEY=VALUE` are taken apart by `split`."""
    p = argparse.ArgumentParser(
        prog="python -m jaxgen.apply",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="--config.KEY=VALUE changes a key of the run's config for this call: --config.method.solver.steps=20. Any picture "
        "that Pillow reads is taken (PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, PPM); of 16 bits in colour PyAV is asked "
        "(pip install 'jaxgen[media]').",
    )
    p.add_argument("input", type=expand, metavar="IN", help="a picture, or a folder of pictures, with its folders")
    p.add_argument(
        "output", type=expand, metavar="OUT", help="a folder; of one picture also a file, whose end says the format"
    )
    p.add_argument("--run", type=expand, default="", metavar="DIR", help="the run directory of what is to be applied")
    m = p.add_argument_group("what is made")
    m.add_argument(
        "--known", default="", metavar="MASK",
        help="a mask, white where the picture is made anew and black where it comes out bit for bit; a folder of masks, by name; "
        "or alpha: what is not wholly opaque is made anew",
    )  # fmt: skip
    m.add_argument("--invert", action="store_true", help="masks: black is made anew")
    m.add_argument(
        "--num", type=int, default=1, help="so many results of each picture, of the seed and those after it (default 1)"
    )
    m.add_argument(
        "--seed", type=int, default=0, help="another seed gives other pictures, where anything is drawn (default 0)"
    )
    m.add_argument(
        "--task",
        default="",
        metavar="NAME",
        help="what a run does that was trained without it, such as hide (--task.KEY=VALUE: its keys)",
    )
    m.add_argument(
        "--restorer", default="", metavar="NAME", help="how a diffusion model does it all the same, such as ddnm"
    )
    m.add_argument(
        "--weights", default="ema", metavar="NAME", help="ema (default), raw, the label of an average, or stdX"
    )
    m.add_argument("--step", type=int, default=-1, help="the checkpoint (default: the newest)")
    t = p.add_argument_group("tiles")
    t.add_argument(
        "--tile", default="auto", metavar="N", help="side in pixels of the input (default: as it fits the run)"
    )
    t.add_argument(
        "--overlap", default="auto", metavar="N", help="of tiles, in pixels of the input (default: as it fits the run)"
    )
    f = p.add_argument_group("files")
    f.add_argument(
        "--alpha",
        default="net",
        help="of pictures that become larger: net (default), bicubic, or drop: laid on white, as with any run",
    )
    f.add_argument(
        "--format",
        default="same",
        help="same (default), png, jpg, webp, tif, bmp or avif; only jpg and avif lose anything",
    )
    f.add_argument("--suffix", default="", metavar="TEXT", help="behind every name, before its end: --suffix=_x4")
    f.add_argument(
        "--compare", action="store_true", help="write before and after beside each other too, in OUT/compare"
    )
    f.add_argument("--overwrite", action="store_true", help="make anew what is there")
    p.add_argument(
        "--cache",
        type=expand,
        default="",
        metavar="DIR",
        help="where compiled programs are kept (default: JAXGEN_CACHE)",
    )
    p.add_argument("--traceback", action="store_true", help="show where an error came from")
    return p


def run(argv: list[str]) -> None:
    """Parse and act."""
    rest, changes = split(argv)
    rest, task = split(rest, "--task.")
    args = parser().parse_args(rest)
    if not args.run:
        raise UserError("--run=DIR is missing: the run directory of what is to be applied")
    if task and not args.task:
        raise UserError(f"--task.{next(iter(task))} is a key of a task; name it by --task=NAME")
    if args.invert and not args.known:
        raise UserError("--invert turns masks round, and there are none; give some by --known=MASK")
    backend.configure(args.cache)  # before JAX starts
    from jaxgen.apply import job

    changes |= {f"tasks.{args.task}.{key}": value for key, value in task.items()}
    names = ("num", "seed", "task", "restorer", "weights", "step", "tile", "overlap", "alpha")
    how = {name: getattr(args, name) for name in names}
    job.run(
        args.input, args.output, args.run, args.known, args.invert, args.format, args.suffix, args.compare, args.overwrite,
        changes=changes, **how,
    )  # fmt: skip


def main() -> None:
    """The command."""
    command(run, lambda: parser().print_help(), "the same command goes on")


if __name__ == "__main__":
    main()

"""jaxgen: train, evaluate and sample image generators. (`jaxgen` is the same command as `python -m jaxgen.main`.)

python -m jaxgen.main --config=ddpm_digits --workdir=runs/digits                     train (again: resume)
python -m jaxgen.main --config=ddpm_digits:tiny --workdir=runs/tiny                  the same in seconds
python -m jaxgen.main --config=FILE.py --config.method.net.width=64 --config.steps=500 --workdir=D     change any key
python -m jaxgen.main --workdir=runs/digits --mode=sample --num=100 --labels=3,7     images from a run
python -m jaxgen.main --workdir=runs/digits --mode=sample --config.method.solver=ddim --config.method.solver.steps=20
python -m jaxgen.main --workdir=runs/digits --mode=eval                              figures of a run
python -m jaxgen.main --workdir=runs/captioner --mode=caption --input=PICTURES       what pictures show (without: held-out ones)
python -m jaxgen.main --workdir=D --mode=eval --config.eval.quality.num=10000        FID of a run (and many more)
python -m jaxgen.main --workdir=D --mode=sweep --stds=0.02,0.05,0.1,0.2              figures by the length of the average
python -m jaxgen.main --workdir=D --mode=latents --tool=interpolate --tool.pictures=0,3  between samples (also mix, project, ...)
python -m jaxgen.main --config=C --mode=cache --workdir=DIR                          latents of C's pictures, by its codec
python -m jaxgen.main --config=ddpm_digits --mode=show                               every key, its value, what it means
python -m jaxgen.compare made/ real/                                                 figures of two sets of images
python -m jaxgen.apply photos/ restored/ --run=runs/dae                              a run on pictures of your own
"""

import argparse
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from jaxgen.core.given import expand
from jaxgen.errors import UserError, command, line

MODES = ("train", "eval", "sample", "caption", "sweep", "latents", "cache", "show")


def parser() -> argparse.ArgumentParser:
    """The command line; `--config.KEY=VALUE` and `--tool.KEY=VALUE` are taken apart by `config.files.split`."""
    from jaxgen.config.files import available

    configs = "\n".join(f"  {name:<32} {line}" for name, line in available().items())
    p = argparse.ArgumentParser(
        prog="python -m jaxgen.main",
        description=__doc__,
        epilog=f"configs, by name from any directory (add :tiny for the form that takes seconds on a CPU):\n{configs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "--config",
        default="",
        metavar="NAME[:tiny]",
        help="what to train: a config below, FILE.py of your own, or a run directory, whose config it is; a run remembers its own",
    )
    p.add_argument(
        "--workdir", type=expand, default="", metavar="DIR", help="the run directory: checkpoints, metrics, samples"
    )
    p.add_argument(
        "--mode",
        default="train",
        choices=MODES,
        help="train (default); sample: make images; caption: say what pictures show; eval: run the evaluators of the config; "
        "sweep: the same for several averages of the weights; latents: use a tool on what samples are made of; cache: encode "
        "the data once by the config's codec; show: explain every key",
    )
    p.add_argument(
        "--step",
        type=int,
        default=-1,
        help="eval, sample, caption, sweep, latents: the checkpoint (default: the newest)",
    )
    p.add_argument(
        "--weights",
        default="ema",
        metavar="NAME",
        help="eval, sample, caption, latents: ema, the running average of the weights (default); raw, the weights as training "
        "left them; the label of one of several averages; stdX, an average of that width, reconstructed from snapshots",
    )
    p.add_argument("--stds", default="", metavar="A,B,...", help="sweep: widths of averages (default: all kept)")
    p.add_argument(
        "--allow-data-change", action="store_true", help="train: go on with other examples of the same kind than before"
    )
    s = p.add_argument_group("sample")
    s.add_argument("--num", type=int, default=64, help="images (default 64)")
    s.add_argument(
        "--labels",
        default="",
        metavar="A,B,...",
        help="labels to ask for, by name or number, repeated (default: all in turn)",
    )
    s.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="a text to be shown; several take turns"
    )
    s.add_argument("--negative", default="", metavar="TEXT", help="a text to be guided away from")
    s.add_argument(
        "--cascade",
        default="",
        metavar="A,B,...",
        help="in place of --workdir: runs of which each enlarges what the one before makes; --negative is for all that can be "
        "guided, other flags are of the last",
    )
    s.add_argument("--prompts", type=expand, default="", metavar="FILE", help="texts to be shown, one a line")
    s.add_argument("--best-of", type=int, default=1, metavar="N", help="keep the best of N samples of each prompt")
    s.add_argument(
        "--ranker",
        type=expand,
        default="",
        metavar="DIR",
        help="the contrastive run that chooses it (configs/clip_shapes.py)",
    )
    s.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="ask for another condition of the run, such as ink=0.5",
    )
    s.add_argument("--seed", type=int, default=0, help="another seed gives other images (default 0)")
    s.add_argument(
        "--out", type=expand, default="", metavar="PATH", help="PATH.png and PATH.npz (default: in DIR/samples)"
    )
    s.add_argument("--files", action="store_true", help="write every image as a file of its own too")
    c = p.add_argument_group("caption", "takes --out too, and --num where there is no --input")
    c.add_argument(
        "--input", type=expand, default="", metavar="PATH", help="a picture, or a folder of them (default: held-out)"
    )
    t = p.add_argument_group(
        "latents", "takes --labels, --seed and --out too; without --tool it lists all tools and their keys"
    )
    t.add_argument(
        "--tool",
        default="",
        metavar="NAME",
        help="interpolate, mix, arithmetic, directions, truncate, project; its keys are --tool.KEY=VALUE",
    )
    d = p.add_argument_group("machine")
    d.add_argument("--distributed", action="store_true", help="join the other hosts (SLURM, Open MPI, TPU, GKE)")
    d.add_argument(
        "--cache",
        type=expand,
        default="",
        metavar="DIR",
        help="where compiled programs are kept (default: JAXGEN_CACHE, else ~/.cache/jaxgen)",
    )
    p.add_argument("--json", action="store_true", help="show: the config as JSON, for programs")
    p.add_argument("--traceback", action="store_true", help="show where an error came from")
    return p


def run(argv: list[str]) -> None:
    """Parse and act."""
    from jaxgen.config.files import split

    rest, changes = split(argv)
    rest, tool = split(rest, "--tool.")
    args = parser().parse_args(rest)
    _refuse_idle(args)
    if args.cascade:
        args.cascade, args.workdir = _chain(args.cascade, args.workdir)
    if tool and args.mode != "latents":
        raise UserError(f"--tool.{next(iter(tool))} is for --mode=latents, not for --mode={args.mode}")
    from jaxgen.runs import setup as backend

    backend.configure(args.cache)  # before JAX starts
    from jaxgen.config import files as configs
    from jaxgen.core import parallel

    if args.distributed:
        parallel.initialize()
    if args.mode == "latents" and not args.tool:
        from jaxgen.latents.verb import explained

        print(explained())
        return
    if args.mode == "cache" and not args.config:
        raise UserError("--config=NAME is missing: --mode=cache encodes its data by its codec; name one")
    if args.mode in ("train", "cache", "show"):
        base = configs.load(args.config) if args.config else _remembered(args.workdir)
        config = configs.override(base, changes)
        if args.mode == "show":
            from jaxgen.config.explain import explained

            print(configs.to_json(config) if args.json else explained(config))
            return
    if not args.workdir:
        raise UserError("--workdir=DIR is missing: the directory that holds (or will hold) the run")
    if args.mode == "cache":
        from jaxgen.cache import cache

        cache(config, args.workdir)
        return
    if args.mode == "train":
        from jaxgen.train import train

        train(config, args.workdir, args.allow_data_change)
        return
    if args.config:
        _refuse_other(args, changes)
    if args.mode == "eval":
        from jaxgen.evaluate import evaluate

        evaluate(args.workdir, args.step, changes, args.weights)
    elif args.mode == "sweep":
        from jaxgen.evaluate import sweep

        sweep(args.workdir, _numbers(float, "--stds", args.stds, "0.05,0.1"), args.step, changes)
    elif args.mode == "caption":
        from jaxgen.caption import caption

        what = {k: getattr(args, k) for k in ("input", "num", "out", "weights", "step")}
        caption(args.workdir, **what, changes=changes)
    elif args.mode == "latents":
        from jaxgen.latents.verb import latents

        what = {k: getattr(args, k) for k in ("tool", "out", "seed", "labels", "weights", "step")}
        latents(args.workdir, given=tool, **what, changes=changes)
    else:
        from jaxgen.sample import sample

        asked = dict(_pair(text) for text in args.ask)
        names = ("num", "out", "seed", "labels", "weights", "step", "files", "negative", "best_of", "ranker")
        what = {k: getattr(args, k) for k in names}
        prompt = [*args.prompt, *_lines(args.prompts)]
        sample(args.workdir, **what, changes=changes, asked=asked, prompt=prompt, cascade=args.cascade)


# flag -> the modes that it says something to
USERS = {
    **dict.fromkeys(("ask", "files", "prompt", "prompts", "negative", "best_of", "ranker", "cascade"), ("sample",)),
    **dict.fromkeys(("labels", "seed"), ("sample", "latents")),
    "num": ("sample", "caption"),
    "out": ("sample", "caption", "latents"),
    "input": ("caption",),
    "tool": ("latents",),
    "stds": ("sweep",),
    "json": ("show",),
    "weights": ("eval", "sample", "caption", "latents"),
    "step": ("eval", "sample", "caption", "sweep", "latents"),
}


# keys that say how a training goes on, not what is made of it
PACE = re.compile(r"(steps|log_every|save_every|keep|snapshot_every|steps_per_call|mesh|sharding|watch|init)\b")


def _refuse_idle(args: argparse.Namespace) -> None:
    """A UserError for a flag that would be ignored."""
    for name, users in USERS.items():
        if args.mode not in users and getattr(args, name) != parser().get_default(name):
            cure = "; name the averages by --stds=0.05,0.1" if (name, args.mode) == ("weights", "sweep") else ""
            raise UserError(f"--{name} is for --mode={' and --mode='.join(users)}, not for --mode={args.mode}{cure}")


def _refuse_other(args: argparse.Namespace, changes: dict[str, str]) -> None:
    """A UserError unless --config says what the run in --workdir is anyway, but for what the run measured itself and its pace.

    What is made comes from the run's own config.
    """
    from jaxgen.config import files as configs
    from jaxgen.config.length import laid_out

    own, given = _remembered(args.workdir), configs.load(args.config)
    for said in ({}, changes):
        found = configs.differences(own, laid_out(configs.override(given, said), own))
        found = [
            d
            for d in found
            if not PACE.match(d) and not (d.startswith(("tasks.", "data.tokenizer.")) and d.endswith("-> ()"))
        ]
        if not found:
            return
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    raise UserError(
        f"--config={args.config} is another config than that of the run in {args.workdir} (config.{found[0]}{more}); "
        f"leave it out: --mode={args.mode} takes the run's own, and --config.KEY=VALUE changes keys of it for this call"
    )


def _chain(cascade: str, workdir: str) -> tuple[list[str], str]:
    """The runs before the last, and the last; a UserError for fewer than two, or another --workdir."""
    *before, last = (expand(path) for path in cascade.split(","))
    if not before:
        raise UserError(
            f"--cascade={cascade} is one run; name the one that makes small pictures first: --cascade=BASE,{last}"
        )
    if workdir and Path(workdir) != Path(last):
        raise UserError(
            f"--cascade={cascade} ends with {last}, and --workdir={workdir} is another; leave --workdir out"
        )
    return before, last


def _pair(text: str) -> tuple[str, Any]:
    from jaxgen.config.files import parse_value

    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--ask={text} must say a value: --ask={name}=0.5")
    return name, parse_value(value)


def _lines(file: str) -> list[str]:
    """The lines of a text file that are not empty; none of no file."""
    if not file:
        return []
    try:
        text = Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts={file} cannot be read as text: {line(error)}") from None
    if found := [each.strip() for each in text.splitlines() if each.strip()]:
        return found
    raise UserError(f"--prompts={file} holds no text; write one a line")


def _numbers(kind: type, flag: str, text: str, such_as: str) -> tuple:
    try:
        return tuple(kind(word) for word in text.split(",") if word)
    except ValueError:
        raise UserError(f"{flag}={text} must be numbers, such as {flag}={such_as}") from None


def _remembered(workdir: str):
    from jaxgen.runs.directory import RunDir

    if not workdir:
        raise UserError("--config=FILE or --workdir=DIR is missing; run without arguments for help")
    return RunDir(workdir).config()


def main() -> None:
    """The command."""
    command(run, lambda: parser().print_help(), leave=leave)


def leave(code: int) -> NoReturn:
    """End the process; a compilation that was begun ahead is not waited for."""
    if any(thread.name == "ahead" for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()

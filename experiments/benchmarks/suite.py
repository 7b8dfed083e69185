"""All families against the same work in PyTorch, and what a start costs: one record and one table, made by one command.

    python experiments/benchmarks/suite.py [--cases A,B] [--quick] [--device auto|cpu|gpu] [--compile]

Training step, four steps a dispatch, sampling in 50 steps, memory, start. Every case is measured in processes of its own,
one for jaxgen and one for PyTorch, and merged into the record as soon as it is done: a suite that was cut short goes on
with --cases. Both sides must agree on outputs, losses and gradients before anything is timed; then they take turns
(A B C, C B A, ...). A ratio is PyTorch's time over ours, the median over the rounds: above 1, jaxgen is faster. Rounds
during which other processes used more than `--quiet` of the machine are left out. A case takes one to two minutes.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import inception_vs_torch  # noqa: E402
import methods_vs_torch  # noqa: E402
import nets_vs_torch  # noqa: E402
from turns import Contenders, installed, measure, summary  # noqa: E402

MODULES = {name: module for module in (nets_vs_torch, methods_vs_torch, inception_vs_torch) for name in module.CASES}
WHATS = ("train", "sample", "features")  # what is timed
TOLERANCE = {"cpu": 1e-3, "cuda": 3e-2}  # of outputs and losses; TF32 products aside, the two are the same function
CPU = (*nets_vs_torch.CPU, *methods_vs_torch.CASES, *inception_vs_torch.CASES)


def difference(ours: Any, theirs: Any) -> float:
    """Of two arrays, or two dicts of them taken as one: norm of the difference relative to the norm."""
    import numpy as np

    both = [(ours, theirs)] if not isinstance(theirs, dict) else [(ours[k], v) for k, v in theirs.items()]
    norms = np.array([[np.linalg.norm(a - b), np.linalg.norm(b)] for a, b in both])
    return float(np.divide(*np.linalg.norm(norms, axis=0)))


def prepared(case: Any, module: ModuleType, role: str, device: str, pipe: Connection) -> Contenders:
    """The contenders of one side. Ours hands on what the others must start from and agree with."""
    if role == "jaxgen":
        from jaxgen.runs import setup

        setup.configure()
        contenders, *start = module.ours(case)
        pipe.send(start)
        return contenders
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA's default
    torch.backends.cudnn.benchmark = True
    weights, given, found = pipe.recv()
    contenders, other = module.theirs(case, device, weights, given, role == "torch_compile")
    pipe.send({what: difference(found[what], other[what]) for what in other})
    return contenders


def serve(pipe: Connection, name: str, role: str, device: str) -> None:
    """A side in a process of its own: prepares, says what it has, then takes turns as it is told."""
    try:
        contenders = prepared(MODULES[name].CASES[name], MODULES[name], role, device, pipe)
        pipe.send({what: {k: (c.steps, c.temporaries) for k, c in found.items()} for what, found in contenders.items()})
    except Exception as error:
        traceback.print_exc()
        pipe.send(error)
        return
    while order := pipe.recv():
        what, contender, repeat = order
        pipe.send(contenders[what][contender].turn(repeat))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


class Side:
    """The other end of `serve`."""

    def __init__(self, name: str, role: str, device: str):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=serve, args=(end, name, role, device), daemon=True)
        self.process.start()

    def hear(self) -> Any:
        """What it says; what went wrong there goes wrong here."""
        said = self.pipe.recv()
        if isinstance(said, Exception):
            raise said
        return said

    def end(self) -> int:
        """Its peak memory in bytes."""
        self.pipe.send(None)
        peak = self.hear()
        self.process.join()
        return peak


@dataclass(frozen=True)
class Remote:
    """A contender of a side."""

    side: Side
    what: str
    name: str
    steps: int

    def turn(self, repeat: int) -> float:
        """Seconds of so many calls."""
        self.side.pipe.send((self.what, self.name, repeat))
        return self.side.hear()


def compared(name: str, device: str, args: argparse.Namespace) -> dict:
    """The record of a case."""
    case, roles = MODULES[name].CASES[name], ["torch"] + ["torch_compile"] * args.compile
    mine = Side(name, "jaxgen", device)
    start = mine.hear()
    contenders: dict[str, dict[str, Remote]] = {what: {} for what in WHATS}
    memory, differences, sides = {}, {}, {"jaxgen": mine}
    for role in ("jaxgen", *roles):
        if role != "jaxgen":
            sides[role] = Side(name, role, device)
            sides[role].pipe.send(start)
            differences = sides[role].hear()
            if (worst := max(differences.values())) > TOLERANCE[device]:
                sys.exit(f"{name}: the two sides differ by {worst:.1e} ({differences})")
        for what, found in sides[role].hear().items():
            for contender, (steps, temporaries) in found.items():
                contenders[what][contender] = Remote(sides[role], what, contender, steps)
                memory |= {f"temporaries_{what}_{contender}": temporaries} if temporaries else {}
    own = [os.getpid(), *(side.process.pid for side in sides.values())]
    record = dict(case=describe(case), difference={k: float(f"{v:.2g}") for k, v in differences.items()})
    for what in args.what.split(","):
        if contenders[what]:
            record[what] = summary(measure(contenders[what], own, args.rounds, args.seconds, args.quiet))
    return record | dict(memory=memory | {f"peak_{role}": side.end() for role, side in sides.items()})


def describe(case: Any) -> dict:
    """Its fields, as JSON has them."""
    return json.loads(json.dumps(vars(case)))


def show(name: str, record: dict) -> None:
    """A case's figures, in words."""
    print(f"{name}: the two differ by {max(record['difference'].values()):.1e}")
    for what in WHATS:
        for contender, row in record.get(what, {}).get("contenders", {}).items():
            ratio = "x{median} [{low}, {high}]".format(**row["ratio"]) if "ratio" in row else ""
            ms = "{median:9.2f} ms [{low}, {high}]".format(**row["ms"])
            print(f"  {what:7} {contender:14} {ms:32} {ratio}")


def environment(device: str) -> dict:
    """Machine and versions."""
    return dict(
        device=device,
        cores=os.cpu_count(),
        python=platform.python_version(),
        versions={p: installed(p) for p in ("jax", "jaxlib", "flax", "optax", "torch", "numpy")},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help=f"comma separated, of {', '.join(MODULES)}; default by device")
    parser.add_argument("--what", default=",".join(WHATS), help="some of these")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=30.0, help="after which three rounds are enough")
    parser.add_argument("--quiet", type=float, default=0.1, help="largest share of the machine used by others")
    parser.add_argument("--out", type=Path, default=HERE / "cpu.json", help="the record, merged into")
    args = parser.parse_args()
    args.rounds = 3 if args.quick else args.rounds
    names = args.cases.split(",") if args.cases else list(nets_vs_torch.GPU if args.device == "cuda" else CPU)
    if unknown := [n for n in names if n not in MODULES]:
        parser.error(f"unknown case {unknown[0]}: one of {', '.join(MODULES)}")
    for name in names:
        record = compared(name, args.device, args) | environment(args.device)
        show(name, record)
        every = json.loads(args.out.read_text()) if args.out.exists() else {}
        args.out.write_text(json.dumps({**every, name: record}, indent=2) + "\n")


if __name__ == "__main__":
    main()

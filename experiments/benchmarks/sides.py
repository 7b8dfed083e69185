"""A case measured between processes: jaxgen in one, PyTorch in others, each with the settings that are its own.

Both must agree before anything is timed. In one process they would share an allocator, and with it the settings that
jaxgen makes for itself (`runs/setup.py`): `torch_kept` is PyTorch with these, apart from `torch` as it is installed.
"""

import importlib
import multiprocessing
import os
import resource
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import numpy as np
from turns import Contenders, measure, summary

# sampling first: as in a process that only samples
WHATS = ("sample", "generate", "train", "features", "encode", "decode")
TOLERANCE = {"cpu": 1e-3, "cuda": 3e-2}  # of outputs and losses; TF32 products aside, the two are the same function


def difference(ours: Any, theirs: Any) -> float:
    """Of two arrays, or two dicts of them taken as one: norm of the difference relative to the norm; 0 where both are 0."""
    both = [(ours, theirs)] if not isinstance(theirs, dict) else [(ours[k], v) for k, v in theirs.items()]
    norms = np.array([[np.linalg.norm(a - b), np.linalg.norm(b)] for a, b in both])
    off, size = np.linalg.norm(norms, axis=0)
    return float(off / size) if off else 0.0


def prepared(module: ModuleType, name: str, role: str, device: str, pipe: Connection) -> Contenders:
    """The contenders of one side. Ours hands on what the others must start from and agree with."""
    case = module.CASES[name]
    if role in ("jaxgen", "torch_kept"):
        from jaxgen.runs import setup

        setup.configure() if role == "jaxgen" else setup.keep_buffers()
    if role == "jaxgen":
        contenders, *start = module.ours(case)
        pipe.send(start)
        return contenders
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA's default
    torch.backends.cudnn.benchmark = True
    weights, given, found = pipe.recv()
    contenders, other = module.theirs(case, device, weights, given, role == "torch_compile")
    pipe.send({what: difference(found[what], other[what]) for what in other})
    kept = role == "torch_kept"
    return {what: {role: found["torch"]} if kept else found for what, found in contenders.items()}


def serve(pipe: Connection, module: str, name: str, role: str, device: str) -> None:
    """A side in a process of its own: prepares, says what it has, then takes turns as it is told."""
    try:
        contenders = prepared(importlib.import_module(module), name, role, device, pipe)
        pipe.send({what: {k: (c.steps, c.temporaries) for k, c in found.items()} for what, found in contenders.items()})
        while order := pipe.recv():
            what, contender, repeat = order
            pipe.send(contenders[what][contender].turn(repeat))
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    except EOFError:  # nobody listens any more
        return
    except Exception as error:
        traceback.print_exc()
        pipe.send(error)


class Side:
    """The other end of `serve`."""

    def __init__(self, module: ModuleType, name: str, role: str, device: str):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        arguments = (end, module.__name__, name, role, device)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        end.close()

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


def compared(
    module: ModuleType, name: str, roles: list[str], whats: list[str], device: str, **options: Any
) -> dict[str, Any]:
    """The record of a case: differences, times and ratios of what is asked for, memory in bytes. `options`: of `measure`.

    Sides that differ by more than `TOLERANCE` end the program.
    """
    sides = {"jaxgen": Side(module, name, "jaxgen", device)}
    start = sides["jaxgen"].hear()
    contenders: dict[str, dict[str, Remote]] = {what: {} for what in WHATS}
    temporaries: dict[str, dict[str, int]] = {}
    differences: dict[str, float] = {}
    for role in ("jaxgen", *roles):
        if role != "jaxgen":
            sides[role] = Side(module, name, role, device)
            sides[role].pipe.send(start)
            differences = sides[role].hear()
            if not all(value <= TOLERANCE[device] for value in differences.values()):  # NaN too
                sys.exit(f"{name}: {role} and jaxgen are not the same; relative differences: {differences}")
        for what, found in sides[role].hear().items():
            for contender, (steps, size) in found.items():
                contenders[what][contender] = Remote(sides[role], what, contender, steps)
                if size:
                    temporaries.setdefault(what, {})[contender] = size
    own = [os.getpid(), *(side.process.pid for side in sides.values())]
    record: dict[str, Any] = {"difference": float(f"{max(differences.values()):.2g}")}
    for what in WHATS:
        if what in whats and contenders[what]:
            record[what] = summary(measure(contenders[what], own, **options))
    return record | dict(temporaries=temporaries, peak={role: side.end() for role, side in sides.items()})

"""How contenders are timed: in turns, on a machine that is watched, compared round by round."""

import importlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TURN = 0.3  # seconds that a turn lasts at least: the clock of a shared machine wanders within seconds


def find(where: str):
    """ "module:attribute" -> the attribute."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def installed(package: str) -> str:
    """Its release, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@dataclass(frozen=True)
class Contender:
    """A call that waits for its result: so many steps, with so many bytes of temporaries (0: not known)."""

    call: Callable[[], None]
    steps: int = 1
    temporaries: int = 0

    def __call__(self) -> None:
        self.call()

    def turn(self, repeat: int) -> float:
        """Seconds of so many calls."""
        start = time.perf_counter()
        for _ in range(repeat):
            self.call()
        return time.perf_counter() - start


Contenders = dict[str, dict[str, Contender]]  # {what is timed: {name: contender}}


def busy(own: Sequence[int]) -> float:
    """CPU seconds that all processes but these used since the machine started; 0 where nobody counts them (not Linux)."""
    tick = os.sysconf("SC_CLK_TCK")
    try:
        ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        mine = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in own]
    except OSError:
        return 0.0
    return (sum(ticks) - ticks[3] - ticks[4] - sum(int(n) for pair in mine for n in pair)) / tick


def measure(contenders: dict, own: Sequence[int], rounds: int, seconds: float, quiet: float) -> dict:
    """Milliseconds per step of every round, {contender: [rounds]}, and what share of the machine others used, [rounds].

    Contenders have `turn(repeat)` and `steps`. They take turns A B C, C B A, ...: `rounds` times or for so many
    seconds, but at least three times. Rounds during which others used more than `quiet` of the machine are left out;
    where fewer than three are left, three times as long is taken, and then all count.
    """
    repeat = {}
    for name, contender in contenders.items():
        first = contender.turn(1)
        warm = contender.turn(1) if first < 2.0 else first
        repeat[name] = max(1, round(TURN / warm))
    found, calm, began = [], [], time.monotonic()
    while len(found) < 3 or (
        len(calm) < rounds and time.monotonic() - began < (seconds if len(calm) >= 3 else 3 * seconds)
    ):
        names = list(contenders) if len(found) % 2 else list(contenders)[::-1]
        before, start = busy(own), time.monotonic()
        turn = {n: contenders[n].turn(repeat[n]) * 1e3 / repeat[n] / contenders[n].steps for n in names}
        others = (busy(own) - before) / (time.monotonic() - start) / os.cpu_count()
        found.append((others, turn))
        calm = [row for row in found if row[0] <= quiet]
    kept = calm if len(calm) >= 3 else found
    return {"ms": {n: [turn[n] for _, turn in kept] for n in contenders}, "others": [share for share, _ in kept]}


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median and quartiles, to so many significant digits."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {k: float(f"{v:.{digits}g}") for k, v in dict(median=middle, low=low, high=high).items()}


def summary(measured: dict) -> dict:
    """Of `measure`: times, and for our contenders the ratios of PyTorch's times to theirs, round by round."""
    ms = measured["ms"]
    rows = {name: dict(ms=spread(values)) for name, values in ms.items()}
    for name in (name for name in ms if name.startswith("jaxgen")):
        rivals = [rival for rival in ms if rival.startswith("torch")]
        rows[name]["ratio"] = {r: spread([a / b for a, b in zip(ms[r], ms[name], strict=True)]) for r in rivals}
    others = measured["others"]
    return dict(rounds=len(others), others=float(f"{statistics.median(others):.2g}"), contenders=rows)

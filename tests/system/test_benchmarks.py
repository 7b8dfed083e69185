"""The benchmarks: twins in PyTorch take the step that jaxgen takes, and a clock that wanders moves no ratio."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "experiments" / "benchmarks"))

import methods_vs_torch
import nets_vs_torch
from sides import difference
from turns import measure, summary

PARTS = ("gen", "disc", "net", "net.encoder", "net.decoder")
NARROW = {f"method.{part}.{size}": 8 for part in PARTS for size in ("width", "hidden")}
NARROW |= {"method.net.depth": 2}


def narrow(case: methods_vs_torch.Case) -> methods_vs_torch.Case:
    """The case with a few channels and a batch of eight; StyleGAN2, which takes longest to compile, on 16 pixels."""
    small = {k: NARROW.get(k, 8 if k.endswith("channel_max") else v) for k, v in case.changes.items()}
    changes = {**small, **case.alike, "data.batch": 8}
    side = 16 if "stylegan2" in case.config else case.side
    return replace(case, scan=1, cycle=1, generate=min(case.generate, 4), side=side, changes=changes)


CASES = [(methods_vs_torch, narrow(case)) for case in methods_vs_torch.CASES.values()]
CASES.append((nets_vs_torch, replace(nets_vs_torch.CASES["tiny_dit"], scan=1)))


@pytest.mark.parametrize(("module", "case"), CASES, ids=[case.about for _, case in CASES])
def test_twin(module, case):
    pytest.importorskip("torch")
    _, weights, given, found = module.ours(case)
    _, other = module.theirs(case, "cpu", weights, given)
    far = {what: difference(found[what], value) for what, value in other.items()}
    assert all(value < 1e-3 for value in far.values()), far


class Wandering:
    """A contender on a machine whose clock doubles and halves from round to round."""

    steps = 2

    def __init__(self, seconds: float):
        self.seconds, self.calls = seconds, 0

    def turn(self, repeat: int) -> float:
        self.calls += 1
        return repeat * self.seconds * (1.0 + self.calls % 2)


def test_ratio_is_of_rounds():
    contenders = {"jaxgen": Wandering(0.5), "torch": Wandering(0.6)}
    found = measure(contenders, [], rounds=5, seconds=10.0, quiet=1e9)
    assert len(found["others"]) == 5
    rows = summary(found)["contenders"]
    assert rows["jaxgen"]["ratio"]["torch"] == {"median": 1.2, "low": 1.2, "high": 1.2}
    assert rows["jaxgen"]["ms"]["low"] < rows["jaxgen"]["ms"]["high"]
    assert "ratio" not in rows["torch"]

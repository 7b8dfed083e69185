"""Diffusion on 8x8 digits: processes, predictions and solvers against each other, judged by a classifier of the real ones.

    python experiments/diffusion_digits.py --runs=runs/diffusion --judge=runs/classifier_digits --out=experiments/diffusion_digits

Trains what is not there yet (half an hour on two cores), and prints three tables: processes and predictions after a short
training; the usual pairs after a long one, by solver and network evaluations; runs of few steps that `--few` names.
Conditional models without guidance, the held-out digits as the floor. Runs that RUNS/long-NAME already holds are used as they are.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxgen.runs import setup

setup.configure()

import jax  # noqa: E402
import numpy as np  # noqa: E402

import jaxgen  # noqa: E402
from jaxgen.config import registry  # noqa: E402
from jaxgen.core import parallel  # noqa: E402
from jaxgen.core.state import Weights  # noqa: E402
from jaxgen.data.sources import Digits  # noqa: E402
from jaxgen.evaluation import features as measure  # noqa: E402
from jaxgen.images import save_grid, to_uint8  # noqa: E402
from jaxgen.metrics.bits_per_dim import bits_per_dim  # noqa: E402
from jaxgen.runs.experiment import Experiment  # noqa: E402

SHORT, LONG = 400, 2_000
NUM = 300
NFE = (10, 20, 50, 100)
MEASURES = ("fid", "agreement", "entropy")
PROCESSES: dict[str, dict[str, Any]] = {
    "vp": {"schedule": "cosine"}, "edm": {}, "linear": {}, "trigonometric": {},
}  # fmt: skip
PREDICTIONS = ("eps", "x0", "v", "edm")
# The pairs that the papers chose; what else their recipes say of weight and times.
PAIRS: dict[str, dict[str, Any]] = {
    "vp-eps": {}, "vp-v": {"weight": "truncated_snr"},
    "edm-edm": {"weight": "edm", "times": "log_normal"},
    "linear-flow": {},
    "trigonometric-velocity": {},
}  # fmt: skip
SOLVERS: dict[str, dict[str, Any]] = {
    "ddim, eta 1": {"name": "ddim", "eta": 1.0}, "ddim": {"name": "ddim"}, "heun": {"name": "heun"},
    "dpm++ 2M": {"name": "dpm_plus"}, "dpm++ 3M": {"name": "dpm_plus", "order": 3}, "unipc": {"name": "unipc"},
}  # fmt: skip
FROM_NOISE = ("linear", "trigonometric")  # no signal at t = 1: derivatives in time


def train(folder: Path, process: str, predict: str, steps: int, more: dict[str, Any]) -> None:
    """A run of configs/ddpm_digits.py with other parts, unless it is there."""
    if list(folder.glob("checkpoints/[0-9]*")):
        return
    changes = {"steps": steps, "save_every": steps, "log_every": 200, "eval": "{'loss': {'every': 0}}"}
    changes |= {"method.guide": "none", "method.process": process, "method.predict": predict, "method.solver": "ddim"}
    changes |= {f"method.process.{k}": v for k, v in PROCESSES[process].items()}
    changes |= {f"method.{k}": v for k, v in more.items()}
    flags = [f"--config.{k}={v}" for k, v in changes.items()]
    command = [sys.executable, "-m", "jaxgen.main", "--config=configs/ddpm_digits.py", f"--workdir={folder}", *flags]
    subprocess.run(command, check=True)


def solver(spec: dict[str, Any], process: str, nfe: int) -> Any:
    """The solver of `spec` that makes at most so many evaluations."""
    if spec["name"] != "heun":
        return registry.build("solver", {**spec, "steps": nfe, "clip": True})
    # a chain's last even steps lie at endless sigma / alpha, where a second derivative only harms
    grid = {"grid": {"name": "karras", "sigma_min": 0.01, "sigma_max": 80.0}} if process == "vp" else {}
    space = {"space": "time"} if process in FROM_NOISE else {}
    return registry.build("solver", {**spec, **space, **grid, "steps": (nfe + 1) // 2, "clip": True})


class Bench:
    """The judge and its view of the real digits."""

    def __init__(self, judge: Path) -> None:
        self.viewer = measure.Viewer(measure.native_judge(str(judge)), parallel.make_mesh({"data": -1}))
        self.needs = measure.needs_of(MEASURES)
        self.real = measure.reference(self.viewer, Digits().open("train"), 0, self.needs)

    def judged(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Figures of uint8 images by their short names."""
        made = measure.summarise(self.viewer, [(images, labels)], self.needs)
        found = measure.compare(MEASURES, made, self.real, self.viewer.judge.protocol)
        return {name.partition("@")[0].partition(":")[0]: round(value, 4) for name, value in found.items()}

    def floor(self) -> dict[str, float]:
        """The held-out digits."""
        held = [(images, labels) for images, labels in measure.source_batches(Digits().open("eval"))]
        return self.judged(*(np.concatenate(part) for part in zip(*held, strict=True)))


def opened(folder: Path) -> tuple[Experiment, Weights]:
    """A run without its guide, and its averaged weights."""
    run = jaxgen.open(folder)
    if "guide" in run.exp.config.method:
        run = jaxgen.open(folder, changes={"method.guide": "none"})
    return run.exp, run.state.view(ema=True)


def sampled(exp: Experiment, w: Weights, method: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """(uint8 images, their labels, seconds without compiling)."""
    labels = np.arange(NUM, dtype=np.int32) % 10
    make = jax.jit(lambda w, label, rng: method.sample(w, rng, NUM, {"label": label}))
    program = make.lower(w, labels, exp.root).compile()
    start = time.monotonic()
    images = jax.block_until_ready(program(w, labels, exp.root))
    return to_uint8(np.asarray(images)), labels, time.monotonic() - start


def with_steps(method: Any, steps: int) -> Any:
    """The same method, sampling in so many steps."""
    if hasattr(method, "sample_steps"):
        return replace(method, sample_steps=steps)
    return replace(method, solver=replace(method.solver, steps=steps))


def likelihood(exp: Experiment, w: Weights) -> float:
    """Bits per dimension of the held-out digits by the probability flow."""
    nll = registry.build("nll", {"name": "flow", "steps": 25})
    method = replace(exp.method, nll=nll)
    program, total, count = jax.jit(method.log_prob), 0.0, 0.0
    for batch, mask in exp.held_out(exp.open_source("eval"), 0):
        total += float((np.asarray(program(w, batch, exp.root)) * mask).sum())
        count += float(mask.sum())
    return round(float(bits_per_dim(total / count, int(np.prod(exp.spec.shape)))), 4)


def row(*cells: Any) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |"


def tables(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"held-out digits: {results['floor']}",
        "",
        row("process", *PREDICTIONS),
        "|---" * (len(PREDICTIONS) + 1) + "|",
    ]
    for process in PROCESSES:
        cells = [results["short"].get(f"{process}-{predict}", {}) for predict in PREDICTIONS]
        lines.append(row(process, *(f"{c['fid']:.3f} ({c['agreement']:.1%})" if c else "" for c in cells)))
    lines += ["", row("run", "steps", "solver", *(f"{n} NFE" for n in NFE), "s per 1,000 images at 50", "bits/dim")]
    lines.append("|---" * (len(NFE) + 5) + "|")
    for name, found in results["long"].items():
        for kind, by_nfe in found["solvers"].items():
            cells = [f"{by_nfe[str(n)]['fid']:.3f} ({by_nfe[str(n)]['agreement']:.1%})" for n in NFE]
            lines.append(
                row(name, found["steps"], kind, *cells, 1000 * by_nfe["50"]["seconds"] / NUM, found["bits_per_dim"])
            )
    if results.get("few"):
        lines += ["", row("run", *(f"{n} steps" for n in (1, 2, 4))), "|---|---|---|---|"]
        for name, found in results["few"].items():
            lines.append(
                row(name, *(f"{found[str(n)]['fid']:.3f} ({found[str(n)]['agreement']:.1%})" for n in (1, 2, 4)))
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True, help="a run of configs/classifier_digits.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--few", type=Path, nargs="*", default=[], help="runs of consistency, MeanFlow, distillation")
    parser.add_argument("--parts", nargs="*", default=["short", "long", "few"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "result.json"
    results = json.loads(record.read_text()) if record.is_file() else {"short": {}, "long": {}, "few": {}}
    bench = Bench(args.judge)
    results["floor"] = bench.floor()

    def keep() -> None:
        record.write_text(json.dumps(results, indent=1) + "\n")

    for name, more in PAIRS.items() if "long" in args.parts else ():
        process, _, predict = name.partition("-")
        train(args.runs / f"long-{name}", process, predict, LONG, more)
        exp, w = opened(args.runs / f"long-{name}")
        found = results["long"].setdefault(name, {"solvers": {}})
        found["steps"] = int(w.step)
        found["bits_per_dim"] = found.get("bits_per_dim") or likelihood(exp, w)
        for kind, spec in SOLVERS.items():
            for nfe in NFE:
                if str(nfe) in found["solvers"].get(kind, {}):
                    continue
                method = replace(exp.method, solver=solver(spec, process, nfe))
                images, labels, seconds = sampled(exp, w, method)
                figures = bench.judged(images, labels) | {"seconds": round(seconds, 3), "nfe": method.nfe}
                found["solvers"].setdefault(kind, {})[str(nfe)] = figures
                print(name, kind, nfe, figures, flush=True)
                if kind == "dpm++ 2M" and nfe == 20:
                    save_grid(args.out / f"{name}.png", images[:100], 10)
        keep()
    for process in PROCESSES if "short" in args.parts else ():
        for predict in PREDICTIONS:
            name = f"{process}-{predict}"
            if name in results["short"]:
                continue
            train(args.runs / f"short-{name}", process, predict, SHORT, {})
            exp, w = opened(args.runs / f"short-{name}")
            images, labels, _ = sampled(exp, w, replace(exp.method, solver=solver({"name": "ddim"}, process, 50)))
            results["short"][name] = bench.judged(images, labels)
            print(name, results["short"][name], flush=True)
            keep()
    for folder in args.few if "few" in args.parts else ():
        exp, w = opened(folder)
        found = results["few"].setdefault(folder.name, {})
        for steps in (1, 2, 4):
            method = with_steps(exp.method, steps)
            images, labels, seconds = sampled(exp, w, method)
            found[str(steps)] = bench.judged(images, labels) | {"seconds": round(seconds, 3)}
            save_grid(args.out / f"{folder.name}_{steps}.png", images[:100], 10)
            print(folder.name, steps, found[str(steps)], flush=True)
        keep()
    print(tables(results))


if __name__ == "__main__":
    main()

"""How time and memory grow with batch, pixels, width, steps, devices and data: slopes on logarithmic axes.

    python experiments/benchmarks/growth.py [--repeats 5] [--only NAME ...] [--out experiments/benchmarks/growth]

Writes OUT.json and OUT.png. A row's time is the least of its repeats, in which its sizes take turns; memory is what the compiled
program works with. A slope is fitted to the larger half of the sizes, where fixed costs are small, with its standard error; one
that is more than a fifth above what is expected is marked and makes the command fail.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from jaxgen.runs import setup  # noqa: E402

setup.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxgen.config import files as configs  # noqa: E402
from jaxgen.core import parallel  # noqa: E402
from jaxgen.data.pipeline import eval_batches, index_stream, share  # noqa: E402
from jaxgen.data.sources import Shapes  # noqa: E402
from jaxgen.nets.layers import attention  # noqa: E402
from jaxgen.nets.unet import UNet  # noqa: E402
from jaxgen.runs.experiment import Experiment, open_source  # noqa: E402
from jaxgen.runs.writers import Writers  # noqa: E402

SLACK = 0.2  # of an exponent


class Run(NamedTuple):
    """Something to time, and the bytes that its program works with (0: not asked)."""

    call: Callable[[], object]
    memory: int = 0


def program(function: Callable, *args: jax.Array) -> Run:
    """A function, compiled for these arguments."""
    compiled = jax.jit(function).lower(*args).compile()
    return Run(lambda: jax.block_until_ready(compiled(*args)), compiled.memory_analysis().temp_size_in_bytes)


def unet(batch: int = 8, side: int = 16, width: int = 16) -> Run:
    """Loss and gradient of a UNet without attention."""
    net = UNet(shape=(side, side, 3), width=width, mults=(1, 2), blocks=1, groups=8, attend=(), attend_mid=False)
    key = jax.random.key(0)
    x, t = jax.random.normal(key, (batch, side, side, 3)), jnp.linspace(0, 999, batch)
    variables = jax.jit(net.init)(key, x[:1], t[:1])
    return program(jax.grad(lambda v: jnp.mean(net.apply(v, x, t) ** 2)), variables)


def attend(tokens: int) -> Run:
    """Gradient of attention among so many tokens."""
    q = jax.random.normal(jax.random.key(0), (2, tokens, 2, 16))
    return program(jax.grad(lambda q: jnp.sum(attention(q, q, q) ** 2)), q)


def sampling(steps: int) -> Run:
    """Samples of the digits' tiny net in so many steps."""
    changes = {"method.solver.steps": steps, "mesh.data": 1}
    config = configs.override(configs.load("ddpm_digits:tiny"), changes)
    exp = Experiment.open(config, open_source(config, "train").spec)
    w = exp.init().view(ema=True)
    return Run(lambda: exp.sample(w, 8))


def training(steps: int) -> Run:
    """So many dispatches of the digits' tiny VAE."""
    config = configs.override(configs.load("vae_digits:tiny"), {"steps_per_call": 1, "mesh.data": 1})
    exp = Experiment.open(config, open_source(config, "train").spec)
    source = open_source(config, "train")
    rows = [source[i] for i in range(exp.batch)]
    data = parallel.put_replicated(exp.mesh, {k: np.stack([row[k] for row in rows]) for k in exp.read_spec})
    step = exp.compile_steps(1, data)
    indices = parallel.put_batch(exp.mesh, {"i": np.arange(exp.batch, dtype=np.int32)[None]}, leading=1)["i"]

    def call() -> None:
        state = exp.init()
        for _ in range(steps):
            state, metrics = step(state, indices, data, exp.root)
        jax.block_until_ready(metrics)

    return Run(call, step.memory_analysis().temp_size_in_bytes)


def records(num: int) -> Run:
    """What a run writes of itself in so many intervals, with an evaluation at every tenth."""

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            writers = Writers(folder, 0, num)
            for i in range(num):
                writers.scalars(i, {"loss": 1.0})
                if i % 10 == 9:
                    writers.draw()
            writers.close()

    return Run(call)


def indices(num: int) -> Run:
    """The order of an epoch, in batches of 64."""
    seeds = iter(range(1_000))  # an order is remembered
    return Run(lambda: [*zip(range(num // 64), index_stream(num, 64, next(seeds)), strict=False)])


def reading(num: int) -> Run:
    """A pass over so many held-out pictures."""
    source = Shapes(size=16, num=num, eval_num=num).open("eval")
    return Run(lambda: sum(1 for _ in eval_batches(source, 64, num)))


def shares(num: int) -> Run:
    """Which pictures are a balanced half of so many."""
    source = Shapes(size=16, num=num, eval_num=num).open("eval")
    assert len(source.labels) == num
    return Run(lambda: share(source, num // 2))


def devices(num: int) -> Run:
    """A step of the tiny VAE on so many virtual devices of this machine, 64 examples each, in a process of its own."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import growth, jax; from jaxgen.config import files as configs; "
        "growth.timed_step(int(sys.argv[3]))"
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={num}"
    command = [sys.executable, "-c", code, str(ROOT), str(Path(__file__).parent), str(num)]
    out = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(out.stdout)
    return Run(lambda: seconds, memory)


def timed_step(num: int) -> None:
    """In that process: print the seconds of a step and the bytes that each device works with."""
    changes = {"data.batch": 64 * num, "mesh.data": num, "method.net.encoder.width": 256, "steps_per_call": 1}
    config = configs.override(configs.load("vae_digits:tiny"), changes)
    source = open_source(config, "train")
    exp = Experiment.open(config, source.spec)
    rows = [source[i % len(source)] for i in range(exp.batch)]
    batch = parallel.put_batch(exp.mesh, {k: np.stack([r[k] for r in rows])[None] for k in exp.read_spec}, leading=1)
    step, state, times = exp.compile_steps(1, None), exp.init(), []
    for _ in range(30):
        start = time.perf_counter()
        state, metrics = step(state, batch, {}, exp.root)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    print(json.dumps([min(times), step.memory_analysis().temp_size_in_bytes]))


class Row(NamedTuple):
    """Sizes to make a run of, the exponents that its time and memory should have, and what the sizes count."""

    make: Callable[[int], Run]
    sizes: tuple[int, ...]
    time: float
    memory: float | None
    unit: str
    told: bool = False  # the run's own process has measured the time


ROWS = {
    "batch": Row(lambda n: unet(batch=n), (8, 16, 32, 64), 1, 1, "images of a UNet's step"),
    "image size": Row(lambda n: unet(side=round(n**0.5)), (64, 256, 1024, 4096), 1, 1, "pixels of a UNet's step"),
    "width": Row(lambda n: unet(width=n), (16, 32, 64, 128), 2, 1, "channels of a UNet's step"),
    "attention": Row(attend, (128, 256, 512, 1024), 2, 2, "tokens"),
    "training steps": Row(training, (50, 100, 200, 400), 1, 0, "steps"),
    "sampling steps": Row(sampling, (25, 50, 100, 200), 1, None, "steps"),
    "devices": Row(devices, (1, 2, 4, 8), 1, 0, "virtual devices, 64 examples each", told=True),
    "records": Row(records, (50, 100, 200, 400), 1, None, "log intervals"),
    "indices": Row(indices, (50_000, 100_000, 200_000, 400_000), 1, None, "examples of an epoch's order"),
    "reading": Row(reading, (256, 512, 1024, 2048), 1, None, "pictures read"),
    "share": Row(shares, (5_000, 10_000, 20_000, 40_000), 1, None, "pictures chosen from"),
}


def slope(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """Exponent and its standard error, from the larger half of the sizes and one more."""
    keep = len(sizes) // 2 + 1
    x, y = np.log(sizes[-keep:]), np.log(np.maximum(values[-keep:], 1e-12))
    x, y = x - x.mean(), y - y.mean()
    b = float(x @ y / (x @ x))
    return b, float(np.sqrt(((y - b * x) ** 2).sum() / max(keep - 2, 1) / (x @ x)))


def measured(row: Row, repeats: int) -> dict:
    """A row's figures."""
    runs = [row.make(n) for n in row.sizes]
    times = [[] for _ in runs]
    for turn in range(1 if row.told else repeats + 1):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            seconds = run.call()
            if turn or row.told:  # the first warms up
                found.append(seconds if row.told else time.perf_counter() - start)
    result = {"sizes": row.sizes, "unit": row.unit, "seconds": [min(t) for t in times]}
    figures = {"time": (result["seconds"], row.time)}
    if row.memory is not None:
        result["bytes"] = [run.memory for run in runs]
        figures["memory"] = (result["bytes"], row.memory)
    for what, (values, expected) in figures.items():
        exponent, error = slope(row.sizes, values)
        worse = exponent - error > expected + SLACK
        result[what] = {"exponent": round(exponent, 3), "error": round(error, 3), "expected": expected, "worse": worse}
    return result


def draw(rows: dict[str, dict], path: Path) -> None:
    """A panel for every row: time (left) and memory, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 4
    figure = Figure(figsize=(3.6 * columns, 2.8 * -(-len(rows) // columns)), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (name, row) in enumerate(rows.items()):
        axes = figure.add_subplot(-(-len(rows) // columns), columns, i + 1)
        for what, key, unit, color in (("time", "seconds", 1e-3, "tab:blue"), ("memory", "bytes", 1e6, "tab:orange")):
            if what in row:
                each = row[what]
                label = f"{what} ^{each['exponent']:.2f} +- {each['error']:.2f}, should be {each['expected']:g}"
                axes.loglog(row["sizes"], np.array(row[key]) / unit, "o-", color=color, label=label, markersize=3)
        axes.set_title(
            name + (" (WORSE)" if any(row.get(w, {}).get("worse") for w in ("time", "memory")) else ""), fontsize=9
        )
        axes.set_xlabel(row["unit"], fontsize=7)
        axes.set_ylabel("ms" + (", MB" if "memory" in row else ""), fontsize=7)
        axes.tick_params(labelsize=7, which="both")
        axes.set_xticks(row["sizes"], [f"{n:,}" for n in row["sizes"]])
        axes.minorticks_off()
        axes.legend(fontsize=6)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, fit, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""))
    args = parser.parse_args()
    out = args.out.with_suffix(".json")
    report = json.loads(out.read_text()) if out.is_file() else {}
    report |= dict(
        device=str(jax.devices()[0].device_kind),
        cpus=os.cpu_count(),
        python=platform.python_version(),
        jax=version("jax"),
        rows=report.get("rows", {}),
    )
    for name in args.only:
        report["rows"][name] = row = measured(ROWS[name], args.repeats)
        for what in ("time", "memory"):
            if what in row:
                r = row[what]
                mark = "  WORSE" if r["worse"] else ""
                fitted = f"{r['exponent']:6.2f} +- {r['error']:.2f}"
                print(f"{name:<16}{what:<8}{fitted}  (should be {r['expected']:g}){mark}", flush=True)
        report["rows"] = {k: report["rows"][k] for k in ROWS if k in report["rows"]}
        out.write_text(json.dumps(report, indent=2) + "\n")
    draw(report["rows"], args.out.with_suffix(".png"))
    sys.exit(
        any(row.get(what, {}).get("worse", False) for row in report["rows"].values() for what in ("time", "memory"))
    )


if __name__ == "__main__":
    main()

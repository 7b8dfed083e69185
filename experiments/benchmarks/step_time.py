"""Milliseconds of a training step and of sampling in 50 steps: medians, several configs in one process.

    python experiments/benchmarks/step_time.py [--configs FILE[:tiny][,KEY=VALUE...] ...] [--repeats N] [--out F]

    python experiments/benchmarks/step_time.py --configs configs/ddpm_digits.py configs/dcgan_digits.py \\
        configs/dit_s.py,data=shapes,data.size=32,data.num=64,data.eval_num=8,data.batch=4

A training step is the program that `jaxgen.main` runs (config.steps_per_call steps per dispatch, divided by their number), over and
over on the set's first examples, which are kept on the device. Sampling makes config.data.batch images with a solver of 50 steps,
guidance included; methods without a solver take their own number. The configs take turns, `--repeats` times (see `turns.py`).
"""

import argparse
import json
import math
import os
import platform
from pathlib import Path

from turns import Contender, installed, measure, spread

from jaxgen.runs import setup

setup.configure()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from jaxgen.config import files as configs  # noqa: E402
from jaxgen.core import parallel  # noqa: E402
from jaxgen.core.method import Samples  # noqa: E402
from jaxgen.runs.experiment import Experiment, open_source  # noqa: E402


def opened(text: str) -> Experiment:
    """`FILE,KEY=VALUE,...` -> the experiment, with a solver of 50 steps where it has one."""
    name, *changes = text.split(",")
    config = configs.override(configs.load(name), dict(change.split("=", 1) for change in changes))
    if "steps" in config.method.get("solver", {}):
        config = configs.override(config, {"method.solver.steps": 50})
    return Experiment.open(config, open_source(config, "train").spec)


def contenders(exp: Experiment) -> dict[str, Contender]:
    """What is timed: training steps, and sampling where the method samples."""
    num, source = exp.config.steps_per_call, open_source(exp.config, "train")
    rows = [source[i % len(source)] for i in range(exp.batch)]
    data = parallel.put_replicated(exp.mesh, {k: np.stack([row[k] for row in rows]) for k in exp.read_spec})
    batches = np.tile(np.arange(exp.batch, dtype=np.int32), (num, 1))
    batches = parallel.put_batch(exp.mesh, {"i": batches}, leading=1)["i"]
    program, state = exp.compile_steps(num, data), exp.init()
    w = jax.tree.map(jax.numpy.copy, state.view(ema=True))  # a step takes the state's buffers with it

    def train() -> None:
        nonlocal state
        state, metrics = program(state, batches, data, exp.root)
        jax.block_until_ready(metrics)

    found = {"train": Contender(train, num)}
    if isinstance(exp.method, Samples):
        found["sample"] = Contender(lambda: exp.sample(w, exp.feed.batch))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["configs/ddpm_digits.py", "configs/dcgan_digits.py"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", default="", metavar="FILE", help="write JSON here")
    args = parser.parse_args()
    cases = {(text, what): case for text in args.configs for what, case in contenders(opened(text)).items()}
    found = measure(cases, [os.getpid()], args.repeats, math.inf, quiet=1.0)
    report = dict(
        device=str(jax.devices()[0].device_kind),
        cpus=os.cpu_count(),
        python=platform.python_version(),
        jax=installed("jax"),
        unit="ms per training step, ms per batch of samples: median and quartiles",
        others=max(found["others"]),  # share of the machine that other processes used
        cases={},
    )
    for (text, what), values in found["ms"].items():
        row = report["cases"].setdefault(text, {})[what] = dict(**spread(values), n=len(values))
        print(f"{text:<40} {what:<7} {row['median']:9.2f} ms [{row['low']:.2f}, {row['high']:.2f}] n={row['n']}")
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

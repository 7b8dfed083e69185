"""Each CIFAR-10 config at reduced width for a few hundred steps, and its resumption compared bit by bit.

    python experiments/short_runs.py --data_dir=DIR_OF_TFDS_SETS --out=experiments/short_runs

A run of N steps saves at N/2 and N. A copy of its directory loses the checkpoint of step N and resumes; every number in
the two final checkpoints must agree. Losses are means over the first and the last logged interval.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxgen import backend

backend.configure()

from jaxgen.checkpoint import Checkpoints  # noqa: E402
from jaxgen.experiment import Experiment  # noqa: E402
from jaxgen.rundir import RunDir  # noqa: E402
from jaxgen.writers import read_metrics  # noqa: E402

NARROW = {
    "ddpm_cifar": {"method.net.width": 32, "method.net.groups": 8, "method.solver": "ddim", "method.solver.steps": 50,
                   "data.batch": 32, "method.net.optimizer.warmup": 50, "method.net.ema": "0.99"},
    "dcgan_cifar": {"method.gen.width": 32, "method.disc.width": 32},
    "wgan_gp_cifar": {"method.gen.width": 32, "method.disc.width": 32, "steps": 150},
    "vae_cifar": {"method.net.encoder.width": 64, "method.net.decoder.width": 64,
                  "method.net.encoder.hidden": 32, "method.net.decoder.hidden": 32},
    # a code counts as dead after 350 steps at the earliest, so usage is seen to recover only later
    "vqvae_cifar": {"steps": 1200, "method.net.encoder.width": 64, "method.net.decoder.width": 64,
                    "method.net.encoder.hidden": 32, "method.net.decoder.hidden": 32},
}  # fmt: skip


def leaves(workdir: Path) -> list[np.ndarray]:
    run = RunDir(workdir)
    exp = Experiment.open(run.config(), run.info())
    return [np.asarray(x) for x in jax.tree.leaves(Checkpoints(workdir, read_only=True).trained(exp.abstract)[1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=list(NARROW))
    args = parser.parse_args()
    record = args.out / "result.json"
    results = json.loads(record.read_text()) if record.is_file() else {}
    for name in args.only:
        changes = {"steps": args.steps, **NARROW[name]}
        steps = changes["steps"]
        changes |= {"save_every": steps // 2, "log_every": steps // 10, "data.data_dir": args.data_dir}
        changes["eval"] = "{'reconstruct': {'num': 512, 'every': 0}}" if "vqvae" in name else "{'grid': {'every': 0}}"
        command = [sys.executable, "-m", "jaxgen.main", *(f"--config.{k}={v}" for k, v in changes.items())]
        with tempfile.TemporaryDirectory() as folder:
            whole, cut = Path(folder) / "whole", Path(folder) / "cut"
            start = time.monotonic()
            subprocess.run([*command, f"--config=configs/{name}.py", f"--workdir={whole}"], check=True)
            seconds = time.monotonic() - start
            shutil.copytree(whole, cut)
            shutil.rmtree(cut / "checkpoints" / str(steps))
            subprocess.run([*command, f"--config=configs/{name}.py", f"--workdir={cut}"], check=True)
            one, two = leaves(whole), leaves(cut)
            records = [r for r in read_metrics(whole) if "train/loss" in r]
            args.out.mkdir(parents=True, exist_ok=True)
            picture = sorted((whole / "samples").glob("*.png"))[0]
            shutil.copy(picture, args.out / f"{name}.png")
            results[name] = {
                "changes": {k: v for k, v in changes.items() if k != "data.data_dir"},
                "first": {k: round(v, 5) for k, v in records[0].items()},
                "last": {k: round(v, 5) for k, v in records[-1].items()},
                "resumed_bitwise": all(np.array_equal(a, b) for a, b in zip(one, two, strict=True)),
                "leaves_compared": len(one),
                "seconds": round(seconds, 1),
            }
            print(name, json.dumps(results[name], indent=2))
        record.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

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

import jaxgen
from jaxgen.runs.writers import read_metrics

EMA = {"data.batch": 32, "method.net.ema": "0.99"}
WARM = {"method.net.optimizer.warmup": 50, **EMA}
UNET = {"method.net.width": 32, "method.net.groups": 8}
SONG = {"method.net.width": 32, "method.net.blocks": 2, "method.net.mults": (1, 2, 2)}
FLOW = {"method.nll.steps": 10}  # 40 evaluations and as many derivatives an image
NARROW = {
    "ddpm_cifar": {**UNET, **WARM, **FLOW, "method.solver": "ddim", "method.solver.steps": 50},
    "dcgan_cifar": {"method.gen.width": 32, "method.disc.width": 32},
    "wgan_gp_cifar": {"method.gen.width": 32, "method.disc.width": 32, "steps": 150},
    "vae_cifar": {"method.net.encoder.width": 64, "method.net.decoder.width": 64,
                  "method.net.encoder.hidden": 32, "method.net.decoder.hidden": 32},
    # a code counts as dead after 350 steps at the earliest, so usage is seen to recover only later
    "vqvae_cifar": {"steps": 1200, "method.net.encoder.width": 64, "method.net.decoder.width": 64,
                    "method.net.encoder.hidden": 32, "method.net.decoder.hidden": 32},
    "ddpm_cosine_cifar": {**UNET, **EMA, **FLOW, "method.net.blocks": 2, "method.net.optimizer.lr": 2e-4,
                          "method.solver": "ddim", "method.solver.steps": 50},
    "iddpm_cifar": {**UNET, **EMA, **FLOW, "method.net.blocks": 2, "method.net.optimizer.lr": 2e-4,
                    "method.solver.steps": 50, "method.nll.name": "flow"},
    "score_sde_vp_cifar": {**SONG, **WARM, **FLOW, "method.solver": "ddim", "method.solver.steps": 50},
    "score_sde_ve_cifar": {**SONG, **WARM, **FLOW, "method.solver.steps": 50},
    "edm_cifar": {**SONG, **WARM, **FLOW},
    "edm_cifar_conditional": {**SONG, **WARM, **FLOW},
    "flow_cifar": {**SONG, **WARM, **FLOW, "method.solver.steps": 18},
    "dit_s": {**EMA, "method.net.width": 128, "method.net.depth": 6, "method.net.heads": 4, "method.net.patch": 4,
              "method.net.optimizer.lr": 5e-4, "method.solver.steps": 50, "method.nll.name": "flow", **FLOW},
    "sit_b": {**EMA, "method.net.width": 128, "method.net.depth": 6, "method.net.heads": 4, "method.net.patch": 4,
              "method.net.optimizer.lr": 5e-4, "method.solver.steps": 50, **FLOW},
    "consistency_cifar": {**SONG, **WARM},
    "meanflow_cifar": {**SONG, **WARM},
}  # fmt: skip


def evaluators(name: str, changes: dict) -> dict:
    """What is measured at the end: pictures, and bits/dim of 64 held-out images where a likelihood is near at hand."""
    if "vqvae" in name:
        return {"reconstruct": {"num": 512, "every": 0}}
    more = {"likelihood": {"num": 64, "every": 0}} if "method.nll.steps" in changes else {}
    return {"grid": {"every": 0}, **more}


def leaves(workdir: Path) -> list[np.ndarray]:
    """Every array of the newest checkpoint."""
    return [np.asarray(x) for x in jax.tree.leaves(jaxgen.open(workdir).state)]


def resumed(command: list[str], whole: Path, cut: Path, steps: int) -> dict:
    """Whether a copy of the run without its last checkpoint ends in the same bits."""
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / str(steps))
    subprocess.run([*command, f"--workdir={cut}"], check=True)
    one, two = leaves(whole), leaves(cut)
    same = all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    return {"resumed_bitwise": same, "leaves_compared": len(one)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=list(NARROW))
    parser.add_argument("--no_resume", action="store_true", help="leave the second half of the comparison out")
    args = parser.parse_args()
    record = args.out / "result.json"
    results = json.loads(record.read_text()) if record.is_file() else {}
    for name in args.only:
        changes = {"steps": args.steps, **NARROW[name]}
        steps = changes["steps"]
        changes |= {"save_every": steps // 2, "log_every": max(1, steps // 10), "data.data_dir": args.data_dir}
        changes["eval"] = str(evaluators(name, changes))
        command = [sys.executable, "-m", "jaxgen.main", *(f"--config.{k}={v}" for k, v in changes.items())]
        with tempfile.TemporaryDirectory() as folder:
            whole, cut = Path(folder) / "whole", Path(folder) / "cut"
            start = time.monotonic()
            subprocess.run([*command, f"--config=configs/{name}.py", f"--workdir={whole}"], check=True)
            seconds = time.monotonic() - start
            same = {} if args.no_resume else resumed([*command, f"--config=configs/{name}.py"], whole, cut, steps)
            story = read_metrics(whole)
            records = [r for r in story if any(k.startswith("train/") for k in r)]
            bits = [r["eval/likelihood_bits_per_dim"] for r in story if "eval/likelihood_bits_per_dim" in r]
            args.out.mkdir(parents=True, exist_ok=True)
            picture = sorted((whole / "samples").glob("*.png"))[0]
            shutil.copy(picture, args.out / f"{name}.png")
            results[name] = {
                "changes": {k: v for k, v in changes.items() if k != "data.data_dir"},
                "first": {k: round(v, 5) for k, v in records[0].items()},
                "last": {k: round(v, 5) for k, v in records[-1].items()},
                **same,
                "seconds": round(seconds, 1),
                **({"bits_per_dim": round(bits[-1], 4)} if bits else {}),
            }
            print(name, json.dumps(results[name], indent=2))
        record.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

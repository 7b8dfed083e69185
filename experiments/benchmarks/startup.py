"""Seconds from the command to its first line and to the first step, cold and with a warm compilation cache; peak memory.

python experiments/benchmarks/startup.py --config=configs/ddpm_digits.py --out=experiments/benchmarks/startup.json
python experiments/benchmarks/startup.py --against=DIR --repeats=5            another checkout, in turns: ratios of medians
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUIET = ["--config.steps=20", "--config.log_every=10", "--config.eval={}"]
FIRST = re.compile(r"first (\d+ )?steps? done")


def start(tree: Path, config: str, workdir: Path, cache: Path) -> dict[str, float]:
    """One run of 20 steps by the package of that checkout, timed from outside."""
    command = [sys.executable, "-m", "jaxgen.main", f"--config={config}", f"--workdir={workdir}", *QUIET]
    env = {**os.environ, "JAXGEN_CACHE": str(cache), "PYTHONPATH": str(tree)}
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=tree, env=env, stderr=subprocess.PIPE, text=True)
    found: dict[str, float] = {}
    for line in process.stderr:
        found.setdefault("first_line_s", time.monotonic() - began)
        if FIRST.match(line):
            found["first_step_s"] = time.monotonic() - began
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} in {tree} ended with {status}")
    return {**found, "peak_memory_mb": usage.ru_maxrss // 1024}


def main() -> None:
    """All configs, in turns between the checkouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["configs/ddpm_digits.py"])
    parser.add_argument("--against", type=Path, default=None, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    trees = {"here": ROOT, **({"there": args.against.resolve()} if args.against else {})}
    rows: dict[str, dict] = {}
    for config in args.config:
        runs: dict[str, list[dict[str, float]]] = {}
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                for state in ("cold", "warm"):  # the second start finds what the first compiled
                    for name, tree in trees.items():
                        place = Path(folder, name)
                        runs.setdefault(f"{name} {state}", []).append(
                            start(tree, config, place / state, place / "cache")
                        )
        row = {
            kind: {key: round(statistics.median(run[key] for run in found), 2) for key in found[0]}
            for kind, found in runs.items()
        }
        if args.against:
            row["here / there"] = {
                f"{state} {key}": round(row[f"here {state}"][key] / row[f"there {state}"][key], 3)
                for state in ("cold", "warm")
                for key in row["here cold"]
            }
        rows[config] = row
        print(config, json.dumps(row, indent=2))
    record = {"python": platform.python_version(), "jax": version("jax"), "cores": os.cpu_count(), "runs": rows}
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

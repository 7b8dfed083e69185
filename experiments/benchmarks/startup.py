"""Time to the first step of a new run, cold and with a warm compilation cache, and the peak memory of the process.

python experiments/benchmarks/startup.py --config=configs/ddpm_digits.py --out=experiments/benchmarks/startup.json
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# ru_maxrss of this process' children: one child per measurement, so each is measured in a process of its own
MEASURE = (
    "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True);"
    "sys.stderr.write(done.stderr); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024);"
    "sys.exit(done.returncode)"
)


def start(config: str, folder: Path, name: str, extra: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "jaxgen.main", f"--config={config}", f"--workdir={folder / name}", *extra]
    env = {**os.environ, "JAXGEN_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], env=env, capture_output=True, text=True, check=True
    )
    return {
        "first_step_s": float(re.search(r"first step done ([\d.]+) s", done.stderr)[1]),
        "compile_s": float(re.search(r"compile +([\d.]+) s", done.stderr)[1]),
        "peak_memory_mb": int(done.stdout.split()[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["configs/ddpm_digits.py"])
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    rows = {}
    quiet = ["--config.steps=20", "--config.log_every=10", "--config.eval={}"]
    for config in args.config:
        with tempfile.TemporaryDirectory() as folder:
            cold, warm = (start(config, Path(folder), name, quiet) for name in ("cold", "warm"))
        rows[config] = {
            "cold": cold,
            "warm": warm,
            "warm_over_cold": round(warm["first_step_s"] / cold["first_step_s"], 3),
        }
        print(config, json.dumps(rows[config]))
    record = {"python": platform.python_version(), "jax": version("jax"), "cores": os.cpu_count(), "runs": rows}
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

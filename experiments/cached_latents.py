"""Images a second of latent diffusion: TAEF2 in the step, and its latents cached before.

    python experiments/cached_latents.py --weights=DIR_OF_TAEF2 --data=FOLDER_OF_EMOJI [--cache=DIR]

Pictures are 64 px, latents 8x8x32; the net is that of configs/latent_digits.py at width 64. Programs of four steps take turns in
one process; the figure is the median of the ratios of neighbouring turns. Writes experiments/text/cached.json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import numpy as np

from jaxgen.cache import cache
from jaxgen.config import files as configs
from jaxgen.core import parallel
from jaxgen.data.pipeline import load_all
from jaxgen.runs import setup
from jaxgen.runs.experiment import Experiment, open_source

OUT = Path(__file__).parent / "text/cached.json"
STEPS, TURNS = 4, 10


def main() -> None:
    """Measure once."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--weights", required=True)
    options.add_argument("--data", required=True)
    options.add_argument("--cache", default="")
    args = options.parse_args()
    setup.configure("")
    own = {"data": "folder", "data.path": args.data, "data.size": 64, "data.labels": False, "method.guide": "none"}
    own |= {"tasks.codec.run": "pretrained", "tasks.codec.run.path": args.weights, "data.batch": 32}
    own |= {"method.net.width": 64, "method.net.null_label": False, "tasks.codec.mean": (0.0,) * 32}
    pictures = configs.override(configs.load("configs/latent_digits.py"), own | {"tasks.codec.std": (0.8,) * 32})
    folder = args.cache or tempfile.mkdtemp()
    began = time.perf_counter()
    cache(pictures, folder)
    took = time.perf_counter() - began
    runs = {}
    for name, more in (("encoded", {}), ("cached", {"data": "latents", "data.path": folder})):
        config = configs.override(pictures, more)
        source = open_source(config, "train")
        exp = Experiment.open(config, source.spec)
        data = parallel.put_replicated(exp.mesh, load_all(source, 1 << 30))
        rows = np.arange(STEPS * exp.batch, dtype=np.int32).reshape(STEPS, -1) % len(source)
        runs[name] = [exp.compile_steps(STEPS, data), exp.init(), rows, data, exp.root]

    def turn(name: str) -> float:
        program, state, *rest = runs[name]
        start = time.perf_counter()
        runs[name][1], _ = jax.block_until_ready(program(state, *rest))
        return STEPS * rest[0].shape[1] / (time.perf_counter() - start)

    for name in runs:
        turn(name)
    speeds = [{name: turn(name) for name in runs} for _ in range(TURNS)]
    found = {name: median(s[name] for s in speeds) for name in runs}
    found |= {"ratio": median(s["cached"] / s["encoded"] for s in speeds), "seconds to cache": took}
    print(found)
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

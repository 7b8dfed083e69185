"""Examples a second of a run that is told captions: a frozen encoder in the step, and its states cached before.

    python experiments/cached_states.py [--depth=12] [--width=512]

The net is that of configs/text_shapes.py; the encoder has the sizes of CLIP ViT-B/32's and random weights, and reads 77 tokens.
Programs of one step take turns in one process; the figure is the median of the ratios of neighbouring turns. Writes
experiments/text/cached_states.json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jaxgen.cache import cache
from jaxgen.config import files as configs
from jaxgen.core import parallel
from jaxgen.data.pipeline import load_all
from jaxgen.nets.text import ClipText
from jaxgen.pretrained.text import to_transformers
from jaxgen.runs import setup
from jaxgen.runs.experiment import Experiment, open_source

OUT = Path(__file__).parent / "text/cached_states.json"
TURNS, LENGTH, VALUES, HEADS = 10, 77, 512, 8


def published(folder: Path, depth: int, width: int) -> None:
    """A folder as transformers writes it, of random weights."""
    module = ClipText(values=VALUES, length=LENGTH, depth=depth, width=width, heads=HEADS, hidden=4 * width)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))
    save_file(to_transformers(module, variables), folder / "model.safetensors")
    told = dict(
        model_type="clip_text_model", vocab_size=VALUES, hidden_size=width, intermediate_size=4 * width, eos_token_id=2
    )
    told |= dict(num_hidden_layers=depth, num_attention_heads=HEADS, max_position_embeddings=LENGTH)
    (folder / "config.json").write_text(json.dumps(told))


def main() -> None:
    """Measure once."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--depth", type=int, default=12)
    options.add_argument("--width", type=int, default=512)
    args = options.parse_args()
    setup.configure("")
    with tempfile.TemporaryDirectory() as place:
        folder, states = Path(place, "clip"), Path(place, "states")
        folder.mkdir()
        published(folder, args.depth, args.width)
        frozen = {"name": "frozen", "run": {"name": "published_text", "path": str(folder)}}
        own = {
            "method.net.text": None,
            "method.text_encoder": frozen,
            "data.num": 1000,
            "data.tokenizer.length": LENGTH,
        }
        encoded = configs.override(configs.load("configs/text_shapes.py"), own)
        began = time.perf_counter()
        cache(encoded, states)
        took, runs = time.perf_counter() - began, {}
        for name, path in (("encoded", ""), ("cached", str(states))):
            config = configs.override(encoded, {"method.text_encoder.cache": path})
            source = open_source(config, "train")
            exp = Experiment.open(config, source.spec)
            data = parallel.put_replicated(exp.mesh, load_all(source, 1 << 30))
            rows = np.arange(exp.batch, dtype=np.int32).reshape(1, -1)
            runs[name] = [exp.compile_steps(1, data), exp.init(), rows, data, exp.root]

        def turn(name: str) -> float:
            program, state, *rest = runs[name]
            start = time.perf_counter()
            runs[name][1], _ = jax.block_until_ready(program(state, *rest))
            return rest[0].size / (time.perf_counter() - start)

        for name in runs:
            turn(name)
        speeds = [{name: turn(name) for name in runs} for _ in range(TURNS)]
        found = {name: median(s[name] for s in speeds) for name in runs}
        found |= {"ratio": median(s["cached"] / s["encoded"] for s in speeds), "seconds to cache": took}
        found |= {"texts": len(np.load(states / "text/ids.npy"))}
    print(found)
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What every config costs: parameters, arithmetic of a step and of the whole run -> docs/costs.md. Nothing is run.

python experiments/benchmarks/costs.py [--configs ddpm_cifar ...]

The arithmetic is that of the step as it is written (see `operations.py`). Shapes are enough for it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from cases import CONFIGS, lend  # noqa: E402
from operations import operations  # noqa: E402
from published import full_size  # noqa: E402

from jaxgen.config import files as configs  # noqa: E402
from jaxgen.core import parallel  # noqa: E402
from jaxgen.core.spec import Field, Spec, pictures  # noqa: E402
from jaxgen.data.sources.tokenized import CAPTIONS  # noqa: E402
from jaxgen.runs.experiment import Experiment, build_tokenizers, open_source  # noqa: E402

SPECS = {
    "cifar10": pictures((32, 32, 3), 10),
    "celeb_a": pictures((128, 128, 3)),
    "mnist": pictures((28, 28, 1), 10),
    "imagenet_resized/64x64": pictures((64, 64, 3), 1_000),
    "imagenet2012": pictures((256, 256, 3), 1_000),
}
SPEEDS = {"a laptop, 100 GFLOP/s": 1e11, "a T4, 10 TFLOP/s": 1e13, "an A100, 100 TFLOP/s": 1e14}
PAGE = ROOT / "docs" / "costs.md"
HEAD = """# What a config costs

Before you start a run: how large its nets are, how much arithmetic a step and the whole run take, and what that is in time at
speeds that such machines may reach (a laptop's cores together 100 GFLOP/s, a free Colab GPU 10 TFLOP/s, a large one 100 TFLOP/s in
bfloat16). Loading, evaluation and sampling come on top. A run says its own figure after its first steps, and the
memory that a step needs before them. `:tiny` of any config takes seconds.

This page is made by `python experiments/benchmarks/costs.py`, which counts and runs nothing.

"""


def duration(seconds: float) -> str:
    """In the unit that fits."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return "1 min" if seconds > 30 else "seconds"


def shape_of(data: ConfigDict) -> tuple[int, ...]:
    """Of the pictures of a source within a source."""
    data = data.get("source", data)
    return SPECS[data.dataset].shape if data.name == "tfds" else (data.size, data.size, 3)


def seen_and_made(seen: tuple[int, ...], made: tuple[int, ...], order: int = 0) -> Spec:
    """The Spec of pictures that are made of others."""
    return Spec(pictures(made), seen=Field(seen, "uint8", "image", order=order))


def spec_of(config: ConfigDict) -> Spec | None:
    """What data hold that are not here; None of those that are."""
    data = config.data
    if data.name == "pairs":
        return seen_and_made(*[(data.size, data.size, 3)] * 2)
    if data.name == "unpaired":
        return seen_and_made(*(shape_of(data[k]) for k in ("source_a", "source_b")), order=1)
    if data.name == "crops":
        return pictures((data.size, data.size, data.channels or 3))
    if data.name not in ("tfds", "folder"):
        return None
    square = SPECS[data.dataset] if data.name == "tfds" else pictures((data.size, data.size, 3), 10)
    captions = {k: one.field() for k, one in zip(CAPTIONS, build_tokenizers(config), strict=False)}
    return Spec({**square.where(lambda _, f: f.kind != "label"), **captions}) if captions else square


def row(name: str, folder: Path) -> dict[str, str]:
    """A line of the table."""
    config = full_size(name, folder)
    spec = spec_of(config) or open_source(config, "train").spec  # which comes with the package, or is drawn
    total = 0.0
    for stage in configs.phases(lend(config, spec, folder, weights=False)):  # the last makes what the run is for
        exp = Experiment(stage.config, spec, parallel.make_mesh({"data": 1}))
        batch = exp.read_spec.abstract(exp.batch)
        step = operations(jax.make_jaxpr(exp.step)(exp.abstract, batch, exp.root).jaxpr)
        total += (stage.stop - stage.start) * step
    flops = total / config.steps  # of a step, over all phases
    three = float(f"{flops / 1e9:.3g}")  # digits
    parameters = sum(x.size for net in exp.abstract.nets.values() for x in jax.tree.leaves(net.params))
    return {
        "config": f"`{name}`",
        "parameters": f"{parameters / 1e6:,.2f} M",
        "batch": str(exp.batch),
        "GFLOP a step": f"{three:,.10g}",
        "steps": f"{config.steps:,}",
        **{machine: duration(total / speed) for machine, speed in SPEEDS.items()},
    }


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="*", default=list(CONFIGS))
    names = parser.parse_args().configs
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, Path(folder)) for name in tqdm(names)]
    lines = [list(rows[0]), ["---"] + ["---:"] * (len(rows[0]) - 1), *(list(r.values()) for r in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    if names == list(CONFIGS):
        PAGE.write_text(HEAD + table + "\n")
    print(table)


if __name__ == "__main__":
    main()

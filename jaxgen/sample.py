"""A run directory -> images: a grid, an .npz and single files."""

import sys
from pathlib import Path

import numpy as np

from jaxgen.core import parallel
from jaxgen.errors import UserError
from jaxgen.images import save_grid, save_png, to_uint8
from jaxgen.runs.checkpoint import Averages, Checkpoints
from jaxgen.runs.directory import RunDir
from jaxgen.runs.experiment import Experiment
from jaxgen.runs.posthoc import choose


def sample(
    workdir: str | Path,
    num: int = 64,
    out: str | Path = "",
    seed: int = 0,
    labels: tuple[int, ...] = (),
    weights: str = "ema",
    step: int = -1,
    files: bool = False,
) -> np.ndarray:
    """uint8 [num, H, W, C] from the newest checkpoint (or `step`'s).

    `weights`: ema, raw, the label of an average, or stdX for one reconstructed from the run's snapshots.
    Writes OUT.png (a grid) and OUT.npz (`images`, and `labels` where asked for), and OUT/00000.png ... with `files`.
    `labels` repeat over the samples; empty means 0, 1, ..., classes - 1, 0, ... Needs neither config file nor data.
    """
    run = RunDir(workdir)
    config, info = run.config(), run.info()
    exp = Experiment.open(config, info)
    if num < 1:
        raise UserError(f"--num={num} must be at least 1")
    if labels and not exp.feed.labels:
        raise UserError(f"--labels was given but {run.path} is an unconditional run; train one with data.labels=True")
    for label in labels:
        if not 0 <= label < info.classes:
            raise UserError(
                f"--labels={label} is out of range; the labels are 0 to {info.classes - 1}: {', '.join(info.label_names)}"
            )
    wanted = np.resize(np.asarray(labels, np.int32), num) if labels else exp.labels(num)
    at, state = Checkpoints(run.path, read_only=True).trained(exp.abstract, step)
    state = exp.lend(state)
    choice = choose(state, weights, Averages(run.path, read_only=True))
    images = to_uint8(exp.sample(choice.weights(), num, seed, wanted))
    if parallel.is_lead():
        kind = "" if weights == "ema" else f"_{choice.name}"
        target = Path(out) if str(out) else run.path / "samples" / f"{at:07d}_seed{seed}{kind}"
        target = target.with_suffix("") if target.suffix in (".png", ".npz") else target
        columns = info.classes if exp.feed.labels and not labels and info.classes <= 16 else 0
        grid, arrays = (target.with_name(target.name + end) for end in (".png", ".npz"))  # names may hold dots: std0.07
        save_grid(grid, images, columns)
        part = target.with_name(target.name + ".part.npz")
        np.savez(part, images=images, **({"labels": wanted} if exp.feed.labels else {}))
        part.replace(arrays)
        for i, image in enumerate(images if files else ()):
            save_png(target / f"{i:05d}.png", image)
        how = f"{choice.name} {choice.told or 'weights'}, seed {seed}"
        print(f"{num} samples of step {at} ({how}): {grid}", file=sys.stderr)
    return images

"""A run directory -> images: a grid, an .npz and single files."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core import parallel
from jaxgen.core.given import expand
from jaxgen.images import save_grid, save_png
from jaxgen.runs.trained import Trained


def sample(
    workdir: str | Path,
    num: int = 64,
    out: str | Path = "",
    seed: int = 0,
    labels: tuple[int, ...] = (),
    weights: str = "ema",
    step: int = -1,
    files: bool = False,
    changes: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """uint8 [num, H, W, C] from the newest checkpoint (or `step`'s).

    `weights`: ema, raw, the label of an average, or stdX for one reconstructed from the run's snapshots. `changes` to the
    run's config hold for these samples: another solver, another guide.
    Writes OUT.png (a grid) and OUT.npz (`images`, and what each was asked to show), and OUT/00000.png ... with `files`.
    `labels` repeat over the samples; empty means 0, 1, ..., classes - 1, 0, ... Needs neither config file nor data, but where
    the run is told pictures (to restore, to enlarge): these are made of the held-out examples, and drawn before the samples.
    `asked`: values of other conditions by name.
    """
    trained = Trained.open(workdir, step, changes)
    exp, run = trained.exp, trained.run
    (choice,) = trained.choose([weights])
    wanted = trained.asked(labels, **(asked or {}))
    made = trained.make(num, wanted, seed, choice)
    if parallel.is_lead():
        kind = "" if weights == "ema" else f"_{choice.name}"
        target = Path(expand(out)) if str(out) else run.path / "samples" / f"{trained.at:07d}_seed{seed}{kind}"
        target = target.with_suffix("") if target.suffix in (".png", ".npz") else target
        label, classes = exp.spec.label, exp.spec.classes
        pictures, columns = exp.sheet(made)
        in_turn = label and label not in wanted and classes <= 16  # a column for every label
        grid, arrays = (target.with_name(target.name + end) for end in (".png", ".npz"))  # names may hold dots: std0.07
        save_grid(grid, pictures, columns or (classes if in_turn else 0))
        part = target.with_name(target.name + ".part.npz")
        told = {"labels" if k == label else k: v for k, v in made.cond.items() if k in (label, *exp.from_data)}
        np.savez(part, images=made.images, **told)
        part.replace(arrays)
        for i, image in enumerate(made.images if files else ()):
            save_png(target / f"{i:05d}.png", image)
        how = f"{choice.name} {choice.how or 'weights'}, seed {seed}"
        print(f"{num} samples of step {trained.at} ({how}): {grid}", file=sys.stderr)
    return made.images

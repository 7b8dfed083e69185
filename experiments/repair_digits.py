"""Hidden parts of digits, made anew by a diffusion model that never learned to: the zero-shot restorers beside one another.

    python experiments/repair_digits.py RUN_OF_ddpm_digits

The run is one of `--config=ddpm_digits --config.data.labels=False --config.method.guide=none`. Of 32 held-out digits the middle, or
the lower half, is hidden and drawn 16 times. Writes experiments/repair_digits/: the table of its README.md and a picture for each
place.
"""

import argparse
from pathlib import Path

import numpy as np
from gans import insert

import jaxgen
from jaxgen.images import save_grid, to_float
from jaxgen.runs.experiment import open_source

OUT = Path(__file__).parent / "repair_digits"
NUM, EACH, SHOWN = 32, 16, 8
ROWS = {
    "ddnm": {},
    "ddrm": {"steps": 50},
    "pigdm": {"spread": 0.5},
    "dps": {"scale": 3.0},
    "repaint": {"steps": 50, "jump": 5, "passes": 4},
}
PLACES = {"middle": np.s_[2:6, 2:6], "lower half": np.s_[4:]}


def repaired(
    folder: str, restorer: str, options: dict[str, float], x: np.ndarray, hidden: np.ndarray
) -> tuple[np.ndarray, int]:
    """Digits [N, H, W, 1] without what is hidden [H, W, 1] -> (samples [N, EACH, H, W, 1], evaluations of the net for each)."""
    own = {f"method.restorer.{key}": value for key, value in options.items()}
    run = jaxgen.open(folder, changes={"method.restorer": restorer, "tasks.hide.shape": "box", **own})
    mask = np.broadcast_to(hidden, x.shape).astype(np.float32)
    shown = np.where(mask > 0, 0.0, to_float(x)).astype(np.float32)
    made = run.sample(len(x) * EACH, mask=mask.repeat(EACH, 0), shown=shown.repeat(EACH, 0))
    return made.reshape(len(x), EACH, *x.shape[1:]), run.exp.method.nfe


def main(folder: str) -> None:
    """Every restorer in every place."""
    run = jaxgen.open(folder)
    held, seen = (open_source(run.exp.config, split) for split in ("eval", "train"))
    x = np.stack([held[i]["image"] for i in range(NUM)])
    mean = np.mean([seen[i]["image"] for i in range(len(seen))], 0)
    found = {name: [] for name in ROWS}
    for place, where in PLACES.items():
        hidden = np.zeros((*x.shape[1:3], 1), bool)
        hidden[where] = True

        def error(y: np.ndarray, hidden: np.ndarray = hidden) -> float:
            """Root mean square over what is hidden."""
            return float(np.sqrt(((y.astype(float) - x)[:, hidden[..., 0]] ** 2).mean()))

        pictures = [x, np.where(hidden, 128, x)]
        for name, options in ROWS.items():
            made, nfe = repaired(folder, name, options, x, hidden)
            found[name] += [nfe] * (not found[name]) + [error(made.mean(1)) / error(np.broadcast_to(mean, x.shape))]
            pictures.append(made[:, 0])
            print(place, name, found[name], flush=True)
        rows = np.concatenate([p[:SHOWN] for p in pictures]).astype(np.uint8)
        save_grid(OUT / f"{place.replace(' ', '_')}.png", rows, SHOWN)
    lines = [f"| restorer | options | evaluations | {' | '.join(PLACES)} |", "|---" * (len(PLACES) + 3) + "|"]
    for name, (nfe, *ratios) in found.items():
        told = ", ".join(f"{key}={value:g}" for key, value in ROWS[name].items())
        lines.append(f"| {name} | {told} | {nfe:,} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    insert(OUT / "README.md", "<!-- made by repair_digits.py -->", "\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    main(parser.parse_args().run)

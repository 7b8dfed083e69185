"""Pictures from words four ways, at most twenty minutes a run on two cores: what must be reached, and what was.

    python experiments/text.py --runs=runs/text --weights=DIR_OF_TAEF2 [--data_dir=DIR_OF_TFDS_SETS]
        [--only "one thing/" mnist/] [--seeds=1] [--table]

Trains what is not there yet, one run at a time, lets a judge that jaxgen trained on the same pictures compare samples with their
captions, and writes experiments/text/: result.json, the table of its README.md and samples of every row for the PROMPTS below. What
is in result.json is not done again: delete its entry. `--only`: beginnings of rows' names. `--seeds`: of a row, at most.
`--table`: no run, only the table anew.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from gans import budget, insert, name_of, place, run_rows, train, viewer_of

import jaxgen
from jaxgen.data.sources.tokenized import NUMBERS
from jaxgen.evaluate import evaluate
from jaxgen.images import save_grid
from jaxgen.runs.cascade import Cascade
from jaxgen.runs.experiment import open_source
from jaxgen.runs.trained import Trained

OUT = Path(__file__).parent / "text"
UNSEEN = ("purple star", "cyan ring", "orange cross")
PROMPTS = {  # a column of pictures each; of scenes the last two have a pair of colour and kind that was never shown
    "one thing": (
        "a large red circle at the top left, on white",
        "a small blue square at the right, on black",
        "a large green triangle in the centre, on grey",
        "a small yellow ring at the bottom, on black",
        "a large pink star at the bottom right, on white",
        "a small green cross at the top, on grey",
        "a large purple star in the centre, on white",
        "a large cyan ring at the bottom left, on black",
    ),
    "two things": (
        "a large red circle at the top left and a large blue square at the bottom right, on white",
        "a large blue circle at the top left and a large red square at the bottom right, on white",
        "a small green star at the top right and a large yellow ring at the bottom left, on black",
        "a large pink cross at the bottom left and a small cyan triangle at the bottom right, on grey",
        "a large purple star at the top left and a small red square at the top right, on white",
        "a small cyan ring at the bottom right and a large green circle at the top left, on black",
    ),
    "mnist": tuple(f"the number {word}" for word in NUMBERS),
}  # fmt: skip
EACH = 4  # pictures of a prompt
THINGS = {"one thing": 1, "two things": 2}
ATTRIBUTES = ("kind", "colour", "size", "place", "background", "all")
BESIDE = ("real", "coded", "shuffled")


@dataclass(frozen=True)
class Row:
    """A run: figure -> its bar in `least` and `most`; `seeds` of them. Its name begins with what it is trained on.

    share: figure -> (another figure of the run, at least what share of it). told: figures that are reported besides, by their
    beginnings. first: the run of FIRST, or the row, whose run is the codec. best_of: samples of a caption of which a contrastive
    run, which measures `retrieval` too, chooses one; best_... is what the judge says of those. cached: TAEF2 is the codec, and its
    latents are cached. before: the runs of FIRST that stand before it in a cascade, the base first.
    """

    config: str
    changes: dict = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    share: dict[str, tuple[str, float]] = field(default_factory=dict)
    told: tuple[str, ...] = ("agree_", "real_", "coded_", "shuffled_", "best_", "retrieval_")
    seeds: int = 1
    first: str = ""
    best_of: int = 1
    cached: bool = False
    before: tuple[str, ...] = ()

    @property
    def bars(self) -> list[str]:
        """In words."""
        bars = [f"{k} >= {v:g}" for k, v in self.least.items()] + [f"{k} <= {v:g}" for k, v in self.most.items()]
        return bars + [f"{k} >= {share:g} of {other}" for k, (other, share) in self.share.items()]

    def met(self, found: dict[str, float]) -> bool:
        """Whether a seed reaches every bar."""
        least = self.least | {k: found[other] * share for k, (other, share) in self.share.items()}
        return all(found[k] >= v for k, v in least.items()) and all(found[k] <= v for k, v in self.most.items())


# unseen_gap: by how much captions with a pair of colour and kind that was never shown do worse, at the attribute where most
BARS = dict(least={"agree_colour": 0.97, "agree_place": 0.95}, most={"unseen_gap": 0.10})
ONE = dict(**BARS, share={"agree_kind": ("real_kind", 0.9)})
CODED = dict(**BARS, share={"agree_kind": ("coded_kind", 0.9)})
BY_TOKENS = dict(
    least={"agree_colour": 0.90}, share={"best_all": ("agree_all", 1.0)}, first="one thing/dVAE", best_of=16
)  # kind and place are reported
BASE, MIDDLE = "one thing/Imagen, base", "one thing/Imagen, 16 to 32"
FIRST: dict[str, Row] = {  # stages whose runs are codecs, or stand before another
    BASE: Row("imagen_shapes"),
    MIDDLE: Row("imagen_shapes_sr", {"data.size": 32, "data.augment": (), "steps": 1_500}),
    "mnist/VQ-VAE": Row("vqvae_mnist", {"steps": 1_200}),
    "one thing/dVAE": Row("dvae_shapes"),
}
LEAN = {  # of text_shapes, whose 4,000 steps are twice the time
    "method.net.width": 24, "method.net.attend_down": (False, False, True), "method.net.attend_up": (False, False, True),
    "method.net.scale_shift": True,
}  # fmt: skip
ROWS: dict[str, Row] = {
    "one thing/DALL-E": Row("dalle_shapes", {}, **BY_TOKENS),
    "one thing/MUSE": Row("muse_shapes", {}, **BY_TOKENS),
    "one thing/flow in pixels": Row("text_shapes", LEAN, **ONE),
    "one thing/latent diffusion": Row("ldm_shapes", **CODED, cached=True),
    "one thing/Imagen": Row("imagen_shapes_sr", **ONE, before=(BASE, MIDDLE)),
    "two things/latent diffusion": Row("ldm_shapes", {"data.tokenizer.length": 40}, cached=True),
    "mnist/latent diffusion": Row("ldm_mnist", {}, {"agree_kind": 0.95}, first="mnist/VQ-VAE"),
}  # fmt: skip


def judge_of(size: int, things: int, args: argparse.Namespace) -> Path:
    """The judge of such scenes, trained where it is not there."""
    folder = args.runs / f"judge_{size}_{things}"
    if not list(folder.glob("checkpoints/[0-9]*")):
        changes = {"data.size": size, "data.max_shapes": things, "steps": 1_500 * things}
        train(folder, "judge_shapes", changes | budget(changes))
    return folder


def ranker_of(size: int, things: int, args: argparse.Namespace) -> Path:
    """The contrastive run of such scenes, trained where it is not there."""
    folder = args.runs / f"clip_{size}_{things}"
    if not list(folder.glob("checkpoints/[0-9]*")):
        train(folder, "clip_shapes", {"data.size": size, "data.max_shapes": things})
    return folder


def cache(folder: Path, config: str, changes: dict) -> Path:
    """The latents of a config's pictures, made where they are not there or not whole."""
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    command = [sys.executable, "-m", "jaxgen.main", f"--config={config}", "--mode=cache", f"--workdir={folder}", *flags]
    subprocess.run(command, check=True)
    return folder


def digits(run: Trained, args: argparse.Namespace) -> dict[str, float]:
    """Which digits a classifier sees where words ask for one, in real pictures, and set against another's words."""
    viewer, source, num = viewer_of("mnist", args), open_source(run.exp.config, "eval"), 500
    asked = np.arange(num) % len(NUMBERS)
    made = run.sample(num, prompt=[f"the number {NUMBERS[digit]}" for digit in asked])
    real = np.stack([source[i][source.spec.target] for i in range(num)])
    true = np.array([source[i][source.spec.label] for i in range(num)])
    seen = viewer(made)["logits"].argmax(-1)
    others = np.random.default_rng(0).permutation(asked)
    return {
        "agree_kind": (seen == asked).mean(),
        "real_kind": (viewer(real)["logits"].argmax(-1) == true).mean(),
        "shuffled_kind": (seen == others).mean(),
    }


def run_of(name: str, seed: int, args: argparse.Namespace) -> tuple[Path, float]:
    """A row's run with a seed, after that on which it stands -> (its directory, seconds of all cores)."""
    row, kind = {**FIRST, **ROWS}[name], name.partition("/")[0]
    changes = {**row.changes, **budget(row.changes), **place(kind, args), "seed": seed}
    if kind in THINGS:
        changes |= {"data.max_shapes": THINGS[kind], "data.hold_out": UNSEEN}
    if row.first:
        changes["tasks.codec.run.path"] = run_of(row.first, seed, args)[0]
    if row.cached:
        changes["tasks.codec.run.path"] = args.weights
        latents = cache(args.runs / f"latents_{THINGS[kind]}", row.config, changes)
        changes = {k: v for k, v in changes.items() if not k.startswith("data.")}
        changes |= {"data": "latents", "data.path": latents, "data.tokenizer": "none"}
    folder = args.runs / f"{name_of(name)}_{seed}"
    return folder, train(folder, row.config, changes)


def one(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """A row with one seed: trained, judged, drawn."""
    row, kind = ROWS[name], name.partition("/")[0]
    folder, seconds = run_of(name, seed, args)
    run = jaxgen.open(folder)
    figures = scenes(row, folder, kind, args) if kind in THINGS else digits(run, args)
    if not seed:
        prompts = PROMPTS[kind]
        before = Cascade.open(run_of(other, seed, args)[0] for other in row.before)
        made = replace(before, runs=(*before.runs, run)).sample(EACH * len(prompts), prompt=prompts)
        save_grid(OUT / f"{name_of(name)}.png", made, len(prompts))
    wanted = (*row.least, *row.most, *row.share)
    kept = {k: v for k, v in figures.items() if k in wanted or k.startswith(row.told)}
    facts = {"images": run.exp.batch * run.exp.config.steps, "cpu_minutes": seconds / 60}
    return {k: round(float(v), 4) for k, v in (facts | kept).items()}


def scenes(row: Row, folder: Path, kind: str, args: argparse.Namespace) -> dict[str, float]:
    """What a judge sees in samples of a run, at the size of the pictures that it makes."""
    size, seed = jaxgen.open(folder).exp.pictures.shape[0], int(folder.name.rpartition("_")[2])
    asked = {"eval.agree.judge": str(judge_of(size, THINGS[kind], args))}
    if row.before:
        asked["eval.agree.cascade"] = tuple(str(run_of(other, seed, args)[0]) for other in row.before)
    if row.best_of > 1:
        ranker = str(ranker_of(size, THINGS[kind], args))
        chosen = {"eval.agree.best_of": row.best_of, "eval.agree.ranker": ranker, "eval.agree.num": 250}
        best = evaluate(folder, changes={**asked, **chosen})
        asked["eval.retrieval.judge"] = ranker
    figures = evaluate(folder, changes=asked)
    if row.best_of > 1:
        figures |= {k.replace("agree_", "best_", 1): v for k, v in best.items() if k.startswith("agree_")}
    figures["unseen_gap"] = max(figures[f"agree_seen_{k}"] - figures[f"agree_unseen_{k}"] for k in ATTRIBUTES)
    return figures


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """As Markdown: a line for each of what is looked at, means and, of several seeds, their standard deviations."""
    lines = ["| row | pictures | " + " | ".join((*ATTRIBUTES, "binding")) + " | bar | CPU minutes | met |"]
    lines += ["|---" * (len(ATTRIBUTES) + 6) + "|"]
    shown = {"agree": "samples", "agree_seen": "... seen pairs", "agree_unseen": "... unseen pairs"}
    shown |= {
        "best": "the best of several",
        "real": "real",
        "coded": "real, through the codec",
        "shuffled": "another's caption",
    }

    def spread(values: list[float]) -> str:
        return f"{mean(values):.1%}" + (f" +- {100 * stdev(values):.1f}" if len(values) > 1 else "") if values else ""

    for name, row in ROWS.items():
        found, first = results.get(name, []), True
        for beginning, words in shown.items() if found else ():
            keys = [f"{beginning}_{k}" for k in (*ATTRIBUTES, "binding")]
            if not any(key in found[0] for key in keys):
                continue
            cells = [name if first else "", words, *(spread([f[k] for f in found if k in f]) for k in keys)]
            met = f"{sum(map(row.met, found))} of {len(found)}" if row.bars else ""
            last = [", ".join(row.bars) or "reported", f"{mean(f['cpu_minutes'] for f in found):.1f}", met]
            lines.append(
                "| " + " | ".join(c.replace("_", " ") for c in [*cells, *(last if first else ["", "", ""])]) + " |"
            )
            first = False
    return "\n".join(lines)


def write(results: dict) -> None:
    """The table of the README."""
    insert(OUT / "README.md", "<!-- made by text.py -->", table(results))


if __name__ == "__main__":
    run_rows(__doc__, OUT, ROWS, one, write)

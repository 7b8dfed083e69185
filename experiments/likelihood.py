"""Likelihoods and codes, at most ten minutes a run on two cores: what must be reached, and what was.

    python experiments/likelihood.py --runs=runs --data_dir=DIR_OF_TFDS_SETS [--only digits/ mnist/VAE] [--seeds=1] [--table]

Trains what is not there yet, one run at a time, and writes experiments/likelihood/: result.json, the table of its README.md and
pictures of every row's first seed. What is in result.json is not done again: delete its entry. `--only`: beginnings of rows'
names. `--seeds`: of a row, at most. `--table`: no run, only the table anew.
"""

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from gans import budget, insert, name_of, run_rows, train

import jaxgen
from jaxgen.core.method import Scores
from jaxgen.evaluate import evaluate

OUT = Path(__file__).parent / "likelihood"


@dataclass(frozen=True)
class Row:
    """A run: figure -> its bar in `least` and `most`; `above`: figure -> (another row, by how much); `seeds` of them.

    told: figures that are reported besides. pictures: what of samples/ is kept, by the ends of the files' names.
    """

    config: str
    changes: dict = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    above: dict[str, tuple[str, float]] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    published: str = ""
    pictures: tuple[str, ...] = ()
    seeds: int = 2

    @property
    def figures(self) -> tuple[str, ...]:
        """All that are reported."""
        return tuple(dict.fromkeys([*self.least, *self.most, *self.above, *self.told]))

    @property
    def bars(self) -> list[str]:
        """In words."""
        bars = [f"{k} >= {v:g}" for k, v in self.least.items()] + [f"{k} <= {v:g}" for k, v in self.most.items()]
        return bars + [f"{k} {by:g} above {row}" for k, (row, by) in self.above.items()]

    def met(self, found: dict[str, float], results: dict[str, list[dict[str, float]]]) -> bool:
        """Whether a seed reaches every bar; other rows count with the mean of their seeds."""
        others = {
            k: mean(f[k] for f in results.get(row, [{k: float("inf")}])) + by for k, (row, by) in self.above.items()
        }
        least = self.least | others
        return all(found[k] >= v for k, v in least.items()) and all(found[k] <= v for k, v in self.most.items())


NOISY = dict(told=("noise_psnr", "noise_psnr_degraded", "psnr"), pictures=("noise_restoration",))
DRAWN = ("ema", "raw", "reconstruction", "traversal", "upper_kept")
VAE = dict(told=("likelihood_nats", "elbo", "kl", "active_units"), pictures=DRAWN)
GROUPS = dict(told=(*VAE["told"], "kl_7x7", "kl_14x14", "kl_28x28"), pictures=DRAWN)
IWAE = {"method.iwae_samples": 64}
FIXED = "fixed binarisation"
SMALL = {  # the hierarchical VAE of the digits
    "data": "digits", "data.batch": 64, "method.likelihood": "logistic", "method.net.enc": "8x2,8d2,4x1,4d2,2x1",
    "method.net.dec": "2x2,4m2,4x1,8m4", "method.net.optimizer.schedule": "cosine", "steps": 3_000, "eval.likelihood.num": 0,
    **IWAE,
}  # fmt: skip
PIXELS = dict(pictures=("ema",))
BITS = dict(most={"likelihood_bits_per_dim": 2.0}, told=("likelihood_nats",), **PIXELS)
FLOW = dict(most={"likelihood_bits_per_dim": 2.6}, told=("likelihood_nats",), **PIXELS)
SMALLER = {
    "data.batch": 32,
    "method.net.ema": 0.99,
    "method.net.optimizer.schedule": "cosine",
    "eval.likelihood.num": 1_000,
}
EPOCHS = {"data.batch": 32, "steps": 4_000, "steps_per_call": 10, "eval.likelihood.num": 2_000}  # 128,000 images
ROWS: dict[str, Row] = {
    # the noise has a standard deviation of 0.5, of pixels in [-1, 1]: 12.04 dB, before a file cuts it off at black and white
    "digits/autoencoder": Row("ae_digits", **NOISY),
    "digits/denoising": Row("dae_digits", {}, {"noise_psnr": 18.04}, above={"noise_psnr": ("digits/autoencoder", 2.0)}, **NOISY),
    "digits/VAE": Row("vae_digits", IWAE, **VAE | {"told": (*VAE["told"], "likelihood_bits_per_dim")}),
    "digits/hierarchical VAE": Row("hvae_mnist", SMALL, **VAE | {"told": (*VAE["told"], "likelihood_bits_per_dim")}),
    "mnist/autoencoder": Row("ae_mnist", **NOISY),
    "mnist/denoising": Row("dae_mnist", {}, {"noise_psnr": 18.04}, above={"noise_psnr": ("mnist/autoencoder", 2.0)}, **NOISY),
    "mnist/VAE": Row(
        "vae_mnist", {"steps": 60_000, "eval.likelihood.num": 1_000, **IWAE}, {"elbo": -95.0, "likelihood_nats": -91.0},
        published=f"-86.8 (Burda et al. 2015, {FIXED})", **VAE,
    ),
    "mnist/hierarchical VAE": Row(
        "hvae_mnist", {"steps": 4_000, "eval.likelihood.num": 1_000, **IWAE}, above={"likelihood_nats": ("mnist/VAE", 3.0)},
        published=f"-81.7 (Soenderby et al. 2016, {FIXED})", **GROUPS,
    ),
    "mnist/beta-VAE": Row("beta_vae_mnist", {"eval.likelihood": {}}, **VAE),
    "digits/PixelCNN": Row("pixelcnn_digits", **BITS),
    "digits/gated PixelCNN": Row("gated_pixelcnn_digits", **BITS),
    "digits/PixelCNN++": Row("pixelcnnpp_digits", **BITS),
    "digits/row LSTM": Row("pixelrnn_row_digits", **BITS),
    "digits/diagonal BiLSTM": Row("pixelrnn_diagonal_digits", **BITS),
    "digits/transformer": Row("image_transformer_digits", **BITS),
    "mnist/PixelCNN": Row(
        "pixelcnn_mnist", EPOCHS, {"likelihood_nats": -88.0}, published=f"-81.30 (van den Oord et al. 2016, {FIXED})", **PIXELS,
    ),
    "mnist/gated PixelCNN": Row("gated_pixelcnn_mnist", EPOCHS, {"likelihood_nats": -87.0}, **PIXELS),
    "mnist/row LSTM": Row(
        "pixelrnn_row_mnist", EPOCHS | {"method.net.depth": 1}, {"likelihood_nats": -90.0},
        published=f"-80.54 (van den Oord et al. 2016, {FIXED})", **PIXELS,
    ),
    "mnist/diagonal BiLSTM": Row(
        "pixelrnn_diagonal_mnist", EPOCHS | {"method.net.depth": 1}, {"likelihood_nats": -89.0},
        published=f"-80.75 (van den Oord et al. 2016, one layer of 32, {FIXED})", **PIXELS,
    ),
    "cifar/PixelCNN++": Row(
        "pixelcnnpp_cifar",
        {"method.net.width": 32, "method.net.blocks": 1, "method.net.dropout": 0.0, "method.net.ema": 0.99, "data.batch": 32,
         "steps": 1_250, "method.net.optimizer.schedule": "cosine", "eval.likelihood.num": 1_000},
        most={"likelihood_bits_per_dim": 4.6}, published="2.92 (Salimans et al. 2017)", **PIXELS,
    ),
    "digits/RealNVP": Row("realnvp_digits", **FLOW),
    "digits/Glow": Row("glow_digits", **FLOW),
    "cifar/RealNVP": Row(
        "realnvp_cifar", SMALLER | {"method.net.width": 32, "method.net.blocks": 2, "steps": 1_250},
        most={"likelihood_bits_per_dim": 4.8}, published="3.49 (Dinh et al. 2016)", **PIXELS,
    ),
    "cifar/Glow": Row(
        "glow_cifar",
        SMALLER | {"method.net.depth": 8, "method.net.width": 64, "method.net.optimizer.warmup": 200, "steps": 6_000},
        most={"likelihood_bits_per_dim": 4.3}, published="3.35 (Kingma & Dhariwal 2018)", **PIXELS,
    ),
}  # fmt: skip


def one(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """A row with one seed: trained and measured."""
    row, folder = ROWS[name], args.runs / f"{name_of(name)}_{seed}"
    place = {} if name.startswith("digits/") else {"data.data_dir": args.data_dir}
    seconds = train(folder, row.config, {**row.changes, **budget(row.changes), **place, "seed": seed})
    figures = evaluate(folder)
    exp = jaxgen.open(folder).exp
    for end in row.pictures if not seed else ():
        for file in sorted((folder / "samples").glob(f"*_{end}.png"))[-1:]:
            shutil.copy(file, OUT / f"{name_of(name)}_{end}.png")
    kept = {k: figures[k] for k in row.figures}
    facts = {"images": exp.batch * exp.config.steps, "cpu_minutes": seconds / 60}
    kind = {"kind": exp.method.kind} if isinstance(exp.method, Scores) else {}
    return {k: round(float(v), 4) for k, v in (facts | kept).items()} | kind


def table(results: dict[str, list[dict]]) -> str:
    """As Markdown: means and, of several seeds, their standard deviations."""
    lines = ["| row | published | bar | obtained | exact or bound | images | CPU minutes | met |", "|---" * 8 + "|"]
    for name, row in ROWS.items():
        if not (found := results.get(name)):
            continue
        spread = lambda v: f"{mean(v):.2f}" + (f" +- {stdev(v):.2f}" if len(v) > 1 else "")  # noqa: E731
        obtained = ", ".join(f"{k} {spread([f[k] for f in found])}" for k in row.figures)
        met = f"{sum(row.met(f, results) for f in found)} of {len(found)}" if row.bars else ""
        cells = [name, row.published, ", ".join(row.bars) or "reported", obtained, found[0].get("kind", "")]
        cells += [f"{found[0]['images']:,.0f}", f"{mean(f['cpu_minutes'] for f in found):.1f}", met]
        lines.append("| " + " | ".join(cell.replace("_", " ") for cell in cells) + " |")
    return "\n".join(lines)


def write(results: dict) -> None:
    """The table of the README."""
    insert(OUT / "README.md", "<!-- made by likelihood.py -->", table(results))


if __name__ == "__main__":
    run_rows(__doc__, OUT, ROWS, one, write)

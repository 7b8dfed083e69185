"""Likelihoods and codes, at most ten minutes a run on two cores: what must be reached, and what was.

    python experiments/likelihood.py --runs=runs --data_dir=DIR_OF_TFDS_SETS [--pictures=DIR_OF_EMOJI]
        [--only digits/ mnist/VAE] [--seeds=1] [--table]

Trains what is not there yet, one run at a time, and writes experiments/likelihood/: result.json, the table of its README.md and
pictures of every row's first seed. What is in result.json is not done again: delete its entry. `--only`: beginnings of rows'
names. `--seeds`: of a row, at most. `--table`: no run, only the table anew. `--pictures`: a folder that holds `train` and `test`,
with a folder for each class, for the rows of emoji.
"""

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from gans import LABELS, bare, budget, insert, judge_of, judged, name_of, place, run_rows, train, viewer_of

import jaxgen
from jaxgen.core.method import Scores
from jaxgen.evaluate import evaluate

OUT = Path(__file__).parent / "likelihood"


@dataclass(frozen=True)
class Row:
    """A run: figure -> its bar in `least` and `most`; `seeds` of them.

    above: figure -> (another row, by how much); below: figure -> (another row, at most what share of it). told: figures that are
    reported besides. pictures: what of samples/ is kept, by the ends of the files' names. lens: pictures are compared through a
    classifier of the data, which is not the one that judges. first: the row whose run is the codec.
    `rfid` judges reconstructions of held-out pictures; fid, agreement and rarest_label samples, as in gans.py.
    """

    config: str
    changes: dict = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    above: dict[str, tuple[str, float]] = field(default_factory=dict)
    below: dict[str, tuple[str, float]] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    published: str = ""
    pictures: tuple[str, ...] = ()
    seeds: int = 2
    lens: bool = False
    first: str = ""

    @property
    def figures(self) -> tuple[str, ...]:
        """All that are reported."""
        return tuple(dict.fromkeys([*self.least, *self.most, *self.above, *self.below, *self.told]))

    @property
    def bars(self) -> list[str]:
        """In words."""
        bars = [f"{k} >= {v:g}" for k, v in self.least.items()] + [f"{k} <= {v:g}" for k, v in self.most.items()]
        bars += [f"{k} >= {row}'s {by:+g}" for k, (row, by) in self.above.items()]
        return bars + [f"{k} <= {share:g} of {row}'s" for k, (row, share) in self.below.items()]

    def met(self, found: dict[str, float], results: dict[str, list[dict[str, float]]]) -> bool:
        """Whether a seed reaches every bar; other rows count with the mean of their seeds."""

        def other(row: str, figure: str) -> float:
            return mean(f[figure] for f in results[row]) if row in results else float("nan")

        least = self.least | {k: other(row, k) + by for k, (row, by) in self.above.items()}
        most = self.most | {k: other(row, k) * share for k, (row, share) in self.below.items()}
        return all(found[k] >= v for k, v in least.items()) and all(found[k] <= v for k, v in most.items())


NOISY = dict(told=("gaussian_psnr", "gaussian_psnr_degraded", "psnr"), pictures=("gaussian_restoration",))
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
# First stages in ten minutes: fewer blocks, higher rates, all codes at work from the first batch on. The papers' weight of 1 is of
# LPIPS; what a classifier without heads finds between two pictures begins at 3.3.
SHORT = {
    "method.ae.blocks": 1,
    "method.ae.optimizer.lr": 5e-4,
    "data.batch": 32,
    "steps": 800,
    "eval.reconstruct.num": 2_000,
}
LIVELY = {"method.ae.regularizer.start": "kmeans", "method.ae.regularizer.dead": 0.03}
JUDGED = {"method.disc.optimizer.lr": 5e-4, "method.perceptual_weight": 0.1}
PLAIN = {"method.perceptual": "none", "method.disc_weight": 0, "method.distance": "l2"}
STAGE = dict(pictures=("reconstruction",))
CODED = dict(told=("rfid", "psnr", "usage"), **STAGE)
LEVELS = ("usage_0", "usage_1")
FEW = {"data.batch": 32, "steps": 1_000, "eval.reconstruct.num": 2_000}
SECOND = {"steps": 1_700, "eval.grid.num": 100}
SMALL_NET = {"method.net.depth": 4, "method.net.width": 192, "method.net.heads": 6, "data.batch": 64}
EPOCHS = {"data.batch": 32, "steps": 4_000, "steps_per_call": 10, "eval.likelihood.num": 2_000}  # 128,000 images
RECONSTRUCTIONS = {"of": "reconstructions", "protocol": "native", "reference_num": "2000"}
ROWS: dict[str, Row] = {
    # the noise has a standard deviation of 0.5, of pixels in [-1, 1]: 12.04 dB, before a file cuts it off at black and white
    "digits/autoencoder": Row("ae_digits", **NOISY),
    "digits/denoising": Row(
        "dae_digits", {}, {"gaussian_psnr": 18.04}, above={"gaussian_psnr": ("digits/autoencoder", 2.0)}, **NOISY
    ),
    "digits/VAE": Row("vae_digits", IWAE, **VAE | {"told": (*VAE["told"], "likelihood_bits_per_dim")}),
    "digits/hierarchical VAE": Row("hvae_mnist", SMALL, **VAE | {"told": (*VAE["told"], "likelihood_bits_per_dim")}),
    "mnist/autoencoder": Row("ae_mnist", **NOISY),
    "mnist/denoising": Row(
        "dae_mnist", {}, {"gaussian_psnr": 18.04}, above={"gaussian_psnr": ("mnist/autoencoder", 2.0)}, **NOISY
    ),
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
    "mnist/VQ-VAE": Row("vqvae_mnist", {"steps": 1_200}, **CODED),
    "mnist/transformer over codes": Row(
        "vqgan_transformer_mnist", SECOND, {"agreement": 0.92, **LABELS}, {"fid": 0.8}, first="mnist/VQ-VAE",
    ),
    "mnist/MaskGIT over codes": Row(
        "maskgit_mnist", SECOND, {"agreement": 0.92, **LABELS}, {"fid": 0.8}, below={"fid": ("mnist/transformer over codes", 1.5)},
        first="mnist/VQ-VAE",
    ),
    "cifar/VQGAN by L2 alone": Row("vqgan_cifar", SHORT | LIVELY | PLAIN, **CODED),
    "cifar/VQGAN": Row(
        "vqgan_cifar", SHORT | LIVELY | JUDGED, {"usage": 0.9}, above={"psnr": ("cifar/VQGAN by L2 alone", -1.5)},
        below={"rfid": ("cifar/VQGAN by L2 alone", 0.7)}, lens=True, **STAGE,
    ),
    "cifar/KL autoencoder by L2 alone": Row("kl_cifar", SHORT | PLAIN, told=("rfid", "psnr"), **STAGE),
    "cifar/KL autoencoder": Row(
        "kl_cifar", SHORT | JUDGED, above={"psnr": ("cifar/KL autoencoder by L2 alone", -1.5)},
        below={"rfid": ("cifar/KL autoencoder by L2 alone", 0.7)}, lens=True, **STAGE,
    ),
    "cifar/VQ-VAE-2": Row("vqvae2_cifar", FEW, told=("rfid", "psnr", *LEVELS), **STAGE),
    "cifar/transformer over codes": Row(
        "vqgan_transformer_cifar", SECOND | SMALL_NET, told=("fid", "agreement", "rarest_label"), first="cifar/VQGAN",
    ),
    "cifar/MaskGIT over codes": Row(
        "maskgit_cifar", SECOND | SMALL_NET, told=("fid", "agreement", "rarest_label"), first="cifar/VQGAN",
    ),
    "emoji/VQ-VAE-2": Row("vqvae2_emoji64", {"steps": 1_500, "data.batch": 32}, {"psnr": 22.0}, told=("rfid", *LEVELS), **STAGE),
    "emoji/KL autoencoder": Row(
        "kl_emoji64", {**SHORT, **JUDGED, "data.batch": 16, "steps": 700}, {"psnr": 22.0}, told=("rfid",), lens=True, **STAGE,
    ),
}  # fmt: skip


def run_of(name: str, seed: int, args: argparse.Namespace) -> tuple[Path, float]:
    """A row's run with a seed, after that on which it stands -> (its directory, seconds of all cores)."""
    row, kind = ROWS[name], name.partition("/")[0]
    changes = {**row.changes, **budget(row.changes), **place(kind, args), "seed": seed}
    if row.lens:
        changes["method.perceptual.path"] = judge_of(kind, args, seed=1)
    if row.first:
        changes["tasks.codec.run.path"] = run_of(row.first, seed, args)[0]
    folder = args.runs / f"{name_of(name)}_{seed}"
    return folder, train(folder, row.config, changes)


def one(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """A row with one seed: trained and measured."""
    row, kind = ROWS[name], name.partition("/")[0]
    folder, seconds = run_of(name, seed, args)
    exp = jaxgen.open(folder).exp
    if row.first:
        grid = OUT / f"{name_of(name)}.png" if not seed else folder / "grid.png"
        figures = judged(kind, folder, viewer_of(kind, args), grid)
    else:
        quality = {**RECONSTRUCTIONS, "native": str(judge_of(kind, args))} if "rfid" in row.figures else {}
        figures = evaluate(folder, changes={f"eval.quality.{k}": v for k, v in quality.items()})
        figures = {bare(k): v for k, v in figures.items()}
    for end in row.pictures if not seed else ():
        for file in sorted((folder / "samples").glob(f"*_{end}.png"))[-1:]:
            shutil.copy(file, OUT / f"{name_of(name)}_{end}.png")
    kept = {k: figures[k] for k in row.figures}
    facts = {"images": exp.batch * exp.config.steps, "cpu_minutes": seconds / 60}
    scores = {"kind": exp.method.kind} if isinstance(exp.method, Scores) and not row.first else {}
    return {k: round(float(v), 4) for k, v in (facts | kept).items()} | scores


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

"""Every family on digits, MNIST and CIFAR-10 for a small budget, judged by classifiers that jaxgen trained on the same data.

    python experiments/family_table.py --runs=runs --data_dir=DIR_OF_TFDS_SETS --out=experiments/families

Trains what is not there yet (about an hour on two cores), evaluates with `fid:native`, and prints one table.
The first row of each set is the floor: held-out images in place of samples.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from jaxgen.runs import setup

setup.configure()

from jaxgen.core import parallel  # noqa: E402
from jaxgen.data.sources import Digits, Tfds  # noqa: E402
from jaxgen.evaluation import features as measure  # noqa: E402

MEASURES = ("fid", "kid", "precision_recall", "entropy")
CIFAR_AE = {"method.net.encoder.width": 64, "method.net.decoder.width": 64,
            "method.net.encoder.hidden": 32, "method.net.decoder.hidden": 32}  # fmt: skip
CIFAR_GAN = {"method.gen.width": 32, "method.disc.width": 32}
NARROW_UNET = {"method.net.width": 32, "method.net.groups": 8, "data.batch": 32, "method.net.optimizer.warmup": 50,
               "method.net.ema": 0.99, "method.solver": "ddim", "method.solver.steps": 20}  # fmt: skip
RUNS: dict[str, dict[str, dict]] = {  # set -> config -> changes to it
    "digits": {
        "classifier_digits": {}, "ddpm_digits": {}, "vae_digits": {}, "gan_digits": {}, "dcgan_digits": {},
        "wgan_gp_digits": {}, "vqvae_digits": {},
    },
    "mnist": {
        "classifier_mnist": {"steps": 1500, "method.net.width": 16},
        "ddpm_mnist": {**NARROW_UNET, "steps": 600},
        "vae_mnist": {"steps": 60_000},
        "gan_mnist": {"steps": 5_000},
        "dcgan_mnist": {"steps": 1_500, "method.gen.width": 32, "method.disc.width": 32},
        "wgan_gp_mnist": {"steps": 800, "method.gen.width": 32, "method.disc.width": 32,
                          "method.gen.optimizer.lr": 5e-4, "method.disc.optimizer.lr": 5e-4},
        "vqvae_mnist": {"steps": 1_200, "method.net.encoder.width": 64, "method.net.decoder.width": 64},
    },
    "cifar": {
        "classifier_cifar": {"steps": 1_000, "method.net.width": 32, "method.net.blocks": 1},
        "dcgan_cifar": {"steps": 1_000, **CIFAR_GAN},
        "vae_cifar": {"steps": 1_000, **CIFAR_AE},
        "vqvae_cifar": {"steps": 800, **CIFAR_AE},
        "wgan_gp_cifar": {"steps": 150, **CIFAR_GAN},
        "ddpm_cifar": {**NARROW_UNET, "steps": 300},
    },
}  # fmt: skip
SAMPLES = {"digits": 297, "mnist": 500, "cifar": 500}
REFERENCE = {"digits": 1500, "mnist": 10_000, "cifar": 10_000}


def command(arguments: list[str], changes: dict) -> None:
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    subprocess.run([sys.executable, "-m", "jaxgen.main", *arguments, *flags], check=True)


def floor(name: str, judge: str, data_dir: str) -> dict[str, float]:
    """Held-out images against the training set."""
    viewer = measure.Viewer(measure.native_judge(judge), parallel.make_mesh({"data": -1}))
    data = Digits() if name == "digits" else Tfds({"mnist": "mnist", "cifar": "cifar10"}[name], data_dir)
    needs = measure.needs_of(MEASURES)
    held = measure.summarise(viewer, measure.source_batches(data.open("eval"), SAMPLES[name]), needs)
    real = measure.reference(viewer, data.open("train"), REFERENCE[name], needs)
    return measure.compare(MEASURES, held, real, viewer.judge.protocol)


def table(results: dict) -> str:
    """The figures as Markdown."""
    names = ("fid", "kid", "precision", "recall", "class_entropy", "mean_entropy")
    lines = [f"| set | run | images seen | {' | '.join(names)} |", "|---|---|---|" + "---|" * len(names)]
    for name, rows in results.items():
        for config, found in rows.items():
            plain = {key.partition("@")[0]: value for key, value in found.items()}
            cells = [f"{plain[k]:.4f}" if k in plain else "" for k in names]
            cells[0] = f"{plain['rfid']:.4f} (rFID)" if "rfid" in plain else cells[0]
            seen = f"{found['images']:,}" if "images" in found else ""
            lines.append(f"| {name} | {config} | {seen} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "result.json"
    results = json.loads(record.read_text()) if record.is_file() else {}
    for name in args.only:
        judge, *families = RUNS[name]
        for config in (judge, *families):
            changes = dict(RUNS[name][config])
            if name != "digits":
                changes["data.data_dir"] = args.data_dir
            if "steps" in changes:
                changes |= {"save_every": changes["steps"], "log_every": max(1, changes["steps"] // 10)}
                changes["eval"] = "{'loss': {'num': 512, 'every': 0}}"
            folder = args.runs / config
            saved = [int(p.name) for p in folder.glob("checkpoints/[0-9]*")]
            if not saved or max(saved) < changes.get("steps", 0):  # a broken-off run goes on from its checkpoint
                command([f"--config=configs/{config}.py", f"--workdir={folder}"], changes)
            if config == judge:
                found = floor(name, str(folder), args.data_dir)
                results.setdefault(name, {})["held-out images"] = {k: round(v, 5) for k, v in found.items()}
                continue
            quality = {"protocol": "native", "native": args.runs / judge, "num": SAMPLES[name], "measures": MEASURES,
                       "reference_num": REFERENCE[name]}  # fmt: skip
            if config.startswith("vqvae"):
                quality |= {"of": "reconstructions", "reference_num": SAMPLES[name], "measures": ("fid",)}
            old = folder / "results.jsonl"
            old.unlink(missing_ok=True)
            command([f"--workdir={folder}", "--mode=eval"], {f"eval.quality.{k}": v for k, v in quality.items()})
            rows = [json.loads(line) for line in old.read_text().splitlines()]
            figures = {r["metric"]: round(r["value"], 5) for r in rows if r["evaluator"] == "quality"}
            results[name][config] = {"step": rows[0]["step"], "images": rows[0]["images"], **figures}
            record.write_text(json.dumps(results, indent=2) + "\n")
            print(name, config, results[name][config], flush=True)
    print(table(results))


if __name__ == "__main__":
    main()

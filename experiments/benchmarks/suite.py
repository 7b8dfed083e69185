"""All families against the same work in PyTorch, and what a start costs: one record and one table, made by one command.

    python experiments/benchmarks/suite.py [--cases A,B] [--quick] [--device cpu|cuda] [--compile]

Training step, four steps a dispatch, sampling in 50 steps, memory, start. Every case is merged into the record as soon as
it is done, and the table is written anew: a suite that was cut short goes on with --cases. A case takes one to two
minutes. What is measured how is said at the head of the table, and in `sides.py` and `turns.py`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import inception_vs_torch  # noqa: E402
import methods_vs_torch  # noqa: E402
import nets_vs_torch  # noqa: E402
import startup  # noqa: E402
import text_vs_peers  # noqa: E402
from sides import WHATS, compared  # noqa: E402
from turns import installed  # noqa: E402

MODULES = {
    name: module
    for module in (nets_vs_torch, methods_vs_torch, inception_vs_torch, text_vs_peers)
    for name in module.CASES
}
CPU = ("start", *nets_vs_torch.CPU, *methods_vs_torch.CASES, *inception_vs_torch.CASES, *text_vs_peers.CASES)
STARTED = "configs/ddpm_digits.py"

HEAD = """# Against PyTorch

Made by `python experiments/benchmarks/suite.py` from `{record}`. The same network, loss and optimizer are written in PyTorch
(eager, channels last, fused Adam, without averages on both sides); both start from the same weights, and outputs, or losses
and gradients, agree before anything is timed (`differ by`: relative, of the largest). GANs, VAE and VQ-VAE are the step that
a user's run takes, at the shipped config's shapes cut in width and batch; the others a step of the network alone. A step of
StyleGAN2 is the mean over 16, with R1 in one and path length in four of them; PyTorch's modulated convolutions share one kernel
there, as ours do. Rows that name diffusers or transformers are timed against these (the extra `peers`), as they are installed.
jaxgen and PyTorch have processes of their own and take turns of at least 0.3 s.

The ratio is PyTorch's time over ours, median and quartiles over the rounds: above 1, jaxgen is faster. `kept`: over PyTorch
with the allocator's settings that jaxgen makes for itself (freed memory stays with the process). `others`: share of the
machine that other processes used meanwhile. Memory: temporaries of jaxgen's program; in the record there is the peak of both
processes too.

"""
NAMES = {"jaxgen": "1 step", "jaxgen_scan4": "4 steps a dispatch"}
BATCHES = {"sample": "sample_batch", "generate": "generate"}  # a case's field, where its batch is not that of training
COLUMNS = (
    "case",
    "batch",
    "what",
    "jaxgen, ms",
    "PyTorch, ms",
    "ratio",
    "kept",
    "memory, MB",
    "differ by",
    "rounds",
    "others",
)


MACHINE = ("cores", "processor", "device", "python", "versions")


def described(case: Any) -> dict:
    """Its fields as JSON has them."""
    return json.loads(json.dumps(vars(case) | dict(batch=case.batch)))


def started(repeats: int) -> dict:
    """Seconds from the command to its first line and first steps, with an empty compilation cache and with a filled one."""
    runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for state, found in runs.items():
                found.append(startup.start(HERE.parents[1], STARTED, Path(folder, state), Path(folder, "cache")))
    medians = {k: {x: round(statistics.median(r[x] for r in v), 2) for x in v[0]} for k, v in runs.items()}
    return dict(config=STARTED, repeats=repeats, start=medians)


def processor() -> str:
    """The CPU's maker and name; a product's time differs twofold between makers, as PyTorch's library prefers one."""
    try:
        found = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    except OSError:
        return platform.processor()
    names = {k.strip(): v.strip() for k, v in found.items()}
    return " ".join(dict.fromkeys([names.get("vendor_id", ""), names.get("model name", "")])).strip()


def environment(device: str) -> dict:
    """Machine and versions."""
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "numpy")
    versions = {package: installed(package) for package in packages}
    versions |= {peer: found for peer in ("diffusers", "transformers") if (found := installed(peer)) != "none"}
    machine = (os.cpu_count(), processor(), device, platform.python_version(), versions)
    return dict(zip(MACHINE, machine, strict=True))


def lines(record: dict) -> list[tuple[str, ...]]:
    """A case's rows of the table."""
    rows = []
    for what in reversed(WHATS):
        found = record.get(what)
        for name, row in found["contenders"].items() if found else ():
            if "ratio" not in row:
                continue
            ratios = {k: "{median:.2f} [{low:.2f}, {high:.2f}]".format(**v) for k, v in row["ratio"].items()}
            size = record["temporaries"].get(what, {}).get(name)
            words = {
                "train": f"training, {NAMES.get(name, name)}",
                "sample": record["case"].get("sampling", "50 sampling steps"),
                "generate": "generated images",
                "features": "an image",
                "encode": "texts",
                "decode": "a picture of latents",
            }
            rows.append(
                (
                    record["case"]["about"],
                    str(record["case"].get(BATCHES.get(what, "batch")) or record["case"]["batch"]),
                    words[what],
                    f"{row['ms']['median']:.4g}",
                    f"{found['contenders']['torch']['ms']['median']:.4g}",
                    ratios["torch"],
                    ratios.get("torch_kept", ""),
                    f"{size / 1e6:,.0f}" if size else "",
                    f"{record['difference']:.0e}",
                    str(found["rounds"]),
                    f"{found['others']:.0%}",
                )
            )
    return rows


def page(records: dict[str, dict], record: Path) -> str:
    """The table in Markdown."""

    def table(rows: list) -> str:
        return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ("---",) * len(rows[0]), *rows[1:]])

    parts = [HEAD.format(record=record.name)]
    parts.append(table([COLUMNS, *(line for name in MODULES if name in records for line in lines(records[name]))]))
    if start := records.get("start"):
        rows = [(f"`{start['config']}`", "first line, s", "first 10 steps done, s", "peak memory, MB")]
        for kind, words in (("cold", "empty compilation cache"), ("warm", "filled cache")):
            row = start["start"][kind]
            rows.append((words, *(f"{row[k]:g}" for k in ("first_line_s", "first_step_s", "peak_memory_mb"))))
        parts.append(f"\n\n## Start\n\nMedians of {start['repeats']} runs.\n\n{table(rows)}")
    machines = {json.dumps({k: r[k] for k in MACHINE}): r for r in records.values()}
    parts.append("\n\n## Machine\n\n")
    for r in machines.values():
        versions = ", ".join(f"{k} {v}" for k, v in r["versions"].items())
        parts.append(f"- {r['cores']} cores ({r['processor']}), {r['device']}, Python {r['python']}, {versions}\n")
    return "".join(parts)


def main() -> None:
    """Cases in turn, into the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", default="", help=f"comma separated, of start, {', '.join(MODULES)}; default by device"
    )
    parser.add_argument("--what", default=",".join(WHATS), help="some of these")
    parser.add_argument("--quick", action="store_true", help="three rounds, one start")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="of each measurement; three rounds are made at least"
    )
    parser.add_argument(
        "--quiet", type=float, default=0.1, help="largest share of the machine used by others in a round"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "cpu.json", help="the record; the table lies beside it (.md)"
    )
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two frameworks share the card
    names = args.cases.split(",") if args.cases else list(CPU if args.device == "cpu" else nets_vs_torch.GPU)
    if unknown := [n for n in names if n not in MODULES and n != "start"]:
        parser.error(f"unknown case {unknown[0]}: one of start, {', '.join(MODULES)}")
    roles = ["torch", *["torch_kept"] * (args.device == "cpu"), *["torch_compile"] * args.compile]
    options = dict(rounds=3 if args.quick else args.rounds, seconds=args.seconds, quiet=args.quiet)
    for name in names:
        if name == "start":
            record = started(1 if args.quick else 3)
            print(json.dumps(record["start"], indent=2))
        else:
            module = MODULES[name]
            record = dict(case=described(module.CASES[name]))
            record |= compared(module, name, roles, args.what.split(","), args.device, **options)
            print("\n".join("  ".join(line) for line in lines(record)), flush=True)
        records = json.loads(args.out.read_text()) if args.out.exists() else {}
        records[name] = record | environment(args.device)
        args.out.write_text(json.dumps(records, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(page(records, args.out))


if __name__ == "__main__":
    main()

"""What one GPU makes of our nets against PyTorch and against its own ceilings, in one command: `gpu.sh` beside this.

    python experiments/benchmarks/gpu.py [--rows A,B] [--seconds 530] [--together 4] [--data FILE.npz] [--out F] [--tiny]

Every row is a process of its own (`gpu_rows.py`), which gives the card's memory back and survives what breaks another. Rows
begin in the order of their names, `--together` at a time, since most of their time they compile. One alone is timed at a time: the
others are frozen meanwhile. The record is rewritten after every row; what the time did not suffice for is named in it. The two
sides of a row share one process and take turns. `of_ceiling` is the rate of the counted products over that of one large product on
the same card in the same run.
"""

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from gpu_sides import thaw
from turns import installed

HERE = Path(__file__).parent
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "optax", "torch", "triton", "numpy")
PACKAGES += ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cublas", "nvidia-cublas-cu12")
LEAST = 15  # seconds under which no row is begun


@dataclass(frozen=True)
class Row:
    """A function of `gpu_rows.py` and what it is called with.

    target: (figure, least value) of our best contender. ceiling: the product that its rate is held against.
    """

    work: str
    options: dict = field(default_factory=dict)
    target: tuple[str, float] | None = None
    ceiling: str = "product_bf16"
    env: dict[str, str] = field(default_factory=dict)


def changed(case: str, env: dict[str, str] | None = None, **options) -> Row:
    """Our step alone, changed in one thing: to be set against the row that it varies."""
    return Row("train", dict(case=case, torch=False, scan=1, **options), env=env or {})


ROWS = {
    "ceilings": Row("ceilings"),
    "ddpm": Row("train", dict(case="full_bf16"), ("ratio_compile", 1.3)),
    "dit_xl": Row("train", dict(case="dit_xl_bf16", extra=dict(scan=True)), ("of_ceiling", 0.45)),  # as its config
    "stylegan2_256": Row("gan", dict(case="stylegan2_256"), ("images_per_s", 125.0)),  # 8 s per thousand
    "dcgan": Row("gan", dict(case="dcgan"), ("ratio_compile", 1.5)),
    "sngan": Row("gan", dict(case="sngan"), ("ratio_compile", 1.5)),
    "fid": Row("fid", {}, ("ratio_contiguous", 1.5), "product_fp32"),
    "dit_s": Row("train", dict(case="dit_s_bf16")),
    "edm": Row("train", dict(case="edm_bf16")),
    "attention": Row("attention"),
    "ddim": Row("ddim", dict(case="full_bf16")),
    "trainer": Row("trainer", dict(case="full_bf16")),
    # what to try on the worst row, as the time allows
    "dit_xl_256": changed("dit_xl_bf16", batch=256, extra=dict(scan=True)),
    "dit_xl_remat": changed("dit_xl_bf16", extra=dict(scan=True, remat=True)),
    "dit_xl_256_remat": changed("dit_xl_bf16", batch=256, extra=dict(scan=True, remat=True)),
    "dit_xl_unrolled": changed("dit_xl_bf16"),
    "ddpm_512": changed("full_bf16", batch=512),
    "ddpm_O1": changed("full_bf16", dict(JAX_OPTIMIZATION_LEVEL="O1")),
    "ddpm_latency_hiding": changed("full_bf16", dict(XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true")),
    "ddpm_triton_gemm": changed("full_bf16", dict(XLA_FLAGS="--xla_gpu_triton_gemm_any=true")),
    "ddim_1": Row("ddim", dict(case="full_bf16", batch=1)),
}


def missing() -> list[str]:
    """A line for everything that is not installed, and what goes without it."""
    there = lambda *names: any(importlib.util.find_spec(name) for name in names)  # noqa: E731
    cure = "a machine without network: pip install --no-index --find-links=wheels"
    lines = []
    if not there("jax"):
        lines.append(f"jax is missing: our side is left out ({cure} 'jax[cuda12]')")
    elif not there("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "jax_rocm60_plugin"):
        lines.append(f"jax is installed without CUDA: our side is left out on a GPU ({cure} 'jax[cuda12]')")
    for name, package in (("flax", "flax"), ("optax", "optax"), ("PIL", "pillow"), ("safetensors", "safetensors")):
        lines += [] if there(name) else [f"{package} is missing: our nets are left out ({cure} {package})"]
    for name, package in (("ml_collections", "ml-collections"), ("grain", "grain"), ("orbax", "orbax-checkpoint")):
        lines += [] if there(name) else [f"{package} is missing: the row `trainer` is left out ({cure} {package})"]
    if not there("torch"):
        lines.append(f"torch is missing: PyTorch's side is left out ({cure} torch)")
    elif not there("triton"):
        lines.append(f"triton is missing: torch.compile is left out on a GPU ({cure} triton)")
    return lines


def card() -> dict[str, str]:
    """What the driver says of the card; {} where there is none."""
    asked = ("name", "driver_version", "memory.total", "clocks.sm", "power.draw", "temperature.gpu", "utilization.gpu")
    try:
        command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(asked, map(str.strip, answer.splitlines()[0].split(",")), strict=False))


class Child:
    """The process of a row; `seconds` are what is left for it."""

    def __init__(
        self, name: str, seconds: float, folder: Path, log: Path, tiny: bool, data: str, compile: bool
    ) -> None:
        self.row, self.file, self.start = ROWS[name], folder / f"{name}.json", time.monotonic()
        told = dict(work=self.row.work, options=self.row.options, tiny=tiny, data=data, compile=compile)
        told |= dict(out=str(self.file), seconds=seconds)
        env = {**os.environ, **self.row.env}
        if "XLA_FLAGS" in self.row.env:
            env["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {self.row.env['XLA_FLAGS']}".strip()
        command = [sys.executable, "-u", str(HERE / "gpu_rows.py"), json.dumps(told)]
        with log.open("ab") as words:
            self.process = subprocess.Popen(command, stdout=words, stderr=words, env=env, start_new_session=True)

    def stop(self) -> None:
        """End it with all that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def result(self, cut: bool) -> dict:
        """What it found until it ended or is now cut short."""
        self.stop()
        found = json.loads(self.file.read_text()) if self.file.is_file() else dict(contenders={}, notes=[])
        if cut:
            found["notes"].append(f"cut short after {time.monotonic() - self.start:.0f} s")
        elif self.process.returncode:
            found["notes"].append(f"its process ended with {self.process.returncode}, see the log")
        return {**found, "seconds": round(time.monotonic() - self.start, 1)}


def completed(row: Row, found: dict, ceiling: float | None, tiny: bool) -> dict:
    """The figures that follow from times: rates, shares of the ceiling (operations per second), ratios; and the target."""
    times = {name: c["ms"] for name, c in found["contenders"].items() if "ms" in c}
    for name, c in found["contenders"].items():
        if "ms" not in c:
            continue
        per_second = 1e3 / c["ms"]
        if "images" in c:
            c["images_per_s"] = c["images"] * per_second
        if "bytes" in c:
            c["gb_per_s"] = c["bytes"] * per_second / 1e9
        if "flop" in c:
            c["tflop_per_s"] = c["flop"] * per_second / 1e12
            if ceiling and row.work != "ceilings":
                c["of_ceiling"] = c["flop"] * per_second / ceiling
        if "jaxgen" in name:
            for rival in ("torch", "torch_compile", "torch_contiguous", "bare"):
                other = name[: name.index("jaxgen")] + rival
                if other in times:
                    c[f"ratio_{rival.removeprefix('torch_')}"] = times[other] / c["ms"]
    if row.target and not tiny:
        figure, least = row.target
        best = max((c[figure] for k, c in found["contenders"].items() if "jaxgen" in k and figure in c), default=None)
        found["target"] = dict(figure=figure, least=least, found=best, met=None if best is None else best >= least)
    return found


def complete(rows: dict[str, dict], tiny: bool) -> None:
    """`completed` for all rows; a ceiling is the better of the two sides."""
    ceilings: dict[str, float] = {}
    for contender, c in rows.get("ceilings", dict(contenders={}))["contenders"].items():
        if "ms" in c and "flop" in c:
            what = contender.split(":")[-1]
            ceilings[what] = max(ceilings.get(what, 0.0), 1e3 * c["flop"] / c["ms"])
    for name, found in rows.items():
        completed(ROWS[name], found, ceilings.get(ROWS[name].ceiling), tiny)


def lines(name: str, found: dict) -> list[str]:
    """A row for people."""
    batch = f", batch {found['batch']}" if "batch" in found else ""
    out = [f"{name}{batch} ({found['seconds']:.0f} s)"]
    shown = (
        ("images_per_s", "{:,.0f} images/s"), ("gb_per_s", "{:,.0f} GB/s"), ("tflop_per_s", "{:,.2f} TFLOP/s"),
        ("of_ceiling", "{:.1%} of the ceiling"), ("ratio_torch", "x{:.2f} eager"), ("ratio_compile", "x{:.2f} compile"),
        ("ratio_contiguous", "x{:.2f} pytorch-fid"), ("ratio_bare", "x{:.2f} bare"),
        ("memory_gb", "{:.2f} GB"), ("compile_s", "compiled in {:.1f} s"),
    )  # fmt: skip
    for contender, c in found["contenders"].items():
        words = [text.format(c[key]) for key, text in shown if key in c]
        words += ["(from the cache)"] if c.get("from_cache") else []
        if "ms" in c:
            words.insert(0, f"{c['ms']:10.3f} ms [{c['min']:.3f}, {c['max']:.3f}]")
        out.append(f"  {contender:18} {'  '.join(words)}")
    out += [f"  {key}: {value}" for key, value in found.get("checks", {}).items()]
    out += [f"  {note}" for note in found["notes"]]
    if target := found.get("target"):
        verdict = "not measured" if target["met"] is None else f"{target['found']:.2f}, "
        verdict += "" if target["met"] is None else "met" if target["met"] else "missed"
        out.append(f"  target {target['figure']} >= {target['least']}: {verdict}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help=f"comma separated, of {', '.join(ROWS)}; default all, in that order")
    parser.add_argument("--seconds", type=float, default=530.0, help="when the last row must have ended")
    parser.add_argument(
        "--data", default="", metavar="FILE", help="uint8 pictures [N, 32, 32, 3] in an .npz of <= 40 MB"
    )
    parser.add_argument(
        "--out", default="gpu.json", metavar="FILE", help="the record; FILE.log beside it has all words"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny nets on a CPU")
    parser.add_argument("--together", type=int, default=4, help="rows that compile at the same time; default 4")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    start = time.monotonic()
    names = args.rows.split(",") if args.rows else list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"unknown row {unknown[0]}: one of {', '.join(ROWS)}")
    if args.data and not (Path(args.data).is_file() and Path(args.data).stat().st_size <= 40e6):
        parser.error(f"--data={args.data} is no file of at most 40 MB; leave it out for random pictures")
    found = card()
    for line in missing():
        print(line)
    if not found and not args.tiny:
        parser.error("no GPU answers nvidia-smi; --tiny runs the same rows at tiny size on the CPU")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the children end with us

    report = dict(
        card=found,
        tiny=args.tiny,
        python=platform.python_version(),
        versions={p: release for p in PACKAGES if (release := installed(p)) != "none"},
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        data=args.data and Path(args.data).name,
        unit="ms per training step, per 50 sampling steps, per batch of features",
        rows={},
        left_out=list(names),
    )
    out, log = Path(args.out), Path(f"{args.out}.log")
    log.write_text("")
    running: dict[str, Child] = {}
    waiting, end = list(names), start + args.seconds
    with tempfile.TemporaryDirectory() as folder:
        try:
            while running or (waiting and end - time.monotonic() >= LEAST):
                while waiting and len(running) < args.together and (left := end - time.monotonic()) >= LEAST:
                    told = (Path(folder), log, args.tiny, args.data, not args.no_compile)
                    name = waiting.pop(0)
                    running[name] = Child(name, left, *told)
                time.sleep(0.1)
                late = time.monotonic() > end
                for name in [name for name, child in running.items() if late or child.process.poll() is not None]:
                    child = running.pop(name)
                    cut = child.process.poll() is None
                    report["rows"][name] = child.result(cut)
                    thaw(child.process.pid, Path(folder))
                    report["left_out"].remove(name)
                    report["seconds"] = round(time.monotonic() - start, 1)
                    complete(report["rows"], args.tiny)
                    out.write_text(json.dumps(report, indent=2) + "\n")
                    print("\n".join(lines(name, report["rows"][name])))
        finally:
            for child in running.values():
                child.stop()
    report["card_after"] = card()
    out.write_text(json.dumps(report, indent=2) + "\n")
    if report["left_out"]:
        print(f"out of time: {', '.join(report['left_out'])} left out; --rows={','.join(report['left_out'])} runs them")


if __name__ == "__main__":
    main()

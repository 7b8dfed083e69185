"""Training step and 50-step sampling of UNets and DiT: jaxgen against the same network in PyTorch, in one process.

    python experiments/benchmarks/nets_vs_torch.py [--quick] [--device auto|cpu|gpu] [--cases A,B] [--what train] [--out F]

Both sides start from the same weights and must give the same output before anything is timed. The contenders take
turns (A B C, A B C, ...); a ratio is PyTorch's time over ours: above 1, we are faster. A round during which other
processes used more than `--quiet` of the machine is measured again.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]


@dataclass(frozen=True)
class Case:
    """One network, batch and precision. `scan`: training steps per dispatch of the multi-step contender."""

    kind: str  # a key of KINDS
    net: dict
    batch: int
    bf16: bool = False
    scan: int = 4
    sample_steps: int = 50


@dataclass(frozen=True)
class Kind:
    """Where a network lives: ours, its exporter and its twin, as "module:attribute"."""

    ours: str
    export: str
    twin: str


KINDS = {
    "ddpm": Kind("jaxgen.nets.unet:UNet", "jaxgen.pretrained.diffusers:to_diffusers", "torch_unet:TorchUNet"),
    "edm": Kind("jaxgen.nets.edm_unet:DdpmPP", "jaxgen.pretrained.edm:to_edm", "torch_edm:TorchDdpmPP"),
    "dit": Kind("jaxgen.nets.dit:DiT", "jaxgen.pretrained.dit:to_author", "torch_dit:TorchDiT"),
}


def find(where: str):
    """ "module:attribute" -> the attribute."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


TINY = dict(width=32, mults=(1, 2, 2), blocks=2, attend=(8,), groups=8, dropout=0.0)
FULL = dict(shape=(32, 32, 3), width=128, mults=(1, 2, 2, 2), blocks=2, attend=(16,), groups=32, dropout=0.0)
EDM_TINY = dict(shape=(32, 32, 3), width=32, mults=(2, 2, 2), blocks=2, attend=(16,), dropout=0.0)
EDM = dict(shape=(32, 32, 3), width=128, mults=(2, 2, 2), blocks=4, attend=(16,), dropout=0.0)
LATENT = dict(shape=(32, 32, 4), patch=2)
DIT_S, DIT_XL = dict(LATENT, depth=12, width=384, heads=6), dict(LATENT, depth=28, width=1152, heads=16)
CASES = {
    "small": Case("ddpm", dict(shape=(16, 16, 3), **TINY), 32),
    "cifar": Case("ddpm", dict(shape=(32, 32, 3), **TINY), 32),
    "edm_small": Case("edm", EDM_TINY, 16),
    "dit_s": Case("dit", DIT_S, 8),
    "full": Case("ddpm", FULL, 128),
    "full_bf16": Case("ddpm", FULL, 128, bf16=True),
    "edm_bf16": Case("edm", EDM, 128, bf16=True),
    "dit_s_bf16": Case("dit", DIT_S, 256, bf16=True),
    "dit_xl_bf16": Case("dit", DIT_XL, 64, bf16=True),
}
CPU, GPU = ("small", "cifar", "edm_small", "dit_s"), ("full", "full_bf16", "edm_bf16", "dit_s_bf16", "dit_xl_bf16")

Contender = Callable[[], None]  # runs once and waits for the result


def ours(case: Case) -> tuple[dict[str, Contender], dict[str, Contender], dict, object]:
    """Our contenders: training (per call: 1 or `scan` steps), sampling; the weights; the output at a fixed input."""
    import jax
    import jax.numpy as jnp
    import optax

    kind = KINDS[case.kind]
    net, export = find(kind.ours), find(kind.export)
    module = net(**case.net, dtype="bfloat16" if case.bf16 else "float32")
    shape = (case.batch, *case.net["shape"])
    key = jax.random.key(0)
    x, eps = (jax.random.normal(k, shape) for k in jax.random.split(key))
    t = jax.random.uniform(key, (case.batch,), maxval=999.0)
    fixed = jax.jit(module.init)(key, x[:1], t[:1])  # filters are never trained
    leaves, tree = jax.tree.flatten(fixed.pop("params"))
    keys = jax.random.split(key, len(leaves))
    # the last layers start at zero: random weights make the comparison of outputs mean something
    leaves = [a + 0.02 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    start = jax.tree.unflatten(tree, leaves)
    variables = {"params": start, **fixed}
    tx = optax.adam(2e-4)

    def step(state, _=None):
        params, opt = state
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((module.apply({"params": p, **fixed}, x, t) - eps) ** 2))(
            params
        )
        updates, opt = tx.update(grads, opt)
        return (optax.apply_updates(params, updates), opt), loss

    def trainer(run):
        run = jax.jit(run, donate_argnums=0)
        state = jax.tree.map(jnp.copy, (start, tx.init(start)))

        def call():
            nonlocal state
            state, loss = run(state)
            jax.block_until_ready((state, loss))

        return call

    @jax.jit
    def sample(variables, x):
        def body(x, i):
            eps = module.apply(variables, x, jnp.full(case.batch, i, jnp.float32))
            return x - 0.01 * eps, None

        return jax.lax.scan(body, x, jnp.linspace(980, 0, case.sample_steps))[0]

    train = {
        "jaxgen": trainer(step),
        f"jaxgen_scan{case.scan}": trainer(lambda s: jax.lax.scan(step, s, length=case.scan)),
    }
    sampling = {"jaxgen": lambda: jax.block_until_ready(sample(variables, x))}
    arrays = dict(x=jax.device_get(x), t=jax.device_get(t), eps=jax.device_get(eps))
    with jax.default_matmul_precision("highest"):
        y = jax.device_get(jax.jit(net(**case.net).apply)(variables, x, t))
    return train, sampling, export(module, jax.device_get(variables)), (arrays, y)


def theirs(case: Case, device: str, weights: dict, arrays: dict, compiled: bool):
    """PyTorch's contenders, the largest deviation from our output included."""
    import torch

    net = find(KINDS[case.kind].twin)(**case.net).to(device=device, memory_format=torch.channels_last)
    net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    x, eps = (
        torch.tensor(arrays[n]).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last) for n in ("x", "eps")
    )
    t = torch.tensor(arrays["t"]).to(device)
    with torch.no_grad():
        y = net(x, t).permute(0, 2, 3, 1).cpu().numpy()
    fast = torch.compile(net) if compiled else net
    cast = torch.autocast(device, torch.bfloat16, enabled=case.bf16)
    opt = torch.optim.Adam(net.parameters(), 2e-4, fused=True)

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def train():
        opt.zero_grad(set_to_none=True)
        with cast:
            loss = torch.mean((fast(x, t) - eps) ** 2)
        loss.backward()
        opt.step()
        wait()

    def sample():
        with torch.no_grad(), cast:
            z = x
            for i in torch.linspace(980, 0, case.sample_steps).tolist():
                z = z - 0.01 * fast(z, torch.full((case.batch,), i, device=device))
        wait()

    return train, sample, y


def busy() -> tuple[float, float]:
    """CPU seconds used by the whole machine and by this process."""
    own = os.times()
    try:
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:  # not Linux: no gate
        return 0.0, own.user + own.system
    idle = int(ticks[3]) + int(ticks[4])
    return (sum(map(int, ticks[:8])) - idle) / os.sysconf("SC_CLK_TCK"), own.user + own.system


def measure(contenders: dict[str, Contender], rounds: int, quiet: float, repeat: int) -> dict[str, list[float]]:
    """Seconds per call, the contenders taking turns; disturbed turns are repeated, at most twice as many in all.

    A contender with fewer than three quiet turns reports all of its turns: a busy machine gives bad figures, not none.
    """
    for call in contenders.values():  # compile and warm up
        call()
        call()
    every = {name: [] for name in contenders}
    calm = {name: [] for name in contenders}
    for _ in range(2 * rounds):
        for name, call in contenders.items():
            if len(calm[name]) >= rounds:
                continue
            machine, own = busy()
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            wall = time.perf_counter() - start
            machine, own = busy()[0] - machine, busy()[1] - own
            every[name].append(wall / repeat)
            if machine - own <= quiet * wall * os.cpu_count():
                calm[name].append(wall / repeat)
    return {name: calm[name] if len(calm[name]) >= min(3, rounds) else every[name] for name in contenders}


def summary(times: dict[str, list[float]], per_call: dict[str, int]) -> dict[str, dict[str, float]]:
    rows = {}
    for name, values in times.items():
        ms = [1e3 * v / per_call.get(name, 1) for v in values]
        rows[name] = dict(median=statistics.median(ms), min=min(ms), max=max(ms), n=len(ms))
    best = min((r["median"] for n, r in rows.items() if n.startswith("torch")), default=float("nan"))
    eager = rows.get("torch", {}).get("median", float("nan"))
    for name, row in rows.items():
        if name.startswith("jaxgen"):
            row |= dict(ratio_eager=eager / row["median"], ratio_best=best / row["median"])
    return rows


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def run(case: Case, device: str, args: argparse.Namespace) -> dict:
    import numpy as np

    train, sampling, weights, (arrays, y) = ours(case)
    check = None
    for kind in ("torch", "torch_compile"):
        if kind == "torch_compile" and args.no_compile:
            continue
        try:
            step, sample, other = theirs(case, device, weights, arrays, kind == "torch_compile")
            step()
        except Exception as error:  # no compiler, no kernel: the comparison goes on without it
            print(f"  {kind} left out: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
            continue
        train[kind], sampling[kind] = step, sample
        check = float(np.abs(other - y).max() / np.abs(y).max())
        # TF32 and bf16 products aside, the two must be the same function
        if check > (1e-3 if device == "cpu" else 3e-2):
            raise SystemExit(f"the two networks differ by {check:.1e} of the largest output")
    rounds, repeat = (3, 1) if args.quick else (args.rounds, args.repeat)
    result = dict(output_difference=check)
    if "train" in args.what:
        result["train_ms"] = summary(measure(train, rounds, args.quiet, repeat), {f"jaxgen_scan{case.scan}": case.scan})
    if "sample" in args.what:
        result["sample_ms"] = summary(measure(sampling, rounds, args.quiet, 1), {})
    return result


def table(name: str, result: dict) -> None:
    print(f"{name}: outputs differ by {result['output_difference']:.1e} of the largest")
    for what in ("train_ms", "sample_ms"):
        for contender, r in result.get(what, {}).items():
            ratio = f"x{r['ratio_eager']:.2f} eager  x{r['ratio_best']:.2f} best" if "ratio_eager" in r else ""
            print(f"  {what:10} {contender:14} {r['median']:9.1f} [{r['min']:.1f}, {r['max']:.1f}] n={r['n']}  {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds of one call")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--cases", default="", help=f"comma separated, of {', '.join(CASES)}; default by device")
    parser.add_argument("--what", default="train,sample", help="measure training, sampling or both")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeat", type=int, default=3, help="training calls per turn")
    parser.add_argument("--quiet", type=float, default=0.1, help="largest share of the machine used by others")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", default="", metavar="FILE", help="write JSON here")
    args = parser.parse_args()

    if args.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two frameworks share the card
    from jaxgen.runs import setup

    setup.configure()
    import jax
    import torch

    gpu = jax.default_backend() == "gpu"
    if args.device == "gpu" and not gpu:
        parser.error("no GPU that JAX can use")
    device = "cuda" if gpu else "cpu"
    if gpu and not torch.cuda.is_available():
        parser.error("JAX sees a GPU but PyTorch does not: install PyTorch with CUDA, or ask for --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as XLA's default
    torch.backends.cudnn.benchmark = True
    names = args.cases.split(",") if args.cases else list(GPU if gpu else CPU)
    unknown = [n for n in names if n not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]}: one of {', '.join(CASES)}")
    report = dict(
        device=str(jax.devices()[0].device_kind),
        cpus=os.cpu_count(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        versions={p: installed(p) for p in ("jax", "jaxlib", "flax", "torch", "numpy")},
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        unit="ms per training step, ms per sampling call",
        cases={},
    )
    print(f"{report['device']} x{report['cpus']}, jax {installed('jax')}, torch {installed('torch')}")
    for name in names:
        case = CASES[name]
        result = run(case, device, args)
        table(name, result)
        report["cases"][name] = dict(kind=case.kind, batch=case.batch, bf16=case.bf16, net=case.net, **result)
        if args.out:  # after every case: a long run that is cut short has told what it knew
            Path(args.out).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Images per second through the Inception-v3 of FID: jaxgen against pytorch-fid's graph in PyTorch, in one process.

    python experiments/benchmarks/inception_vs_torch.py [--batch N] [--rounds N] [--device auto|cpu|gpu] [--out F]

Both start from the same random weights, see the same images of 299x299 pixels, and must give the same features before
anything is timed. The contenders take turns (A B A B ...); a ratio is ours over theirs: above 1, we are faster.
`torch` is what pytorch-fid runs; `torch_channels_last` and `torch_compile` are what one could make of it. Products are
float32 everywhere; on a GPU `torch_tf32` shows what rounding them to TF32 would buy. On a busy CPU, pin the process to
one core (`taskset -c 0 python ...`): threads that wait for each other measure the neighbours.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from nets_vs_torch import Contender, installed, measure  # noqa: E402


def ours(tensors: dict, images) -> tuple[Contender, object]:
    """Our contender, and its features [B, 2048]."""
    import jax

    from jaxgen.nets.inception import InceptionV3
    from jaxgen.pretrained.features import inception

    variables, x = jax.device_put((inception(tensors), images))
    features = jax.jit(lambda variables, x: InceptionV3().apply(variables, x).pool3)
    return lambda: features(variables, x).block_until_ready(), jax.device_get(features(variables, x))


def theirs(net, images, device: str, compiled: bool) -> tuple[dict[str, Contender], object]:
    """PyTorch's contenders, and the features [B, 2048]."""
    import torch

    net = net.to(device)
    x = torch.tensor(images).permute(0, 3, 1, 2).to(device).contiguous()

    def contender(net, x, tf32=False):
        def call():
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
            with torch.inference_mode():
                y = net(x)
            if device == "cuda":
                torch.cuda.synchronize()
            return y

        return call

    last = x.contiguous(memory_format=torch.channels_last)
    calls = {"torch": contender(net, x), "torch_channels_last": contender(net, last)}
    if device == "cuda":
        calls["torch_tf32"] = contender(net, x, True)
    if compiled:
        calls["torch_compile"] = contender(torch.compile(net), last)
        try:
            calls["torch_compile"]()
        except Exception as error:  # no compiler: the comparison goes on without it
            print(f"torch_compile left out: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
            del calls["torch_compile"]
    return calls, calls["torch"]().cpu().numpy()


def random_net(seed: int):
    """pytorch-fid's graph with random weights that keep the scale, and its state dict as numpy arrays."""
    import torch
    from torch_inception import TorchInception

    torch.manual_seed(seed)
    net = TorchInception().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, mean in ((module.weight, 1), (module.bias, 0), (module.running_mean, 0)):
                torch.nn.init.normal_(tensor, mean, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return net, {name: value.numpy() for name, value in net.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=0, help="images per call; default 16 on a CPU, 128 on a GPU")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
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
    import numpy as np
    import torch

    gpu = jax.default_backend() == "gpu"
    if args.device == "gpu" and not gpu:
        parser.error("no GPU that JAX can use")
    if gpu and not torch.cuda.is_available():
        parser.error("JAX sees a GPU but PyTorch does not: install PyTorch with CUDA, or ask for --device cpu")
    batch = args.batch or (128 if gpu else 16)
    images = np.random.default_rng(0).uniform(-1, 1, (batch, 299, 299, 3)).astype(np.float32)
    net, tensors = random_net(0)
    call, features = ours(tensors, images)
    calls, other = theirs(net, images, "cuda" if gpu else "cpu", not args.no_compile)
    difference = float(np.linalg.norm(features - other) / np.linalg.norm(other - other.mean(0)))
    if difference > 1e-3:
        raise SystemExit(f"the two nets differ by {difference:.1e} of the centred norm of the features")

    times = measure({"jaxgen": call, **calls}, args.rounds, args.quiet, 1)
    rates = {name: [batch / seconds for seconds in values] for name, values in times.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rivals = [rate for name, rate in medians.items() if name not in ("jaxgen", "torch_tf32")]
    report = dict(
        device=str(jax.devices()[0].device_kind),
        cpus=os.cpu_count(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        versions={p: installed(p) for p in ("jax", "jaxlib", "flax", "torch", "numpy")},
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        batch=batch,
        feature_difference=difference,
        unit="images per second",
        images_per_second={
            name: dict(median=medians[name], min=min(values), max=max(values), n=len(values))
            for name, values in rates.items()
        },
        ratio_pytorch_fid=medians["jaxgen"] / medians["torch"],
        ratio_best=medians["jaxgen"] / max(rivals),
    )
    print(f"{report['device']} x{report['cpus']}, jax {installed('jax')}, torch {installed('torch')}, batch {batch}")
    print(f"features differ by {difference:.1e} of their centred norm")
    for name, row in report["images_per_second"].items():
        print(f"  {name:20} {row['median']:8.2f} images/s [{row['min']:.2f}, {row['max']:.2f}] n={row['n']}")
    print(f"  x{report['ratio_pytorch_fid']:.2f} pytorch-fid's graph, x{report['ratio_best']:.2f} the best of them")
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

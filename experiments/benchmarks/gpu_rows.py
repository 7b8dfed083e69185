"""What `gpu.py` measures: one row, in a process of its own. Every function takes a Bench, which tells what it found."""

import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_sides import (
    HITS,
    ROOT,
    TINY,
    Bench,
    Ours,
    OutOfMemory,
    Twin,
    compiled,
    counted,
    difference,
    inference,
    needed,
    precision,
    repeated,
    versus,
    wait,
    weights,
)


def ceilings(bench: Bench) -> None:
    """The largest rates that the card is seen to reach: products of random matrices, a copy of random numbers."""
    n, big = (256, 1 << 16) if bench.tiny else (8192, 1 << 29)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n), np.float32) for _ in range(2))
    exact = np.float64(a[:64]) @ np.float64(b[:, :64])
    flop, moved = 2.0 * n**3, 8.0 * big

    def check(name: str, product: Any) -> None:
        bench.found["checks"][f"{name} differs from float64 by"] = difference(np.float64(product)[:64, :64], exact)

    if bench.ours:
        with bench.surviving("jax"):
            import jax
            import jax.numpy as jnp

            x = jax.random.normal(jax.random.key(0), (big,))
            bench.add("jax:copy", repeated(jax.jit(lambda x: -x), x), bytes=moved)
            for name, dtype, products in (
                ("bf16", "bfloat16", "default"), ("tf32", "float32", "default"), ("fp32", "float32", "highest")
            ):  # fmt: skip
                product = jax.jit(partial(jnp.matmul, precision=products))
                y = bench.add(
                    f"jax:product_{name}", repeated(product, jnp.asarray(a, dtype), jnp.asarray(b, dtype)), flop=flop
                )
                check(f"jax:product_{name}", y[:64, :64].astype(jnp.float32))
            bench.measure()
            del x
    if bench.torch:
        with bench.surviving("torch"):
            import torch

            x = torch.randn(big, device=bench.torch)
            out, left, right = torch.empty_like(x), *(torch.tensor(v).to(bench.torch) for v in (a, b))

            def copied(n: int) -> None:
                for _ in range(n):
                    out.copy_(x)
                wait(bench.torch)

            def product(n: int, left: Any, right: Any, products: str) -> Any:
                precision(products)
                for _ in range(n):
                    y = left @ right
                wait(bench.torch)
                return y

            bench.add("torch:copy", copied, bytes=moved)
            for name, products in (("bf16", "high"), ("tf32", "high"), ("fp32", "highest")):
                l, r = (left.bfloat16(), right.bfloat16()) if name == "bf16" else (left, right)  # noqa: E741
                y = bench.add(f"torch:product_{name}", partial(product, left=l, right=r, products=products), flop=flop)
                check(f"torch:product_{name}", y[:64, :64].float().cpu().numpy())
            bench.measure()


def case_of(bench: Bench, name: str, batch: int = 0) -> Any:
    """A case of nets_vs_torch.py; tiny where that is asked for."""
    from nets_vs_torch import CASES

    case = CASES[name]
    if bench.tiny:
        return replace(case, net=TINY[case.kind], batch=4, scan=2, sample_steps=3)
    return replace(case, batch=batch or case.batch, sample_steps=50)


def train(
    bench: Bench, case: str, batch: int = 0, extra: dict | None = None, torch: bool = True, scan: int = 0
) -> None:
    """Training steps. extra: further fields of our net. scan: steps per dispatch, 0 = the case's, 1 = single steps alone."""
    found = case_of(bench, case, batch)
    bench.halving(found.batch, lambda batch: _train(bench, replace(found, batch=batch), extra or {}, torch, scan))


def _train(bench: Bench, case: Any, extra: dict, torch: bool, scan: int) -> None:
    ours, shown = Ours(case, **extra), []
    if bench.ours:
        with bench.surviving("jaxgen"):
            call, about = ours.contender(1)
            loss, out = bench.add("jaxgen", call, **about)
            shown.append(np.asarray(out))
            bench.found["checks"]["loss of the first step"] = float(loss)
            bench.measure()
    if torch and bench.torch:
        with bench.surviving("PyTorch's net"):
            twin = Twin(case, bench.torch, ours)
            exact, cast = twin.outputs()
            bench.found["checks"]["torch under autocast differs from its float32 by"] = difference(cast, exact)
            for out in shown:
                bench.found["checks"]["jaxgen differs from torch's float32 by"] = off = difference(out, exact)
                if not off < 0.02 + 3 * difference(cast, exact):
                    bench.note(f"THE TWO NETS DIFFER BY {off:.2g}: their times cannot be compared")
            versus(bench, twin.training, **ours.about)
    scan = scan or case.scan
    if shown and scan > 1:
        with bench.surviving(f"jaxgen_scan{scan}", 0 if bench.tiny else 15):
            call, about = ours.contender(scan)
            bench.add(f"jaxgen_scan{scan}", call, **about)
            bench.measure()


def gan(bench: Bench, case: str) -> None:
    """Steps of a GAN as its config trains it, all updates and penalties: the mean over a cycle of them."""
    from methods_vs_torch import GPU_CASES

    found = GPU_CASES[case]
    if bench.tiny:
        kept = {k: v for k, v in found.changes.items() if k != "data.batch"}
        found = replace(
            found, config=f"{found.config}:tiny", changes={**kept, "data.batch": 4}, scan=2, cycle=1, side=32
        )
    bench.halving(
        found.batch,
        lambda batch: _gan(bench, replace(found, changes={**found.changes, "data.batch": batch})),
    )


def _cycle(bench: Bench, name: str, contender: Any, given: dict) -> None:
    """A contender of methods_vs_torch.py becomes one of the bench's."""

    def call(n: int) -> None:
        for _ in range(n):
            contender()

    bench.add(name, call, images=len(given["images"]), steps=contender.steps)


def _gan(bench: Bench, case: Any) -> None:
    import methods_vs_torch
    from sides import difference as apart

    if not bench.ours:  # the weights are ours
        return

    with bench.surviving("jaxgen"):
        contenders, *start, found = methods_vs_torch.ours(case)
        for name, contender in contenders["train"].items():
            _cycle(bench, name, contender, start[1])
        bench.measure(3)
    if bench.torch:
        for name in ("torch", "torch_compile")[: 2 if bench.compile else 1]:
            with bench.surviving(name, 25 if name == "torch_compile" and not bench.tiny else 0):
                made, other = methods_vs_torch.theirs(case, bench.torch, *start, name == "torch_compile")
                if name == "torch":
                    off = {k: apart(found[k], v) for k, v in other.items()}
                    bench.found["checks"]["torch differs from jaxgen by"] = off
                if not made:
                    bench.note("torch.compile takes no gradients of gradients: left out")
                for form, contender in made.get("train", {}).items():
                    _cycle(bench, form, contender, start[1])
                bench.measure(3)


def ddim(bench: Bench, case: str, batch: int = 0) -> None:
    """Fifty deterministic steps (Song et al. 2021, eq. 12) from noise to pictures."""
    found = case_of(bench, case, batch)
    bench.halving(found.batch, lambda batch: _ddim(bench, replace(found, batch=batch)))


def _ddim(bench: Bench, case: Any) -> None:
    import jax
    import jax.numpy as jnp

    ours = Ours(case)
    kept = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)  # alpha_bar of 0..999, and of -1: the picture
    t = np.linspace(999, 0, case.sample_steps).round().astype(int)
    a, s = np.sqrt(kept), np.sqrt(1 - kept)
    to = np.append(t[1:], -1)
    table = np.stack([t, a[to] / a[t], s[to] - a[to] * s[t] / a[t]], 1).astype(np.float32)

    def sample(variables: Any, x: Any, table: Any) -> Any:
        def body(x: Any, row: Any) -> tuple:
            return row[1] * x + row[2] * ours.module.apply(variables, x, jnp.full(len(x), row[0])), None

        return jax.lax.scan(body, x, table)[0]

    args = (ours.variables, ours.arrays["x"], table)
    about = dict(images=case.batch, flop=counted(sample, *args))
    if bench.ours:
        with bench.surviving("jaxgen"):
            run, need = compiled(sample, *args)
            made = bench.add("jaxgen", repeated(run, *jax.device_put(args)), **about, **need)
            bench.measure()
            if not np.isfinite(np.asarray(made)).all():
                bench.note("OUR SAMPLES ARE NOT FINITE")
    if bench.torch:
        with bench.surviving("PyTorch's net"):
            twin = Twin(case, bench.torch, ours)
            versus(bench, partial(twin.sampling, table=table), **about)


def attention(bench: Bench) -> None:
    """Attention with its gradients by XLA's products, by cuDNN's fused kernel, by PyTorch; what our nets choose is told."""
    tokens, shapes = 65_536, [(256, 64, 16), (256, 72, 16), (64, 64, 16), (64, 72, 16), (1024, 64, 16), (1024, 72, 16)]
    shapes.append((256, 256, 1))  # one head as wide as the UNets': 16 x 16 pixels, 256 channels
    if bench.tiny:
        tokens, shapes = 64, [(16, 8, 2)]
    for shape in shapes:
        if bench.left < (0 if bench.tiny else 8):
            bench.note(f"{shape[0]} tokens of {shape[1]} are left out: out of time")
            continue
        bench.contenders = {}
        with bench.surviving(f"{shape[0]} tokens of {shape[1]}"):
            _attention(bench, tokens, *shape)


def _attention(bench: Bench, tokens: int, n: int, d: int, heads: int) -> None:
    prefix, arrays = f"{n}x{d}:", np.random.default_rng(0).standard_normal((4, tokens // n, n, heads, d), np.float32)
    about = {}
    if bench.ours:
        import jax
        import jax.numpy as jnp

        from jaxgen.nets.layers import attention

        def loss(q: Any, k: Any, v: Any, g: Any, form: Callable) -> Any:
            return jnp.sum(form(q, k, v).astype(jnp.float32) * g)

        args = jnp.asarray(arrays, jnp.bfloat16)
        xla = partial(jax.nn.dot_product_attention, implementation="xla")
        grad = jax.grad(loss, (0, 1, 2))
        about = dict(flop=counted(lambda *a: grad(*a, xla), *args))
        lowered = jax.jit(attention).lower(*args[:3]).as_text()
        bench.found["checks"][f"{n} tokens of {d}, {heads} heads, go to"] = "cuDNN" if "fmha" in lowered else "XLA"
        for name, form in (("xla", xla), ("cudnn", partial(jax.nn.dot_product_attention, implementation="cudnn"))):
            if name == "cudnn" and bench.tiny:
                continue
            with bench.surviving(f"{prefix}jaxgen_{name}"):
                run, need = compiled(partial(grad, form=form), *args)
                bench.add(f"{prefix}jaxgen_{name}", repeated(run, *args), **about, **need)
    if bench.torch:
        import torch

        *qkv, g = (torch.tensor(x, device=bench.torch, dtype=torch.bfloat16).transpose(1, 2) for x in arrays)
        qkv = [x.requires_grad_() for x in qkv]

        def call(n: int) -> None:
            for _ in range(n):
                out = torch.nn.functional.scaled_dot_product_attention(*qkv)
                torch.autograd.grad(out, qkv, g)
            wait(bench.torch)

        with bench.surviving(f"{prefix}torch"):
            bench.add(f"{prefix}torch", call, **about)
    bench.measure(3)


def fid(bench: Bench) -> None:
    """Features of FID: Inception-v3 with random weights, float32 products; TF32 is shown beside and kept out."""
    bench.halving(2 if bench.tiny else 128, partial(_fid, bench))


def _fid(bench: Bench, batch: int) -> None:
    side = 75 if bench.tiny else 299
    images = np.random.default_rng(0).uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)
    errors, about, features, tensors = bench.found["checks"], dict(images=batch), None, None
    if bench.torch:
        with bench.surviving("PyTorch's net"):
            import torch
            from inception_vs_torch import random_weights
            from torch_inception import TorchInception

            tensors, net = random_weights(0), TorchInception().eval()
            net.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()})
            few = torch.tensor(images[:8]).permute(0, 3, 1, 2).to(bench.torch)
            with torch.inference_mode():
                exact = copy.deepcopy(net).to(bench.torch).double()(few.double()).cpu().numpy()
    if bench.ours:
        with bench.surviving("jaxgen"):
            import jax

            from jaxgen.metrics.protocols import PROTOCOLS, prepare
            from jaxgen.nets.inception import InceptionV3
            from jaxgen.pretrained.features import inception

            variables = inception(tensors) if tensors else weights(InceptionV3(), images[:1])
            see = lambda variables, x: InceptionV3().apply(variables, x).pool3  # noqa: E731
            about["flop"] = counted(see, variables, images)
            run, need = compiled(see, variables, images)
            variables, placed = jax.device_put((variables, images))
            features = np.asarray(bench.add("jaxgen", repeated(run, variables, placed), **about, **need))
            bench.measure()
    if tensors:
        with bench.surviving("PyTorch's contenders"):
            x, net = torch.tensor(images).permute(0, 3, 1, 2).to(bench.torch), net.to(bench.torch)
            x, last = x.contiguous(), x.contiguous(memory_format=torch.channels_last)
            forms = [("torch_contiguous", net, x, "highest")]  # what pytorch-fid runs
            fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
            forms += [("torch", fast, last, "highest")]
            forms += [("torch_tf32", fast, last, "high")] if bench.torch == "cuda" else []
            forms += [("torch_compile", torch.compile(fast), last, "highest")] if bench.compile else []
            for name, *form in forms:
                with bench.surviving(name, 20 if name == "torch_compile" and not bench.tiny else 0):
                    first = bench.add(name, partial(inference, bench.torch, *form), **about)
                    errors[f"{name} differs from float64 by"] = difference(first[:8].cpu().numpy(), exact)
            bench.measure()
        if features is not None:
            errors["jaxgen differs from float64 by"] = off = difference(features[:8], exact)
            bench.note(f"TF32 is {'kept out' if off < 1e-4 else 'IN OUR FEATURES, which differ too much from float64'}")
    elif features is not None:
        bench.note("whether TF32 is kept out is not measured without torch's float64")
    if features is not None and not bench.tiny:
        with bench.surviving("jaxgen_from_32px", 20):  # from bytes, resized on the device as pytorch-fid does
            small = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
            whole = lambda v, x: see(v, prepare(x, PROTOCOLS["pytorch"]))  # noqa: E731
            run, need = compiled(whole, variables, small)
            bench.add("jaxgen_from_32px", repeated(run, variables, jax.device_put(small)), **need, images=batch)
            bench.measure()


def pictures(bench: Bench) -> np.ndarray:
    """uint8 [N, 32, 32, 3]: those that were given, else random ones."""
    if bench.data:
        with np.load(bench.data, allow_pickle=False) as arrays:
            found = next(arrays[k] for k in arrays if arrays[k].dtype == np.uint8 and arrays[k].ndim == 4)
            return np.ascontiguousarray(found)
    bench.note("no pictures are given: they are random")
    return np.random.default_rng(0).integers(0, 256, (64 if bench.tiny else 10_000, 32, 32, 3), np.uint8)


def trainer(bench: Bench, case: str, steps: int = 10) -> None:
    """The program that a run of configs/ddpm_cifar.py has, with augmentation, dropout, clipping and averages, on pictures that
    are kept on the device, `steps` per dispatch, its figures fetched one dispatch late; against the bare step, scanned."""
    if not bench.ours:
        return
    import jax

    from jaxgen.config import files as configs
    from jaxgen.core import parallel
    from jaxgen.runs.experiment import Experiment, open_source

    images = pictures(bench)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pictures.npz")
        np.savez(path, image=images)
        config = configs.load(f"{ROOT}/configs/ddpm_cifar.py{':tiny' if bench.tiny else ''}")
        batch = 4 if bench.tiny else 128
        data = {"data": "arrays", "data.path": str(path), "data.batch": batch, "data.augment": ("flip",)}
        config = configs.override(config, {**data, "method.net.dtype": "bfloat16", "mesh": {"data": 1}})
        exp = Experiment.open(config, open_source(config, "train").spec)
    steps, bench.found["batch"] = 2 if bench.tiny else steps, batch
    with bench.surviving("jaxgen"):
        data = parallel.put_replicated(exp.mesh, {exp.data.target: images})
        start, hits = time.monotonic(), len(HITS)
        program = exp.compile_steps(steps, data)
        about = dict(images=batch, steps=steps, **needed(program, start, hits))
        state, rng = [exp.init()], np.random.default_rng(0)

        def call(n: int) -> None:
            late = None
            for _ in range(n):
                rows = rng.integers(0, len(images), (steps, batch), np.int32)
                rows = parallel.put_batch(exp.mesh, {"i": rows}, leading=1)["i"]
                state[0], figures = program(state[0], rows, data, exp.root)
                if late:
                    jax.device_get(late)
                late = figures
            jax.device_get(late)

        bench.add("jaxgen", call, **about)
        bench.measure()
    with bench.surviving("bare", 0 if bench.tiny else 20):
        found = case_of(bench, case)
        found = replace(found, batch=batch, net={**found.net, "shape": exp.spec.shape})
        call, about = Ours(found).contender(steps)
        bench.add("bare", call, **about)
        bench.measure()


def main() -> None:
    told = json.loads(sys.argv[1])
    bench = Bench(*(told[k] for k in ("out", "tiny", "data", "compile")))
    bench.open()
    bench.begin(told["seconds"])
    try:
        with bench.surviving("the row"):
            globals()[told["work"]](bench, **told["options"])
    except OutOfMemory as error:
        bench.note(f"memory did not suffice for {error}")
    bench.save()


if __name__ == "__main__":
    main()

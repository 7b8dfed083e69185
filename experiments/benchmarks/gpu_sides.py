"""The two sides of a row of `gpu.py`, and a Bench, which times them and tells what was found.

A side that is not there, does not compile or fails is left out and named; what does not fit in memory is tried again
with half the batch.
"""

import fcntl
import gc
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two frameworks share the card
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")  # a limit: what is not used stays free
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402

TINY = {  # kind -> a net for a CPU
    "ddpm": dict(shape=(8, 8, 3), width=16, mults=(1, 2), blocks=1, attend=(4,), groups=8, dropout=0.0),
    "edm": dict(shape=(8, 8, 3), width=16, mults=(1, 2), blocks=1, attend=(4,), dropout=0.0),
    "dit": dict(shape=(8, 8, 4), patch=2, depth=2, width=32, heads=2),
}
HITS: list[str] = []  # programs that JAX read from its compilation cache
TURN = 0.2  # seconds of a turn, about
ROUNDS = 5


class OutOfMemory(Exception):
    """The card's memory does not suffice for what the message names."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While this process is timed: all others that keep a record in the folder are frozen, with what they started."""
    mine = os.getpid()
    with (folder / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        holder = folder / "holder"
        holder.write_text(str(mine))
        _tell(folder, signal.SIGSTOP, mine)
        time.sleep(0.3)  # what they have given to the card ends
        try:
            yield
        finally:
            thaw(mine, folder)


def thaw(pid: int, folder: Path) -> None:
    """Those that a process froze go on; also where it died before it could say so."""
    holder = folder / "holder"
    if holder.is_file() and holder.read_text() == str(pid):
        holder.unlink()
        _tell(folder, signal.SIGCONT, pid)


def _tell(folder: Path, what: signal.Signals, but: int) -> None:
    for file in folder.glob("*.pid"):
        pid = int(file.stem)
        if pid != but:
            with suppress(ProcessLookupError):
                os.killpg(pid, what)


def out_of_memory(error: Exception) -> bool:
    """Whether JAX or PyTorch says so."""
    words = f"{type(error).__name__} {error}".lower()
    return any(sign in words for sign in ("resource_exhausted", "out of memory", "outofmemory", "cublas_status_alloc"))


class Bench:
    """What a row has (sides, time), and its record, which is written after every finding.

    ours: whether JAX has the device that is asked for. torch: PyTorch's name of it, "" where there is none.
    """

    def __init__(self, out: str, tiny: bool = False, data: str = "", compile: bool = True) -> None:
        self.file, self.tiny, self.data, self.compile = Path(out), tiny, data, compile
        (self.file.parent / f"{os.getpid()}.pid").touch()
        self.contenders: dict[str, Callable[[int], Any]] = {}
        self.found: dict[str, Any] = dict(contenders={}, checks={}, notes=[])
        self.end = math.inf
        self.ours, self.torch = False, ""

    def open(self) -> None:
        """Import both sides."""
        with self.surviving("our side"):
            if self.tiny:
                os.environ["JAX_PLATFORMS"] = "cpu"
            from jaxgen.runs import setup

            setup.configure()
            import jax

            jax.monitoring.register_event_listener(lambda event, **_: HITS.extend([event] * ("cache_hits" in event)))
            self.ours = True
        with self.surviving("PyTorch's side"):
            import torch

            torch.backends.cudnn.benchmark = True
            precision("high")  # as XLA's default; rows that must not say so
            self.torch = "cpu" if self.tiny else "cuda"
            if self.tiny:
                torch.set_num_threads(1)

        self.jax = jax if self.ours else None

    def begin(self, seconds: float) -> None:
        """Take the devices."""
        self.end = time.monotonic() + seconds
        if self.ours and not self.tiny and self.jax.default_backend() != "gpu":
            self.ours = False
            self.note("our side is left out: JAX sees no GPU")
        if self.torch == "cuda":
            import torch

            if not torch.cuda.is_available():
                self.torch = ""
                self.note("PyTorch's side is left out: it sees no GPU")

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def note(self, words: str) -> None:
        """Tell it in the record."""
        self.found["notes"].append(words)
        self.save()

    def save(self) -> None:
        """Write what is known."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.found))
        new.replace(self.file)

    @contextmanager
    def surviving(self, what: str, seconds: float = 0.0) -> Iterator[None]:
        """What fails inside is left out and named; so is what raises because fewer than `seconds` are left."""
        try:
            if self.left < seconds:
                raise TimeoutError(f"{self.left:.0f} s are left")
            yield
        except Exception as error:
            if isinstance(error, OutOfMemory):
                raise
            if out_of_memory(error):
                raise OutOfMemory(what) from None
            print(f"{what}: {error}", file=sys.stderr)
            first = str(error).strip().splitlines()
            self.note(f"{what} is left out: {type(error).__name__}: {first[0][:160] if first else ''}")

    def add(self, name: str, call: Callable[[int], Any], **about: float) -> Any:
        """A contender: `call(n)` works n times, waits and gives the last result. Its first result."""
        start = time.monotonic()
        result = call(1)
        about.setdefault("first_call_s", round(time.monotonic() - start, 2))
        self.contenders[name] = call
        self.found["contenders"][name] = about
        self.save()
        return result

    def measure(self, rounds: int = ROUNDS) -> None:
        """Milliseconds per step of every contender so far, all taking turns."""
        with alone(self.file.parent):
            per_step = self._rounds(rounds)
        for name, ms in per_step.items():
            row = dict(ms=statistics.median(ms), min=min(ms), max=max(ms), n=len(ms))
            self.found["contenders"][name] |= row
        self.save()

    def _rounds(self, rounds: int) -> dict[str, list[float]]:
        calls, per_step = {}, {}
        for name, call in self.contenders.items():
            call(1)
            start = time.perf_counter()
            call(2)
            one = (time.perf_counter() - start) / 2
            calls[name] = max(1, round((0.02 if self.tiny else TURN) / one))
            per_step[name] = []
        for _ in range(rounds):
            for name, call in self.contenders.items():
                start = time.perf_counter()
                call(calls[name])
                seconds = (time.perf_counter() - start) / calls[name] / self.found["contenders"][name].get("steps", 1)
                per_step[name].append(1e3 * seconds)
        return per_step

    def halving(self, batch: int, work: Callable[[int], None]) -> None:
        """`work(batch)`, with half the batch as often as memory does not suffice."""
        while batch:
            try:
                self.found["batch"] = batch
                return work(batch)
            except OutOfMemory as error:
                why = str(error)
            self.contenders, self.found["contenders"] = {}, {}
            gc.collect()
            if self.torch == "cuda":
                import torch

                torch.cuda.empty_cache()
            self.note(f"memory did not suffice for {why} at batch {batch}")
            batch //= 2
        raise OutOfMemory("a batch of 1")


# ----------------------------------------------------------------------------------------------------------------------
# Our side


def weights(module: Any, *inputs: Any) -> dict[str, Any]:
    """Random numpy variables that keep the scale: drawn on the host, since compiling an initialisation takes longer."""
    import jax

    key = jax.random.key(0)
    shapes = jax.eval_shape(module.init, key, *inputs)
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: Any) -> np.ndarray:
        w = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "kernel":
            return w / math.sqrt(math.prod(leaf.shape[-4:-1] if len(leaf.shape) >= 4 else leaf.shape[-2:-1]))
        return 0.02 * w + (path[-1].key == "scale")

    fixed = {}
    if len(shapes) > 1:  # filters, which nobody trains: the program that makes them alone is small
        fixed = jax.jit(lambda *x: {k: v for k, v in module.init(key, *x).items() if k != "params"})(*inputs)
    return {"params": jax.tree_util.tree_map_with_path(draw, shapes["params"]), **jax.device_get(fixed)}


def net_of(case: Any, **extra: Any) -> Any:
    """Our module of a case."""
    from nets_vs_torch import KINDS, find

    return find(KINDS[case.kind].ours)(**{**case.net, **extra}, dtype="bfloat16" if case.bf16 else "float32")


def arrays_of(case: Any) -> dict[str, np.ndarray]:
    """x, t and the noise to be predicted."""
    rng = np.random.default_rng(1)
    shape = (case.batch, *case.net["shape"])
    x, eps = (rng.standard_normal(shape, np.float32) for _ in range(2))
    return dict(x=x, t=rng.uniform(0, 999, case.batch).astype(np.float32), eps=eps)


class Ours:
    """Our net of a case with Adam, and its one state, which programs of any number of steps pass on. extra: further fields."""

    def __init__(self, case: Any, **extra: Any) -> None:
        import jax

        self.module, self.arrays = net_of(case, **extra), arrays_of(case)
        one = self.arrays["x"][:1], self.arrays["t"][:1]
        self.variables = weights(self.module, *one)
        self.state, self.placed = None, None
        plain = net_of(case)  # what is counted has neither recomputation nor stacked blocks
        begin, step = self.training(plain)
        shapes = jax.eval_shape(plain.init, jax.random.key(0), *one)["params"]
        self.about = dict(images=case.batch, flop=counted(step, jax.eval_shape(begin, shapes), self.arrays))

    def training(self, module: Any) -> tuple[Callable, Callable]:
        """(params -> state, one Adam step (state, arrays) -> state, (loss, the output for two examples))."""
        import jax
        import jax.numpy as jnp
        import optax

        tx, fixed = optax.adam(2e-4), {k: v for k, v in self.variables.items() if k != "params"}

        def step(state: tuple, a: dict) -> tuple:
            def loss(params: Any) -> tuple:
                out = module.apply({"params": params, **fixed}, a["x"], a["t"])
                return jnp.mean((out - a["eps"]) ** 2), out[:2]

            params, opt = state
            shown, grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt = tx.update(grads, opt)
            return (optax.apply_updates(params, updates), opt), shown

        return lambda params: (params, tx.init(params)), step

    def contender(self, num: int) -> tuple[Callable[[int], Any], dict[str, float]]:
        """(`num` steps per call, what the program needs)."""
        import jax

        begin, step = self.training(self.module)
        steps = step if num == 1 else lambda s, a: jax.lax.scan(lambda s, _: step(s, a), s, length=num)
        abstract = jax.eval_shape(begin, self.variables["params"])
        run, need = compiled(steps, abstract, self.arrays, donate_argnums=0)
        if self.state is None:
            self.placed = jax.device_put(self.arrays)
            self.state = jax.jit(begin)(jax.device_put(self.variables["params"]))

        def call(n: int) -> Any:
            for _ in range(n):
                self.state, out = run(self.state, self.placed)
            return jax.block_until_ready(out)

        return call, dict(**self.about, **need, steps=num)


def counted(function: Callable, *args: Any) -> float:
    """Operations of its products, as written: cuDNN's attention, whose products are hidden, is counted as XLA's."""
    import jax
    from operations import operations

    from jaxgen.nets import layers

    with mock.patch.object(layers, "_cudnn_attention_works", lambda *_: False):
        return operations(jax.make_jaxpr(function)(*args).jaxpr, others=False)


def needed(program: Any, start: float, hits: int) -> dict[str, Any]:
    """Seconds since the compiling began, whether the cache had the program, and its memory, arguments included."""
    about: dict[str, Any] = dict(compile_s=round(time.monotonic() - start, 2), from_cache=len(HITS) > hits)
    if need := program.memory_analysis():
        size = need.argument_size_in_bytes + need.output_size_in_bytes - need.alias_size_in_bytes
        about["memory_gb"] = (size + need.temp_size_in_bytes) / 1e9
    return about


def compiled(function: Callable, *args: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The program, and what it needed."""
    import jax

    start, hits = time.monotonic(), len(HITS)
    program = jax.jit(function, **options).lower(*args).compile()
    return program, needed(program, start, hits)


def repeated(program: Callable, *args: Any) -> Callable[[int], Any]:
    """A contender that calls a program of fixed arguments."""
    import jax

    def call(n: int) -> Any:
        for _ in range(n):
            out = program(*args)
        return jax.block_until_ready(out)

    return call


# ----------------------------------------------------------------------------------------------------------------------
# PyTorch's side


class Twin:
    """The same net in PyTorch, channels_last, with our weights; eager and compiled share it."""

    def __init__(self, case: Any, device: str, ours: Ours) -> None:
        import torch
        from nets_vs_torch import KINDS, find

        self.device, kind, arrays = device, KINDS[case.kind], ours.arrays
        tensors = find(kind.export)(ours.module, ours.variables)
        self.net = find(kind.twin)(**case.net)
        self.net.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()})
        self.net = self.net.to(device=device, memory_format=torch.channels_last)
        self.x, self.eps = (self.place(arrays[k]) for k in ("x", "eps"))
        self.t = torch.tensor(arrays["t"]).to(device)
        self.opt = torch.optim.Adam(self.net.parameters(), 2e-4, fused=True)
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=case.bf16)

    def place(self, x: np.ndarray) -> Any:
        import torch

        return torch.tensor(x).permute(0, 3, 1, 2).to(self.device, memory_format=torch.channels_last)

    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """For two examples, NHWC: in float32 without TF32, and under autocast."""
        import torch

        def numpy(y: Any) -> np.ndarray:
            return y.float().permute(0, 2, 3, 1).cpu().numpy()

        with torch.no_grad():
            precision("highest")
            exact = numpy(self.net(self.x[:2], self.t[:2]))
            precision("high")
            with self.cast():
                return exact, numpy(self.net(self.x[:2], self.t[:2]))

    def training(self, compiled: bool) -> Callable[[int], None]:
        """n training steps."""
        import torch

        net = torch.compile(self.net) if compiled else self.net

        def call(n: int) -> None:
            for _ in range(n):
                self.opt.zero_grad(set_to_none=True)
                with self.cast():
                    loss = torch.mean((net(self.x, self.t) - self.eps) ** 2)
                loss.backward()
                self.opt.step()
            wait(self.device)

        return call

    def sampling(self, compiled: bool, table: np.ndarray) -> Callable[[int], Any]:
        """n times the whole way from noise to pictures."""
        import torch

        net = torch.compile(self.net) if compiled else self.net

        def call(n: int) -> Any:
            with torch.no_grad(), self.cast():
                for _ in range(n):
                    x = self.x
                    for t, a, b in table.tolist():
                        x = a * x + b * net(x, torch.full((len(x),), t, device=self.device))
            wait(self.device)
            return x

        return call


def wait(device: str) -> None:
    """For all that PyTorch has begun."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def precision(name: str) -> None:
    """PyTorch's products of float32: "highest", or "high" for TF32."""
    import torch

    torch.set_float32_matmul_precision(name)
    torch.backends.cudnn.allow_tf32 = name == "high"


def inference(device: str, net: Any, x: Any, products: str, n: int) -> Any:
    """n times net(x)."""
    import torch

    precision(products)
    with torch.inference_mode():
        for _ in range(n):
            y = net(x)
    wait(device)
    return y


def torch_peak(bench: Bench, call: Callable[[int], Any]) -> dict[str, float]:
    """The most memory that PyTorch takes during a call."""
    if bench.torch != "cuda":
        return {}
    import torch

    torch.cuda.reset_peak_memory_stats()
    call(1)
    return dict(memory_gb=torch.cuda.max_memory_allocated() / 1e9)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b|."""
    return float(np.linalg.norm(np.float64(a) - b) / np.linalg.norm(np.float64(b)))


def versus(bench: Bench, form: Callable[[bool], Callable[[int], Any]], **about: float) -> None:
    """PyTorch's two contenders, eager and compiled, measured together with all that are there."""
    for name, seconds in (("torch", 0), ("torch_compile", 0 if bench.tiny else 25))[: 2 if bench.compile else 1]:
        with bench.surviving(name, seconds):
            call = form(name == "torch_compile")
            start = time.monotonic()
            call(1)
            about |= dict(compile_s=round(time.monotonic() - start, 2)) if name == "torch_compile" else {}
            bench.add(name, call, **about, **torch_peak(bench, call))
            bench.measure()

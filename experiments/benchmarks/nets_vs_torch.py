"""Training step and 50-step sampling of UNets and DiT: jaxgen's networks and the same networks in PyTorch.

Cases of `suite.py`. Both sides start from the same weights and must give the same output before anything is timed.
"""

from dataclasses import dataclass

from turns import Contender, Contenders, find


@dataclass(frozen=True)
class Case:
    """One network, batch and precision. `scan`: training steps per dispatch of the multi-step contender."""

    kind: str  # a key of KINDS
    net: dict
    batch: int
    bf16: bool = False
    scan: int = 4
    sample_steps: int = 50
    sample_batch: int = 0  # 0: that of training
    about: str = ""


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


TINY = dict(width=32, mults=(1, 2, 2), blocks=2, attend=(8,), groups=8, dropout=0.0)
LEAST = dict(width=16, mults=(1, 2), blocks=1, attend=(), groups=4, dropout=0.0)  # calls cost more than arithmetic
FULL = dict(shape=(32, 32, 3), width=128, mults=(1, 2, 2, 2), blocks=2, attend=(16,), groups=32, dropout=0.0)
EDM_TINY = dict(shape=(32, 32, 3), width=32, mults=(2, 2, 2), blocks=2, attend=(16,), dropout=0.0)
EDM = dict(shape=(32, 32, 3), width=128, mults=(2, 2, 2), blocks=4, attend=(16,), dropout=0.0)
LATENT = dict(shape=(32, 32, 4), patch=2)
DIT_S, DIT_XL = dict(LATENT, depth=12, width=384, heads=6), dict(LATENT, depth=28, width=1152, heads=16)
CASES = {
    "small": Case("ddpm", dict(shape=(16, 16, 3), **TINY), 32, about="DDPM UNet, 16x16"),
    "cifar": Case("ddpm", dict(shape=(32, 32, 3), **TINY), 32, sample_batch=16, about="DDPM UNet, 32x32"),
    "edm_small": Case("edm", EDM_TINY, 16, sample_batch=8, about="DDPM++, 32x32"),
    "dit_s": Case("dit", DIT_S, 8, sample_batch=2, about="DiT-S/2, 32x32x4"),
    "tiny_unet": Case("ddpm", dict(LEAST, shape=(8, 8, 1)), 2, about="UNet of width 16, 8x8"),
    "tiny_dit": Case(
        "dit", dict(shape=(8, 8, 1), patch=2, depth=2, width=64, heads=2), 2, about="DiT of width 64, 8x8"
    ),
    "full": Case("ddpm", FULL, 128),
    "full_bf16": Case("ddpm", FULL, 128, bf16=True),
    "edm_bf16": Case("edm", EDM, 128, bf16=True),
    "dit_s_bf16": Case("dit", DIT_S, 256, bf16=True),
    "dit_xl_bf16": Case("dit", DIT_XL, 64, bf16=True),
}
CPU = ("small", "cifar", "edm_small", "dit_s", "tiny_unet", "tiny_dit")
GPU = ("full", "full_bf16", "edm_bf16", "dit_s_bf16", "dit_xl_bf16")


def ours(case: Case) -> tuple[Contenders, dict, dict, dict]:
    """Our contenders; the weights, exported; the inputs, and our output [B, H, W, C] for them."""
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

    def trainer(steps: int) -> Contender:
        run = step if steps == 1 else lambda state: jax.lax.scan(step, state, length=steps)
        state = jax.tree.map(jnp.copy, (start, tx.init(start)))
        program = jax.jit(run, donate_argnums=0).lower(state).compile()

        def call() -> None:
            nonlocal state
            state, loss = program(state)
            jax.block_until_ready((state, loss))

        return Contender(call, steps, program.memory_analysis().temp_size_in_bytes)

    @jax.jit
    def sample(variables, x):
        def body(x, i):
            eps = module.apply(variables, x, jnp.full(len(x), i, jnp.float32))
            return x - 0.01 * eps, None

        return jax.lax.scan(body, x, jnp.linspace(980, 0, case.sample_steps))[0]

    train = {"jaxgen": trainer(1), f"jaxgen_scan{case.scan}": trainer(case.scan)}
    sampling = {"jaxgen": Contender(lambda: jax.block_until_ready(sample(variables, x[: case.sample_batch or None])))}
    arrays = dict(x=jax.device_get(x), t=jax.device_get(t), eps=jax.device_get(eps))
    with jax.default_matmul_precision("highest"):
        y = jax.device_get(jax.jit(net(**case.net).apply)(variables, x, t))
    contenders = {"train": train, "sample": sampling}
    return contenders, export(module, jax.device_get(variables)), arrays, {"output": y}


def theirs(case: Case, device: str, weights: dict, arrays: dict, compiled: bool = False) -> tuple[Contenders, dict]:
    """PyTorch's contenders, and its output for the same inputs."""
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
            z = x[: case.sample_batch or None]
            for i in torch.linspace(980, 0, case.sample_steps).tolist():
                z = z - 0.01 * fast(z, torch.full((len(z),), i, device=device))
        wait()

    name = "torch_compile" if compiled else "torch"
    return {"train": {name: Contender(train)}, "sample": {name: Contender(sample)}}, {"output": y}

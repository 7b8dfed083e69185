"""Training steps of whole methods: jaxgen's own, compiled as the trainer compiles it, and the same step in PyTorch.

Cases of `suite.py`. Both sides begin with the same weights, see the same images and, in the step that is compared, the
same random draws; then losses, gradients and what the nets keep besides (batch statistics, codebooks) must agree.
"""

from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
from turns import Contender, Contenders, find


@dataclass(frozen=True)
class Case:
    """A shipped config with changes. `scan`: training steps per dispatch of the multi-step contender."""

    config: str
    twin: str  # of torch_methods
    changes: dict[str, Any] = field(default_factory=dict)
    scan: int = 4
    about: str = ""

    @property
    def batch(self) -> int:
        """Examples of one update."""
        return self.changes["data.batch"]


SMALL = {f"method.net.{part}.{size}": 128 for part in ("encoder", "decoder") for size in ("width", "hidden")}
PLAYERS = {"method.gen.width": 32, "method.disc.width": 32}
CASES = {
    "dcgan": Case("dcgan_cifar", "TorchGan", {"data.batch": 128, **PLAYERS}, about="DCGAN, 32x32"),
    "wgan_gp": Case(
        "wgan_gp_cifar", "TorchGan", {"data.batch": 16, **PLAYERS}, about="WGAN-GP, 32x32, 5 updates of D a step"
    ),
    "vae": Case("vae_cifar", "TorchVae", {"data.batch": 32, **SMALL}, about="VAE, 32x32"),
    "vqvae": Case("vqvae_cifar", "TorchVqVae", {"data.batch": 32, **SMALL}, about="VQ-VAE, 32x32"),
}
# What a twin has not: averages, schedules, augmentations
PLAIN = {"data.augment": (), "mesh": {"data": 1}}
PLAIN_NET = {"ema": "none", "optimizer.schedule": "constant", "optimizer.warmup": 0}


def experiment(case: Case, **changes: Any) -> Any:
    """jaxgen's `Experiment` of a case, on pictures of 32 x 32 pixels."""
    from jaxgen.config import files as configs
    from jaxgen.core import parallel
    from jaxgen.core.spec import pictures
    from jaxgen.runs.experiment import Experiment

    config = configs.load(case.config)
    nets = [name for name in ("net", "gen", "disc") if name in config.method]
    plain = {f"method.{net}.{key}": value for net in nets for key, value in PLAIN_NET.items()}
    plain |= {"method.beta_warmup": 0} if case.twin == "TorchVae" else {}
    config = configs.override(config, {**PLAIN, **plain, **case.changes, **changes})
    return Experiment(config, pictures((32, 32, 3)), parallel.make_mesh({"data": 1}))


def twin_arguments(exp: Any) -> dict[str, Any]:
    """What the twin of an experiment is made of."""
    m = exp.config.method.to_dict()
    shape = exp.spec.shape

    def sizes(spec: dict) -> dict:
        left = ("name", "optimizer", "ema", "dtype", "conditions", "shape", "start")
        return {k: v for k, v in spec.items() if k not in left}

    nets = {name: m[name] for name in ("net", "gen", "disc") if name in m}
    adam = {name: {k: spec["optimizer"][k] for k in ("lr", "b1", "b2", "eps")} for name, spec in nets.items()}
    if m["name"] == "gan":
        method = exp.method
        names = {k: type(getattr(method, k).module).__name__ for k in ("gen", "disc")}
        known = {k: signature(find(f"torch_methods:{name}")).parameters for k, name in names.items()}
        # what else our nets may be told is off: else they would not agree
        players = {k: (name, {x: v for x, v in sizes(m[k]).items() if x in known[k]}) for k, name in names.items()}
        game, strength = type(method.loss).__name__, getattr(method.disc_penalties, "strength", 0.0)
        more = dict(game=game, strength=strength, n_critic=m["n_critic"], z_dim=m["z_dim"], prior=m["prior"])
        return dict(shape=shape, optimizers=adam, **players, **more)
    parts = {k: sizes(m["net"][k]) for k in ("encoder", "decoder")}
    if m["name"] == "vae":
        own = dict(latent=m["net"]["latent"], clip=m["net"]["optimizer"]["clip"], beta=m["beta"])
    else:
        own = dict(quantizer=sizes(m["net"]["quantizer"]), sigma=m["likelihood"]["sigma"], beta=m["beta"])
    return dict(shape=shape, optimizers=adam, **parts, **own)


def drawn(exp: Any) -> list[np.ndarray]:
    """The random draws of the first step in the order in which a twin wants them."""
    import jax

    from jaxgen.core import keys

    method, num, split = exp.method, exp.feed.batch, jax.random.split
    key = keys.named(exp.root, "train", 0)
    if exp.config.method.name == "vae":
        return [np.asarray(jax.random.normal(split(key, 3)[1], (num, method.net.module.latent)))]
    if exp.config.method.name != "gan":
        return []
    disc, gen = split(key)
    found = []

    def latents(key: Any) -> Any:
        """Those of the images that G makes with this key."""
        return method.latents(split(key, 3)[1], num)

    for key in split(disc, method.n_critic):
        made, _, _, mix = split(key, 4)
        found.append(latents(made))
        if hasattr(method.disc_penalties, "strength"):
            found.append(jax.random.uniform(mix, (num, 1, 1, 1)))
    return [np.asarray(x) for x in [*found, latents(split(gen, 4)[0])]]


def ours(case: Case) -> tuple[Contenders, dict, dict, dict]:
    """Our contenders; the weights, exported by net; what the twin is given; what a first step found."""
    import jax
    import jax.numpy as jnp
    import optax
    from torch_methods import exported

    from jaxgen.core import parallel

    exp = experiment(case)
    images = np.random.default_rng(0).integers(0, 256, (case.scan * exp.batch, *exp.spec.shape), np.uint8)
    data = parallel.put_replicated(exp.mesh, {"image": images})

    def program(num: int) -> tuple[Any, Any]:
        rows = np.arange(num * exp.batch, dtype=np.int32).reshape(num, exp.batch)
        return exp.compile_steps(num, data), parallel.put_batch(exp.mesh, {"i": rows}, leading=1)["i"]

    def trainer(num: int) -> Contender:
        steps, rows = program(num)
        state = jax.tree.map(jnp.copy, start)

        def call() -> None:
            nonlocal state
            state, metrics = steps(state, rows, data, exp.root)
            jax.block_until_ready((state, metrics))

        return Contender(call, num, steps.memory_analysis().temp_size_in_bytes)

    step, rows = program(1)
    fresh = exp.init()
    empty = {name: jax.tree.map(jnp.copy, net.opt) for name, net in fresh.nets.items()}
    begun, _ = step(fresh, rows, data, exp.root)  # codebooks start from the first batch
    nets = {name: net.replace(opt=empty[name]) for name, net in begun.nets.items()}
    start = begun.replace(step=jnp.zeros_like(begun.step), nets=nets)
    weights = {k: exported(jax.device_get({"params": net.params, **net.vars})) for k, net in start.nets.items()}
    after, metrics = step(jax.tree.map(jnp.copy, start), rows, data, exp.root)
    found = {k: np.asarray(v[0]) for k, v in metrics.items()}
    moments = {k: optax.tree.get(net.opt, "mu") for k, net in after.nets.items()}
    gradients = {k: exported(jax.device_get({"params": mu})) for k, mu in moments.items()}
    given = dict(arguments=twin_arguments(exp), images=images[: exp.batch], draws=drawn(exp))
    train = {"jaxgen": trainer(1), f"jaxgen_scan{case.scan}": trainer(case.scan)}
    return {"train": train}, weights, given, {**found, **gradients}


def theirs(case: Case, device: str, weights: dict, given: dict, compiled: bool = False) -> tuple[Contenders, dict]:
    """PyTorch's contenders (none is compiled), and what its first step found."""
    import torch
    import torch_methods

    twin = find(f"torch_methods:{case.twin}")(**given["arguments"], device=device)
    twin.load(weights)
    images = torch.tensor(given["images"]).to(device)
    losses = twin.step(images, torch_methods.Draws([torch.tensor(x).to(device) for x in given["draws"]]))
    found = {**{k: v.cpu().numpy() for k, v in losses.items()}, **twin.gradients()}
    indices = torch.arange(len(images), device=device)

    def train() -> None:
        twin.step(images[indices], torch_methods.Draws())
        if device == "cuda":
            torch.cuda.synchronize()

    return {"train": {} if compiled else {"torch": Contender(train)}}, found

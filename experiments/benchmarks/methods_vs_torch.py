"""Training steps of whole methods: jaxgen's own, compiled as the trainer compiles it, and the same step in PyTorch.

Cases of `suite.py`. Both sides begin with the same weights, see the same images and, in the step that is compared, the
same random draws; then losses, gradients and what the nets keep besides (batch statistics, codebooks) must agree.
"""

from dataclasses import dataclass, field
from functools import cache, partial
from inspect import signature
from typing import Any

import numpy as np
from turns import Contender, Contenders, find


@dataclass(frozen=True)
class Case:
    """A shipped config with changes. `scan`: training steps per dispatch of the multi-step contender.

    cycle: steps of a turn, where not all are alike. generate: images that are made at once, 0: not measured. alike: changes
    under which both sides agree, where what is measured draws numbers that cannot be handed over.
    """

    config: str
    twin: str  # of torch_methods
    changes: dict[str, Any] = field(default_factory=dict)
    scan: int = 4
    cycle: int = 1
    generate: int = 0
    alike: dict[str, Any] = field(default_factory=dict)
    side: int = 32
    channels: int = 3
    about: str = ""

    @property
    def batch(self) -> int:
        """Examples of one update."""
        return self.changes["data.batch"]

    @property
    def bf16(self) -> bool:
        """Whether PyTorch casts, as our nets do by their `dtype`."""
        return "bfloat16" in self.changes.values()


SMALL = {f"method.net.{part}.{size}": 128 for part in ("encoder", "decoder") for size in ("width", "hidden")}
PLAYERS = {"method.gen.width": 32, "method.disc.width": 32}
NARROW = {  # a StyleGAN2 of 64 channels throughout, in float32
    f"method.{net}.{key}": value for net in ("gen", "disc") for key, value in {"channel_max": 64, "half": 0}.items()
}
NARROW |= {"method.z_dim": 64, "method.gen.w_dim": 64, "method.augment": "none"}
PATH_LENGTH = {"method.gen_penalties": {"name": "path_length", "strength": 2.0, "every": 4, "apart": True}}
STEPS = {"method.net.depth": 8, "method.net.width": 64, "method.net.optimizer": "adam"}
JUDGED = {"method.perceptual": "none", "method.disc_start": 0, "method.disc_warmup": 0, "method.disc_ramp": 0}
ATTENTION = {"method.net.heads": 4, "method.net.dropout": 0.0, "method.net.optimizer": "adam"}
CASES = {
    "dcgan": Case("dcgan_cifar", "TorchGan", {"data.batch": 128, **PLAYERS}, generate=64, about="DCGAN, 32x32"),
    "wgan_gp": Case(
        "wgan_gp_cifar", "TorchGan", {"data.batch": 16, **PLAYERS}, about="WGAN-GP, 32x32, 5 updates of D a step"
    ),
    "sngan": Case(
        "sngan_cifar", "TorchGan", {"data.batch": 16, **PLAYERS}, about="SNGAN, 32x32, 5 updates of D a step"
    ),
    "stylegan2": Case(
        "stylegan2_cifar",
        "TorchGan",
        {"data.batch": 16, **NARROW, **PATH_LENGTH},
        scan=16,
        cycle=16,
        generate=64,
        alike={"method.gen.noise": "const"},
        about="StyleGAN2, 32x32, 16 steps with R1 and path length",
    ),
    "vae": Case("vae_cifar", "TorchVae", {"data.batch": 32, **SMALL}, about="VAE, 32x32"),
    "glow": Case("glow_cifar", "TorchFlow", {"data.batch": 32, **STEPS}, about="Glow of 3 x 8 steps, 32x32"),
    "vqvae": Case("vqvae_cifar", "TorchVqVae", {"data.batch": 32, **SMALL}, about="VQ-VAE, 32x32"),
    "pixelcnnpp": Case(
        "pixelcnnpp_cifar",
        "TorchPixelCnnPP",
        {"data.batch": 16, "method.net.width": 32, "method.net.blocks": 1, "method.net.dropout": 0.0},
        about="PixelCNN++, 32x32",
    ),
    "vqgan": Case(
        "vqgan_cifar",
        "TorchFirstStage",
        {"data.batch": 16, "method.ae.width": 32, "method.ae.groups": 8, "method.ae.blocks": 1, **JUDGED},
        about="VQGAN with its discriminator, 32x32",
    ),
    "causal": Case(
        "image_transformer_digits",
        "TorchCausalTokens",
        {"data.batch": 16, "method.net.depth": 6, "method.net.width": 192, **ATTENTION},
        generate=16,
        side=16,
        channels=1,
        about="causal transformer of 6 x 192, 256 tokens",
    ),
}
HALF = {"method.gen.dtype": "bfloat16", "method.disc.dtype": "bfloat16"}
GPU_CASES = {  # at the size of the papers; StyleGAN2 has types of its own, and the same noise for every image
    "dcgan": Case("dcgan_cifar", "TorchGan", {"data.batch": 128, **HALF}),
    "sngan": Case("sngan_cifar", "TorchGan", {"data.batch": 64, **HALF}),
    "stylegan2_256": Case(
        "stylegan2_ffhq256", "TorchGan", {
            "data.batch": 32, "method.augment": "none", "method.gen.mixing": 0.0, "method.gen.noise": "const",
            "method.gen.half": 4, "method.disc.half": 4,
        }, scan=1, cycle=16, side=256,
    ),
}  # fmt: skip
NETS = ("net", "gen", "disc", "ae")
MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq"}  # of Adam, in optax and in PyTorch
# What a twin has not: averages, schedules, augmentations
PLAIN = {"data.augment": (), "mesh": {"data": 1}}
PLAIN_NET = {"ema": "none", "optimizer.schedule": "constant", "optimizer.warmup": 0}


def experiment(case: Case, **changes: Any) -> Any:
    """jaxgen's `Experiment` of a case, on pictures."""
    from jaxgen.config import files as configs
    from jaxgen.core import parallel
    from jaxgen.core.spec import pictures
    from jaxgen.runs.experiment import Experiment

    config = configs.load(case.config)
    nets = [name for name in NETS if name in config.method]
    plain = {f"method.{net}.{key}": value for net in nets for key, value in PLAIN_NET.items()}
    plain |= {"method.beta_warmup": 0} if case.twin == "TorchVae" else {}
    plain |= {"method.fakes": "batch"} if "fakes" in config.method else {}  # no labels are told
    config = configs.override(config, {**PLAIN, **plain, **case.changes, **changes})
    return Experiment(config, pictures((case.side, case.side, case.channels)), parallel.make_mesh({"data": 1}))


def twin_arguments(exp: Any) -> dict[str, Any]:
    """What the twin of an experiment is made of."""
    m = exp.config.method.to_dict()
    shape = exp.spec.shape

    def sizes(spec: dict) -> dict:
        left = ("name", "optimizer", "ema", "dtype", "conditions", "shape", "start")
        return {k: v for k, v in spec.items() if k not in left}

    nets = {name: m[name] for name in NETS if name in m}
    adam = {name: {k: spec["optimizer"][k] for k in ("lr", "b1", "b2", "eps")} for name, spec in nets.items()}
    if m["name"] == "gan":
        method = exp.method
        names = {k: type(getattr(method, k).module).__name__ for k in ("gen", "disc")}
        known = {k: signature(find(f"torch_methods:{name}")).parameters for k, name in names.items()}
        # what else our nets may be told is off: else they would not agree
        players = {k: (name, {x: v for x, v in sizes(m[k]).items() if x in known[k]}) for k, name in names.items()}
        found = {label: vars(p) for net in ("disc", "gen") for p, label in method.penalties(net).items()}
        own = {k: m[k] for k in ("order", "n_critic", "gen_batch", "z_dim", "prior")}
        more = dict(game=type(method.loss).__name__, penalties=found, **own)
        return dict(shape=shape, optimizers=adam, **players, **more)
    if m["name"] == "autoregressive":
        own = {k: m["net"][k] for k in ("width", "blocks", "levels")}
        return dict(shape=shape, optimizers=adam, mixtures=m["likelihood"]["mixtures"], **own)
    if m["name"] == "flow":
        return dict(shape=shape, optimizers=adam, **{k: m["net"][k] for k in ("levels", "depth", "width")})
    if m["name"] == "causal_tokens":
        own = {k: m["net"][k] for k in ("depth", "width", "heads")}
        return dict(shape=shape, optimizers=adam, hidden=round(m["net"]["mlp_ratio"] * own["width"]), **own)
    if m["name"] == "vqgan":
        own = {k: m["ae"][k] for k in ("width", "mults", "blocks", "groups", "z")}
        told = {k: m["ae"]["regularizer"][k] for k in ("codes", "dim", "beta", "dead", "decay")}
        disc = {k: m["disc"][k] for k in ("width", "layers")}
        return dict(
            shape=shape, optimizers=adam, ae=own | {"regularizer": told}, disc=disc, disc_weight=m["disc_weight"]
        )
    parts = {k: sizes(m["net"][k]) for k in ("encoder", "decoder")}
    if m["name"] == "vae":
        own = dict(latent=m["net"]["latent"], clip=m["net"]["optimizer"]["clip"], beta=m["beta"])
    else:
        q = m["net"]["quantizer"]
        told = {k: q[k] for k in ("codes", "dim", "decay", "eps", "dead")}
        own = dict(quantizer=told, sigma=m["likelihood"]["sigma"], beta=q["beta"])
    return dict(shape=shape, optimizers=adam, **parts, **own)


def drawn(exp: Any) -> list[np.ndarray]:
    """The random draws of the first step in the order in which a twin wants them."""
    import jax

    from jaxgen.core import keys

    method, num, split = exp.method, exp.feed.batch, jax.random.split
    key = keys.named(exp.root, "train", 0)
    if exp.config.method.name == "vae":
        return [np.asarray(jax.random.normal(split(key, 3)[1], (num, method.net.module.latent)))]
    if exp.config.method.name == "flow":
        return [np.asarray(jax.random.uniform(key, (num, *exp.spec.shape)).transpose(0, 3, 1, 2))]
    if exp.config.method.name != "gan":
        return []
    disc, gen = split(key)
    found = []

    def latents(key: Any, num: int = num) -> Any:
        """Those of the images that G makes with this key; of two styles the first, as twins do not mix them."""
        z = method.drawn(split(key, 3)[1], num)
        return z[:, 0] if method.styled else z

    for key in split(disc, method.n_critic):
        made, _, _, mix = split(key, 4)
        found.append(latents(made))
        if "gradient_penalty" in method.penalties("disc").values():
            found.append(jax.random.uniform(mix, (num, 1, 1, 1)))
    num *= method.gen_batch
    made = [latents(split(gen, 4)[0], num)]
    if "path_length" in method.penalties("gen").values():
        _, fake, direction = split(jax.random.fold_in(gen, 1), 3)
        (height, width, channels), (penalty,) = exp.spec.shape, method.penalties("gen")
        y = jax.random.normal(direction, (num // penalty.shrink, height, width, channels))
        made += [latents(fake, num), y.transpose(0, 3, 1, 2) / np.sqrt(height * width)]
    return [np.asarray(x) for x in (found + made if method.order == "disc_first" else made + found)]


def latents(exp: Any, key: Any, num: int) -> Any:
    """What images are made of: a GAN's latents; of tokens drawn in turn the noise by which each is chosen, [N, B, V]."""
    import jax

    if exp.config.method.name == "gan":
        return exp.method.latents(key, num)
    draw = lambda place: jax.random.gumbel(jax.random.fold_in(key, place), (num, exp.spec.vocabulary))  # noqa: E731
    return jax.lax.map(draw, np.arange(exp.method.places))


def ours(case: Case) -> tuple[Contenders, dict, dict, dict]:
    """Our contenders; the weights, exported by net; what the twin is given; what a first step found."""
    import jax
    import jax.numpy as jnp
    import optax
    from torch_methods import exported

    from jaxgen.core import parallel

    exp = experiment(case)
    alike = exp if case.alike.items() <= case.changes.items() else experiment(case, **case.alike)
    images = np.random.default_rng(0).integers(0, 256, (case.scan * exp.batch, *exp.spec.shape), np.uint8)
    data = parallel.put_replicated(exp.mesh, {"image": images})

    @cache
    def program(num: int, same: bool = False) -> tuple[Any, Any]:
        rows = np.arange(num * exp.batch, dtype=np.int32).reshape(num, exp.batch)
        rows = parallel.put_batch(exp.mesh, {"i": rows}, leading=1)["i"]
        return (alike if same else exp).compile_steps(num, data), rows

    def trainer(num: int) -> Contender:
        steps, rows = program(num)
        state, calls = jax.tree.map(jnp.copy, start), max(1, case.cycle // num)

        def call() -> None:
            nonlocal state
            for _ in range(calls):
                state, metrics = steps(state, rows, data, exp.root)
                jax.block_until_ready((state, metrics))

        return Contender(call, num * calls, steps.memory_analysis().temp_size_in_bytes)

    step, rows = program(1) if alike is exp else program(1, same=True)
    fresh = exp.init()
    empty = {name: jax.tree.map(jnp.copy, net.opt) for name, net in fresh.nets.items()}
    remembered = jax.tree.map(jnp.copy, fresh.extra)
    begun, _ = step(fresh, rows, data, exp.root)  # codebooks start from the first batch
    nets = {name: net.replace(opt=empty[name]) for name, net in begun.nets.items()}
    start = begun.replace(step=jnp.zeros_like(begun.step), nets=nets, extra=remembered)
    weights = {k: exported(jax.device_get({"params": net.params, **net.vars})) for k, net in start.nets.items()}
    after, metrics = step(jax.tree.map(jnp.copy, start), rows, data, exp.root)
    found = {k: np.asarray(v[0]) for k, v in metrics.items()}
    for moment in MOMENTS:
        moments = {k: optax.tree.get(net.opt, moment) for k, net in after.nets.items()}
        found |= {f"{moment} {k}": exported(jax.device_get({"params": tree})) for k, tree in moments.items()}
    given = dict(arguments=twin_arguments(exp), images=images[: exp.batch], draws=drawn(exp))
    contenders = {"train": {"jaxgen": trainer(1)}}
    if case.scan > 1:
        contenders["train"][f"jaxgen_scan{case.scan}"] = trainer(case.scan)
    if case.generate:
        weight, key = start.view(), jax.random.key(1)
        sample, plain = (jax.jit(partial(e.method.sample, num=case.generate, cond={})) for e in (exp, alike))
        given["latents"] = np.asarray(latents(exp, key, case.generate))
        found["images"] = np.asarray(plain(weight, key))
        contenders["generate"] = {"jaxgen": Contender(lambda: jax.block_until_ready(sample(weight, key)))}
    return contenders, weights, given, found


def theirs(case: Case, device: str, weights: dict, given: dict, compiled: bool = False) -> tuple[Contenders, dict]:
    """PyTorch's contenders (compiled, where no gradient is of a gradient), and what its first step found."""
    import torch
    import torch_methods

    twin = find(f"torch_methods:{case.twin}")(**given["arguments"], device=device)
    twin.load(weights)
    images = torch.tensor(given["images"]).to(device)
    found: dict[str, Any] = {}
    twin.random = not case.alike
    if case.generate:
        found["images"] = twin.generate(torch.tensor(given["latents"]).to(device)).cpu().numpy()
    with torch.autocast(device, torch.bfloat16, enabled=case.bf16):
        losses = twin.step(images, torch_methods.Draws([torch.tensor(x).to(device) for x in given["draws"]]))
    found |= {**{k: v.float().cpu().numpy() for k, v in losses.items()}, **twin.moments()}
    twin.random = True
    if compiled:
        if twin.doubly:
            return {}, found
        twin.compile()
    cast = torch.autocast(device, torch.bfloat16, enabled=case.bf16)
    indices = torch.arange(len(images), device=device)

    def contenders(grouped: bool) -> tuple[Contender, Contender]:
        """(steps of a cycle, generated images)."""

        def wait() -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        def train() -> None:
            twin.grouped = grouped
            with cast:
                for _ in range(case.cycle):
                    twin.step(images[indices], torch_methods.Draws())
            wait()

        def generate() -> None:
            twin.grouped = grouped
            twin.generate(twin.latents(case.generate, torch_methods.Draws()))
            wait()

        return Contender(train, case.cycle), Contender(generate)

    name = "torch_compile" if compiled else "torch"
    train, generate = contenders(False)
    made = {"train": {name: train}}
    if case.generate:
        made["generate"] = {name: generate} | ({"torch_grouped": contenders(True)[1]} if twin.modulates else {})
    return made, found

"""Nets that are told a text, encoders of text and the decoder of latents: jaxgen's, and the same in diffusers and transformers.

Cases of `suite.py`, which need the extra `peers`. Both sides start from the same weights and must give the same output before
anything is timed. Sampling is 20 steps of Euler with guidance of one prompt, both branches as one batch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from turns import Contender, Contenders, find

SCALE, STEPS = 4.0, 20


@dataclass(frozen=True)
class Case:
    """One net by its config in diffusers or transformers. `told`: its other inputs, name -> shape without the batch."""

    kind: str  # a key of KINDS
    config: dict
    batch: int
    told: dict
    about: str
    sample_batch: int = 1
    sampling: str = f"{STEPS} guided steps"


@dataclass(frozen=True)
class Kind:
    """Ours, as "module:attribute": the net of a config, its exporter; theirs: the class; what is timed."""

    ours: str
    export: str
    twin: str
    whats: tuple[str, ...] = ("train", "sample")


def unet(config: dict) -> Any:
    """Our net of a UNet2DConditionModel's config."""
    from jaxgen.nets.unet_condition import UNetCondition
    from jaxgen.pretrained.unet_condition import net_fields

    return UNetCondition(**net_fields(config))


def dit(config: dict) -> Any:
    """Our net of a DiTTransformer2DModel's config."""
    from jaxgen.nets.dit import DiT
    from jaxgen.pretrained.dit import dit_fields

    return DiT(**dit_fields(config))


def mmdit(config: dict) -> Any:
    """Our net of an SD3Transformer2DModel's config."""
    from jaxgen.pretrained.mmdit import SD3

    return SD3.net(**SD3.net_fields(config))


def mmdit_tensors(module: Any, variables: Any) -> dict:
    """Theirs."""
    from jaxgen.pretrained.mmdit import SD3

    return SD3.to_diffusers(module, variables)


def encoder(config: dict) -> Any:
    """Our net of a text encoder's config."""
    from jaxgen.pretrained.text import fields

    kind, known = fields(config)
    return kind(**known)


def autoencoder(config: dict) -> Any:
    """Our net of an AutoencoderKL's config."""
    from jaxgen.pretrained.autoencoders import module_of

    return module_of({"_class_name": "AutoencoderKL", **config})


HERE = "text_vs_peers"
KINDS = {
    "unet": Kind(f"{HERE}:unet", "jaxgen.pretrained.unet_condition:to_diffusers", "diffusers:UNet2DConditionModel"),
    "dit": Kind(f"{HERE}:dit", "jaxgen.pretrained.dit:to_diffusers", "diffusers:DiTTransformer2DModel"),
    "mmdit": Kind(f"{HERE}:mmdit", f"{HERE}:mmdit_tensors", "diffusers:SD3Transformer2DModel"),
    "clip": Kind(
        f"{HERE}:encoder", "jaxgen.pretrained.text:to_transformers", "transformers:CLIPTextModel", ("encode",)
    ),
    "t5": Kind(f"{HERE}:encoder", "jaxgen.pretrained.text:to_transformers", "transformers:T5EncoderModel", ("encode",)),
    "kl": Kind(
        f"{HERE}:autoencoder", "jaxgen.pretrained.autoencoders:to_diffusers", "diffusers:AutoencoderKL", ("decode",)
    ),
}
UNET = dict(
    sample_size=16, block_out_channels=(64, 128, 256), layers_per_block=1, norm_num_groups=32, cross_attention_dim=256,
    attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip
DIT = dict(
    sample_size=16, num_layers=12, num_attention_heads=6, attention_head_dim=64, out_channels=4, norm_num_groups=32
)
MMDIT = dict(
    sample_size=16, in_channels=4, out_channels=4, num_layers=6, num_attention_heads=6, attention_head_dim=64,
    caption_projection_dim=384, joint_attention_dim=512, pooled_projection_dim=256, pos_embed_max_size=16,
)  # fmt: skip
CLIP = dict(
    model_type="clip_text_model", hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    max_position_embeddings=77, vocab_size=49_408, hidden_act="quick_gelu", eos_token_id=49_407,
)  # fmt: skip
T5 = dict(
    model_type="t5", num_layers=12, d_model=768, num_heads=12, d_kv=64, d_ff=2048, feed_forward_proj="gated-gelu",
    vocab_size=32_128,
)  # fmt: skip
KL = dict(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4, sample_size=256,
)  # fmt: skip
LATENT = dict(x=(16, 16, 4))
CASES = {
    "text_unet": Case(
        "unet", UNET, 8, dict(LATENT, states=(77, 256)), "diffusers' UNet2DConditionModel, 16x16x4, 77 tokens"
    ),
    "peer_dit": Case("dit", DIT, 8, dict(LATENT, label=()), "diffusers' DiTTransformer2DModel (S/2), 16x16x4"),
    "text_mmdit": Case(
        "mmdit",
        MMDIT,
        8,
        dict(LATENT, states=(77, 512), pooled=(256,)),
        "diffusers' SD3Transformer2DModel, 16x16x4, 77 tokens",
    ),
    "clip_l": Case("clip", CLIP, 4, dict(ids=(77,)), "transformers' CLIPTextModel (L/14), 77 tokens"),
    "t5_base": Case("t5", T5, 4, dict(ids=(77,)), "transformers' T5EncoderModel (base, v1.1), 77 tokens"),
    "kl_decode": Case("kl", KL, 1, dict(z=(32, 32, 4)), "diffusers' AutoencoderKL, f8, 256x256"),
}


def given_of(case: Case) -> dict[str, np.ndarray]:
    """Inputs by name, the first of them what the net works on."""
    rng, top = np.random.default_rng(0), case.config.get("vocab_size", 1000)
    whole = {
        "ids": lambda n: rng.integers(1, top - 2, n).astype(np.int32),
        "label": lambda n: rng.integers(0, 1000, n).astype(np.int32),
    }
    normal = lambda n: rng.standard_normal(n).astype(np.float32)  # noqa: E731
    return {name: whole.get(name, normal)((case.batch, *shape)) for name, shape in case.told.items()}


def ours(case: Case) -> tuple[Contenders, dict, dict, dict]:
    """Our contenders; the weights, exported; the inputs, and our output for them, channels last."""
    import jax
    import jax.numpy as jnp
    import optax

    kind, given = KINDS[case.kind], given_of(case)
    module, rng = find(kind.ours)(case.config), np.random.default_rng(1)
    t = np.linspace(900, 100, case.batch).astype(np.float32)
    x, cond = next(iter(given.values())), {k: v for k, v in list(given.items())[1:]}
    pixels = np.zeros((1, 256, 256, 3), np.float32)
    args = {"kl": (pixels,), "clip": (x,), "t5": (x,)}.get(case.kind, (x, t, cond))
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name, noise = path[-1].key, rng.standard_normal(leaf.shape).astype(leaf.dtype)
        if name == "kernel":
            return noise / max(1, np.prod(leaf.shape[:-1])) ** 0.5
        return 1 + 0.02 * noise if name == "scale" else 0.02 * noise

    fixed = dict(shapes)
    start = jax.tree_util.tree_map_with_path(draw, fixed.pop("params"))
    # what is never trained is computed, not drawn
    fixed = {k: v for k, v in jax.jit(module.init)(jax.random.key(0), *args).items() if k != "params"} if fixed else {}
    variables = jax.device_put({"params": start, **fixed})
    forward = {
        "kl": lambda v, z: module.apply(v, z, method="decode"),
        "clip": lambda v, ids: module.apply(v, ids)["states"],
    }
    forward["t5"] = forward["clip"]
    apply = forward.get(case.kind, lambda v, x, t, cond: module.apply(v, x, t, cond)[..., : x.shape[-1]])
    inputs = (x,) if case.kind in forward else (x, t, cond)
    program = jax.jit(apply)
    contenders = {}
    if "train" in kind.whats:
        tx, target = optax.adam(2e-4), jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
        given["target"] = np.asarray(target)

        def step(state):
            params, opt = state
            loss, grads = jax.value_and_grad(
                lambda p: jnp.mean((apply({"params": p, **fixed}, x, t, cond) - target) ** 2)
            )(params)
            updates, opt = tx.update(grads, opt)
            return (optax.apply_updates(params, updates), opt), loss

        state = jax.tree.map(jnp.copy, (variables["params"], tx.init(variables["params"])))
        trained = jax.jit(step, donate_argnums=0).lower(state).compile()

        def call() -> None:
            nonlocal state
            state, loss = trained(state)
            jax.block_until_ready((state, loss))

        contenders["train"] = {"jaxgen": Contender(call, 1, trained.memory_analysis().temp_size_in_bytes)}

        def sample(variables, x, cond, null):
            from jaxgen.diffusion.guide import ClassifierFree

            guided = ClassifierFree(SCALE)(lambda x, t, c: apply(variables, x, t, c), cond, null)
            body = lambda x, i: (x - 0.01 * guided(x, jnp.full(len(x), i)), None)  # noqa: E731
            return jax.lax.scan(body, x, jnp.linspace(980.0, 30.0, STEPS))[0]

        n = case.sample_batch
        told = (x[:n], *({k: v[i : i + n] for k, v in cond.items()} for i in (0, n)))
        sampler = jax.jit(sample)
        contenders["sample"] = {"jaxgen": Contender(lambda: jax.block_until_ready(sampler(variables, *told)))}
    else:
        (what,) = kind.whats
        contenders[what] = {"jaxgen": Contender(lambda: jax.block_until_ready(program(variables, *inputs)))}
    with jax.default_matmul_precision("highest"):
        y = jax.device_get(jax.jit(apply)(variables, *inputs))
    weights = find(kind.export)(module, jax.device_get(variables))
    return contenders, {k: np.asarray(v) for k, v in weights.items()}, dict(given, t=t), {"output": y}


def theirs(case: Case, device: str, weights: dict, arrays: dict, compiled: bool = False) -> tuple[Contenders, dict]:
    """The contenders of diffusers and transformers, and their output for the same inputs, channels last."""
    import torch

    kind = KINDS[case.kind]
    net = net_of(case, find(kind.twin)).eval().to(device)
    missing, _ = net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    own = ("encoder.embed_tokens", "pos_embed.pos_embed", *(["encoder.", "quant_conv."] if case.kind == "kl" else []))
    if left := [name for name in missing if not name.startswith(own)]:  # of the same weights, or not in what is timed
        raise ValueError(f"{case.kind}: {left[:3]} have no weights")
    told = {k: torch.tensor(v).to(device) for k, v in arrays.items()}
    fast = torch.compile(net) if compiled else net
    pictures = {k: told.pop(k).permute(0, 3, 1, 2).contiguous() for k in ("x", "z", "target") if k in told}

    def call(x, t, **cond):
        if case.kind == "unet":
            return fast(x, t, cond["states"]).sample
        if case.kind == "dit":
            return fast(x, timestep=t, class_labels=cond["label"].long()).sample
        return fast(
            hidden_states=x, timestep=t, encoder_hidden_states=cond["states"], pooled_projections=cond["pooled"]
        ).sample

    with torch.no_grad():
        if case.kind == "kl":
            run = lambda: net.decode(pictures["z"]).sample  # noqa: E731
            y = run().permute(0, 2, 3, 1)
        elif case.kind in ("clip", "t5"):
            run = lambda: fast(input_ids=told["ids"].long()).last_hidden_state  # noqa: E731
            y = run()
        else:
            t = told.pop("t")
            y = call(pictures["x"], t, **told).permute(0, 2, 3, 1)
    name = "torch_compile" if compiled else "torch"

    def without_grad() -> None:
        with torch.inference_mode():
            run()

    if "train" not in kind.whats:
        (what,) = kind.whats
        return {what: {name: Contender(without_grad)}}, {"output": y.cpu().numpy()}
    opt = torch.optim.Adam(net.parameters(), 2e-4, fused=True)

    def train() -> None:
        opt.zero_grad(set_to_none=True)
        torch.mean((call(pictures["x"], t, **told) - pictures["target"]) ** 2).backward()
        opt.step()

    def sample() -> None:
        n, x = case.sample_batch, pictures["x"][: case.sample_batch]
        with torch.inference_mode():
            for i in torch.linspace(980.0, 30.0, STEPS).tolist():
                out = call(
                    torch.cat([x, x]),
                    torch.full((2 * n,), i, device=device),
                    **{k: v[: 2 * n] for k, v in told.items()},
                )
                said, without = out.chunk(2)
                x = x - 0.01 * (without + SCALE * (said - without))

    return {"train": {name: Contender(train)}, "sample": {name: Contender(sample)}}, {"output": y.cpu().numpy()}


def net_of(case: Case, cls: type) -> Any:
    """Their net of the config."""
    if case.kind not in ("clip", "t5"):
        return cls(**case.config)
    import transformers

    made = {"clip": transformers.CLIPTextConfig, "t5": transformers.T5Config}[case.kind]
    return cls(made(**{k: v for k, v in case.config.items() if k != "model_type"}))

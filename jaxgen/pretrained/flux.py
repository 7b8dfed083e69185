"""diffusers' `FluxTransformer2DModel` folders <-> our Flux and its variables, exact both ways."""

from typing import Any

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import sequences
from jaxgen.nets.flux import Flux
from jaxgen.pretrained.diffusers import options
from jaxgen.pretrained.transformers import EMBED, JOINT, Table, image_and_time, refuse_told

WHAT = "diffusers FluxTransformer2DModel"
LENGTH = 512  # tokens of T5; the net reads texts of any length
PATCH = 2  # their pipeline cuts the latents of the codec into patches, their net has none
SIDE = 128  # of the latents of a picture of 1024 x 1024; the net takes any
DEFAULTS = dict(
    in_channels=64, out_channels=None, num_layers=19, num_single_layers=38, attention_head_dim=128, num_attention_heads=24,
    joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=False, axes_dims_rope=(16, 56, 56),
)  # fmt: skip


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    c = options(WHAT, config, DEFAULTS, dict(patch_size=(1,)))
    out = c["out_channels"] or c["in_channels"]
    if odd := [n for n in (out, c["in_channels"]) if n % PATCH**2]:
        raise UserError(f"{WHAT}: {odd[0]} channels are not those of patches of {PATCH} x {PATCH}")
    states = Field((LENGTH, c["joint_attention_dim"]), "float32", "embedding")
    spec = {"states": states, "pooled": Field((c["pooled_projection_dim"],), "float32", "embedding")}
    if c["guidance_embeds"]:
        spec["guidance"] = Field((1,), "float32", "embedding")
    if more := (c["in_channels"] - out) // PATCH**2:
        spec["shown"] = Field((SIDE, SIDE, more), "float32", "latent")
    return dict(
        shape=(SIDE, SIDE, out // PATCH**2),
        conditions=Spec(spec),
        patch=PATCH,
        double=c["num_layers"],
        single=c["num_single_layers"],
        width=c["num_attention_heads"] * c["attention_head_dim"],
        heads=c["num_attention_heads"],
        axes=tuple(c["axes_dims_rope"]),
        guided=c["guidance_embeds"],
    )


def _config(module: Flux) -> dict[str, Any]:
    spec, (states, _), n = module.conditions, sequences(module.conditions), module.patch**2
    pictures = spec.of("latent")
    refuse_told(WHAT, module, [states, "pooled", *(["guidance"] if module.guided else []), *pictures])
    if "pooled" not in spec or module.patch != PATCH:
        raise UserError(f"{WHAT}: a pooled text and patch={PATCH} are needed; keep the net in jaxgen's own format")
    channels = n * (module.shape[2] + sum(f.shape[-1] for f in pictures.values()))
    out = n * (module.out_channels or module.shape[2])
    return dict(
        _class_name="FluxTransformer2DModel",
        patch_size=1,
        in_channels=channels,
        out_channels=None if out == channels else out,
        num_layers=module.double,
        num_single_layers=module.single,
        attention_head_dim=module.width // module.heads,
        num_attention_heads=module.heads,
        joint_attention_dim=spec[states].shape[1],
        pooled_projection_dim=spec["pooled"].shape[0],
        guidance_embeds=module.guided,
        axes_dims_rope=list(module.axes),
    )


_SINGLE = {
    "adaln": ("norm.linear",),
    "qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "norm_q": ("attn.norm_q",),
    "norm_k": ("attn.norm_k",),
    "mlp": ("proj_mlp",),
    "out": ("proj_out",),
}
FLUX = Table(
    net=Flux,
    what=WHAT,
    net_fields=_fields,
    net_config=_config,
    table=EMBED | {"patch": ("x_embedder",)},
    blocks={"double": (JOINT, "transformer_blocks.{}"), "single": (_SINGLE, "single_transformer_blocks.{}")},
    order=lambda module: [f"double{i}" for i in range(module.double)] + [f"single{i}" for i in range(module.single)],
    arguments=image_and_time,
    stacks=("double", "single"),
    tensors={},
    convs=(),
)

"""diffusers' `PixArtTransformer2DModel` folders <-> our PixArt and its variables, exact both ways."""

from typing import Any

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import sequences
from jaxgen.nets.pixart import PixArt
from jaxgen.pretrained.diffusers import options
from jaxgen.pretrained.transformers import Table, image_and_time, refuse_told

WHAT = "diffusers PixArtTransformer2DModel"
LENGTH = 120  # tokens of T5 (300 in Sigma); the net reads texts of any length
DEFAULTS = dict(
    num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, cross_attention_dim=1152,
    sample_size=128, patch_size=2, interpolation_scale=None, use_additional_conditions=None, caption_channels=None,
    norm_num_groups=32, num_embeds_ada_norm=1000, upcast_attention=False,
)  # fmt: skip
FIXED: dict[str, tuple] = dict(
    norm_type=("ada_norm_single",),
    norm_elementwise_affine=(False,),
    norm_eps=(1e-6,),
    activation_fn=("gelu-approximate",),
    attention_bias=(True,),
    dropout=(0.0,),
    double_self_attention=(False,),
    only_cross_attention=(False,),
    num_vector_embeds=(None,),
    attention_type=("default",),
    use_linear_projection=(False,),
)


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    c = options(WHAT, config, DEFAULTS, FIXED)
    width, side = c["num_attention_heads"] * c["attention_head_dim"], c["sample_size"]
    if c["cross_attention_dim"] != width or not c["caption_channels"]:
        raise UserError(
            f"{WHAT}: cross_attention_dim={c['cross_attention_dim']} must be the width, {width}, and caption_channels given"
        )
    sized = c["use_additional_conditions"]
    spec = {"states": Field((LENGTH, c["caption_channels"]), "float32", "embedding")}
    if side == 128 if sized is None else sized:
        spec["size"] = Field((3,), "float32", "embedding")
    return dict(
        shape=(side, side, c["in_channels"]),
        conditions=Spec(spec),
        patch=c["patch_size"],
        depth=c["num_layers"],
        width=width,
        heads=c["num_attention_heads"],
        stretch=float(c["interpolation_scale"] or max(side // 64, 1)),
        out_channels=c["out_channels"] or c["in_channels"],
    )


def _config(module: PixArt) -> dict[str, Any]:
    spec, (states, mask) = module.conditions, sequences(module.conditions)
    refuse_told(WHAT, module, [states, mask, "size"])
    if module.shape[0] != module.shape[1]:
        raise UserError(f"{WHAT}: pictures must be square, not {module.shape[0]} x {module.shape[1]}")
    scale = module.stretch
    return {
        k: v[0] for k, v in FIXED.items() if k in ("norm_type", "norm_elementwise_affine", "norm_eps", "activation_fn")
    } | dict(
        _class_name="PixArtTransformer2DModel",
        attention_bias=True,
        num_attention_heads=module.heads,
        attention_head_dim=module.width // module.heads,
        in_channels=module.shape[2],
        out_channels=module.out_channels or module.shape[2],
        num_layers=module.depth,
        cross_attention_dim=module.width,
        sample_size=module.shape[0],
        patch_size=module.patch,
        interpolation_scale=int(scale) if scale == int(scale) else scale,
        use_additional_conditions="size" in spec,
        caption_channels=spec[states].shape[1],
    )


_BLOCK = {
    "table": ("scale_shift_table",),
    "qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "out": ("attn1.to_out.0",),
    "text.q": ("attn2.to_q",),
    "text.kv": ("attn2.to_k", "attn2.to_v"),
    "text.out": ("attn2.to_out.0",),
    "mlp0": ("ff.net.0.proj",),
    "mlp1": ("ff.net.2",),
}
_EMBED = "adaln_single.emb"
PIXART = Table(
    net=PixArt,
    what=WHAT,
    net_fields=_fields,
    net_config=_config,
    table={
        "patch": ("pos_embed.proj",),
        "embed.time0": (f"{_EMBED}.timestep_embedder.linear_1",),
        "embed.time1": (f"{_EMBED}.timestep_embedder.linear_2",),
        "size0": (f"{_EMBED}.resolution_embedder.linear_1",),
        "size1": (f"{_EMBED}.resolution_embedder.linear_2",),
        "ratio0": (f"{_EMBED}.aspect_ratio_embedder.linear_1",),
        "ratio1": (f"{_EMBED}.aspect_ratio_embedder.linear_2",),
        "adaln": ("adaln_single.linear",),
        "text0": ("caption_projection.linear_1",),
        "text1": ("caption_projection.linear_2",),
        "out": ("proj_out",),
    },
    blocks={"block": (_BLOCK, "transformer_blocks.{}")},
    order=lambda module: [f"block{i}" for i in range(module.depth)],
    arguments=image_and_time,
    stacks=("block",),
    tensors={"table": ("scale_shift_table", (2,))},
)

"""diffusers' `SD3Transformer2DModel` folders <-> our MMDiT and its variables, exact both ways."""

from typing import Any

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import sequences
from jaxgen.nets.mmdit import MMDiT
from jaxgen.pretrained.diffusers import options
from jaxgen.pretrained.transformers import EMBED, JOINT, Table, image_and_time, refuse_told

WHAT = "diffusers SD3Transformer2DModel"
LENGTH = 333  # tokens of its two CLIP texts (77, side by side) and of T5 (256); the net reads texts of any length
DEFAULTS = dict(
    sample_size=128, patch_size=2, in_channels=16, num_layers=18, attention_head_dim=64, num_attention_heads=18,
    joint_attention_dim=4096, caption_projection_dim=1152, pooled_projection_dim=2048, out_channels=16,
    pos_embed_max_size=96, dual_attention_layers=(), qk_norm=None,
)  # fmt: skip


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    c = options(WHAT, config, DEFAULTS, dict(qk_norm=(None, "rms_norm")))
    width, dual = c["num_attention_heads"] * c["attention_head_dim"], list(c["dual_attention_layers"])
    if c["caption_projection_dim"] != width:
        raise UserError(f"{WHAT}: caption_projection_dim={c['caption_projection_dim']} must be the width, {width}")
    if dual != list(range(len(dual))):
        raise UserError(f"{WHAT}: dual_attention_layers={dual} is not supported: they must be the first")
    out = c["out_channels"] or c["in_channels"]
    states = Field((LENGTH, c["joint_attention_dim"]), "float32", "embedding")
    spec = {"states": states, "pooled": Field((c["pooled_projection_dim"],), "float32", "embedding")}
    side = c["sample_size"]
    if more := c["in_channels"] - out:
        spec["shown"] = Field((side, side, more), "float32", "latent")
    return dict(
        shape=(side, side, out),
        conditions=Spec(spec),
        patch=c["patch_size"],
        depth=c["num_layers"],
        width=width,
        heads=c["num_attention_heads"],
        positions=c["pos_embed_max_size"],
        qk_norm=c["qk_norm"] is not None,
        dual=len(dual),
    )


def _config(module: MMDiT) -> dict[str, Any]:
    spec, (states, _) = module.conditions, sequences(module.conditions)
    pictures = spec.of("latent")
    refuse_told(WHAT, module, [states, "pooled", *pictures])
    if "pooled" not in spec or module.shape[0] != module.shape[1]:
        raise UserError(f"{WHAT}: a pooled text and square pictures are needed; keep the net in jaxgen's own format")
    return dict(
        _class_name="SD3Transformer2DModel",
        sample_size=module.shape[0],
        patch_size=module.patch,
        in_channels=module.shape[2] + sum(f.shape[-1] for f in pictures.values()),
        num_layers=module.depth,
        attention_head_dim=module.width // module.heads,
        num_attention_heads=module.heads,
        joint_attention_dim=spec[states].shape[1],
        caption_projection_dim=module.width,
        pooled_projection_dim=spec["pooled"].shape[0],
        out_channels=module.out_channels or module.shape[2],
        pos_embed_max_size=module.positions,
        dual_attention_layers=list(range(module.dual)),
        qk_norm="rms_norm" if module.qk_norm else None,
    )


def _order(module: MMDiT) -> list[str]:
    dual = min(module.dual, module.depth - 1)
    return [f"dual{i}" for i in range(dual)] + [f"block{i}" for i in range(module.depth - 1 - dual)] + ["last"]


_BLOCK = (JOINT, "transformer_blocks.{}")
SD3 = Table(
    net=MMDiT,
    what=WHAT,
    net_fields=_fields,
    net_config=_config,
    table=EMBED | {"patch": ("pos_embed.proj",)},
    blocks={"dual": _BLOCK, "block": _BLOCK, "last": _BLOCK},
    order=_order,
    arguments=image_and_time,
    stacks=("dual", "block"),
    tensors={"waves": ("pos_embed.pos_embed", (1, -1))},
)

"""diffusers' `UVit2DModel` folders (aMUSEd) <-> our UVitMasked and its variables, exact both ways."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.spec import Field, Spec
from jaxgen.errors import UserError
from jaxgen.nets.conditioning import sequences
from jaxgen.nets.uvit import UVitMasked
from jaxgen.pretrained.diffusers import options
from jaxgen.pretrained.transformers import Table, refuse_told

WHAT = "diffusers UVit2DModel"
LENGTH = 77  # tokens of CLIP; the net reads texts of any length
DEFAULTS = dict(
    hidden_size=1024, use_bias=False, cond_embed_dim=768, micro_cond_encode_dim=256, micro_cond_embed_dim=1280,
    encoder_hidden_size=768, vocab_size=8256, codebook_size=8192, in_channels=768, block_out_channels=768, num_res_blocks=3,
    downsample=False, upsample=False, block_num_heads=12, num_hidden_layers=22, num_attention_heads=16,
    intermediate_size=2816, sample_size=64,
)  # fmt: skip
FIXED: dict[str, tuple] = dict(
    hidden_dropout=(0.0,), attention_dropout=(0.0,), layer_norm_eps=(1e-6,), ln_elementwise_affine=(True,)
)


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    c = options(WHAT, config, DEFAULTS, FIXED)
    if c["downsample"] != c["upsample"]:
        raise UserError(
            f"{WHAT}: downsample={c['downsample']} and upsample={c['upsample']} differ, which is not supported"
        )
    numbers = c["micro_cond_embed_dim"] // c["micro_cond_encode_dim"]
    return dict(
        shape=(c["sample_size"], c["sample_size"]),
        vocabulary=c["codebook_size"],
        conditions=Spec(
            states=Field((LENGTH, c["encoder_hidden_size"]), "float32", "embedding"),
            pooled=Field((c["cond_embed_dim"],), "float32", "embedding"),
            size=Field((numbers,), "float32", "embedding"),
        ),
        rows=c["vocab_size"],
        embed=c["in_channels"],
        channels=c["block_out_channels"],
        blocks=c["num_res_blocks"],
        block_heads=c["block_num_heads"],
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        hidden=c["intermediate_size"],
        size_waves=c["micro_cond_encode_dim"],
        halve=c["downsample"],
        use_bias=c["use_bias"],
    )


def _config(module: UVitMasked) -> dict[str, Any]:
    spec, (states, _) = module.conditions, sequences(module.conditions)
    refuse_told(WHAT, module, [states, "pooled", "size"])
    if not {"pooled", "size"} <= {*spec} or module.shape != module.shape[:1] * 2 or module.positions:
        raise UserError(
            f"{WHAT}: a pooled text, sizes and a square grid without learned places are needed; keep the net in jaxgen's own format"
        )
    return dict(
        _class_name="UVit2DModel",
        hidden_size=module.width,
        use_bias=module.use_bias,
        cond_embed_dim=spec["pooled"].shape[0],
        micro_cond_encode_dim=module.size_waves,
        micro_cond_embed_dim=module.size_waves * spec["size"].shape[0],
        encoder_hidden_size=spec[states].shape[1],
        vocab_size=module.rows or module.vocabulary + 1,
        codebook_size=module.vocabulary,
        in_channels=module.embed,
        block_out_channels=module.channels,
        num_res_blocks=module.blocks,
        downsample=module.halve,
        upsample=module.halve,
        block_num_heads=module.block_heads,
        num_hidden_layers=module.depth,
        num_attention_heads=module.heads,
        intermediate_size=module.hidden,
        sample_size=module.shape[0],
    )


def _order(module: UVitMasked) -> list[str]:
    stages = [
        f"{stage}_{kind}{i}" for stage in ("down", "up") for kind in ("conv", "look") for i in range(module.blocks)
    ]
    return stages + [f"layer{i}" for i in range(module.depth)]


def _attention(ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    """Attention to a text."""
    return {
        f"{ours}.q": (f"{theirs}.to_q",),
        f"{ours}.kv": (f"{theirs}.to_k", f"{theirs}.to_v"),
        f"{ours}.out": (f"{theirs}.to_out.0",),
    }


_CONV = {
    "kernel": ("depthwise.weight",),
    "bias": ("depthwise.bias",),
    "gamma": ("channelwise_norm.gamma",),
    "beta": ("channelwise_norm.beta",),
    "norm": ("norm",),
    "mlp0": ("channelwise_linear_1",),
    "mlp1": ("channelwise_linear_2",),
    "adaln": ("cond_embeds_mapper",),
}
_LOOK = (
    {"text": ("kv_mapper",), "norm0": ("norm1",), "norm1": ("norm2",)}
    | _attention("look0", "attn1")
    | _attention("look1", "attn2")
)
_LAYER = {
    **{f"norm{i}": (f"norm{i + 1}.norm",) for i in range(3)},
    **{f"adaln{i}": (f"norm{i + 1}.linear",) for i in range(3)},
    "qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "out": ("attn1.to_out.0",),
    **_attention("text", "attn2"),
    "mlp0": ("ff.net.0.proj",),
    "mlp1": ("ff.net.2",),
}
UVIT = Table(
    net=UVitMasked,
    what=WHAT,
    net_fields=_fields,
    net_config=_config,
    table={
        "states": ("encoder_proj",),
        "states_norm": ("encoder_proj_layer_norm",),
        "told0": ("cond_embed.linear_1",),
        "told1": ("cond_embed.linear_2",),
        "table": ("embed.embeddings",),
        "embed_norm": ("embed.layer_norm",),
        "embed_out": ("embed.conv",),
        "halved_norm": ("down_block.downsample.norm",),
        "halved": ("down_block.downsample.conv",),
        "in_norm": ("project_to_hidden_norm",),
        "in": ("project_to_hidden",),
        "out_norm": ("project_from_hidden_norm",),
        "out": ("project_from_hidden",),
        "doubled_norm": ("up_block.upsample.norm",),
        "doubled": ("up_block.upsample.conv",),
        "head0": ("mlm_layer.conv1",),
        "head_norm": ("mlm_layer.layer_norm",),
        "head1": ("mlm_layer.conv2",),
    },
    blocks={
        "down_conv": (_CONV, "down_block.res_blocks.{}"),
        "down_look": (_LOOK, "down_block.attention_blocks.{}"),
        "layer": (_LAYER, "transformer_layers.{}"),
        "up_conv": (_CONV, "up_block.res_blocks.{}"),
        "up_look": (_LOOK, "up_block.attention_blocks.{}"),
    },
    order=_order,
    arguments=lambda module: (jax.ShapeDtypeStruct((1, module.shape[0] * module.shape[1]), jnp.int32),),
    stacks=("layer",),
    tensors={},
    convs=("embed_out", "head0", "head1"),
    transposed=("doubled",),
)

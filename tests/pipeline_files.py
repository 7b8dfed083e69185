"""A tiny Stable Diffusion as diffusers writes it: parts with random weights, and CLIP's tokenizer without a merge."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.nets.text import ClipText
from jaxgen.pretrained import autoencoders, text, unet_condition
from jaxgen.pretrained.pipelines import Part, Pipeline

MERGES = "#version: 0.2\n"
VALUES = 2 * 256 + 2  # bytes, bytes that end a word, start and end


def filled(shapes, dtype=np.float32):
    """Random numbers for shapes, near one for norms and small for the rest."""
    rng = np.random.default_rng(0)
    draw = lambda path, a: (("scale" in jax.tree_util.keystr(path)) + 0.1 * rng.standard_normal(a.shape)).astype(dtype)  # noqa: E731
    return jax.tree_util.tree_map_with_path(draw, shapes)


def unet(**changes):
    """(module, its part)."""
    module = unet_condition.UNetCondition(**unet_condition.net_fields(dict(
        sample_size=8, block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=2, down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    ) | changes))  # fmt: skip
    variables = filled(unet_condition.shapes_of(module))
    return module, Part(unet_condition.net_config(module), unet_condition.to_diffusers(module, variables))


def vae():
    """The part of a KL autoencoder of factor 2."""
    module = LdmAutoencoder(NormalRegularizer(dim=4), (16, 16, 3), width=4, mults=(1, 2), blocks=1, z=4, groups=2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    params = {"params": filled(shapes["params"])}
    config = autoencoders.config_of(module) | {"scaling_factor": 0.18215}
    return Part(config, autoencoders.to_diffusers(module, params))


def encoder(width=16, act="quick_gelu", projection=0):
    """The part of a CLIP."""
    module = ClipText(
        values=VALUES, length=12, depth=2, width=width, heads=2, hidden=16, act=act, projection=projection
    )
    tensors = text.to_transformers(module, filled(text.abstract(module)), "text_model.")
    config = dict(
        model_type="clip_text_model", architectures=["CLIPTextModel" + "WithProjection" * bool(projection)],
        vocab_size=VALUES, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, hidden_act=act, eos_token_id=2, bos_token_id=0, pad_token_id=1, layer_norm_eps=1e-5,
        projection_dim=projection or width,
    )  # fmt: skip
    return Part(config, tensors)


def tokenizer(folder, pad="<|endoftext|>", length=12):
    """CLIP's files."""
    folder.mkdir(parents=True)
    (folder / "merges.txt").write_text(MERGES)
    from jaxgen.data.tokenize import Clip

    vocab = Clip(path=str(folder)).library.get_vocab()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    told = dict(tokenizer_class="CLIPTokenizer", model_max_length=length, pad_token=pad)
    told |= dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


SCHEDULER = dict(
    _class_name="DDIMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
    set_alpha_to_one=False, clip_sample=False, steps_offset=1,
)  # fmt: skip


def pipeline(folder, **changes):
    """All of it; its tokenizer's files are in folder/tokenizer."""
    parts = dict(
        net=unet()[1],
        scheduler=SCHEDULER,
        vae=vae(),
        encoders=(encoder(),),
        tokenizers=(tokenizer(folder / "tokenizer"),),
    )
    return Pipeline(**parts | changes)


def pipeline_xl(folder):
    """The form of SDXL: two CLIPs side by side before their last block, the second projected; sizes."""
    sizes = dict(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=20 + 6 * 8
    )
    return Pipeline(
        net=unet(cross_attention_dim=40, use_linear_projection=True, transformer_layers_per_block=[2, 1], **sizes)[1],
        scheduler=dict(
            _class_name="EulerDiscreteScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            num_train_timesteps=1000, steps_offset=1, timestep_spacing="leading",
        ),
        vae=vae(),
        encoders=(encoder(), encoder(24, "gelu", 20)),
        tokenizers=(tokenizer(folder / "tokenizer"), tokenizer(folder / "tokenizer_2", "!")),
        told={"force_zeros_for_empty_prompt": True},
    )  # fmt: skip

"""Tiny pipelines as diffusers writes them: parts with random weights, CLIP's tokenizer without a merge, T5's of letters."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.nets.quantize import GradientQuantizer
from jaxgen.nets.text import ClipText, LdmText, T5Encoder
from jaxgen.pretrained import autoencoders, text, unet_condition
from jaxgen.pretrained.pipelines import KINDS, Part, Pipeline, part_of

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


def net(name, **config):
    """The part of a net of that class of theirs."""
    module = KINDS[name].module(Part(config, {}))
    x, t = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *module.shape), (1,)))
    return part_of(module, filled(jax.eval_shape(module.init, jax.random.key(0), x, t, module.conditions.abstract(1))))


def vae(**changes):
    """The part of a KL autoencoder of factor 2."""
    module = LdmAutoencoder(NormalRegularizer(dim=4), (16, 16, 3), width=4, mults=(1, 2), blocks=1, z=4, groups=2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    params = {"params": filled(shapes["params"])}
    config = autoencoders.config_of(module) | {"scaling_factor": 0.18215} | changes
    return Part(config, autoencoders.to_diffusers(module, params))


def vq():
    """The part of a VQ autoencoder of factor 2."""
    quantizer = GradientQuantizer(codes=16, dim=3, start="uniform")
    module = LdmAutoencoder(quantizer, (16, 16, 3), width=4, mults=(1, 2), blocks=1, z=3, groups=2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    params = filled(shapes["params"])
    table = params["regularizer"]
    params = {**params, "regularizer": jax.tree.map(lambda a: 10 * a, table)}
    variables = {"params": params, "codebook": jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes["codebook"])}
    config = autoencoders.config_of(module) | {"scaling_factor": 0.8}
    return Part(config, autoencoders.to_diffusers(module, variables))


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


def bert(width=16):
    """The part of latent diffusion's own encoder, with heads narrower than its states."""
    config = dict(
        model_type="ldmbert", architectures=["LDMBertModel"], vocab_size=32, max_position_embeddings=77, encoder_layers=2,
        encoder_ffn_dim=16, encoder_attention_heads=2, head_dim=4, activation_function="gelu", d_model=width, pad_token_id=0,
    )  # fmt: skip
    module = LdmText(**text.fields(config)[1])
    tensors = text.to_transformers(module, filled(text.abstract(module)))
    rest = {"to_logits.weight": np.zeros((32, width), np.float32), "to_logits.bias": np.zeros(32, np.float32)}
    return Part(config, {**tensors, **rest})


def bert_tokenizer(folder):
    """BERT's file of letters."""
    folder.mkdir(parents=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(dict(tokenizer_class="BertTokenizer", model_max_length=12))
    )
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


def t5(width=24):
    """The part of T5's encoder."""
    config = dict(
        model_type="t5", architectures=["T5EncoderModel"], vocab_size=32, d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    module = T5Encoder(**text.fields(config)[1])
    return Part(config, text.to_transformers(module, filled(text.abstract(module))))


def t5_tokenizer(folder):
    """T5's file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    library = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    library.add_special_tokens(pieces[:3])
    library.save(str(folder / "tokenizer.json"))
    told = dict(tokenizer_class="T5Tokenizer", model_max_length=512, extra_ids=0)
    told |= dict(eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


FLOW = dict(
    _class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False
)
ATTENTION = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1)  # of the transformers
PATCHES = dict(sample_size=8, patch_size=2, in_channels=4)


def pipeline_sd3(folder):
    """The form of Stable Diffusion 3: two projected CLIPs side by side, T5 behind them."""
    return Pipeline(
        net=net(
            "SD3Transformer2DModel", **ATTENTION | PATCHES, out_channels=4, joint_attention_dim=24, caption_projection_dim=16,
            pooled_projection_dim=14, pos_embed_max_size=8,
        ),
        scheduler=FLOW,
        vae=vae(scaling_factor=1.5, shift_factor=0.1),
        encoders=(encoder(8, projection=6), encoder(12, "gelu", 8), t5()),
        tokenizers=(tokenizer(folder / "tokenizer"), tokenizer(folder / "tokenizer_2", "!"), t5_tokenizer(folder / "tokenizer_3")),
    )  # fmt: skip


def pipeline_flux(folder):
    """The form of FLUX.1 schnell: what CLIP pools, and T5's states."""
    return Pipeline(
        net=net(
            "FluxTransformer2DModel", num_attention_heads=1, attention_head_dim=16, num_layers=1, num_single_layers=1,
            in_channels=16, joint_attention_dim=24, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FLOW | {"shift": 1.0},
        vae=vae(scaling_factor=0.4, shift_factor=0.1),
        encoders=(encoder(), t5()),
        tokenizers=(tokenizer(folder / "tokenizer"), t5_tokenizer(folder / "tokenizer_2")),
    )  # fmt: skip


def pipeline_pixart(folder, kind=""):
    """The form of PixArt: T5 with its mask, and a variance that no sampler looks at. kind: PixArtSigmaPipeline, of longer texts."""
    return Pipeline(
        net=net(
            "PixArtTransformer2DModel", **ATTENTION | PATCHES, out_channels=8, cross_attention_dim=16, caption_channels=24,
            use_additional_conditions=False,
        ),
        scheduler=dict(_class_name="DPMSolverMultistepScheduler", beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
        vae=vae(),
        encoders=(t5(),),
        tokenizers=(t5_tokenizer(folder / "tokenizer"),),
        kind=kind,
    )  # fmt: skip


def pipeline_dit(folder):
    """The form of DiT: labels, and a variance too."""
    return Pipeline(
        net=net("DiTTransformer2DModel", **ATTENTION | PATCHES, out_channels=8, num_embeds_ada_norm=1000),
        scheduler=dict(_class_name="DDIMScheduler", clip_sample=False),
        vae=vae(),
        told={"id2label": {str(i): f"class {i}" for i in range(1000)}},
    )


def pipeline_ddpm(folder, **changes):
    """The form of DDPM: pixels, and told nothing."""
    blocks = dict(block_out_channels=[8, 8], layers_per_block=1, norm_num_groups=4, attention_head_dim=4)
    types = dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2)
    part = net("UNet2DModel", **dict(sample_size=16) | blocks | types | changes)
    return Pipeline(net=part, scheduler=dict(_class_name="DDPMScheduler"))


def pipeline_ldm(folder):
    """The form of latent diffusion without a condition: a VQ autoencoder's latents before they are codes."""
    net = pipeline_ddpm(folder, sample_size=8).net
    return Pipeline(net=net, vae=vq(), scheduler=dict(_class_name="DDIMScheduler", clip_sample=False))


def pipeline_ldm_text(folder):
    """The form of latent diffusion told by its own encoder of text, in the latents of a VQ autoencoder."""
    return Pipeline(
        net=unet(in_channels=3, out_channels=3)[1],
        scheduler=SCHEDULER,
        vae=vq(),
        encoders=(bert(),),
        tokenizers=(bert_tokenizer(folder / "tokenizer"),),
        kind="LDMTextToImagePipeline",
    )


FAMILIES = dict(
    sd3=pipeline_sd3,
    flux=pipeline_flux,
    pixart=pipeline_pixart,
    dit=pipeline_dit,
    ddpm=pipeline_ddpm,
    ldm=pipeline_ldm,
    ldm_text=pipeline_ldm_text,
)  # all of pictures of 16 x 16

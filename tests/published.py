"""Folders of the published models at their sizes: configs of their encoders, and first stages of zeros that no disk holds."""

import json
from pathlib import Path

import jax
import numpy as np
from cases import ROOT
from ml_collections import ConfigDict
from pipeline_files import t5_tokenizer, tokenizer

from jaxgen.config import files as configs
from jaxgen.pretrained import autoencoders

LEVELS = dict(
    _class_name="AutoencoderKL", block_out_channels=[128, 256, 512, 512], layers_per_block=2, sample_size=512,
    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
)  # fmt: skip
FOUR = LEVELS | dict(latent_channels=4)  # SD 1, 2 (83,653,863 parameters)
SIXTEEN = LEVELS | dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)  # SD 3, Flux (83,819,683)
CLIP = dict(model_type="clip_text_model", vocab_size=49_408, max_position_embeddings=77, eos_token_id=2)


def clip(width: int, depth: int, heads: int, act: str = "gelu", projected: bool = False) -> dict:
    return CLIP | dict(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth, num_attention_heads=heads, hidden_act=act,
        projection_dim=width, architectures=["CLIPTextModel" + "WithProjection" * projected],
    )  # fmt: skip


LARGE = (768, 12, 12, "quick_gelu")  # ViT-L/14
BIG = (1280, 32, 20, "gelu", True)  # ViT-bigG/14
T5 = dict(
    model_type="t5", vocab_size=32_128, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64,
    feed_forward_proj="gated-gelu", pad_token_id=0,
)  # fmt: skip
# config -> its first stage, its encoders of text, and the parameters of its net
MODELS = {
    "sd15": (FOUR, (clip(*LARGE),), 859_520_964),
    "sd21": (FOUR, (clip(1024, 23, 16),), 865_910_724),
    "sdxl": (FOUR | dict(scaling_factor=0.13025), (clip(*LARGE), clip(*BIG)), 2_567_463_684),
    "sd3_medium": (
        SIXTEEN | dict(scaling_factor=1.5305, shift_factor=0.0609), (clip(*LARGE, True), clip(*BIG), T5), 2_028_328_000,
    ),
    "flux_schnell": (
        SIXTEEN | dict(scaling_factor=0.3611, shift_factor=0.1159), (clip(*LARGE), T5), 11_891_178_560,
    ),
    "pixart_alpha": (FOUR, (T5,), 610_856_096),
}  # fmt: skip


def sparse(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A float32 .safetensors of zeros that takes no room."""
    told, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        told[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(told).encode()
    with file.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        opened.truncate(8 + len(header) + at)


def first_stage(folder: Path, config: dict) -> None:
    """The folder of an `AutoencoderKL`."""
    folder.mkdir(parents=True)
    module = autoencoders.module_of(config)
    empty = jax.tree.map(lambda a: np.zeros(a.shape, np.dtype([])), autoencoders._abstract(module, 3))
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {name: value.shape for name, value in autoencoders.to_diffusers(module, empty).items()}
    sparse(folder / "diffusion_pytorch_model.safetensors", shapes)


def folder_of(name: str, root: Path) -> Path:
    """What the argument of a config of MODELS names: all but the net. The tokenizers are those of letters."""
    codec, encoders, _ = MODELS[name]
    first_stage(root / name / "vae", codec)
    for i, config in enumerate(encoders):
        end = f"_{i + 1}" if i else ""
        (root / name / f"text_encoder{end}").mkdir()
        (root / name / f"text_encoder{end}/config.json").write_text(json.dumps(config))
        sparse(root / name / f"text_encoder{end}/model.safetensors", {})
        (t5_tokenizer if config is T5 else tokenizer)(root / name / f"tokenizer{end}")
    return root / name


def full_size(name: str, folder: Path) -> ConfigDict:
    """A config on one device, one of MODELS with all that it reads, and with blocks that are traced once."""
    file, large = f"{ROOT}/configs/{name}.py", name in MODELS
    config = configs.load(f"{file}:{folder_of(name, folder)}" if large else file)
    return configs.override(config, {"mesh": {"data": 1}, **({"method.net.scan": True} if large else {})})

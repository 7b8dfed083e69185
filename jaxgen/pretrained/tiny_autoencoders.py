"""TAESD and its kin (TAEF2) <-> our `TinyAutoencoder`: their author's two files, and diffusers' `AutoencoderTiny`.

In both forms layers are numbered; diffusers' decoder has no layer for its limit, so that it counts from one less.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.errors import UserError
from jaxgen.nets.tiny_autoencoder import TinyAutoencoder
from jaxgen.pretrained import layout
from jaxgen.pretrained.autoencoders import Autoencoder
from jaxgen.pretrained.diffusers import write_folder
from jaxgen.pretrained.layout import Tensors, fill, suffix
from jaxgen.pretrained.torch_files import read_tensors, write_tensors

DEFAULTS = dict(
    in_channels=3,
    out_channels=3,
    encoder_block_out_channels=(64, 64, 64, 64),
    decoder_block_out_channels=(64, 64, 64, 64),
    block_out_channels=(64, 64, 64, 64),
    act_fn="relu",
    upsample_fn="nearest",
    latent_channels=4,
    upsampling_scaling_factor=2,
    num_encoder_blocks=(1, 3, 3, 3),
    num_decoder_blocks=(3, 3, 3, 1),
    latent_magnitude=3,
    latent_shift=0.5,
    force_upcast=False,
    scaling_factor=1.0,
    shift_factor=0.0,
)
PARTS = ("encoder", "decoder")
INNER = {"conv0": "conv.0", "conv1": "conv.2", "conv2": "conv.4"}
INNER |= {"pool_in": "pool.0", "pool_norm": "pool.1", "pool_out": "pool.3"}


def places(module: TinyAutoencoder) -> dict[str, dict[str, int]]:
    """Part -> our layer -> its number in the author's files."""
    levels = len(module.blocks)
    down = [[f"down{i}_conv", *(f"down{i}_block{j}" for j in range(n))] for i, n in enumerate(module.blocks)]
    encoder = [*(name for level in down for name in level), "conv_out"]
    decoder = ["limit", "conv_in", "relu"]
    for i in reversed(range(levels)):
        decoder += [f"up{i}_block{j}" for j in range(module.blocks[i])]
        decoder += [f"up{i}_doubled", f"up{i}_conv"] if i else ["conv_out"]
    return {"encoder": {k: i for i, k in enumerate(encoder)}, "decoder": {k: i for i, k in enumerate(decoder)}}


def _names(module: TinyAutoencoder, stem: Mapping[str, str], shift: int) -> Any:
    """A function from our leaf to the tensors of theirs; shift: by which the decoder's numbers are less."""
    known = places(module)

    def names(path: tuple[str, ...]) -> list[str]:
        _, part, layer, *inner, leaf = path
        number = known[part][layer] - (shift if part == "decoder" else 0)
        return [".".join([f"{stem[part]}{number}", *(INNER[name] for name in inner), suffix(leaf)])]

    return names


AUTHOR = ({"encoder": "encoder.", "decoder": "decoder."}, 0)
DIFFUSERS = ({"encoder": "encoder.layers.", "decoder": "decoder.layers."}, 1)


def _module(weights: Tensors, stem: str) -> TinyAutoencoder:
    """The net that the encoder's tensors belong to."""
    layers: dict[int, set[str]] = {}
    for name in weights:
        if found := re.fullmatch(re.escape(stem) + r"(\d+)\.(.+)", name):
            layers.setdefault(int(found[1]), set()).add(found[2])
    blocks: list[int] = []
    for number in sorted(layers)[:-1]:
        if "conv.0.weight" in layers[number]:
            blocks[-1] += 1
        else:
            blocks.append(0)
    if not blocks or f"{stem}0.weight" not in weights:
        raise UserError(f"a tiny autoencoder: the weights lack tensor {stem}0.weight; is this another model?")
    z, width = weights[f"{stem}{max(layers)}.weight"].shape[:2]
    mid_norm = any("pool.0.weight" in inner for inner in layers.values())
    return TinyAutoencoder(z=z, width=width, blocks=tuple(blocks), mid_norm=mid_norm)


def _abstract(module: TinyAutoencoder, channels: int) -> dict[str, Any]:
    side = 2 ** (len(module.blocks) - 1)
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    return jax.eval_shape(lambda key, x: module.init(key, x, channels), jax.random.key(0), x)


def _load(weights: Tensors, form: tuple[Mapping[str, str], int], config: Mapping[str, Any]) -> Autoencoder:
    stem, shift = form
    module = _module(weights, stem["encoder"])
    channels = weights[f"{stem['encoder']}0.weight"].shape[1]
    convert = lambda path, tensors: layout.ours(path[-1], tensors)  # noqa: E731
    names = _names(module, stem, shift)
    return Autoencoder(
        module, fill("a tiny autoencoder", _abstract(module, channels), weights, names, convert), dict(config)
    )


def author_files(folder: str | Path) -> dict[str, Path]:
    """Part -> its file, such as `taef2_encoder.pth` or `taesd_decoder.safetensors`; {} where a folder lacks one of the two."""
    found = {part: sorted(Path(folder).glob(f"*{part}.*")) for part in PARTS}
    known = {part: [f for f in files if f.suffix in (".pth", ".safetensors")] for part, files in found.items()}
    return {part: files[0] for part, files in known.items()} if all(known.values()) else {}


def load_author(folder: str | Path) -> Autoencoder:
    """The folder of the author's two files, an encoder's and a decoder's."""
    files = author_files(folder)
    if not files:
        raise UserError(f"{folder} has no file *encoder.pth and *decoder.pth (or .safetensors); name another folder")
    weights = {f"{part}.{name}": value for part, file in files.items() for name, value in read_tensors(file).items()}
    return _load(weights, AUTHOR, {})


def from_diffusers(config: Mapping[str, Any], weights: Tensors) -> Autoencoder:
    """config.json and tensors of an `AutoencoderTiny`. Raises UserError naming an option that our net does not have."""
    what = "diffusers AutoencoderTiny"
    if odd := [key for key in config if key not in DEFAULTS and not key.startswith("_")]:
        raise UserError(f"{what}: unknown option {odd[0]}={config[odd[0]]!r} in config.json")
    for key in ("act_fn", "upsample_fn", "upsampling_scaling_factor", "latent_magnitude"):
        if config.get(key, DEFAULTS[key]) != DEFAULTS[key]:
            raise UserError(f"{what}: {key}={config[key]!r} is not supported; known: {DEFAULTS[key]}")
    return _load(weights, DIFFUSERS, config)


def to_tensors(module: TinyAutoencoder, variables: Any, form: tuple = AUTHOR) -> Tensors:
    """Variables -> their tensors by name: `encoder.0.weight`, or diffusers'."""
    names = _names(module, *form)
    flat = flatten_dict({"params": variables["params"]})
    return {names(path)[0]: layout.theirs(path[-1], np.asarray(value))[0] for path, value in flat.items()}


def save_author(folder: str | Path, module: TinyAutoencoder, variables: Any, name: str = "tae") -> None:
    """Two files that the author's program reads, `NAME_encoder.safetensors` and `NAME_decoder.safetensors`."""
    tensors = to_tensors(module, variables)
    for part in PARTS:
        own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
        write_tensors(Path(folder) / f"{name}_{part}.safetensors", own)


def save_diffusers(
    folder: str | Path, module: TinyAutoencoder, variables: Any, config: Mapping[str, Any] | None = None
) -> None:
    """A folder that diffusers' `AutoencoderTiny.from_pretrained` reads; the norm of TAEF2 it cannot express."""
    write_folder(folder, *to_diffusers(module, variables, config))


def to_diffusers(
    module: TinyAutoencoder, variables: Any, config: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Tensors]:
    """config.json (the one that it was loaded with, where there is any) and tensors of an `AutoencoderTiny`."""
    if module.mid_norm:
        raise UserError(
            "diffusers' AutoencoderTiny cannot express mid_norm=True, which TAEF2 has; keep the run as it is, or write the "
            "autoencoder alone in its author's form (jaxgen.pretrained.tiny_autoencoders.save_author)"
        )
    weights = to_tensors(module, variables, DIFFUSERS)
    widths, channels = (module.width,) * len(module.blocks), weights["encoder.layers.0.weight"].shape[1]
    own = dict(
        _class_name="AutoencoderTiny", in_channels=channels, out_channels=channels, latent_channels=module.z,
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, block_out_channels=widths,
        num_encoder_blocks=module.blocks, num_decoder_blocks=module.blocks[::-1],
    )  # fmt: skip
    return dict(config) if config else {**DEFAULTS, **own}, weights

"""Whole models of other projects as one thing: net, encoders of text with their tokenizers, first stage, scheduler.

A `Pipeline` is what diffusers' folders with a `model_index.json` hold: every part a config and tensors by the names that diffusers
and transformers give them, as stored, mapped and not yet read. Single files of Stable Diffusion (`single_files`) are read into
one and written from one; so is a run directory (`jaxgen.convert`). Each format is known in one place.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from jaxgen.errors import UserError
from jaxgen.pretrained import diffusers, dit, text, text_nets
from jaxgen.pretrained.diffusers import read_config, read_folder, read_json, write_folder
from jaxgen.pretrained.layout import Tensors
from jaxgen.pretrained.shards import read_weights
from jaxgen.pretrained.torch_files import write_tensors

INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
NETS = ("unet", "transformer")  # the folder of a pipeline's net
FIRST_STAGES = ("vae", "vqvae")
NUMBERS = ("", "_2", "_3")  # of text_encoder and tokenizer
BERT = "bert"  # the encoder of latent diffusion's first pipeline, which has first stage and classes of its own
LEFT = ("safety_checker", "feature_extractor", "image_encoder")  # parts that no picture depends on here
PAPERS = ("LICENSE*", "README*")  # that go with a model wherever it goes
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Part:
    """A model of a pipeline: its config.json and its tensors."""

    config: dict[str, Any]
    tensors: Tensors


@dataclass(frozen=True)
class Pipeline:
    """A model that makes pictures, by diffusers' names.

    averages: the net's averages, where a file holds them beside the weights in training. kind: the class of the pipeline; told:
    what else model_index.json says. tokenizers: the folders of their files. papers: licence and card. left: what was left aside.
    """

    net: Part
    scheduler: dict[str, Any]
    vae: Part | None = None
    encoders: tuple[Part, ...] = ()
    tokenizers: tuple[Path, ...] = ()
    averages: Tensors = field(default_factory=dict)
    kind: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    papers: tuple[Path, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """How a class of theirs becomes a net of ours, and back."""

    module: Callable[[Part], nn.Module]
    read: Callable[[nn.Module, Tensors], dict[str, Any]]
    config: Callable[[nn.Module, Tensors], dict[str, Any]]
    write: Callable[[nn.Module, Any], Tensors]

    def part(self, module: nn.Module, variables: Any) -> Part:
        """A net of ours as theirs."""
        tensors = self.write(module, variables)
        return Part(self.config(module, tensors), tensors)


def _reads_text(kind: Any) -> Kind:
    return Kind(
        lambda part: kind.net(**kind.net_fields(part.config)),
        kind.from_diffusers,
        lambda module, _: kind.net_config(module),
        kind.to_diffusers,
    )


KINDS: dict[str, Kind] = {
    **{name: _reads_text(kind) for name, kind in text_nets.CLASSES.items() if name not in ("ControlNetModel", "UVit2DModel")},
    "UNet2DModel": Kind(
        lambda part: diffusers.UNet(**diffusers.unet_fields(part.config)),
        diffusers.from_diffusers,
        lambda module, tensors: diffusers.unet_config(module, tensors["conv_in.weight"].shape[1]),
        diffusers.to_diffusers,
    ),
    "DiTTransformer2DModel": Kind(
        lambda part: dit.DiT(**dit.dit_fields(part.config) | dict(block_embed=not dit.shares_embedding(part.tensors))),
        dit.from_diffusers,
        lambda module, tensors: dit.dit_config(module, tensors["pos_embed.proj.weight"].shape[1]),
        dit.to_diffusers,
    ),
}  # fmt: skip
OURS = {kind.net: name for name, kind in text_nets.CLASSES.items()} | {
    diffusers.UNet: "UNet2DModel",
    dit.DiT: "DiTTransformer2DModel",
}


FIRST = ("AutoencoderKL", "VQModel", "AutoencoderTiny")  # classes of first stages


def net_of(part: Part, where: str | Path) -> nn.Module:
    """The net that a part is, also one of those that no pipeline here has (ControlNet, aMUSEd)."""
    other = text_nets.CLASSES.get(part.config.get("_class_name", ""))
    return other.net(**other.net_fields(part.config)) if other else kind_of(part, where).module(part)


def kind_of(part: Part, where: str | Path) -> Kind:
    """Of a net's part; a UserError for a class that is not among ours."""
    name = part.config.get("_class_name")
    if name not in KINDS:
        raise UserError(f"{where}: config.json must name one of {', '.join(KINDS)}, not {name}")
    return KINDS[name]


def part_of(module: nn.Module, variables: Any) -> Part:
    """A net of ours as theirs. Raises UserError for one that has no twin, or that diffusers cannot express."""
    if OURS.get(type(module)) not in KINDS:
        nets = ", ".join(sorted(net.__name__ for net, name in OURS.items() if name in KINDS))
        raise UserError(f"{type(module).__name__} has no twin in diffusers' pipelines; these have: {nets}")
    return KINDS[OURS[type(module)]].part(module, variables)


# ----------------------------------------------------------------------------------------------------------------------
# diffusers' folders


def is_pipeline(path: Path) -> bool:
    """Whether it is a folder of a whole pipeline."""
    return (path / INDEX).is_file()


def read(folder: str | Path, variant: str = "") -> Pipeline:
    """A folder that a pipeline's `save_pretrained` wrote; variant: of the weights of all parts, such as fp16.

    Raises UserError for a part that the index names and that is not there, and for one that has no counterpart here.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX)
    named = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1]}
    wanted = [name for name in named if name not in LEFT]
    place = {name: _place(folder, name) for name in wanted}
    if missing := [name for name in wanted if not place[name].is_dir()]:
        raise UserError(
            f"{folder} is half a pipeline: {INDEX} names {missing[0]}, and there is no such folder; load it whole"
        )
    nets, firsts = ([name for name in several if name in wanted] for several in (NETS, FIRST_STAGES))
    several = [BERT, *(f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in NUMBERS)]
    if odd := [name for name in wanted if name not in (*nets, *firsts, *several, "scheduler")]:
        raise UserError(f"{folder}: {INDEX} names {odd[0]}, which is no part of a pipeline that is read here")
    if len(nets) != 1 or "scheduler" not in wanted:
        raise UserError(f"{folder}: {INDEX} must name a scheduler and a {' or a '.join(NETS)}; load it whole")
    net = Part(*read_folder(place[nets[0]], nets[0], variant))
    kind_of(net, place[nets[0]])
    encoders = [folder / name for name in (BERT, *(f"text_encoder{n}" for n in NUMBERS)) if name in wanted]
    return Pipeline(
        net=net,
        scheduler=read_scheduler(place["scheduler"]),
        vae=Part(*read_folder(folder / firsts[0], "autoencoder", variant)) if firsts else None,
        encoders=tuple(read_encoder(one, variant) for one in encoders),
        kind=index.get("_class_name", ""),
        tokenizers=tuple(folder / f"tokenizer{n}" for n in NUMBERS if f"tokenizer{n}" in wanted),
        told={k: v for k, v in index.items() if k not in named and not k.startswith("_") and not isinstance(v, list)},
        papers=tuple(file for pattern in PAPERS for file in sorted(folder.glob(pattern)) if file.is_file()),
        left=tuple(name for name in named if name in LEFT),
    )  # fmt: skip


def _place(folder: Path, name: str) -> Path:
    """The folder of a part; that of the pipeline itself where the part lies there, as the published DDPMs have it."""
    file = SCHEDULER if name == "scheduler" else "config.json"
    alone = name in (*NETS, "scheduler") and not (folder / name).is_dir() and (folder / file).is_file()
    return folder if alone else folder / name


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Its config; a UserError where it is missing."""
    file = folder / SCHEDULER
    if not file.is_file():
        raise UserError(f"{folder} has no {file.name}; load the pipeline whole")
    return read_json(file)


# the net's class, how many encoders of text -> the pipeline's class, the class of each encoder and of each tokenizer
CLIP, CLIP_TOKENS = ("CLIPTextModel", "CLIPTokenizer")
PROJECTED = "CLIPTextModelWithProjection"
T5, T5_TOKENS = "T5EncoderModel", "T5TokenizerFast"
CLASSES: dict[tuple[str, int], tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    ("UNet2DConditionModel", 1): ("StableDiffusionPipeline", (CLIP,), (CLIP_TOKENS,)),
    ("UNet2DConditionModel", 2): ("StableDiffusionXLPipeline", (CLIP, PROJECTED), (CLIP_TOKENS,) * 2),
    ("SD3Transformer2DModel", 3): ("StableDiffusion3Pipeline", (PROJECTED, PROJECTED, T5), (CLIP_TOKENS, CLIP_TOKENS, T5_TOKENS)),
    ("FluxTransformer2DModel", 2): ("FluxPipeline", (CLIP, T5), (CLIP_TOKENS, T5_TOKENS)),
    ("PixArtTransformer2DModel", 1): ("PixArtAlphaPipeline", (T5,), ("T5Tokenizer",)),
    ("DiTTransformer2DModel", 0): ("DiTPipeline", (), ()),
    ("UNet2DModel", 0): ("DDPMPipeline", (), ()),
}  # fmt: skip


def write(folder: str | Path, pipeline: Pipeline, dtype: str = "") -> None:
    """A folder that diffusers' `DiffusionPipeline.from_pretrained` opens. dtype: of floats, one of DTYPES; "": as they are.

    Raises UserError for a pipeline that diffusers has not.
    """
    folder, net = Path(folder), pipeline.net.config["_class_name"]
    known = CLASSES.get((net, len(pipeline.encoders)))
    if known is None or len(pipeline.tokenizers) != len(pipeline.encoders):
        raise UserError(
            f"diffusers has no pipeline of a {net} with {len(pipeline.encoders)} encoders and {len(pipeline.tokenizers)} "
            "tokenizers of text; export its net alone (jaxgen.pretrained.text_nets.save)"
        )
    kind, encoders, tokenizers = known
    old = bool(pipeline.encoders) and pipeline.encoders[0].config.get("model_type") == "ldmbert"
    if old:
        kind, encoders, tokenizers = "LDMTextToImagePipeline", ("LDMBertModel",), ("BertTokenizer",)
    place, first = NETS["Transformer" in net], FIRST_STAGES[net == "UNet2DModel" or old]
    kind = pipeline.kind or ("LDMPipeline" if pipeline.vae and first == "vqvae" and not old else kind)
    index: dict[str, Any] = {
        "_class_name": kind,
        **pipeline.told,
        "scheduler": ["diffusers", pipeline.scheduler["_class_name"]],
    }
    index[place] = ["diffusers", net]
    write_folder(folder / place, pipeline.net.config, cast(pipeline.net.tensors, dtype))
    if pipeline.vae:
        index[first] = ["diffusers", pipeline.vae.config["_class_name"]]
        write_folder(folder / first, pipeline.vae.config, cast(pipeline.vae.tensors, dtype))
    for n, part, source, encoder, tokenizer in zip(
        NUMBERS, pipeline.encoders, pipeline.tokenizers, encoders, tokenizers, strict=False
    ):
        name = BERT if old else f"text_encoder{n}"
        index[name] = ["latent_diffusion" if old else "transformers", encoder]
        index[f"tokenizer{n}"] = ["transformers", tokenizer]
        write_encoder(folder / name, part, dtype)
        shutil.copytree(source, folder / f"tokenizer{n}", dirs_exist_ok=True)
    if kind == "StableDiffusionPipeline":  # parts that it asks for, and that may be missing
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    _json(folder / "scheduler" / SCHEDULER, pipeline.scheduler)
    for file in pipeline.papers:
        shutil.copyfile(file, folder / file.name)
    _json(folder / INDEX, index)  # last: a folder with it is whole


def read_alone(folder: Path, variant: str = "") -> Part | None:
    """What a folder of one part of a pipeline holds: a net, a first stage, an encoder of text; None of any other folder."""
    if is_pipeline(folder) or not (folder / "config.json").is_file():
        return None
    config = read_config(folder, "model")
    if name := config.get("_class_name"):
        return Part(*read_folder(folder, name, variant))
    return read_encoder(folder, variant) if "model_type" in config else None


def write_alone(folder: Path, part: Part, dtype: str = "") -> None:
    """A folder that the `from_pretrained` of its class opens."""
    if "_class_name" in part.config:
        write_folder(folder, part.config, cast(part.tensors, dtype))
    else:
        write_encoder(folder, part, dtype)


def read_encoder(folder: str | Path, variant: str = "") -> Part:
    """A folder of an encoder of text as transformers writes it."""
    return Part(read_config(folder, "encoder of text"), read_weights(folder, variant, "model of transformers"))


def write_encoder(folder: Path, part: Part, dtype: str = "") -> None:
    """A folder as transformers writes it."""
    write_tensors(folder / "model.safetensors", cast(part.tensors, dtype))
    _json(folder / "config.json", part.config)


def _json(file: Path, value: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


class Cast(Mapping[str, np.ndarray]):
    """Tensors of which floats are given in another type, each when it is asked for."""

    def __init__(self, tensors: Mapping[str, np.ndarray], dtype: str) -> None:
        self.tensors, self.dtype = tensors, np.dtype(DTYPES[dtype])

    def __getitem__(self, name: str) -> np.ndarray:
        value = self.tensors[name]
        return value if value.dtype.kind in "iub?" else np.asarray(value, self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def cast(tensors: Mapping[str, np.ndarray], dtype: str) -> Mapping[str, np.ndarray]:
    """Tensors with floats of that type, one of DTYPES; "": as they are."""
    return Cast(tensors, dtype) if dtype else tensors


def tokenizer_of(folder: Path) -> dict[str, Any]:
    """The keys of config.data.tokenizer for the tokenizer of a pipeline's folder, by its files and what these say of the pad."""

    def told(name: str) -> dict[str, Any]:
        file = folder / name
        return read_json(file) if file.is_file() else {}

    config = told("tokenizer_config.json")
    kind = config.get("tokenizer_class", "").removesuffix("Fast").removesuffix("Tokenizer").lower()
    if not kind:
        files = {"merges.txt": "clip", "spiece.model": "t5", "vocab.txt": "bert"}
        kind = next((name for file, name in files.items() if (folder / file).is_file()), "")
    if kind not in ("clip", "t5", "bert"):
        raise UserError(
            f"{folder}: a tokenizer of class {config.get('tokenizer_class')} is not read; known: CLIP, T5, BERT"
        )
    found = dict(name=kind, path=str(folder))
    if 0 < (length := config.get("model_max_length", 0)) < 1 << 20:  # where there is none, theirs say 1e30
        found["length"] = int(length)
    if kind == "clip":
        pad = told("special_tokens_map.json").get("pad_token") or config.get("pad_token") or "<|endoftext|>"
        pad = pad["content"] if isinstance(pad, dict) else pad
        found["pad"] = {"!": "!", "<|endoftext|>": "end"}.get(pad, "zero")
    return found


def encoder_of(part: Part) -> nn.Module:
    """The net of an encoder of text."""
    kind, fields = text.fields(part.config)
    return kind(**fields)

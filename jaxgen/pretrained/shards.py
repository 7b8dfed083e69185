"""Where the weights of a model's folder are: one file or several (an index says which tensor is where), of a variant such as
fp16, .safetensors or PyTorch's .bin; as diffusers and transformers name them.
"""

import json
import re
from pathlib import Path

from jaxgen.errors import UserError
from jaxgen.pretrained.layout import Tensors
from jaxgen.pretrained.torch_files import read_tensors

STEMS = (
    ("diffusion_pytorch_model", "safetensors"),
    ("model", "safetensors"),
    ("diffusion_pytorch_model", "bin"),
    ("pytorch_model", "bin"),
)


def weight_files(folder: str | Path, variant: str = "", what: str = "model") -> list[Path]:
    """The index, where there is one, and the files of a folder's weights; safetensors first.

    Raises UserError for a folder without weights, without that variant (naming those that are there), or that lacks a shard.
    """
    folder, end = Path(folder), f".{variant}" if variant else ""
    for stem, kind in STEMS:
        file, index = folder / f"{stem}{end}.{kind}", folder / f"{stem}.{kind}.index{end}.json"
        if file.is_file():
            return [file]
        if index.is_file():
            return [index, *_shards(index)]
    part = r"(?:-\d+-of-\d+)?"  # before or behind the variant, by the version that wrote it
    named = "|".join(rf"{stem}{part}\.(?P<v{i}>\w+){part}\.{kind}" for i, (stem, kind) in enumerate(STEMS))
    matches = [re.fullmatch(named, file.name) for file in folder.glob("*")]
    others = sorted({v for match in matches if match for v in match.groups() if v})
    plain = [""] if variant and any((folder / f"{stem}.{kind}").is_file() for stem, kind in STEMS) else []
    if others or plain:
        cure = f"say variant={others[0]}" if others else "leave the variant out"
        raise UserError(f"{folder} has no weights of the variant {variant!r}; {cure}")
    raise UserError(
        f"{folder} has no {STEMS[0][0]}.{STEMS[0][1]}: give the folder of a {what} with its weights in safetensors format (or .bin)"
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index names; a UserError for one that is not there."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} is no index of weights ({type(error).__name__}: {error}); load it anew") from None
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(f"{index.parent} lacks {missing[0]}, one of {len(names)} files of its weights; load it anew")
    return [index.parent / name for name in names]


def read_weights(folder: str | Path, variant: str = "", what: str = "model") -> Tensors:
    """Every tensor of a folder's weights by name, as stored, mapped where it is safetensors."""
    files = [file for file in weight_files(folder, variant, what) if file.suffix != ".json"]
    return {name: value for file in files for name, value in read_tensors(file).items()}

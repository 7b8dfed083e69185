"""Published encoders of text <-> ours: transformers' CLIP (with and without `text_model.`), T5 (v1.1) and BERT."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxgen.core.given import FilePath
from jaxgen.core.lender import Frozen, Role
from jaxgen.core.ranges import Precision
from jaxgen.core.spec import Spec
from jaxgen.errors import UserError
from jaxgen.nets.text import BertText, ClipText, LdmText, T5Encoder, TextEncoder
from jaxgen.pretrained import layout
from jaxgen.pretrained.diffusers import read_json
from jaxgen.pretrained.layout import Tensors, fill, theirs
from jaxgen.pretrained.shards import read_weights, weight_files

Names = Callable[[tuple[str, ...]], list[str]]  # our path -> the tensors of theirs, side by side
CLIP = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.out_proj",),
    "mlp0": ("mlp.fc1",),
    "mlp1": ("mlp.fc2",),
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
}
T5 = {
    "qkv": ("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"),
    "out": ("layer.0.SelfAttention.o",),
    "mlp0": ("layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1"),
    "mlp1": ("layer.1.DenseReluDense.wo",),
    "norm1": ("layer.0.layer_norm",),
    "norm2": ("layer.1.layer_norm",),
}
BERT = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "mlp0": ("intermediate.dense",),
    "mlp1": ("output.dense",),
    "norm1": ("attention.output.LayerNorm",),
    "norm2": ("output.LayerNorm",),
}
LDM = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.out_proj",),
    "mlp0": ("fc1",),
    "mlp1": ("fc2",),
    "norm1": ("self_attn_layer_norm",),
    "norm2": ("final_layer_norm",),
}
# the rest: our path -> their tensor
TOPS = {
    ClipText: {
        "table.embedding": "embeddings.token_embedding.weight",
        "position": "embeddings.position_embedding.weight",
        "norm.scale": "final_layer_norm.weight",
        "norm.bias": "final_layer_norm.bias",
        "project.kernel": "text_projection.weight",
    },
    T5Encoder: {
        "table.embedding": "shared.weight",
        "distance": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "norm.scale": "encoder.final_layer_norm.weight",
    },
    BertText: {
        "table.embedding": "embeddings.word_embeddings.weight",
        "position": "embeddings.position_embeddings.weight",
        "kind": "embeddings.token_type_embeddings.weight",
        "norm.scale": "embeddings.LayerNorm.weight",
        "norm.bias": "embeddings.LayerNorm.bias",
    },
    LdmText: {
        "table.embedding": "model.embed_tokens.weight",
        "position": "model.embed_positions.weight",
        "norm.scale": "model.layer_norm.weight",
        "norm.bias": "model.layer_norm.bias",
    },
}
BLOCKS = {
    ClipText: ("encoder.layers", CLIP),
    T5Encoder: ("encoder.block", T5),
    BertText: ("encoder.layer", BERT),
    LdmText: ("model.layers", LDM),
}
LEFT = ("logit_scale", "encoder.embed_tokens.weight", "lm_head.weight", "visual_projection.weight")
OTHERS = (
    "vision_model.",
    "decoder.",
    "pooler.",
    "cls.",
    "to_logits.",
)  # parts of whole models that are no encoders of text


def names(module: TextEncoder) -> Names:
    """Where the parameters of a net without `scan` are among their tensors."""
    stem, inner = BLOCKS[type(module)]

    def found(path: tuple[str, ...]) -> list[str]:
        _, top, *rest = path
        if not top.startswith("block"):
            return [TOPS[type(module)][".".join((top, *rest))]]
        end = "bias" if rest[-1] == "bias" else "weight"
        return [f"{stem}.{top.removeprefix('block')}.{name}.{end}" for name in inner[rest[0]]]

    return found


def fields(config: Mapping[str, Any]) -> tuple[type[TextEncoder], dict[str, Any]]:
    """config.json -> our class and its fields; a UserError for a model or an option that ours does not have."""
    kind = config.get("model_type", "")
    if "text_config" in config:  # of a whole CLIP
        config = {**config["text_config"], "projection_dim": config.get("projection_dim")}
        kind = "clip"
    common = dict(values=config.get("vocab_size"))
    if kind.startswith("clip"):
        act = config.get("hidden_act", "quick_gelu")
        if act not in ("quick_gelu", "gelu"):
            raise UserError(f"CLIP's text encoder: hidden_act={act!r} is not supported; known: quick_gelu, gelu")
        end = config.get("eos_token_id", 49_407)
        projected = any("WithProjection" in name for name in config.get("architectures") or ())
        return ClipText, common | dict(
            length=config.get("max_position_embeddings", 77), depth=config.get("num_hidden_layers", 12),
            width=config.get("hidden_size", 512), heads=config.get("num_attention_heads", 8),
            hidden=config.get("intermediate_size", 2048), act=act, eps=config.get("layer_norm_eps", 1e-5),
            projection=config.get("projection_dim", 512) if projected else 0, end=0 if end == 2 else end,
        )  # fmt: skip
    if kind in ("t5", "umt5"):
        gate = config.get("feed_forward_proj", "relu")
        if kind == "umt5" or gate != "gated-gelu":
            raise UserError(
                f"T5's encoder: {kind} with feed_forward_proj={gate!r} is not supported; known: gated-gelu (v1.1)"
            )
        return T5Encoder, common | dict(
            depth=config["num_layers"], width=config["d_model"], heads=config["num_heads"], head_dim=config["d_kv"],
            hidden=config["d_ff"], buckets=config.get("relative_attention_num_buckets", 32),
            far=config.get("relative_attention_max_distance", 128), eps=config.get("layer_norm_epsilon", 1e-6),
            pad=config.get("pad_token_id", 0),
        )  # fmt: skip
    if kind == "bert":
        if (act := config.get("hidden_act", "gelu")) != "gelu":
            raise UserError(f"BERT: hidden_act={act!r} is not supported; known: gelu")
        return BertText, common | dict(
            length=config["max_position_embeddings"], depth=config["num_hidden_layers"], width=config["hidden_size"],
            heads=config["num_attention_heads"], hidden=config["intermediate_size"], eps=config.get("layer_norm_eps", 1e-12),
            pad=config.get("pad_token_id", 0),
        )  # fmt: skip
    if kind == "ldmbert":
        if (act := config.get("activation_function", "gelu")) != "gelu" or config.get("scale_embedding"):
            raise UserError(
                f"LDMBert: activation_function={act!r}, or scale_embedding, is not supported; known: gelu, False"
            )
        return LdmText, common | dict(
            length=config["max_position_embeddings"], depth=config["encoder_layers"], width=config["d_model"],
            heads=config["encoder_attention_heads"], head_dim=config["head_dim"], hidden=config["encoder_ffn_dim"],
            pad=config.get("pad_token_id", 0),
        )  # fmt: skip
    raise UserError(
        f"an encoder of text: model_type={kind!r} in config.json is not supported; known: clip_text_model, t5, bert, ldmbert"
    )


def abstract(module: TextEncoder) -> Any:
    """Shapes of its variables."""
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), jnp.int32))


def cleaned(module: TextEncoder, weights: Mapping[str, np.ndarray]) -> Tensors:
    """The tensors of the encoder, by the names that all releases share."""
    found = {}
    for name, value in weights.items():
        for prefix in ("text_model.", "bert."):
            name = name.removeprefix(prefix)
        if name.startswith(OTHERS) or name.endswith("position_ids") or name in LEFT:
            continue
        found[name] = value
    if not (isinstance(module, ClipText) and module.projection):
        found.pop("text_projection.weight", None)
    if isinstance(module, T5Encoder) and "shared.weight" not in found and "encoder.embed_tokens.weight" in weights:
        found["shared.weight"] = weights["encoder.embed_tokens.weight"]
    return found


def from_transformers(module: TextEncoder, weights: Mapping[str, np.ndarray]) -> Any:
    """transformers' tensors -> variables of a net without `scan`. Raises UserError for a missing, extra or misshapen tensor."""
    convert = lambda path, tensors: layout.ours(path[-1], tensors)  # noqa: E731
    return fill(type(module).__name__, abstract(module), cleaned(module, weights), names(module), convert)


def to_transformers(module: TextEncoder, variables: Any, prefix: str = "") -> Tensors:
    """The inverse; prefix: `text_model.` of CLIP before transformers 5.6, which its projection has not."""
    weights, where = {}, names(module)
    for path, value in flatten_dict(variables).items():
        found = where(path)
        tensors = theirs(path[-1], np.asarray(value), len(found))
        weights |= {
            n if n == "text_projection.weight" else f"{prefix}{n}": a for n, a in zip(found, tensors, strict=True)
        }
    return weights


def files(folder: str | Path) -> list[Path]:
    """config.json and the tensors' files of a folder; a UserError where it lacks them. Of a pipeline its `text_encoder` counts."""
    folder = Path(folder)
    folder = folder / "text_encoder" if (folder / "text_encoder/config.json").is_file() else folder
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} has no config.json with .safetensors or .bin weights; name the folder of an encoder of text"
        )
    return [folder / "config.json", *weight_files(folder, what="model of transformers")]


@dataclass(frozen=True)
class _Model:
    """A net as `EncodesText` asks for it; its weights are its variables."""

    module: TextEncoder

    @property
    def values(self) -> int:
        """Rows of its table."""
        return self.module.values

    def encode_text(self, w: Any, ids: jax.Array) -> dict[str, jax.Array]:
        """States, text_mask, pooled."""
        return self.module.apply(w, ids)


@dataclass(frozen=True)
class PublishedText:
    """An encoder of text of another project; nothing of it is trained."""

    path: FilePath = ""  # transformers' folder of a CLIP, T5 v1.1 or BERT, or a pipeline, whose text_encoder counts
    states: Literal["last", "penultimate"] = "last"  # of CLIP: behind the last norm, or before the last block (SDXL)
    pads: bool = False  # of T5: whether its tokens look at pads too, as the pipelines of SD 3 and Flux have it
    dtype: Precision = "float32"  # of its weights and products

    @cached_property
    def _module(self) -> TextEncoder:
        kind, found = fields(read_json(files(self.path)[0]))
        own = {ClipText: {"states": self.states}, T5Encoder: {"pads": self.pads}}
        return kind(**found, dtype=self.dtype, **own.get(kind, {}))

    @property
    def abstract(self) -> Frozen:
        """Shapes and dtypes of what it lends."""
        kind = jnp.dtype(self.dtype)
        return Frozen(
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, kind), abstract(self._module)), _Model(self._module)
        )

    def load(self, places: Frozen) -> Frozen:
        """The net with its weights on those shardings, one after the other."""
        where = flatten_dict(places.weights)

        def put(path: tuple[str, ...], value: np.ndarray) -> jax.Array:
            value = np.asarray(value, jnp.dtype(self.dtype))
            return jax.make_array_from_callback(value.shape, where[path], lambda index: value[index])

        tensors = read_weights(files(self.path)[0].parent, what="model of transformers")
        with layout.placing(put):
            return Frozen(from_transformers(self._module, tensors), _Model(self._module))

    def check(self, name: str, role: Role, spec: Spec, borrower: Any) -> None:
        """A UserError unless it is there and can serve in that role; `name` is the config key that holds it."""
        if not self.path:
            raise UserError(f"{name}.path is empty: name the folder of a published encoder of text ({name}.path=DIR)")
        if not isinstance(self.abstract.model, role.needs):
            raise UserError(
                f"{name}.path={self.path} is an encoder of text, which is no {role.what}; name a run: {name}=DIR"
            )

    def copy_to(self, folder: Path) -> None:
        """What is needed of it, for a run's own directory."""
        folder.mkdir(parents=True)
        for file in files(self.path):
            shutil.copyfile(file, folder / file.name)

    def kept_in(self, folder: Path) -> "PublishedText":
        """Its copy in that folder, where there is one."""
        return replace(self, path=str(folder)) if folder.is_dir() else self

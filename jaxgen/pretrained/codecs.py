"""Published autoencoders as codecs: `tasks.codec.run=dict(name="pretrained", path=DIR)`, beside `run` for runs of our own.

They are diffusers' folders (`AutoencoderKL` of SD, SDXL, SD3, Flux; `VQModel`; `AutoencoderTiny`) or pipelines, whose `vae` counts;
the author's two files of TAESD and its kin (TAEF2); checkpoints of latent diffusion, of which the first stage counts. They take
pictures of any size. In float16 published ones overflow to black pictures, so that there is no such choice.
"""

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxgen.core.given import FilePath
from jaxgen.core.lender import Frozen, Role
from jaxgen.core.ranges import Count
from jaxgen.core.spec import Spec
from jaxgen.core.state import Array, Variables
from jaxgen.errors import UserError
from jaxgen.images import to_float
from jaxgen.nets.ldm_autoencoder import LdmAutoencoder, NormalRegularizer
from jaxgen.nets.tiny_autoencoder import TinyAutoencoder
from jaxgen.pretrained import autoencoders, tiny_autoencoders
from jaxgen.pretrained.autoencoders import FIRST_STAGE, Autoencoder
from jaxgen.pretrained.diffusers import read_folder
from jaxgen.pretrained.layout import onto, placing
from jaxgen.pretrained.shards import weight_files
from jaxgen.pretrained.torch_files import read_tensors, write_tensors

KEPT = "first_stage.safetensors"  # of a file that holds a whole model, in a run's own copy


@dataclass(frozen=True)
class _Model:
    """A net as `Encodes` asks for it; its weights are its variables."""

    module: LdmAutoencoder | TinyAutoencoder
    channels: int  # of a picture

    def _run(self, w: Variables, method: str, *args: Any) -> Any:
        return self.module.apply(w, *args, method=method)


class Tiny(_Model):
    """A latent says all: there is no posterior."""

    def encode(self, w: Variables, x: Array, rng: Array) -> Array:
        """Latents, float32 [B, h, w, z]."""
        return self._run(w, "encode", to_float(x))

    def decode(self, w: Variables, z: Array) -> Array:
        """Latents -> [B, H, W, C]."""
        return self._run(w, "decode", z, self.channels)


class Posterior(_Model):
    """Latents are draws of a normal posterior."""

    def moments(self, w: Variables, x: Array) -> tuple[Array, Array]:
        """Mean and log-variance, float32 [B, h, w, z] each."""
        return self._run(w, "moments", to_float(x))

    def encode(self, w: Variables, x: Array, rng: Array) -> Array:
        """A draw."""
        mean, log_var = self.moments(w, x)
        return mean + jnp.exp(0.5 * log_var) * jax.random.normal(rng, mean.shape)

    def decode(self, w: Variables, z: Array) -> Array:
        """Latents -> [B, H, W, C]."""
        return self._run(w, "decode", z)


class Codebook(_Model):
    """Latents are indices, int32 [B, h, w]."""

    @property
    def codes(self) -> int:
        """Entries."""
        return self.module.regularizer.codes

    def encode(self, w: Variables, x: Array, rng: Array) -> Array:
        """Indices; of several levels a tuple, coarse first."""
        return self._run(w, "encode", to_float(x))

    def decode(self, w: Variables, z: Array) -> Array:
        """Indices -> [B, H, W, C]."""
        return self._run(w, "decode_ids", z)

    def vectors(self, w: Variables, ids: Array) -> Array:
        """Indices -> entries [B, h, w, D]."""
        return self._run(w, "vectors", ids)

    def nearest(self, w: Variables, z: Array) -> Array:
        """Vectors [B, h, w, D] -> the nearest entries."""
        return self._run(w, "nearest", z)


def _own(path: Path) -> Path:
    """Of a pipeline the folder of its autoencoder."""
    there = (path / part for part in ("vae", "vqvae") if (path / part / "config.json").is_file())
    return next(there, path)


def load(path: str | Path, groups: int = 32) -> Autoencoder:
    """The autoencoder that a file or a folder holds. groups: of the norms, which a checkpoint of latent diffusion does not tell."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; name a folder of an autoencoder, or its file")
    if path.is_file():
        return autoencoders.load_author(path, groups)
    path = _own(path)
    if (path / KEPT).is_file():
        return autoencoders.load_author(path / KEPT, groups)
    if tiny_autoencoders.author_files(path):
        return tiny_autoencoders.load_author(path)
    config, weights = read_folder(path, "autoencoder")
    kind = tiny_autoencoders if config.get("_class_name") == "AutoencoderTiny" else autoencoders
    return kind.from_diffusers(config, weights)


@dataclass(frozen=True)
class PublishedCodec:
    """An autoencoder of another project; nothing of it is trained."""

    path: FilePath = ""  # a folder or a file, see docs/weights.md
    dtype: Literal["float32", "bfloat16"] = "float32"  # of its weights and products; float16 overflows
    groups: Count = 32  # of the norms, where the path is a checkpoint of latent diffusion

    def _load(self, put: Any) -> tuple[_Model, Variables, dict[str, list[float]]]:
        """(model, weights as put(path, value) gives them, statistics of its latents)."""
        with placing(put):
            found = load(self.path, self.groups)
        kinds = {TinyAutoencoder: Tiny, LdmAutoencoder: Codebook}
        normal = isinstance(getattr(found.module, "regularizer", None), NormalRegularizer)
        kind, kernel = (Posterior if normal else kinds[type(found.module)]), found.variables["params"]["encoder"]
        first = kernel.get("conv_in") or kernel["down0_conv"]
        return kind(found.module.clone(dtype=self.dtype), first["kernel"].shape[2]), found.variables, found.latents

    @cached_property
    def _told(self) -> tuple[Frozen, dict[str, list[float]]]:
        model, weights, latents = self._load(lambda _, value: jax.ShapeDtypeStruct(value.shape, jnp.dtype(self.dtype)))
        return Frozen(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights), model), latents

    @property
    def abstract(self) -> Frozen:
        """Shapes and dtypes."""
        return self._told[0]

    @property
    def latents(self) -> dict[str, list[float]]:
        """Mean and standard deviation of each channel of the latents as published; {} where nobody says them."""
        return self._told[1]

    def load(self, places: Frozen) -> Frozen:
        """The net with its weights on those shardings."""
        where = flatten_dict(places.weights)
        model, weights, _ = self._load(lambda path, value: onto(where[path], value, self.dtype))
        return Frozen(jax.device_put(weights, places.weights), model)

    def check(self, name: str, role: Role, spec: Spec, borrower: Any) -> None:
        """A UserError unless it is there and can serve in that role; `name` is the config key that holds it."""
        if not self.path:
            raise UserError(f"{name}.path is empty: name the folder of a published autoencoder ({name}.path=DIR)")
        model = self.abstract.model
        if not isinstance(model, role.needs):
            raise UserError(
                f"{name}.path={self.path} is an autoencoder, which is no {role.what}; name a run: {name}=DIR"
            )
        if not role.target:
            return
        if spec.shape[-1] != model.channels:
            raise UserError(
                f"{name}.path={self.path} takes pictures of {model.channels} channels, and the data have {spec.shape}; name another"
            )
        x = jax.ShapeDtypeStruct((1, *spec.shape), jnp.float32)
        there = lambda w, x: model.decode(w, model.encode(w, x, jax.random.key(0)))  # noqa: E731
        back = jax.eval_shape(there, self.abstract.weights, x).shape[1:]
        if back != spec.shape:
            raise UserError(
                f"{name}.path={self.path} gives pictures {spec.shape} back as {back}; make the pictures {back[0]}x{back[1]}"
            )

    def copy_to(self, folder: Path) -> None:
        """What is needed of it, for a run's own directory."""
        folder.mkdir(parents=True)
        path = _own(Path(self.path))
        if path.is_dir():
            own = tiny_autoencoders.author_files(path)
            for file in own.values() if own else (path / "config.json", *weight_files(path)):
                shutil.copyfile(file, folder / file.name)
            return
        tensors = read_tensors(path, "state_dict")
        whole = {k: v for k, v in tensors.items() if k.startswith(FIRST_STAGE)}
        write_tensors(folder / KEPT, whole or tensors)

    def kept_in(self, folder: Path) -> "PublishedCodec":
        """Its copy in that folder, where there is one."""
        return replace(self, path=str(folder)) if folder.is_dir() else self

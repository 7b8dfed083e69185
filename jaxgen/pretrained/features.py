"""Feature nets with published weights: PyTorch's state dicts -> our variables, and the lenders of these nets.

Convolutions OIHW -> HWIO, linear [out, in] -> a 1x1 convolution. Inception's batch normalisation, y = s x + t with
s = gamma / sqrt(var + 1e-3) and t = beta - s mean, goes into its convolutions, in float64.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from jaxgen.core.given import FilePath
from jaxgen.core.lender import Frozen, Role
from jaxgen.core.spec import Spec
from jaxgen.errors import UserError
from jaxgen.metrics.lpips import embedding, lpips, scale_images
from jaxgen.nets.inception import SIZE, InceptionV3, Taps
from jaxgen.nets.trunks import VGG16, AlexNet, SqueezeNet
from jaxgen.pretrained.downloads import fetch
from jaxgen.pretrained.torch_files import read_tensors

Tensors = Mapping[str, np.ndarray]
Variables = dict[str, Any]

BATCH_NORM_EPS = 1e-3  # of Inception


@dataclass(frozen=True)
class Trunk:
    """A trunk of LPIPS: its module, the name of its download, and where in torchvision's `features` each layer is."""

    module: Callable[[], nn.Module]
    download: str
    places: dict[str, int]


def _in_order(names: str, places: str) -> dict[str, int]:
    return dict(zip(names.split(), map(int, places.split()), strict=True))


TRUNKS = {
    "alex": Trunk(AlexNet, "alexnet", _in_order("conv1 conv2 conv3 conv4 conv5", "0 3 6 8 10")),
    "vgg": Trunk(
        VGG16,
        "vgg16",
        _in_order(
            "conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 conv5_1 conv5_2 conv5_3",
            "0 2 5 7 10 12 14 17 19 21 24 26 28",
        ),
    ),
    "squeeze": Trunk(
        SqueezeNet,
        "squeezenet1_1",
        _in_order("conv1 fire2 fire3 fire4 fire5 fire6 fire7 fire8 fire9", "0 3 4 6 7 9 10 11 12"),
    ),
}


def _trunk(net: str) -> Trunk:
    if net not in TRUNKS:
        raise UserError(f"LPIPS: no net {net!r}; known: {', '.join(TRUNKS)}")
    return TRUNKS[net]


@cache
def _abstract(module: nn.Module) -> tuple[Any, Variables]:
    """Shapes of what the module gives for an image, and of its variables."""
    return jax.eval_shape(
        module.init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    )


def _shapes(module: nn.Module) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path -> shape of every parameter."""
    return {path[1:]: leaf.shape for path, leaf in flatten_dict(_abstract(module)[1]).items()}


def _take(rest: dict[str, np.ndarray], name: str, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Remove a tensor from `rest`, its shape being checked."""
    if name not in rest:
        raise UserError(f"{what}: the weights lack tensor {name}; is this the file of another net?")
    value = rest.pop(name)
    if value.shape != shape:
        raise UserError(
            f"{what}: tensor {name} has shape {value.shape}, want {shape}; is this the file of another net?"
        )
    return value


def _oihw(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], shape[0], shape[1])


def _tensors(source: str | Path | Tensors) -> dict[str, np.ndarray]:
    return dict(source) if isinstance(source, Mapping) else read_tensors(source)


def inception(source: str | Path | Tensors) -> Variables:
    """Weights of pytorch-fid's `fid_inception_v3` (a file or its tensors) -> variables of `InceptionV3`, numpy float32.

    Raises UserError for a tensor that is missing, misshapen or has no place here.
    """
    rest = {name: value for name, value in _tensors(source).items() if not name.endswith("num_batches_tracked")}
    shapes, params, what = _shapes(InceptionV3()), {}, "FID Inception"
    for *layer, leaf in shapes:
        if leaf != "kernel":
            continue
        stem, shape = ".".join(layer), _oihw(shapes[(*layer, "kernel")])
        n = shape[0]
        if stem == "fc":
            kernel = _take(rest, "fc.weight", shape[:2], what)[:, :, None, None]
            bias = _take(rest, "fc.bias", (n,), what)
        else:
            kernel = _take(rest, f"{stem}.conv.weight", shape, what)
            gamma, beta, mean, var = (
                _take(rest, f"{stem}.bn.{name}", (n,), what).astype(np.float64)
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / np.sqrt(var + BATCH_NORM_EPS)
            kernel, bias = kernel * scale[:, None, None, None], beta - scale * mean
        params[(*layer, "kernel")] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0), np.float32)
        params[(*layer, "bias")] = np.asarray(bias, np.float32)
    if rest:
        raise UserError(
            f"{what}: {len(rest)} tensors have no place, the first is {min(rest)}; is this torchvision's net?"
        )
    return {"params": unflatten_dict(params)}


def trunk(net: str, source: str | Path | Tensors) -> Variables:
    """Weights of torchvision's net, or of the `lpips` package, -> variables of the trunk `net` (alex, vgg, squeeze).

    source: a file or its tensors; a classifier and linear heads among them are passed over. Raises UserError for
    another net's weights.
    """
    spec, what = _trunk(net), f"LPIPS trunk {net}"
    rest = {re.sub(r"^(features|net\.slice\d+)\.", "", name): value for name, value in _tensors(source).items()}
    params = {}
    for path, shape in _shapes(spec.module()).items():
        layer, *inner, leaf = path
        stem = ".".join([str(spec.places[layer]), *inner])
        if leaf == "kernel":
            value = _take(rest, f"{stem}.weight", _oihw(shape), what).transpose(2, 3, 1, 0)
        else:
            value = _take(rest, f"{stem}.bias", shape, what)
        params[path] = np.ascontiguousarray(value, np.float32)
    return {"params": unflatten_dict(params)}


def heads(net: str, source: str | Path | Tensors) -> list[np.ndarray]:
    """The linear heads [C_l] in a file of the `lpips` package (lin0.model.1.weight, ... or lins.0.model.1.weight, ...).

    Raises UserError for a missing or misshapen head, and for a negative weight, which no version of LPIPS has.
    """
    tensors, found = _tensors(source), []
    for i, tap in enumerate(_abstract(_trunk(net).module())[0]):
        old = f"lins.{i}.model.1.weight"
        name = old if old in tensors else f"lin{i}.model.1.weight"
        value = _take(dict(tensors), name, (1, tap.shape[-1], 1, 1), f"LPIPS heads {net}")
        if value.min() < 0:
            raise UserError(f"LPIPS heads {net}: {name} has negative weights; a distance needs v_l >= 0")
        found.append(np.asarray(value, np.float32).reshape(-1))
    return found


def shipped_heads(net: str) -> list[np.ndarray]:
    """The heads of LPIPS v0.1 [C_l] that come with jaxgen (LPIPS_HEADS.md)."""
    count = len(_trunk(net).module().taps)
    with (resources.files("jaxgen.pretrained") / "lpips_heads.npz").open("rb") as file, np.load(file) as stored:
        return [stored[f"{net}.{i}"] for i in range(count)]


# ----------------------------------------------------------------------------------------------------------------------
# Lenders (jaxgen.core.lender). Their weights are float32, and are looked for at `path`, else in the cache, else downloaded.


@dataclass(frozen=True)
class FidFeatures:
    """Inception-v3 of FID: its variables, float32 images [B, 299, 299, 3] in [-1, 1] -> `Taps`."""

    def __call__(self, variables: Variables, images: Array) -> Taps:
        """What it sees."""
        return InceptionV3().apply(variables, images)


@dataclass(frozen=True)
class Distance:
    """LPIPS v0.1 on a trunk: {"trunk", "heads"}, two batches [B, H, W, 1 or 3] in [-1, 1] -> distances [B]."""

    net: str  # alex, vgg, squeeze

    def __call__(self, weights: dict[str, Any], images_a: Array, images_b: Array) -> Array:
        """Raises UserError for different shapes, for integers."""
        if images_a.shape != images_b.shape:
            raise UserError(f"LPIPS compares images of one size, not {images_a.shape} with {images_b.shape}")
        taps = [self._seen(weights, images) for images in (images_a, images_b)]
        return lpips(*taps, weights["heads"])

    distance = __call__  # as a method's perceptual loss asks for it

    def features(self, weights: dict[str, Any], images: Array) -> Array:
        """Vectors [B, F] whose squared Euclidean distances are LPIPS."""
        return embedding(self._seen(weights, images), weights["heads"])

    def _seen(self, weights: dict[str, Any], images: Array) -> Any:
        return _trunk(self.net).module().apply(weights["trunk"], scale_images(images))


class Published:
    """What the lenders of published nets share."""

    path: str
    model: Any
    download: str  # its name in `downloads.TABLE`
    shapes: Any

    def read(self, path: Path) -> Any:
        """The weights in that file, as numpy arrays shaped like `shapes`."""
        raise TypeError(f"{type(self).__name__} must read its own file: read(path)")

    @property
    def abstract(self) -> Frozen:
        """Shapes and dtypes."""
        return Frozen(self.shapes, self.model)

    def load(self, places: Frozen | None = None) -> Frozen:
        """The net with its weights on those shardings; without any, on the default device."""
        found = self.read(fetch(self.download, self.path))
        if places is None:
            return Frozen(jax.tree.map(jnp.asarray, found), self.model)

        def put(value: np.ndarray, place: jax.sharding.Sharding) -> Array:
            return jax.make_array_from_callback(value.shape, place, lambda index: value[index])

        return Frozen(jax.tree.map(put, found, places.weights), self.model)

    def check(self, name: str, role: Role, spec: Spec, borrower: Any) -> None:
        """A UserError unless its weights can be had and it can serve in that role; `name` is the config key that holds it."""
        if not isinstance(self.model, role.needs):
            raise UserError(f"{name} is the pretrained net {self.download}, which is no {role.what}; name another")
        if role.target and spec.shape[-1] not in (1, 3):
            raise UserError(
                f"{name} sees images of 1 or 3 channels, and the run's are {list(spec.shape)}; leave it out"
            )
        fetch(self.download, self.path)


@dataclass(frozen=True)
class Inception(Published):
    """Lends `FidFeatures`."""

    path: str = ""

    model = FidFeatures()
    download = "inception_fid"

    @property
    def shapes(self) -> Variables:
        """Of its variables."""
        return _abstract(InceptionV3())[1]

    def read(self, path: Path) -> Variables:
        """From pytorch-fid's file."""
        return inception(path)


@dataclass(frozen=True)
class Lpips(Published):
    """Lends a `Distance`."""

    trunk: str = "alex"  # alex, vgg, squeeze
    path: FilePath = ""  # of the trunk's weights; the heads come with jaxgen

    @property
    def model(self) -> Distance:
        """Of that trunk."""
        return Distance(self.trunk)

    @property
    def download(self) -> str:
        """The trunk's."""
        return _trunk(self.trunk).download

    @property
    def shapes(self) -> dict[str, Any]:
        """Of the trunk's variables and the heads [C_l]."""
        taps, variables = _abstract(_trunk(self.trunk).module())
        return {"trunk": variables, "heads": [jax.ShapeDtypeStruct((tap.shape[-1],), jnp.float32) for tap in taps]}

    def read(self, path: Path) -> dict[str, Any]:
        """The trunk's from torchvision's file."""
        return {"trunk": trunk(self.trunk, path), "heads": shipped_heads(self.trunk)}

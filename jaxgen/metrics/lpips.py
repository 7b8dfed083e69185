"""LPIPS v0.1: distance of two images in the features of a classifier.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv:1801.03924), eq. 1:

    d(x, y) = sum_l 1/(H_l W_l) sum_hw w_l . (phi_l(x)_hw - phi_l(y)_hw)^2,    phi_l = f_l / (|f_l| + 1e-10)

with the feature vectors f_l of layer l at position hw and learned weights w_l >= 0. Sums are float32 without a matrix
product, so no device setting can round them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgen.errors import UserError

EPS = 1e-10
# of the trunk's input, for images in [-1, 1]: ImageNet's statistics seen from there (v0.0 had left this out)
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


def scale_images(images: Array) -> Array:
    """Images [B, H, W, 3] in [-1, 1] -> input of the trunk. Grey ones [B, H, W, 1] become three equal channels.

    Raises UserError for integers and for another number of channels.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"LPIPS reads float images [B, H, W, 3] in [-1, 1], not {images.dtype}{list(images.shape)}")
    return (images.astype(jnp.float32) - SHIFT) / SCALE


def _unit(features: Array) -> Array:
    """phi: vectors over the last axis, of length one; zero stays zero, and has a gradient."""
    features = features.astype(jnp.float32)
    square = (features * features).sum(-1, keepdims=True)
    return features / (jnp.sqrt(jnp.maximum(square, EPS**3)) + EPS)


def layer_maps(taps_a: Sequence[Array], taps_b: Sequence[Array], heads: Sequence[Array]) -> list[Array]:
    """The weighted squared differences at every position, for each layer: [B, H_l, W_l].

    taps: features [B, H_l, W_l, C_l] of the two images. heads: w_l [C_l].
    """
    if not len(taps_a) == len(taps_b) == len(heads):
        raise UserError(f"LPIPS: {len(taps_a)} and {len(taps_b)} layers of features, but {len(heads)} heads")
    layers = zip(taps_a, taps_b, heads, strict=True)
    return [(jnp.square(_unit(a) - _unit(b)) * w).sum(-1) for a, b, w in layers]


def lpips(taps_a: Sequence[Array], taps_b: Sequence[Array], heads: Sequence[Array]) -> Array:
    """The distance [B]: `layer_maps` averaged over positions and summed over layers."""
    return sum(layer.mean((1, 2)) for layer in layer_maps(taps_a, taps_b, heads))


def embedding(taps: Sequence[Array], heads: Sequence[Array]) -> Array:
    """Vectors [B, F] whose squared Euclidean distances are LPIPS: one image's part of it is computed once."""
    scaled = [
        _unit(tap) * np.sqrt(1.0 / np.prod(tap.shape[1:3])) * jnp.sqrt(w) for tap, w in zip(taps, heads, strict=True)
    ]
    return jnp.concatenate([x.reshape(len(x), -1) for x in scaled], -1)


def lpips_map(taps_a: Sequence[Array], taps_b: Sequence[Array], heads: Sequence[Array], size: tuple[int, int]) -> Array:
    """Where the images differ, [B, *size]: `layer_maps` enlarged bilinearly to `size` and summed."""
    maps = layer_maps(taps_a, taps_b, heads)
    return sum(jax.image.resize(layer, (len(layer), *size), "bilinear", antialias=False) for layer in maps)

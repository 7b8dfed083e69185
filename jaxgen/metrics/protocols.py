"""Protocols: how pixels become features, each as one declared record. The same set judged by two protocols differs.

Inception's weights are those of 2015 in all of them; what differs is the resize to 299x299, the scale of its input, and
how many images a published figure is made of. PROTOCOLS name the programs whose figures they reproduce.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.errors import UserError
from jaxgen.metrics.resize import resize

Array = jax.Array


@dataclass(frozen=True)
class FeatureProtocol:
    """Pixels p of 0..255, resized by `resize` to `size` (0: left as they are), enter the net as scale p + offset."""

    name: str
    net: str
    resize: str = ""
    size: int = 0
    scale: float = 1.0
    offset: float = 0.0
    images: int = 50_000  # generated images of a published figure; a figure of N others is called fid@N
    order: str = "shuffled"  # of the images in the Inception Score's splits


def _tf(name: str, resize: str, order: str = "shuffled") -> FeatureProtocol:
    return FeatureProtocol(name, "inception-2015-12-05", resize, 299, 1 / 128, -1.0, order=order)


PROTOCOLS = {
    p.name: p
    for p in (
        FeatureProtocol("pytorch", "inception-2015-12-05", "torch_bilinear", 299, 2 / 255, -1.0),  # pytorch-fid
        _tf("clean", "clean"),  # clean-fid
        _tf("fidelity", "tf1"),  # torch-fidelity
        _tf("tf", "tf1", "given"),  # TTUR, ADM's evaluator
    )
}
NATIVE = FeatureProtocol("native", "classifier")  # a net trained on the data at hand: its own figures, never FID alone


def prepare(images: Array, protocol: FeatureProtocol) -> Array:
    """uint8 [B, H, W, 1 or 3] -> float32 [B, size, size, 3], what the protocol's net reads; grey is repeated."""
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(f"{protocol.name} judges uint8 images [B, H, W, 1 or 3], not {images.dtype} {images.shape}")
    x = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
    x = resize(x, (protocol.size, protocol.size), protocol.resize) if protocol.resize else x
    return x * protocol.scale + protocol.offset

"""Two towers, one for pictures and one for texts, whose vectors are compared (CLIP, Radford et al. 2021, arXiv:2103.00020)."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxgen.core.ranges import Count
from jaxgen.nets.layers import Dense
from jaxgen.nets.text import init


def unit(x: Array) -> Array:
    """Vectors [..., D] at length one, float32."""
    x = x.astype(jnp.float32)
    return x * (1.0 / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6))


class TwoTowers(nn.Module):
    """Pictures [B, H, W, C] and texts int32 [B, L] -> vectors [B, dim] of length one each, and the factor of their products.

    encoder: of pictures, [B, H, W, C] -> [B, h, w, D]; all places of it have a say. text: an encoder with something pooled. The
    factor is learned, 1/0.07 at first and 100 at most.
    """

    takes = ("tokens",)

    encoder: nn.Module
    text: nn.Module
    dim: Count = 64

    def setup(self) -> None:
        self.picture_head = Dense(self.dim, use_bias=False, kernel_init=init)
        self.text_head = Dense(self.dim, use_bias=False, kernel_init=init)
        self.temperature = self.param("temperature", lambda _: jnp.asarray(math.log(1 / 0.07), jnp.float32))

    def pictures(self, x: Array, train: bool = False) -> Array:
        """[B, dim]."""
        features = self.encoder(x, train=train)
        return unit(self.picture_head(features.reshape(len(x), -1)))

    def texts(self, ids: Array, train: bool = False) -> Array:
        """[B, dim]."""
        return unit(self.text_head(self.text(ids, train)["pooled"]))

    def __call__(self, x: Array, ids: Array, train: bool = False) -> tuple[Array, Array, Array]:
        factor = jnp.exp(jnp.minimum(self.temperature, math.log(100.0)))
        return self.pictures(x, train), self.texts(ids, train), factor

"""Degradations of pictures [..., H, W, C] in [-1, 1], each a function (pictures, strength, rng) -> the same shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.metrics.resize import resize

Array = jax.Array


def noise(x: Array, strength: float, rng: Array) -> Array:
    """White Gaussian noise of standard deviation `strength` (pixels in [-1, 1])."""
    return x + strength * jax.random.normal(rng, x.shape)


def blur(x: Array, strength: float, rng: Array) -> Array:
    """A Gaussian of standard deviation `strength` pixels; the border is continued."""
    reach = max(1, int(3 * strength + 0.5))
    taps = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1) / strength) ** 2)
    taps = taps / taps.sum()
    for axis in (x.ndim - 3, x.ndim - 2):
        pads = [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, pads, mode="edge")
        size = x.shape[axis]
        x = sum(taps[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * reach + 1))
    return x


def downsample(x: Array, strength: float, rng: Array) -> Array:
    """Pillow's bicubic by the factor `strength` and back up: what super-resolution must undo."""
    height, width = x.shape[-3:-1]
    small = (max(1, round(height / strength)), max(1, round(width / strength)))
    return resize(resize((x + 1.0) * 127.5, small, "pil_bicubic"), (height, width), "pil_bicubic") / 127.5 - 1.0


def mask(x: Array, strength: float, rng: Array, value: float = 0.0) -> Array:
    """`value` (grey) over a random share `strength` of the pixels, all channels together."""
    hidden = jax.random.bernoulli(rng, strength, (*x.shape[:-1], 1))
    return jnp.where(hidden, value, x)


def salt_pepper(x: Array, strength: float, rng: Array) -> Array:
    """White or black, by the toss of a coin, over a random share `strength` of the pixels, all channels together."""
    draw = jax.random.uniform(rng, (*x.shape[:-1], 1))
    return jnp.where(draw < strength / 2, 1.0, jnp.where(draw < strength, -1.0, x))


DEGRADATIONS: dict[str, Callable[[Array, float, Array], Array]] = {
    "noise": noise,
    "blur": blur,
    "downsample": downsample,
    "mask": mask,
    "salt_pepper": salt_pepper,
}

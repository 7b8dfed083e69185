"""Bits per dimension: what a lossless code of an image costs per value (Theis et al. 2016, arXiv:1511.01844, section 3.1).

    discrete model of levels    bits = -log P(x) / (D ln 2)
    density of dequantised data bits = -(log p(y) + D log w) / (D ln 2)

In the second, y = (level + u) w + low with u ~ U[0, 1), and w is the width of one level on y's scale: the volume w^D
turns the density into (a bound on) the probability of the levels. A uniform model over 256 levels costs exactly 8 bits.
"""

import math

import jax
import numpy as np

Array = jax.Array | np.ndarray


def bits_per_dim(log_prob: Array | float, dims: int) -> Array | float:
    """Nats log P(x) of discrete levels, summed over `dims` values -> bits per value; keeps dtype and shape."""
    return -log_prob / (dims * math.log(2.0))


def level_width(low: float = -1.0, high: float = 1.0, levels: int = 256) -> float:
    """Width w of one level when dequantised levels [0, levels) are scaled to [low, high): 1/128 for [-1, 1)."""
    return (high - low) / levels


def density_bits_per_dim(log_density: Array | float, dims: int, width: float) -> Array | float:
    """Nats log p(y), summed over `dims` dequantised values whose levels are `width` wide -> bits per value."""
    return bits_per_dim(log_density, dims) - math.log2(width)

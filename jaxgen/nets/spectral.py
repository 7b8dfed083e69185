"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957): a kernel divided by its largest singular value.

A kernel is the matrix W [rest, features] whose last axis is the layer's output. One power iteration a move (section 2.1):

    v <- W u / |W u|,    u <- W^T v / |W^T v|,    sigma = v^T W u                                                   (1)

u [features] and v [rest] are the variable of the kernel's name in the collection "spectral". They move where that collection is
mutable and nowhere else: an evaluation, a sample and the other player's update hold them. Gradients go through W in (1), with
u and v held. At initialisation they are iterated until sigma is near its limit, so that the first step is normalised too.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

COLLECTION = "spectral"
FIRST = 15  # iterations at initialisation, as torch.nn.utils.parametrizations.spectral_norm


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def power_iteration(w: Array, u: Array) -> tuple[Array, Array]:
    """(u [N], v [M]) after one move (1) for w [M, N]."""
    with jax.default_matmul_precision("highest"):
        v = _unit(w @ u)
        return _unit(v @ w), v


def normalised(module: nn.Module, kernel: Array, name: str = "kernel") -> Array:
    """kernel / sigma, float32, inside a compact module that has this kernel: [..., features] -> the same."""
    w = kernel.astype(jnp.float32).reshape(-1, kernel.shape[-1])
    held = lax.stop_gradient(w)

    def start() -> dict[str, Array]:
        u = jax.random.normal(module.make_rng("params"), (w.shape[1],))
        u, v = lax.fori_loop(0, FIRST, lambda _, pair: power_iteration(held, pair[0]), (_unit(u), jnp.zeros(len(w))))
        return {"u": u, "v": v}

    pair = module.variable(COLLECTION, name, start)
    if module.is_mutable_collection(COLLECTION) and not module.is_initializing():
        u, v = power_iteration(held, pair.value["u"])
        pair.value = {"u": u, "v": v}
    u, v = pair.value["u"], pair.value["v"]
    with jax.default_matmul_precision("highest"):
        return kernel / ((v @ w) @ u)

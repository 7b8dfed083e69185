"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957): a kernel divided by its largest singular value.

A kernel is the matrix W [rest, features] whose last axis is the layer's output. One power iteration a move (section 2.1):

    v <- W u / |W u|,    u <- W^T v / |W^T v|,    sigma = v^T W u                                                   (1)

u [features] and v [rest] are the variable of the kernel's name in the collection "spectral". They move where that collection is
mutable and nowhere else: an evaluation, a sample and the other player's update hold them, but an average of kernels gets its
own (`settled`). Gradients go through W in (1), with u and v held. At initialisation they are iterated until sigma is near its
limit, so that the first step is normalised too.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
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


def iterated(w: Array, u: Array) -> dict[str, Array]:
    """u and v of w [M, N] after `FIRST` moves from u."""
    u, v = lax.fori_loop(0, FIRST, lambda _, pair: power_iteration(w, pair[0]), (u, jnp.zeros(len(w))))
    return {"u": u, "v": v}


def normalised(module: nn.Module, kernel: Array, name: str = "kernel") -> Array:
    """kernel / sigma, float32, inside a compact module that has this kernel: [..., features] -> the same."""
    w = kernel.astype(jnp.float32).reshape(-1, kernel.shape[-1])
    held = lax.stop_gradient(w)

    def start() -> dict[str, Array]:
        u = jax.random.normal(module.make_rng("params"), (w.shape[1],))
        return iterated(held, _unit(u))

    pair = module.variable(COLLECTION, name, start)
    if module.is_mutable_collection(COLLECTION) and not module.is_initializing():
        u, v = power_iteration(held, pair.value["u"])
        pair.value = {"u": u, "v": v}
    u, v = pair.value["u"], pair.value["v"]
    with jax.default_matmul_precision("highest"):
        return kernel / ((v @ w) @ u)


def matrices(variables: dict[str, Any]) -> dict[tuple[str, ...], tuple[Array, dict[str, Array]]]:
    """Path -> (W [rest, features], its u and v) of all that is normalised in a module's variables."""
    params = traverse_util.flatten_dict(variables["params"])
    pairs = traverse_util.flatten_dict(variables.get(COLLECTION, {}), is_leaf=lambda path, _: path in params)
    return {
        path: (params[path].astype(jnp.float32).reshape(-1, params[path].shape[-1]), p) for path, p in pairs.items()
    }


def settled(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables with u and v of these very params: an average of params has not those that the raw ones moved."""
    found = {path: iterated(w, pair["u"]) for path, (w, pair) in matrices(variables).items()}
    return {**variables, COLLECTION: traverse_util.unflatten_dict(found)} if found else variables


def sigmas(variables: dict[str, Any]) -> dict[str, Array]:
    """Path, such as Conv_0/kernel, -> sigma [] of all that is normalised."""
    with jax.default_matmul_precision("highest"):
        return {"/".join(path): (p["v"] @ w) @ p["u"] for path, (w, p) in matrices(variables).items()}

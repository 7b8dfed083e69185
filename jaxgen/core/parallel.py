"""Meshes, regex rules -> shardings, microbatches and what several hosts need."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgen.core.state import PyTree, path_name
from jaxgen.errors import UserError

_SPREAD: ContextVar[Mesh | None] = ContextVar("spread", default=None)
FSDP_BYTES = 4 << 20  # smaller leaves cost more to gather than to keep


def initialize() -> None:
    """Join the other hosts: SLURM, Open MPI, TPU pods and GKE are recognised by JAX.

    Elsewhere JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.
    """
    number, at = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        if number and at:
            jax.distributed.initialize(num_processes=int(number), process_id=int(at))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: the other hosts were not found ({str(error).splitlines()[0]}); start it under SLURM, Open MPI, "
            "on a TPU pod or GKE, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def is_lead() -> bool:
    """Whether this process writes logs, pictures and configs."""
    return jax.process_index() == 0


def _fitting(axes: dict[str, int], devices: int) -> str:
    """The axes of a mesh that fits on so many devices, as on the command line: the first takes what the others leave."""
    first, *others = axes
    left, fitted = devices, {}
    for name in others:
        fitted[name] = math.gcd(left, abs(axes[name]))
        left //= fitted[name]
    return " ".join(f"--config.mesh.{name}={size}" for name, size in {first: left, **fitted}.items())


def make_mesh(axes: dict[str, int]) -> Mesh:
    """{"data": -1} -> a Mesh over all devices; one axis may be -1 (the rest).

    On one host a mesh may be smaller than the machine. The only caller of jax.make_mesh.
    """
    devices = jax.device_count()
    sizes = dict(axes)
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        closed = " ".join(f"--config.mesh.{name}=1" for name in free[1:])
        raise UserError(f"config.mesh={sizes} leaves {len(free)} axes open, and only one may be -1; set {closed}")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free:
        if devices % known:
            raise UserError(f"config.mesh={sizes} does not divide {devices} devices; set {_fitting(sizes, devices)}")
        sizes[free[0]] = devices // known
    used = math.prod(sizes.values())
    if used > devices or (used < devices and jax.process_count() > 1):
        raise UserError(
            f"config.mesh={sizes} asks for {used} devices and there are {devices}; set {_fitting(axes, devices)}"
        )
    # Auto axes: the compiler places the rest. Explicit ones (JAX's default) refuse ordinary slicing.
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=jax.devices()[:used])


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Examples are spread over every axis of the mesh but `model`; `leading` unsharded axes come before the batch's."""
    axes = tuple(name for name in mesh.axis_names if name != "model")
    return NamedSharding(mesh, PartitionSpec(*(None,) * leading, axes))


@contextmanager
def spreading(mesh: Mesh) -> Iterator[None]:
    """While a program is traced: `as_batch` spreads over this mesh."""
    before = _SPREAD.set(mesh)
    try:
        yield
    finally:
        _SPREAD.reset(before)


def as_batch(x: jax.Array) -> jax.Array:
    """[B, ...] that a training step draws from nothing, such as latents, spread over the devices as its batch is.

    Left to itself XLA's partitioner may keep every example on every device, and then counts the gradient of a convolution
    whose kernel is sharded several times (jax 0.10.2 and 0.12.0.1; findings/sharded_kernel_gradient_counted_twice.sh). Outside
    of `spreading`, and where the devices do not divide B, x as it is.
    """
    mesh = _SPREAD.get()
    spread = mesh is not None and len(x) % batch_devices(mesh) == 0
    return jax.lax.with_sharding_constraint(x, batch_sharding(mesh)) if spread else x


def batch_devices(mesh: Mesh) -> int:
    """Into how many shards a batch is cut."""
    return math.prod(size for name, size in mesh.shape.items() if name != "model")


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def everywhere(mesh: Mesh, tree: PyTree) -> PyTree:
    """`replicated` for every leaf of a tree."""
    return jax.tree.map(lambda _: replicated(mesh), tree)


def _fsdp(mesh: Mesh, leaf: Any, least: int) -> PartitionSpec:
    axis = "fsdp" if "fsdp" in mesh.axis_names else "data"
    if leaf.size * leaf.dtype.itemsize < least:
        return PartitionSpec()
    fitting = [(size, i) for i, size in enumerate(leaf.shape) if size % mesh.shape[axis] == 0]
    if not fitting:
        return PartitionSpec()
    _, at = max(fitting)
    return PartitionSpec(*(None,) * at, axis)


def shardings(mesh: Mesh, abstract: PyTree, rules: tuple[tuple[str, Any], ...]) -> PyTree:
    """Abstract state -> NamedShardings. The first rule whose regex matches a leaf's path decides.

    An action is "replicate", "fsdp" (the largest divisible axis of leaves over 4 MB; "fsdp:BYTES" sets the size), or
    a tuple of axis names (or None) for the leaf's dimensions. A leaf that no rule matches is an error.
    """
    compiled = [(re.compile(pattern), action) for pattern, action in rules]

    def place(path: tuple, leaf: Any) -> NamedSharding:
        name = path_name(path)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return replicated(mesh)
        for pattern, action in compiled:
            if not pattern.search(name):
                continue
            if action == "replicate":
                return replicated(mesh)
            if isinstance(action, str) and action.split(":")[0] == "fsdp":
                least = int(action.split(":")[1]) if ":" in action else FSDP_BYTES
                return NamedSharding(mesh, _fsdp(mesh, leaf, least))
            if isinstance(action, str):
                raise UserError(
                    f"config.sharding: the action {action!r} is unknown; use replicate, fsdp, fsdp:BYTES or axis names"
                )
            return NamedSharding(mesh, PartitionSpec(*action))
        raise UserError(f'no sharding rule matches {name}; set "config.sharding={(*rules, (".*", "replicate"))}"')

    return jax.tree_util.tree_map_with_path(place, abstract)


def gather(tree: PyTree, places: PyTree) -> PyTree:
    """Inside jit: values whole over the batch's axes, as a computation on sharded examples needs them.

    Without it the compiler spreads the sharding of FSDP parameters into the activations, channel by channel.
    """

    def whole(x: jax.Array, place: NamedSharding) -> jax.Array:
        spec = tuple(axis if axis == "model" else None for axis in place.spec)
        return jax.lax.with_sharding_constraint(x, NamedSharding(place.mesh, PartitionSpec(*spec)))

    return jax.tree.map(whole, tree, places)


def microbatches(batch: PyTree, n: int) -> PyTree:
    """[n * b, ...] -> [n, b, ...] by striding: every example stays on its device (a plain reshape would move them)."""

    def split(x: jax.Array) -> jax.Array:
        if x.shape[0] % n:
            raise UserError(
                f"a batch of {x.shape[0]} cannot be split into {n} microbatches; set method.microbatches={math.gcd(x.shape[0], n)}"
            )
        return x.reshape(x.shape[0] // n, n, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, batch)


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray], leading: int = 0) -> dict[str, jax.Array]:
    """This host's part of a global batch -> global arrays, spread over the devices; returns before the copy ends."""
    place = batch_sharding(mesh, leading)
    return {k: jax.make_array_from_process_local_data(place, v) for k, v in batch.items()}


def put_replicated(mesh: Mesh, tree: PyTree) -> PyTree:
    """The same host values on every device of every host."""
    place = replicated(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, np.asarray(x), np.shape(x)), tree)


def to_host(tree: PyTree) -> PyTree:
    """Global arrays -> numpy on every host (collective when there are several)."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def agree(flag: bool) -> bool:
    """True on every host if it is true on any."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))

#!/usr/bin/env bash
# XLA's partitioner: the gradient of a convolution whose kernel is sharded comes out multiplied by an axis of the mesh.
#
# Guessed: shardings decide where a value is computed, never what it is; at worst a program is slow. That is wrong here.
# Seen with jax 0.10.2 and 0.12.0.1 on eight virtual CPU devices, mesh (data 2, fsdp 4), with Shardy and without: a dense layer makes
# 4x4 pictures, a 3x3 convolution follows; both kernels are sharded by "fsdp" over their output channels, as in FSDP. With the latents
# replicated, or with no sharding given, the loss is right and the convolution's gradient is twice what one device finds; with the
# latents spread over both axes, as a batch is, it is right. With (data 4, fsdp 2) and latents drawn inside of the step, a whole
# generator's gradient came out four times too large. Nothing warns of it: a GAN that draws its latents inside of the training step
# trains one layer with a rate of its own.
# jaxgen spreads the latents of a step as its batch (core/parallel.py, `as_batch`), and compares meshes of two axes with one device.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat > "$folder/gradient.py" <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))


def loss(kernel, dense, z):
    x = (z @ dense).reshape(-1, 4, 4, 16)
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.sin(y).mean()


rng = np.random.default_rng(0)
shapes = [(3, 3, 16, 16), (128, 256), (8, 128)]
values = [(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype("float32") for shape in shapes]
step = jax.value_and_grad(loss)
value, gradient = jax.jit(step)(*values)
for name, latents in (("replicated", place()), ("left alone", None), ("as a batch", place(("data", "fsdp")))):
    sharded = jax.jit(step, in_shardings=(place(None, None, None, "fsdp"), place(None, "fsdp"), latents))
    other, found = sharded(*values)
    assert abs(float(other - value)) < 1e-6
    print(f"{name}: {np.median(np.asarray(found) / np.asarray(gradient)):.2f}")
PY
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8
found=$("$folder/venv/bin/python" "$folder/gradient.py" 2> /dev/null)
echo "gradient of the sharded kernel over that of one device, by where the latents are:"
echo "$found"
[ "$found" = "replicated: 2.00
left alone: 2.00
as a batch: 1.00" ]

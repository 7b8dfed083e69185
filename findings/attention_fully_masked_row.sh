#!/usr/bin/env bash
# jax.nn.dot_product_attention: a query whose mask hides every key gets the plain mean of all values, hidden ones included.
#
# Guessed: zero, or NaN as softmax over -inf gives (torch's scaled_dot_product_attention gives NaN there on a CPU).
# Seen with jax 0.10.2 on a CPU: the mask is a large negative number added to the scores, so a row of nothing but hidden keys is a
# row of equal scores: the output is the mean of the values, and gradients flow into values that the mask was to hide. Padding
# leaks wherever an example may have nothing to look at (an empty caption, a dropped condition). flax.linen's own function, of
# flax 0.12.8, does the same. jaxgen's `attention` gives zero for such a query.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

q, k, v = (jax.random.normal(jax.random.key(i), (1, 3, 1, 4)) for i in range(3))  # [B, N, heads, D]
mask = jnp.ones((1, 1, 3, 3), bool).at[0, 0, 1].set(False)  # the second query may look at nothing


def second(v, attend):
    return attend(q, k, v, mask=mask)[0, 1, 0]


for name, attend in (("jax", jax.nn.dot_product_attention), ("flax", nn.dot_product_attention)):
    out = np.asarray(second(v, attend))
    slope = np.asarray(jax.grad(lambda v: second(v, attend).sum())(v))
    np.testing.assert_allclose(out, np.asarray(v).mean(1)[0, 0], rtol=1e-5)
    np.testing.assert_allclose(slope, 1 / 3, rtol=1e-5)
    print(f"{name}: a query with every key hidden gives {out.round(4)}, the mean of all values; d out / d hidden value = {slope[0, 0, 0, 0]:.4f}")
PY

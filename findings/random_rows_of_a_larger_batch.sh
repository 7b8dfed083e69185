#!/usr/bin/env bash
# jax.random: the first rows of a larger draw are those of a smaller one, but only along the first axis.
#
# Guessed: a draw of another shape is another draw (so it was up to jax 0.4, whose generator hashed the count into every number);
# or, once the rows were seen to agree, that any axis may grow. Both are wrong.
# Seen with jax 0.10.2 on a CPU: a number depends on the key and its flat place in the array. normal(key, (8, 3))[:5] is
# normal(key, (5, 3)) bit for bit, and so is split; randint(key, (2, 8))[:, :5] shares nothing but its first row with
# randint(key, (2, 5)). A sampler that fills a batch up to the number of devices therefore makes the same pictures on any number of
# them, until one draw has its batch axis second: boxes drawn as (2, batch) moved when the batch was padded, and nothing failed.
# jaxgen draws with the batch axis first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import numpy as np

key = jax.random.key(0)
few, many = jax.random.normal(key, (5, 3)), jax.random.normal(key, (8, 3))
np.testing.assert_array_equal(many[:5], few)
few, many = (jax.random.key_data(jax.random.split(key, n)) for n in (5, 8))
np.testing.assert_array_equal(many[:5], few)
print("normal and split: the first 5 of 8 rows are the 5 rows of the smaller draw")

few, many = (np.asarray(jax.random.randint(key, (2, n), 0, 1000)) for n in (5, 8))
np.testing.assert_array_equal(many[0, :5], few[0])
assert (many[1, :5] != few[1]).all()
print(f"randint (2, n): the second row of 5 is {few[1]}, of 8 {many[1, :5]}: no number is the same")
with jax.threefry_partitionable(False):
    few, many = jax.random.normal(key, (5, 3)), jax.random.normal(key, (8, 3))
    assert not (many[:5] == few).any()
print("with jax_threefry_partitionable=False, the default up to 0.4, no number of the two is the same")
PY

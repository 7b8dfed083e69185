#!/usr/bin/env bash
# Serialising a compiled program in JAX: one that was compiled can be brought back, the same one out of the persistent cache cannot.
#
# Guessed: `jax.experimental.serialize_executable.serialize` gives the same whole program however it came to be, compiled just now
# or read from JAX's persistent compilation cache. It does not.
# Seen with jax 0.10.2 and 0.12.0.1 on a CPU: for a program that this process compiled, `deserialize_and_load(*serialize(program))`
# runs. For the same program read from the persistent cache, `serialize` gives bytes without a word, and loading or running them
# raises an error that a function of the program is not found. So a second process that trusts the first one's way of keeping
# programs writes files that no third one can use. Who keeps programs must serialise only those that were freshly compiled (JAX's
# monitoring event `/jax/compilation_cache/cache_misses` tells), or switch the persistent cache off.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat > "$folder/keep.py" <<'PY'
import jax
import jax.numpy as jnp
from jax.experimental.serialize_executable import deserialize_and_load, serialize

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@jax.jit
def program(x):
    for _ in range(4):
        x = jnp.tanh(x @ x) / x.sum(0) + jnp.cumsum(x, 0)
    return x


x = jnp.ones((64, 64))
made = program.lower(x).compile()
made(x).block_until_ready()
try:
    deserialize_and_load(*serialize(made))(x).block_until_ready()
    print("runs")
except Exception as error:
    print("not found" if "not found" in str(error) else f"another error: {error}")
PY
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$folder/cache"
first=$("$folder/venv/bin/python" "$folder/keep.py")
second=$("$folder/venv/bin/python" "$folder/keep.py")
echo "serialised after compiling: $first; after reading from the cache: $second"
[ "$first/$second" = "runs/not found" ]

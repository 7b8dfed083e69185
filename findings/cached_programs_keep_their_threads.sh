#!/usr/bin/env bash
# JAX's persistent compilation cache on a CPU: a program keeps the number of threads of the process that compiled it.
#
# Guessed: the cache's key holds whatever decides the program, or the program asks for threads when it runs. Both are wrong.
# Seen with jax 0.10.2 and 0.12.0.1 on a CPU: XLA divides a loop among as many threads as the compiling process may use cores
# (`outer_dimension_partitions` in the compiled program), and that number is not in the key of JAX's cache. A process on two cores
# that finds what a process on one core left (taskset, a container, a batch system's slot, a home directory on several machines)
# runs every elementwise loop on one thread; all goes well, only slower, and until the cache is deleted. A training step of a small
# UNet ran its norms, activations and transposes on one of two cores for this reason, with nothing to tell it.
# jaxgen keeps a cache for each number of cores.
set -euo pipefail
[ "$(nproc)" -ge 2 ] || { echo "this needs two cores"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat > "$folder/loop.py" <<'PY'
import re

import jax

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
x = jax.ShapeDtypeStruct((64, 64, 64, 64), "float32")
text = jax.jit(lambda x: jax.nn.silu(2 * x + 1)).lower(x).compile().as_text()
print(next(iter(re.findall(r'outer_dimension_partitions":\["(\d+)"\]', text)), "1"))
PY
export JAX_PLATFORMS=cpu
run() { # run CORES CACHE: threads that the loop is divided among
  JAX_COMPILATION_CACHE_DIR="$folder/$2" taskset -c "$1" "$folder/venv/bin/python" "$folder/loop.py"
}
alone=$(run 0,1 fresh)
first=$(run 0 shared)
then=$(run 0,1 shared)
echo "threads of a loop compiled on two cores: $alone; on one core: $first; on two cores with the cache of the one: $then"
[ "$alone $first $then" = "2 1 1" ]

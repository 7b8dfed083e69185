#!/usr/bin/env bash
# XLA's CPU backend: `xla_cpu_max_isa` given to jit as a compiler option is accepted, and nothing changes.
#
# Guessed: a flag that `compiler_options` takes without complaint holds for that program, as others do there. That is wrong here: the
# instructions that a program may use are settled when the backend starts, and only XLA_FLAGS reach that.
# Why one wants it: the backend joins a * b + c to one rounding (FMA) wherever both end up in one loop. Two programs of the same
# mathematics, such as a step and a scan over it, are fused differently and so differ in the last bit of about a quarter of such sums;
# code without FMA (AVX) makes them comparable bit by bit.
# Seen with jax 0.10.2 on an x86 with FMA, 10,000 products and sums: about a quarter differ from two roundings by default and with the
# option, none with the flag. Where the processor has no FMA there is nothing to see, and the script says so.
# jaxgen's tests set the flag on x86 (tests/cases.py): a scan has the bits of its steps there.
set -euo pipefail
if ! grep -qw fma /proc/cpuinfo; then
  echo "this processor has no FMA: nothing to see"
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
cat > "$folder/sums.py" <<'PY'
import sys

import jax
import numpy as np

a, b, c = np.random.default_rng(0).standard_normal((3, 10_000)).astype(np.float32)
options = {"xla_cpu_max_isa": "AVX"} if sys.argv[1:] else None
joined = jax.jit(lambda a, b, c: a * b + c, compiler_options=options)(a, b, c)
print("some" if (np.asarray(joined) != np.float32(a * b) + c).mean() > 0.1 else "none")
PY
export JAX_PLATFORMS=cpu
default=$("$folder/venv/bin/python" "$folder/sums.py" 2> /dev/null)
option=$("$folder/venv/bin/python" "$folder/sums.py" option 2> /dev/null)
flag=$(XLA_FLAGS=--xla_cpu_max_isa=AVX "$folder/venv/bin/python" "$folder/sums.py" 2> /dev/null)
echo "sums that were rounded once: by default $default, with the compiler option $option, with the flag $flag"
[ "$default $option $flag" = "some some none" ]

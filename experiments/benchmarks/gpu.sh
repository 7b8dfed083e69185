#!/usr/bin/env bash
# What one GPU makes of our nets, in at most nine minutes, as a JSON record: see gpu.py beside this.
#
#     experiments/benchmarks/gpu.sh [--out gpu.json] [--data CIFAR.npz] [--rows ddpm,dit_xl] [--seconds 540]
#     experiments/benchmarks/gpu.sh --tiny        the same rows at a size for a CPU: whether all of it runs
#
# Nothing is installed and no network is needed. What is missing is said at once, and the run goes on with what is there.
# A machine without network: pip download into a folder elsewhere (ml-collections and grain are what a machine with JAX and
# PyTorch usually lacks; --platform and --python-version are those of the machine with the GPU), copy the folder, and there
#     python3 -m pip install --no-index --no-deps --find-links=wheels --target=site ml-collections grain
#     PYTHONPATH=site experiments/benchmarks/gpu.sh
# PYTHON names another interpreter than python3.
exec "${PYTHON:-python3}" -u "$(dirname "${BASH_SOURCE[0]}")/gpu.py" "$@"

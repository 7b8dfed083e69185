"""What this machine has, and whether JAX uses it: python -m jaxgen.doctor

Exit code 0: all is well; 1: a fault, told with the line that cures it. `--extra` only prints which extra of jaxgen
this machine needs ("[gpu]", "[tpu]" or nothing); for that the file runs by itself, before anything is installed.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
PLUGINS = (
    "jax-cuda12-plugin",
    "jax-cuda12-pjrt",
    "jax-cuda13-plugin",
    "jax-cuda13-pjrt",
)  # each of jaxlib's own version
CPU, GPU, TPU = "cpu", "gpu", "tpu"
EXTRAS = {GPU: "[gpu]", TPU: "[tpu]", CPU: ""}
JAX_EXTRAS = {GPU: "[cuda12]", TPU: "[tpu]", CPU: ""}
PATIENCE = 180  # seconds for JAX to start; a TPU's first start takes most of one minute

# Run by a process of its own: it may crash or hang, and must not keep the device.
PROBE = """
import json, jax
import jax.numpy as jnp
devices = jax.local_devices()
x = jnp.full((256, 256), 0.5)
assert float(jax.jit(jnp.matmul)(x, x)[0, 0]) == 64.0, "a product of matrices came out wrong"
print(json.dumps({
    "platform": devices[0].platform,
    "kinds": [d.device_kind for d in devices],
    "memory": [(d.memory_stats() or {}).get("bytes_limit", 0) for d in devices],
}))
"""


@dataclass
class Findings:
    """What was seen: `facts` are lines to print by their name, `faults` say what is wrong and the cure."""

    facts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Name -> version of those distributions that are there."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpus() -> list[str]:
    """NVIDIA's GPUs as the driver names them: ["Tesla T4, 15360 MiB, driver 550.54"]; none without a driver."""
    if not shutil.which("nvidia-smi"):
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[word.strip() for word in line.split(",")] for line in told.splitlines() if line.strip()]
    return [f"{name}, {memory}, driver {driver}" for name, memory, driver in rows]


def tpus() -> list[str]:
    """The chips: their device files, or what Colab's and Cloud's environment says of them."""
    vendors = [path.read_text().strip() for path in Path("/sys/bus/pci/devices").glob("*/vendor")]
    files = [*Path("/dev").glob("accel[0-9]*")]
    if "0x1ae0" in vendors:  # Google's: others keep other devices in /dev/vfio
        files += Path("/dev/vfio").glob("[0-9]*")
    told = os.environ.get("TPU_ACCELERATOR_TYPE") or os.environ.get("COLAB_TPU_ADDR")
    return [str(path) for path in sorted(files)] or ([told] if told else [])


def hardware() -> tuple[str, list[str]]:
    """What programs should run on here, and the devices: ("gpu", ["Tesla T4, ..."]), ("tpu", [...]) or ("cpu", [])."""
    if found := tpus():
        return TPU, found
    if found := gpus():
        return GPU, found
    return CPU, []


def ask_jax() -> dict[str, Any]:
    """{"platform", "kinds", "memory"} of the devices that JAX uses, or {"error": why it does not start}."""
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}  # a GPU may be in use by others
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"JAX did not start within {PATIENCE} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    lines = [
        line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("---", "For simplicity"))
    ]
    return {"error": (lines or [f"JAX ended with code {done.returncode}"])[-1].strip()}


def judge(wanted: str, devices: list[str], versions: dict[str, str], found: dict[str, Any]) -> list[str]:
    """The faults of what was found, each with its cure. `wanted` and `devices`: of `hardware`; `found`: of `ask_jax`."""
    if not {"jax", "jaxlib"} <= versions.keys():
        return [f"JAX is not installed; in the folder of jaxgen: pip install '.{EXTRAS[wanted]}'"]
    cure = f"pip install 'jax{JAX_EXTRAS[wanted]}=={versions['jax']}'"
    faults = []
    if strays := [name for name in PLUGINS if name in versions and versions[name] != versions["jaxlib"]]:
        listed = " and ".join(f"{name} {versions[name]}" for name in strays)
        cuda = strays[0].split("-")[1]
        faults = [f"JAX does not use {listed} beside jaxlib {versions['jaxlib']}: "
                  f"pip install 'jax[{cuda}]=={versions['jax']}'"]  # fmt: skip
    if "error" in found:
        held = "already in use" in found["error"] or "RESOURCE_EXHAUSTED" in found["error"]
        way = "another process holds the device: end it, or restart the notebook's session" if held else cure
        return [*faults, f"JAX does not run ({found['error']}): {way}"]
    if not faults and found["platform"] != wanted != CPU and not _asked_for(found["platform"]):
        faults = [f"there is a {wanted.upper()} ({devices[0]}) and JAX uses the {found['platform'].upper()}: {cure}"]
    return faults


def _asked_for(name: str) -> bool:
    """Whether the environment tells JAX to use that platform."""
    return name in re.split(r"[, ]+", os.environ.get("JAX_PLATFORMS", "").replace("cuda", GPU))


def examine() -> Findings:
    """Look at everything."""
    wanted, devices = hardware()
    versions, found = installed((*SHOWN, *PLUGINS, "libtpu")), ask_jax()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    free = shutil.disk_usage(".").free / 1e9
    here = re.search(r'__version__ = "(.+)"', Path(__file__).with_name("__init__.py").read_text())
    facts = {
        "jaxgen": here[1] if here else "?",
        "python": f"{platform.python_version()}, {platform.system()} {platform.machine()}",
        "machine": f"{os.cpu_count()} CPU cores, {memory:.1f} GB of memory, {free:.0f} GB free on this disk",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    if devices:
        facts["hardware"] = f"{len(devices)} {wanted.upper()}: {devices[0]}"
    if "kinds" in found:
        kind, limit = found["kinds"][0], found["memory"][0]
        room = f" with {limit / 1e9:.1f} GB for JAX" if limit else ""
        asked = ", as JAX_PLATFORMS says" if found["platform"] != wanted and _asked_for(found["platform"]) else ""
        what = found["platform"].upper() if kind.lower() == found["platform"] else kind
        facts["devices"] = f"JAX uses {len(found['kinds'])} {what}{room}{asked}"
    return Findings(facts, judge(wanted, devices, versions, found))


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(prog="python -m jaxgen.doctor", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--extra", action="store_true", help="print [gpu], [tpu] or nothing: what to install jaxgen with")
    if p.parse_args().extra:
        print(EXTRAS[hardware()[0]])
        return
    seen = examine()
    for name, line in seen.facts.items():
        print(f"{name:<9}{line}")
    for line in seen.faults:
        print(f"error: {line}", file=sys.stderr)
    if seen.faults:
        sys.exit(1)
    print("all is well")


if __name__ == "__main__":
    main()

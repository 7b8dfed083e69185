"""How much memory is left for a program."""

import os
from contextlib import suppress
from pathlib import Path

import jax


def free_memory() -> int | None:
    """Bytes that are free on the fullest device of this host (a CPU's are the machine's); None where nobody says."""
    if jax.default_backend() == "cpu":
        return min((n for n in (_of_machine(), _of_container()) if n is not None), default=None)
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if not all("bytes_limit" in s and "bytes_in_use" in s for s in stats):
        return None
    return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats)


def _of_machine() -> int | None:
    """What the system can give without swapping; where only the whole is told (macOS), that."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_container() -> int | None:
    """What is left of a control group's limit (containers, SLURM)."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):
            return max(0, int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text()))
    return None

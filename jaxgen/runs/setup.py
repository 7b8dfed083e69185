"""What must be set before JAX starts: XLA's flags and memory on a CPU, and where compiled programs are kept.

Nothing here overrides the user: a flag in XLA_FLAGS, a cache in JAX_COMPILATION_CACHE_DIR, any MALLOC_ setting stays as it is.
"""

import ctypes
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# An unknown flag aborts the process, so each names the jaxlib releases [from, before) in which it was seen to help.
# In 0.10 YNN's fusions of single convolutions run on one thread; in 0.11.2 and 0.12 they run on all, and need no flag.
# There XLA drops the barriers of `jax.checkpoint` too early and merges what is computed again with what it was to replace, so that
# rematerialisation saves nothing; without that pass it does, and 0.12 needs no flag.
CPU_FLAGS = {
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution": ((0, 10, 2), (0, 11)),
    (BARRIERS := "--xla_disable_hlo_passes=cse_barrier_expander"): ((0, 10, 2), (0, 11)),
}


def jaxlib_version() -> tuple[int, ...]:
    """The installed jaxlib's release, as (0, 10, 2), without importing it; () when there is none."""
    try:
        parts = version("jaxlib").split(".")
    except PackageNotFoundError:
        return ()
    return tuple(int(part) for part in parts if part.isdigit())


def cpu_flags(user: str, release: tuple[int, ...]) -> str:
    """`user` (the present XLA_FLAGS) and the CPU flags that help this jaxlib and that the user has not set."""
    wanted = [flag for flag, (first, before) in CPU_FLAGS.items() if first <= release < before]
    return " ".join([*user.split(), *(flag for flag in wanted if flag.split("=")[0] not in user)])


def keeps_barriers() -> bool:
    """Whether this process's XLA keeps `jax.lax.optimization_barrier` on a CPU up to its fusions."""
    return BARRIERS in os.environ.get("XLA_FLAGS", "") or jaxlib_version() >= (0, 12)


# glibc's mallopt: parameter -> value. Freed buffers stay in the heap, up to 2 GiB at its end, instead of going back to the system.
MALLOPT = {-4: 0, -1: 2**31 - 1}  # M_MMAP_MAX, M_TRIM_THRESHOLD


def keep_buffers() -> bool:
    """Let glibc keep a step's buffers for the next one, which would fault them in page by page again; False: not done.

    This holds for the main thread's heap: `configure` has programs of a CPU run there.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return bool(mallopt) and all(mallopt(parameter, value) for parameter, value in MALLOPT.items())


def cores() -> int:
    """Cores that this process may use, on which XLA divides the loops of a CPU's programs.

    JAX's cache knows nothing of it (findings/cached_programs_keep_their_threads.sh): a program that was compiled on one core
    would run on one core of eight.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure(cache_dir: str | Path = "") -> Path:
    """Set XLA's flags, memory and the persistent compilation cache; call it before the first use of JAX: later,
    flags have no effect.

    cache_dir: "" = the environment's JAXGEN_CACHE, else ~/.cache/jaxgen/xla; programs lie in a folder there for every number
    of cores. The user's JAX_COMPILATION_CACHE_DIR wins over all of them. Returns the directory. Compiled programs are trusted
    code: the directory is private.
    """
    keep_buffers()
    os.environ["XLA_FLAGS"] = cpu_flags(os.environ.get("XLA_FLAGS", ""), jaxlib_version())
    root = cache_dir or os.environ.get("JAXGEN_CACHE") or Path.home() / ".cache/jaxgen/xla"
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path(root, f"{cores()}-cores")).expanduser()

    import jax  # reads its own environment variables now; the backends start later

    settings = {
        "jax_cpu_enable_async_dispatch": False,  # programs run on the caller's thread, see keep_buffers
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:  # a read-only home is no reason to stop
        print(f"no compilation cache: {cache} cannot be made ({error.strerror}); set JAXGEN_CACHE", file=sys.stderr)
        jax.config.update("jax_compilation_cache_dir", None)
    return cache

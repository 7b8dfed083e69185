"""The configs that the laws run over, and the teachers that some of them want."""

import functools
import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path

from jaxgen.runs import setup

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
# A few methods and mechanisms: the laws hold for these in the quick suite, for all in the full one. Diffusion compiles for
# too long, and is what the tests of the command line train.
CHOSEN = ("vae_digits", "dcgan_digits", "wgan_gp_digits", "vqvae_digits")


# side of the pictures -> the VQ-VAE of their codes, at full size, and how often it halves them
FIRST_STAGES = {
    28: ("vqvae_mnist.py", 2),
    32: ("vqvae_cifar.py", 2),
    64: ("vqvae_cifar.py", 3),
    256: ("vqvae_cifar.py", 4),
}

# Level 0 without the newer fusions compiles five times faster, and in one piece instead of many by a seventh of that; what is
# computed stays the same. An unknown flag ends the process, so the others are for the releases in which they were seen to help.
QUICK_COMPILATION = "--xla_backend_optimization_level=0"
if (0, 10) <= setup.jaxlib_version() < (0, 11):
    QUICK_COMPILATION += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if platform.machine() == "x86_64":  # without fused multiply-adds numbers have the same bits however XLA fuses a program
    QUICK_COMPILATION += " --xla_cpu_max_isa=AVX"


@functools.cache
def forms() -> dict[str, dict]:
    """The tiny form of every config."""
    from jaxgen.config import files as configs

    return {name: configs.load(f"{ROOT}/configs/{name}.py:tiny").to_dict() for name in CONFIGS}


def cover(shown: dict[str, set], *first: str) -> list[str]:
    """The fewest configs (found greedily, digits where there is a choice) that show all that any shows; `first` in any case."""
    order = sorted(shown, key=lambda name: (name not in CHOSEN, not name.endswith("digits"), name))
    found, missing = list(first), set().union(*shown.values()).difference(*(shown[name] for name in first))
    while missing:
        found.append(max(order, key=lambda name: len(shown[name] & missing)))
        missing -= shown[found[-1]]
    return sorted(found)


def choices(part: dict, owner: str) -> Iterator[tuple]:
    """(whose, key, value) of all that a part of a config says but its numbers: names, words, switches, whether a list is empty.

    What a part says is its own, wherever it stands. Optimizers are of nets, and ways to feed are of data, whichever these are.
    """
    for key, value in part.items():
        whose = "nets" if key == "optimizer" else owner
        if isinstance(value, tuple):
            yield whose, key, bool(value)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, dict):
                name = each.get("name", key)
                yield whose, key, name
                yield from choices(each, key if key == "data" else name)
            elif isinstance(each, str | bool) and key != "name":
                yield whose, key, each


def without_optimizers(part: object) -> object:
    """A part of a config whose nets do not say how they are optimized."""
    if isinstance(part, tuple):
        return tuple(map(without_optimizers, part))
    if isinstance(part, dict):
        return {key: without_optimizers(value) for key, value in part.items() if key != "optimizer"}
    return part


@functools.cache
def kinds() -> list[str]:
    """Configs for laws of devices, scans and evaluation: every method, every net of one, and each of the losses, penalties,
    adaptive parts, regularizers and tasks."""
    shown = {}
    for name, form in forms().items():
        method = form["method"]
        parts = {
            key: method.get(key) for key in ("loss", "disc_penalties", "gen_penalties", "augment", "objective", "decay")
        }
        parts["regularizer"] = method.get("ae", {}).get("regularizer", {}).get("name")
        nets = {method[key]["name"] for key in ("net", "gen", "disc", "ae") if key in method}
        shown[name] = {method["name"], *nets, *choices(parts, method["name"]), *form.get("tasks", {})}
    return cover(shown, *CHOSEN)


@functools.cache
def others() -> list[str]:
    """Configs that train beside `kinds`, all of which do with plain SGD: every choice that any config makes is in one of both,
    each part in each place.

    What is left out differs from these in numbers, or in what it puts together; test_shapes.py takes its step abstractly.
    """
    kept = (without_optimizers(forms()[kind]) for kind in kinds())
    already = set().union(*({*choices(form, "run")} for form in kept))
    return cover({name: {*choices(form, "run")} - already for name, form in forms().items()})


def lend(config, spec, folder: Path, weights: bool = True):
    """The config with the runs that it wants: a teacher of the same parts, a VQ-VAE as codec, the base of an adapter. Untrained,
    made once in `folder`.

    `weights=False` leaves out their checkpoints, for those who look at shapes only.
    """
    from jaxgen.config import files as configs
    from jaxgen.config import registry
    from jaxgen.core.spec import pictures

    changes = {}
    if "teacher" in config.method and not config.method.teacher.path:
        own = configs.from_json(configs.to_json(config))
        known = registry.keys("method", "diffusion", "config.method")
        with own.unlocked():
            own.method = {**{k: v for k, v in config.method.to_dict().items() if k in known}, "name": "diffusion"}
            own.eval = {}
        changes["method.teacher.path"] = untrained(configs.normalise(own), spec, folder, weights)
    seen = config.method.get("perceptual", {"name": "none"})
    if seen["name"] == "lpips":  # its weights would be downloaded
        changes["method.perceptual"] = "none"
    if seen["name"] == "native" and not seen.path:
        own = configs.override(configs.load(f"{ROOT}/configs/classifier_digits.py:tiny"), {"mesh": {"data": 1}})
        changes["method.perceptual.path"] = untrained(own, pictures(spec.shape, 10), folder, weights)
    if "codec" in config.tasks and not config.tasks.codec.run.path:
        first, downs = FIRST_STAGES.get(spec.shape[0], ("vqvae_digits.py:tiny", 1))
        sizes = {f"method.net.{part}.downs": downs for part in ("encoder", "decoder")}
        own = configs.override(configs.load(f"{ROOT}/configs/{first}"), {"mesh": {"data": 1}, **sizes})
        untold = spec.where(lambda _, field: field.kind not in ("tokens", "captions"))
        changes["tasks.codec.run"] = untrained(own, untold, folder, weights)
    config = configs.override(config, changes)
    adapter = config.method.get("net", {}).get("adapter")
    if adapter and not adapter.run.path:
        base = configs.override(config, {"method.net.adapter": None, "eval": {}})
        config = configs.override(config, {"method.net.adapter.run": untrained(base, spec, folder, weights)})
    return config


def untrained(config, spec, folder: Path, weights: bool) -> str:
    """The directory of a run that has not begun."""
    from jaxgen.config import files as configs
    from jaxgen.runs.checkpoint import Checkpoints
    from jaxgen.runs.directory import RunDir
    from jaxgen.runs.experiment import Experiment

    text = configs.to_json(config)
    run = RunDir(folder / hashlib.sha256(f"{text}{spec}".encode()).hexdigest()[:16])
    if not run.path.exists():
        run.claim(config)
        run.record({"spec": spec.to_json(), "num": 0}, {})
        if weights:
            keeper = Checkpoints(run.path)
            keeper.save(0, Experiment.open(config, spec).init(), {"config": json.loads(text), "spec": spec.to_json()})
            keeper.close()
    return str(run.path)

"""The configs that the laws run over, and the teachers that some of them want."""

import functools
import hashlib
import json
import platform
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

# Level 0 without the newer fusions compiles five times faster; what is computed stays the same. An unknown flag ends the process,
# so the second is for the releases in which it was seen to help.
QUICK_COMPILATION = "--xla_backend_optimization_level=0"
if (0, 10) <= setup.jaxlib_version() < (0, 11):
    QUICK_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
if platform.machine() == "x86_64":  # without fused multiply-adds numbers have the same bits however XLA fuses a program
    QUICK_COMPILATION += " --xla_cpu_max_isa=AVX"


@functools.cache
def kinds() -> list[str]:
    """One config for every method with its nets, losses, adaptive parts and tasks, whatever their numbers: digits where there
    are any.

    Being trained, resumed, evaluated and sampled is asked of every config; the law of devices and of scans of these.
    """
    from jaxgen.config import files as configs

    found: dict[str, str] = {}
    for name in sorted(CONFIGS, key=lambda n: (not n.endswith("digits"), n)):
        config = configs.load(f"{ROOT}/configs/{name}.py:tiny").to_dict()
        method = config["method"]
        nets = [method[k]["name"] for k in ("net", "gen", "disc") if k in method]
        keys = ("name", "loss", "disc_penalties", "gen_penalties", "augment", "objective", "decay")
        parts = [str(members(method.get(key))) for key in keys]
        nets += [method[k]["regularizer"]["name"] for k in ("ae",) if k in method]
        found.setdefault(" ".join([*nets, *parts, *config.get("tasks", {})]), name)
    return sorted(found.values())


def members(part: object) -> object:
    """A part of a config without its numbers."""
    if isinstance(part, dict):
        found = {key: members(value) for key, value in sorted(part.items())}
        return {key: value for key, value in found.items() if value is not None}
    if isinstance(part, tuple):
        return [members(each) for each in part]
    return part if isinstance(part, (str, bool)) else None


def lend(config, spec, folder: Path, weights: bool = True):
    """The config with the runs that it wants: a teacher of the same parts, a VQ-VAE as codec. Untrained, made once in `folder`.

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
    return configs.override(config, changes)


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

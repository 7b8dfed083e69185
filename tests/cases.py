"""The configs that the laws run over, and the teachers that some of them want."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
# A few methods and mechanisms: the laws hold for these in the quick suite, for all in the full one. Diffusion compiles for
# too long, and is what the tests of the command line train.
CHOSEN = ("vae_digits", "dcgan_digits", "wgan_gp_digits", "vqvae_digits")


def kinds() -> list[str]:
    """One config for every method with its nets, losses and adaptive parts: digits where there are any.

    Being trained, resumed, evaluated and sampled is asked of every config; the law of devices and of scans of these.
    """
    from jaxgen.config import files as configs

    found: dict[str, str] = {}
    for name in sorted(CONFIGS, key=lambda n: (not n.endswith("digits"), n)):
        method = configs.load(f"{ROOT}/configs/{name}.py:tiny").method.to_dict()
        nets = [method[k]["name"] for k in ("net", "gen", "disc") if k in method]
        parts = [str(method.get(k)) for k in ("name", "loss", "penalty", "n_critic", "variance", "decay")]
        found.setdefault(" ".join([*nets, *parts]), name)
    return sorted(found.values())


def lend(config, info, folder: Path, weights: bool = True):
    """The config with a teacher, where it wants one: a diffusion run of the same parts, untrained, made once in `folder`.

    `weights=False` leaves out its checkpoint, for those who look at shapes only.
    """
    from jaxgen.config import files as configs
    from jaxgen.config import registry
    from jaxgen.runs.checkpoint import Checkpoints
    from jaxgen.runs.directory import RunDir
    from jaxgen.runs.experiment import Experiment

    if "teacher" not in config.method or config.method.teacher.path:
        return config
    own = configs.from_json(configs.to_json(config))
    known = registry.keys("method", "diffusion", "config.method")
    with own.unlocked():
        own.method = {**{k: v for k, v in config.method.to_dict().items() if k in known}, "name": "diffusion"}
        own.eval = {}
    text = configs.to_json(configs.normalise(own))
    run = RunDir(folder / hashlib.sha256(text.encode()).hexdigest()[:16])
    if not run.path.exists():
        own = configs.from_json(text)
        run.claim(own)
        run.record(info, {})
        if weights:
            keeper = Checkpoints(run.path)
            keeper.save(0, Experiment.open(own, info).init(), text)
            keeper.close()
    return configs.override(config, {"method.teacher.path": str(run.path)})

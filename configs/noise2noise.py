"""Noise2Noise (Lehtinen et al. 2018, arXiv:1803.04189): a denoiser that never sees a clean picture, but two noisy ones.

python -m jaxgen.main --config=noise2noise --config.data.path=~/photos --workdir=runs/noise2noise    # add :tiny for seconds

The clean pictures of the folder are spoilt twice, and serve held-out figures alone. Other noise whose mean is right will do:
--config.tasks.degrade.degradation=poisson.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(name="crops", path="", size=40, stride=20, channels=0, batch=128, augment=("flip", "turn"))
    c.tasks = dict(degrade=dict(degradation=dict(name="gaussian", sigma=25 / 127.5), again=True))
    c.method = dict(
        name="regress",
        net=dict(
            name="dncnn", depth=17, width=64,
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
        ),
        pixel_loss="l2",
        learn_from="noise2noise",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000, num=2_048), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.depth": 3, "method.net.width": 8, "tasks.degrade.degradation": {"name": "poisson"}}

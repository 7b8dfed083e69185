"""Noise2Void (Krull et al. 2018, arXiv:1811.10980): a denoiser that sees one noisy form of every picture and nothing else.

python -m jaxgen.main --config=noise2void --config.data.path=~/photos --workdir=runs/noise2void    # add :tiny for seconds

It learns what hides behind blind spots, which works where the noise of a pixel says nothing of its neighbours': not after JPEG, not
with --config.tasks.degrade.degradation=correlated. Pictures that are noisy themselves: --config.tasks.degrade.degradation=none.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(name="crops", path="", size=64, stride=32, channels=0, batch=128, augment=("flip", "turn"))
    c.tasks = dict(degrade=dict(degradation=dict(name="gaussian", sigma=25 / 127.5)))
    c.method = dict(
        name="regress",
        net=dict(
            name="dncnn", depth=17, width=64,
            optimizer=dict(name="adam", lr=4e-4, schedule="cosine"),
        ),
        pixel_loss="l2",
        learn_from="noise2void",
        blind=0.015,
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000, num=2_048), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.depth": 3, "method.net.width": 8}

"""DnCNN-B (Zhang et al. 2016, arXiv:1608.03981): one net for noise of every deviation up to 55 (of 255), which it is not told.

python -m jaxgen.main --config=dncnn_blind --config.data.path=~/photos --workdir=runs/dncnn_blind    # add :tiny for seconds

Told (FFDNet, arXiv:1710.04026): --config.tasks.degrade.told=True --config.method.net=ffdnet. How it does at one level: --mode=eval
 --config.tasks.degrade.degradation.sigma=0.196, which is 25 / 127.5.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(
        name="crops", path="", size=50, stride=10, scales=(1.0, 0.9, 0.8, 0.7), channels=0, batch=128,
        augment=("flip", "turn"),
    )  # fmt: skip
    c.tasks = dict(degrade=dict(degradation=dict(name="gaussian", sigma=(0.0, 55 / 127.5))))
    c.method = dict(
        name="regress",
        net=dict(
            name="dncnn", depth=20, width=64,
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
        ),
        pixel_loss="l2",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000, num=2_048), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.name": "ffdnet", "tasks.degrade.told": True}
TINY |= {"method.net.depth": 3, "method.net.width": 8}

"""DnCNN-S (Zhang et al. 2016, arXiv:1608.03981): grey pictures without Gaussian noise of deviation 25 (of 255).

python -m jaxgen.main --config=dncnn_25 --config.data.path=data/Train400 --config.data.eval_path=data/BSD68 --workdir=runs/dncnn

Add :tiny for a CPU run of seconds. Noise is not cut off at black and white, as published; 25 / 127.5 are 25 levels of 255.
Of a folder of your own a tenth is held out. On a CPU: --config.method.net.depth=8 --config.method.net.width=32
--config.data.batch=64 --config.steps=2_000.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(
        name="crops", path="", size=40, stride=10, scales=(1.0, 0.9, 0.8, 0.7), channels=1, batch=128,
        augment=("flip", "turn"),
    )  # fmt: skip
    c.tasks = dict(degrade=dict(degradation=dict(name="gaussian", sigma=25 / 127.5)))
    c.method = dict(
        name="regress",
        net=dict(
            name="dncnn", depth=17, width=64,
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
        ),
        pixel_loss="l2",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000, num=2_048), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.depth": 3, "method.net.width": 8}

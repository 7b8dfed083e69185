"""Sharp pictures out of blurred ones: a Gaussian of 1.6 pixels and noise of 2 grey levels behind it.

python -m jaxgen.main --config=deblur_photos --config.data.path=~/photos --workdir=runs/deblur    # add :tiny for seconds

Other blur, on one line:
--config.tasks.degrade.degradation="({'name': 'motion', 'length': (4, 16)}, {'name': 'gaussian', 'sigma': 0.016})", or defocus.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(name="crops", path="", size=64, stride=32, channels=0, batch=32, augment=("flip", "turn"))
    blur, noise = dict(name="blur", sigma=1.6), dict(name="gaussian", sigma=2 / 127.5)
    c.tasks = dict(degrade=dict(degradation=(blur, noise)))
    c.method = dict(
        name="regress",
        net=dict(
            name="edsr", scale=1, blocks=16, width=64,
            optimizer=dict(name="adam", lr=2e-4, schedule="cosine"),
        ),
        pixel_loss="l1",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000, num=2_048), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.name": "srresnet", "method.net.scale": 1, "method.net.blocks": 1, "method.net.width": 8}

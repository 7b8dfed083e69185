"""Photographs taken in the dark, brightened and cleaned: light^gamma, shot noise of few photons, and noise of the sensor undone.

python -m jaxgen.main --config=lowlight_photos --config.data.path=~/photos --workdir=runs/lowlight    # add :tiny for seconds

Pairs of dark and bright photographs of one place (source `pairs`) are learned by the same method.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(name="crops", path="", size=96, stride=48, channels=3, batch=16, augment=("flip", "turn"))
    c.tasks = dict(degrade=dict(degradation=(
        dict(name="dim", gamma=(1.5, 4.0)),
        dict(name="poisson", peak=(50.0, 500.0)),
        dict(name="gaussian", sigma=(0.0, 5 / 127.5), clip=True),
    )))  # fmt: skip
    c.method = dict(
        name="regress",
        net=dict(
            name="srresnet", scale=1, blocks=16, width=64,
            optimizer=dict(name="adam", lr=2e-4, schedule="cosine"),
            ema=0.999,
        ),
        pixel_loss="l1",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000, num=2_048), grid=dict(every=5_000, num=16), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.blocks": 1, "method.net.width": 8}

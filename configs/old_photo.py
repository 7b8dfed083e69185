"""Old photographs as new (after Wan et al. 2020, arXiv:2004.09484): fading, brown, grain, blur, scratches, dust and JPEG undone.

python -m jaxgen.main --config=old_photo --config.data.path=~/photos --workdir=runs/old_photo    # add :tiny for seconds

Every picture ages by strengths of its own. Sound colour photographs are what it learns from.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(name="crops", path="", size=96, stride=48, channels=3, batch=16, augment=("flip", "turn"))
    c.tasks = dict(degrade=dict(degradation=(
        dict(name="sepia", by=(0.0, 1.0)),
        dict(name="fade", by=(0.0, 0.5)),
        dict(name="blur", sigma=(0.2, 1.5)),
        dict(name="correlated", sigma=(0.0, 0.15), scale=0.8),
        dict(name="scratches", number=(0.0, 6.0)),
        dict(name="dust", number=(0.0, 16.0)),
        dict(name="jpeg", quality=(40, 95)),
    )))  # fmt: skip
    c.method = dict(
        name="regress",
        net=dict(
            name="rrdb", scale=1, blocks=8, width=64, grow=32,
            optimizer=dict(name="adam", lr=2e-4, schedule="cosine"),
            ema=0.999,
        ),
        pixel_loss="l1",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000, num=2_048), grid=dict(every=5_000, num=16), from_conditions=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.blocks": 1, "method.net.width": 8, "method.net.grow": 4}

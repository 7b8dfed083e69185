"""JPEG's blocks and rings taken off again, at any quality from 10 to 40 (as DnCNN-3, arXiv:1608.03981).

python -m jaxgen.main --config=jpeg_photos --config.data.path=~/photos --workdir=runs/jpeg    # add :tiny for a CPU run of seconds

Take pictures that were never JPEG, or large ones made smaller. The codec runs in the step, with the bits of libjpeg.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=80_000, log_every=100, save_every=5_000, steps_per_call=10))
    c.data = dict(name="crops", path="", size=48, stride=24, channels=0, batch=64, augment=("flip", "turn"))
    c.tasks = dict(degrade=dict(degradation=dict(name="jpeg", quality=(10, 40))))
    c.method = dict(
        name="regress",
        net=dict(
            name="dncnn", depth=20, width=64,
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
        ),
        pixel_loss=dict(name="charbonnier", eps=1e-3),
    )  # fmt: skip
    c.eval = dict(
        loss=dict(every=5_000, num=2_048),
        from_conditions=dict(every=5_000),
        restoration=dict(every=5_000, num=256, degradation=dict(name="jpeg", quality=10)),
    )
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.depth": 3, "method.net.width": 8}

"""A classifier of CIFAR-10: the judge for `fid:native` and label agreement.

python -m jaxgen.main --config=configs/classifier_cifar.py --workdir=runs/classifier_cifar    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=20_000, log_every=200, save_every=1_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=128, augment=("flip", dict(name="crop", pad=4)), labels=True)
    c.method = dict(
        name="classifier",
        net=dict(
            name="residual_classifier", width=64, stages=3, blocks=2, dropout=0.2,
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
            ema=0.999,
        ),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000))
    return tiny(c, **{"method.net.width": 8, "method.net.blocks": 1}) if arg == "tiny" else c

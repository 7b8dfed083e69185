"""A classifier of MNIST: the judge for `fid:native` and label agreement.

python -m jaxgen.main --config=configs/classifier_mnist.py --workdir=runs/classifier_mnist    # add :tiny for a CPU run of seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=4_000, log_every=200, save_every=1_000, steps_per_call=10))
    c.data = dict(name="tfds", dataset="mnist", batch=128, augment=(dict(name="crop", pad=2),), labels=True)
    c.method = dict(
        name="classifier",
        net=dict(
            name="residual_classifier", width=32, stages=3, blocks=1, dropout=0.2,
            optimizer=dict(name="adam", lr=1e-3, schedule="cosine"),
            ema=0.999,
        ),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=1_000))
    return tiny(c, **{"method.net.width": 8, "method.net.blocks": 1}) if arg == "tiny" else c

"""Gated PixelCNN (van den Oord et al. 2016, arXiv:1606.05328) on CIFAR-10. Published: 3.03 bits/dim.

python -m jaxgen.main --config=configs/gated_pixelcnn_cifar.py --workdir=runs/gated_pixelcnn_cifar    # add :tiny for seconds
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=600_000, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=16)
    c.method = dict(
        name="autoregressive",
        net=dict(
            name="gated_pixelcnn", width=128, depth=15, hidden=1024,
            optimizer=dict(name="rmsprop", lr=1e-3, clip=1.0, schedule="cosine"),
            ema=0.9999,
        ),
        likelihood="categorical",
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), likelihood=dict(every=50_000), grid=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.depth": 1, "method.net.hidden": 8}

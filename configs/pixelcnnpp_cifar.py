"""PixelCNN++ (Salimans et al. 2017, arXiv:1701.05517) on CIFAR-10. Published: 2.92 bits/dim.

python -m jaxgen.main --config=configs/pixelcnnpp_cifar.py --workdir=runs/pixelcnnpp_cifar    # add :tiny for seconds

The rate falls by 0.999995 a step.
"""

from ml_collections import ConfigDict

from jaxgen.config.files import tiny


def get_config(arg: str = "") -> ConfigDict:
    c = ConfigDict(dict(seed=0, steps=600_000, save_every=10_000))
    c.data = dict(name="tfds", dataset="cifar10", batch=96)
    c.method = dict(
        name="autoregressive",
        net=dict(
            name="pixelcnnpp", width=160, blocks=5, levels=3, dropout=0.5,
            optimizer=dict(name="adam", lr=1e-3, b1=0.95, b2=0.9995, schedule="exponential", final=0.05),
            ema=0.9995,
        ),
        likelihood=dict(name="logistic_mixture", mixtures=10),
    )  # fmt: skip
    c.eval = dict(loss=dict(every=5_000), likelihood=dict(every=50_000), grid=dict(every=5_000))
    return tiny(c, **TINY) if arg == "tiny" else c


TINY = {"method.net.width": 8, "method.net.blocks": 1, "method.net.levels": 1}
